"""The table of `vit-export bench --adb`: a device's times beside those of the report that verified the files."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from vit_export.base.numbers import NONE, three_digits
from vit_export.base.text import visible
from vit_export.report.columns import Row, print_columns
from vit_export.report.earlier import verified

if TYPE_CHECKING:
    from vit_export.runtimes.on_device import DeviceBenchmark, DeviceRow


def render_on_device(benchmark: "DeviceBenchmark", console: Console | None = None) -> None:
    """Print two rows for each file, the device's CPU and GPU, and what the report beside it measured on a computer."""
    console = console or Console()
    headings = ("\nfile", "\nplace", "median\nms", "p5\nms", "p95\nms", "load\nms", "\ncalls", "report\nms")
    rows = [Row(Text(visible(row.name)), list(_cells(row))) for row in benchmark.rows]
    print_columns(console, headings, rows, left=["\nplace"])
    named = " ".join(filter(None, (benchmark.device["model"], benchmark.device["soc"])))
    android = benchmark.device["android"]
    console.print(
        Text(
            visible(
                f"On {named or benchmark.device['serial']}{f', Android {android}' if android else ''}, "
                f"{benchmark.threads} thread(s) of the CPU: medians of {benchmark.rounds} turns each, all in turns. "
                "report: one call on the machine that verified these very bytes."
            ),
            style="dim",
        )
    )


def _cells(row: "DeviceRow") -> Iterator[str | Text]:
    yield row.place
    if row.error:
        yield Text("failed", style="bold red")
        return
    for value in (row.median_ms, row.p5_ms, row.p95_ms, row.init_ms):
        yield three_digits(value)
    yield str(row.runs)
    told = reported_ms(Path(row.path), row.sha256)
    yield NONE if told is None else three_digits(told)


def reported_ms(path: Path, digest: str) -> float | None:
    """The median of one call in the newest report beside `path` that verified the file with this digest."""
    _, file = verified(path, digest)
    latency = {} if file is None else file.entry.get("latency") or {}
    median = latency.get("median_ms")
    return float(median) if isinstance(median, int | float) else None
