"""The table of `vit-export bench --adb`: a device's times beside those of the report that verified the files."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vit_export.base.numbers import NONE, three_digits
from vit_export.base.text import visible
from vit_export.report.earlier import verified

if TYPE_CHECKING:
    from vit_export.runtimes.on_device import DeviceBenchmark


def render_on_device(benchmark: "DeviceBenchmark", console: Console | None = None) -> None:
    """Print two rows for each file, the device's CPU and GPU, and what the report beside it measured on a computer."""
    console = console or Console()
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nfile", overflow="fold", min_width=14)
    table.add_column("\nplace", no_wrap=True)
    for heading in ("median\nms", "p5\nms", "p95\nms", "load\nms", "\ncalls", "report\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in benchmark.rows:
        told = reported_ms(Path(row.path), row.sha256)
        if row.error:
            table.add_row(Text(visible(row.name)), row.place, Text("failed", style="bold red"))
            continue
        numbers = [three_digits(value) for value in (row.median_ms, row.p5_ms, row.p95_ms, row.init_ms)]
        last = NONE if told is None else three_digits(told)
        table.add_row(Text(visible(row.name)), row.place, *numbers, str(row.runs), last)
    console.print(table)
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


def reported_ms(path: Path, digest: str) -> float | None:
    """The median of one call in the newest report beside `path` that verified the file with this digest."""
    _, file = verified(path, digest)
    latency = {} if file is None else file.entry.get("latency") or {}
    median = latency.get("median_ms")
    return float(median) if isinstance(median, int | float) else None
