"""`vit-export compare`: variants side by side, what follows from their sizes and what this machine measures."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.errors import InputError
from vit_export.base.files import require_new_file, write_new_file
from vit_export.base.numbers import MEGABYTE, conditions, shortened, three_digits
from vit_export.cli import options as shared
from vit_export.cli.finish import say
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, THREADS, flag, pathname
from vit_export.model.names import PRECISIONS
from vit_export.pipeline.compare import compare

if TYPE_CHECKING:
    from rich.console import Console


@click.command("compare", cls=Command, context_settings=CONTEXT, short_help="Compare variants: sizes, speed, memory.")
@click.argument("variants", nargs=-1)
@shared.image_size("; rounded up to multiples of each patch.", 224)
@THREADS
@click.option("--precisions", metavar="LIST", help=f"File sizes to measure.  [default: {','.join(PRECISIONS)}]")
@flag("--no-measure", "Only what follows from the sizes; takes no time.")
@AS_JSON
@pathname("--plot", "Draw the latencies as FILE, an .svg.")
@shared.overwrite("a plot that exists")
@flag("--quiet", "No progress, only the result.")
@shared.seed("the random weights")
def compare_command(
    precisions: str | None,
    no_measure: bool,
    as_json: bool,
    plot: Path | None,
    overwrite: bool,
    quiet: bool,
    **more: Any,
) -> None:
    """Compare VARIANTS (all by default): sizes by formula; speed, memory and file sizes measured.

    Each variant's float32 .tflite file, with random weights, takes turns with that of vit_s32. Files go to a
    temporary folder (set TMPDIR for another one).
    """
    if no_measure and (plot or precisions is not None):
        option, what = ("--plot", "draws") if plot else ("--precisions", "says")
        raise InputError(f"{option} {what} what is measured and --no-measure measures nothing: give one of the two.")
    from rich.console import Console

    from vit_export.cli.progress import ConsoleReporter

    if plot is not None:
        if plot.suffix.lower() != ".svg":
            raise InputError(f"The plot {plot} has the extension '{plot.suffix}', expected '.svg': name it so.")
        require_new_file(plot, "--plot", overwrite=overwrite)
    wanted = tuple(PRECISIONS) if precisions is None else [p.strip() for p in precisions.split(",") if p.strip()]
    with ExitStack() as stack:
        reporter = None if quiet or no_measure else stack.enter_context(ConsoleReporter(Console(stderr=True)))
        comparison = compare(precisions=wanted, measure=not no_measure, reporter=reporter, **more)
    if as_json:
        from vit_export.base.json_file import json_text
        from vit_export.base.signal import json_ready

        say(json_text(json_ready(comparison)))
    else:
        render_comparison(comparison, Console())
    if plot is not None:
        from vit_export.report.speeds import speeds

        write_new_file(plot, speeds(comparison), "--plot", overwrite=overwrite)
        if not quiet:
            say(f"Wrote {plot}.", err=True)
    if failed := [row for row in comparison["variants"] if row["error"]]:
        for row in failed:
            say(f"FAIL  {row['name']} was not measured: {row['error']}", err=True)
        sys.exit(1)


def render_comparison(comparison: dict[str, Any], console: "Console") -> None:
    """Print the listing, what was measured, and how the figures came about."""
    from rich.text import Text

    from vit_export.cli.list import render_listing
    from vit_export.report.columns import Row, print_columns

    precisions, name = comparison["settings"]["precisions"], shortened(comparison["baseline"]["name"], 20)
    render_listing(comparison["variants"], console)
    console.print()
    if comparison["baseline"]["measured"]:
        headings = ["variant", "median\nms", "p90\nms", f"speed, {name}\nis 1", "peak\nMB"]
        headings += [f"{precision}\nMB" for precision in precisions]
        rows = [Row(row["name"], _measured(row, precisions)) for row in comparison["variants"]]
        print_columns(console, headings, rows)
        console.print()
    for line in _closing(comparison):
        console.print(Text(line, style="dim"))


def _measured(row: dict[str, Any], precisions: list[str]) -> list[str]:
    if not (found := row["measured"]):
        return ["failed"]
    latency, files = found["latency"], found["file_bytes"]
    bytes_ = [found["memory_bytes"]["peak"], *(files[precision] for precision in precisions)]
    figures = [latency["median_ms"], latency["p90_ms"], latency["speedup"], *(n / MEGABYTE for n in bytes_)]
    return [three_digits(figure) for figure in figures]


def _closing(comparison: dict[str, Any]) -> Iterator[str]:
    """What was measured and how, in sentences."""
    logits = " or ".join(dict.fromkeys(str(row["outputs"]["logits"][-1]) for row in comparison["variants"]))
    yield (
        f"Sizes, parameters and MACs by formula. Of one image the logits are {logits} numbers, features as many as the "
        "width, and the sequence of tokens tokens × width."
    )
    found = [row["measured"] for row in (*comparison["variants"], comparison["baseline"]) if row["measured"]]
    if not found:
        return
    latencies = [measured["latency"] for measured in found]
    paired = sorted(latency["reference_median_ms"] for latency in latencies)
    ends = list(dict.fromkeys(map(three_digits, (paired[0], paired[-1]))))
    # One number cannot show it, but a machine that others use changes its pace: say by how much.
    spread = f"{' to '.join(ends)} ms{' in the course of it' if len(ends) > 1 else ''}"
    on = conditions(comparison["settings"]["threads"], comparison["machine"]["cpu"])
    yield (
        f"Measured: one call of the float32 .tflite file with random weights, {on}. Each took turns with "
        f"{comparison['baseline']['name']}, whose median was {spread}; speed is the median of the ratios in a round."
    )
    before = max(measured["memory_bytes"]["baseline"] for measured in found) / MEGABYTE
    yield (
        "Peak memory is that of a process that runs the float32 file once, Python and runtime included "
        f"(up to {three_digits(before)} MB of it before the file is loaded). int8 is the dynamic scheme."
    )
    if (unrest := max(latency["p90_ms"] / latency["median_ms"] for latency in latencies)) > 2:
        yield f"The machine did other work meanwhile: p90 is up to {unrest:.1f} times the median."
