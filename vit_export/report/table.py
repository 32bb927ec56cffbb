"""The closing table of a verification, for a terminal."""

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

from vit_export.base.numbers import MEGABYTE, NONE, conditions, figure
from vit_export.base.text import visible
from vit_export.report.columns import Cell, Row, print_columns
from vit_export.runtimes.places import CPU
from vit_export.verification.metrics import Accuracy, Neighbours
from vit_export.verification.verdict import FileResult, Verification


def render_table(verification: Verification, console: Console) -> None:
    """Print the closing table, then every failure on a line of its own, the warnings and the verdict."""
    near = any(file.neighbours or any(o.neighbours for o in file.outputs) for file in verification.files)
    labelled = verification.reference.accuracy is not None
    headings = ["file", "MB", "worst\ndiff", "SQNR\ndB", "top-1\nagrees", "median\nms", "times\nref.", "peak\nMB"]
    headings += ["same\nneighb."] * near + ["top-1\ncorrect"] * labelled + ["verdict"]
    rows = [_reference(verification, near=near)]
    above = None
    for file in verification.files:
        rows += _rows(file, _called(file, above), near=near, labelled=labelled)
        above = file.artifact.path
    print_columns(console, headings, rows, left=("verdict",))
    console.print(Text(_legend(verification), style="dim"))
    for failure in verification.failures:
        console.print(Text.assemble(("FAIL  ", "bold red"), f"{visible(failure)}."), soft_wrap=True)
    for explanation in verification.explanations:
        console.print(Text.assemble(("why   ", "bold"), f"{visible(explanation)}."), soft_wrap=True)
    for warning in verification.warnings:
        console.print(Text.assemble(("note  ", "yellow"), visible(warning)), soft_wrap=True)
    good = sum(file.passed for file in verification.files)
    style = "bold green" if verification.passed else "bold red"
    assuming = f", assuming {'; '.join(verification.assumed)}" if verification.assumed else ""
    what = "rows" if any(file.place != CPU.words for file in verification.files) else "files"
    found = f"{good} of {len(verification.files)} {what} are the reference's model on {len(verification.images)} images"
    console.print(Text(f"{verification.verdict.upper()}{assuming}: {found}.", style=style), soft_wrap=True)


def _reference(verification: Verification, *, near: bool) -> Row:
    reference = verification.reference
    cells: list[Cell] = [
        figure(reference.bytes / MEGABYTE),
        *(NONE,) * 3,
        figure(reference.latency.median_ms if reference.latency else None),
        figure(reference.latency.speedup if reference.latency else None),
        figure(reference.memory.peak / MEGABYTE if reference.memory else None),
        *([NONE] if near else []),
        *([_share(reference.accuracy)] if reference.accuracy else []),
        NONE if reference.passed else Text("fail", style="bold red"),
    ]
    return Row(f"{visible(Path(reference.path).name)} (reference)", cells, "dim")


def _called(file: FileResult, above: str | None) -> str:
    """The file's name, and where it ran if not on the CPU; that alone below another row of the same file."""
    name = visible(Path(file.artifact.path).name)
    if file.place == CPU.words:
        return name
    return f"  {visible(file.place)}" if file.artifact.path == above else f"{name} ({visible(file.place)})"


def _rows(file: FileResult, called: str, *, near: bool, labelled: bool) -> Iterator[Row]:
    comparison, latency = file.comparison, file.latency
    cells: list[Cell] = [
        figure(file.artifact.bytes / MEGABYTE),
        NONE if comparison is None else f"{comparison.worst_relative:.1e}",
        NONE if comparison is None else f"{min(comparison.sqnr_db):.1f}",
        NONE if comparison is None or comparison.agreement is None else f"{100 * comparison.agreement:.1f} %",
        figure(latency.median_ms if latency else None),
        figure(latency.speedup if latency else None),
        figure(file.memory.peak / MEGABYTE if file.memory else None),
        *([_recall(file.neighbours)] if near else []),
        *([_share(file.accuracy)] if labelled else []),
        Text("pass", style="green") if file.passed else Text("FAIL", style="bold red"),
    ]
    yield Row(called, cells)
    for output in file.outputs:
        figures = f"{output.comparison.worst_relative:.1e}", f"{min(output.comparison.sqnr_db):.1f}"
        others = [*([_recall(output.neighbours)] if near else []), *([NONE] if labelled else []), NONE]
        yield Row(f"  {output.name}", [NONE, *figures, *(NONE,) * 4, *others], "dim")


def _legend(verification: Verification) -> str:
    return (
        f"Worst image of {len(verification.images)}; one call on "
        f"{conditions(verification.threads, verification.cpu.to_dict())}{_on_a_gpu(verification)}; peak memory of a "
        "process that runs the file, Python and runtime included. diff: as a share of the outputs' range."
    )


def _on_a_gpu(verification: Verification) -> str:
    timed = any(file.device and file.latency for file in verification.files)
    return ", or on the GPU that a row names, what it is given copied there and its answer back" if timed else ""


def _recall(found: Neighbours | None) -> str:
    return NONE if found is None else f"{100 * found.recall:.1f} %"


def _share(accuracy: Accuracy | None) -> str:
    return NONE if accuracy is None else f"{100 * accuracy.share:.1f} %"
