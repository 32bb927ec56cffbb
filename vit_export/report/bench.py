"""The table of `vit-export bench`, for a terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from vit_export.base.numbers import MEGABYTE, NONE, conditions, three_digits
from vit_export.base.text import visible
from vit_export.model.names import FORMATS
from vit_export.report.columns import Row, print_columns
from vit_export.runtimes.timing.statistics import Interval

if TYPE_CHECKING:
    from vit_export.runtimes.benchmark import BenchedFile, Benchmark

_FORMATS = {"saved_model": "SM", "tflite": "TFL", "onnx": "ONNX"}
_PRECISIONS = {"float32": "f32", "float16": "f16", "int8": "int8"}
"""Formats and precisions in as few letters as leave room for a name in 80 columns; the legend spells them."""


def render_benchmark(benchmark: "Benchmark", console: Console | None = None) -> None:
    """Print a row for each file, the fastest first, then what the figures mean and what makes them doubtful."""
    console = console or Console()
    batches = {row.latency.batch for row in benchmark.files if row.latency} - {1}
    headings = ["file", "kind", "MB", "load\nms", "first\nms", "median\nms", "±%", "p90\nms", "p99\nms", "times\nbase"]
    headings += ["±%", "peak\nMB", *(["batch"] if batches else []), "rank"]
    rows = [
        Row(visible(row.name), [*_cells(row, benchmark.baseline, batch=bool(batches))])
        for row in sorted(benchmark.files, key=_place)
    ]
    print_columns(console, headings, rows, left=("kind",))
    for line in _legend(benchmark, batch=bool(batches)):
        console.print(Text(line, style="dim"))
    for warning in benchmark.warnings:
        console.print(Text.assemble(("note  ", "yellow"), visible(warning)))


def _place(row: "BenchedFile") -> tuple[float, ...]:
    """The order of the rows; what was not measured comes last."""
    if row.rank is None or row.latency is None:
        return (float("inf"),)
    return row.rank.best, row.rank.worst, -row.latency.speedup


def _cells(row: "BenchedFile", baseline: str | None, *, batch: bool) -> Iterator[Text]:
    yield Text(" ".join(filter(None, (_FORMATS.get(row.format or ""), _PRECISIONS.get(row.precision or "")))) or NONE)
    latency, memory = row.latency, row.memory
    yield Text(three_digits(None if row.bytes is None else row.bytes / MEGABYTE))
    if latency is None or row.error:
        yield Text("failed", style="bold red")
        return
    for seconds in (row.load_seconds, row.first_run_seconds):
        yield Text(three_digits(None if seconds is None else 1e3 * seconds))
    yield Text(three_digits(latency.median_ms), style="bold")
    yield Text(_uncertainty(latency.interval, latency.median_ms))
    yield Text(three_digits(latency.p90_ms))
    yield Text(three_digits(latency.p99_ms))
    yield Text(three_digits(latency.speedup))
    yield Text("base" if row.path == baseline else _uncertainty(latency.speedup_interval, latency.speedup))
    yield Text(three_digits(None if memory is None else memory.peak / MEGABYTE))
    if batch:
        yield Text(str(latency.batch))
    yield Text(str(row.rank), style="bold")


def _legend(benchmark: "Benchmark", *, batch: bool) -> Iterator[str]:
    yield f"One call on {conditions(benchmark.threads, benchmark.machine['cpu'])}.{_kinds(benchmark)}"
    if benchmark.baseline is None:
        return
    per = "; ms are of a call, speed and rank of an image" if batch else ""
    yield (
        f"±%: half the 95 % interval, of the median and of the speed against the base in the same rounds{per}. "
        "Files whose order the measurement leaves open share their ranks. Peak memory is that of a process that runs "
        "the file once, Python and runtime included."
    )


def _kinds(benchmark: "Benchmark") -> str:
    """What the short names of formats and precisions in the table stand for."""
    formats = {row.format for row in benchmark.files}
    precisions = {row.precision for row in benchmark.files}
    said = [f"{_FORMATS[name]} {FORMATS[name].title}" for name in FORMATS if name in formats and name != "onnx"]
    said += [f"{short} {name}" for name, short in _PRECISIONS.items() if name in precisions and name != "int8"]
    return f" {', '.join(said)}." if said else ""


def _uncertainty(interval: Interval | None, median: float) -> str:
    """Half the width of an interval in percent of the median."""
    if interval is None:
        return NONE
    percent = 50 * interval.width(median)
    return f"{percent:.1f}" if percent < 9.95 else f"{percent:.0f}"
