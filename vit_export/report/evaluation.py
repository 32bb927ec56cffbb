"""The table of `vit-export evaluate`: accuracy with its interval, beside the reference's on the same images."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from vit_export.base.numbers import NONE
from vit_export.base.text import visible
from vit_export.report.columns import Row, print_columns
from vit_export.verification.metrics import Accuracy

if TYPE_CHECKING:
    from vit_export.evaluation.figures import Figures, FileFigures

_HEADINGS = (
    *("\nfile", "top-1\n%", "\n±", "top-5\n%", "as ref.\n%", "lost/\ngained", "\np", "ECE\n%"),
    *("median\ndB", "worst\ndB"),
)
_OF_NEIGHBOURS = ("\nfile", "k-NN\n%", "\n±", "lost/\ngained", "\np", "median\ndB", "worst\ndB")
_SHOWN_UNREADABLE = 5


def render_evaluation(figures: "Figures", labels: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print a row for each file, the reference first, then what is worse than chance explains, and what was left out.

    `labels` are the names of the classes.
    """
    console = console or Console()
    by_neighbours = any(file.knn for file in figures.files)
    cells = _neighbours if by_neighbours else _cells
    rows = [Row(Text(visible(file.name)), list(cells(file))) for file in figures.files]
    print_columns(console, _OF_NEIGHBOURS if by_neighbours else _HEADINGS, rows)
    for line in _legend(figures):
        console.print(Text(line, style="dim"))
    for text in _findings(figures, labels):
        console.print(Text.assemble(("note  ", "yellow"), visible(text)))


def _cells(file: "FileFigures") -> Iterator[str]:
    yield _percent(file.top1)
    yield _half(file.top1)
    yield _percent(file.top5)
    yield _percent(file.agreement)
    yield from _compared(file)
    yield NONE if file.calibration_error is None else f"{100 * file.calibration_error:.1f}"
    yield from _decibels(file)


def _neighbours(file: "FileFigures") -> Iterator[str]:
    yield _percent(file.knn)
    yield _half(file.knn)
    yield from _compared(file)
    yield from _decibels(file)


def _compared(file: "FileFigures") -> Iterator[str]:
    yield NONE if file.mcnemar is None else f"{file.mcnemar.lost}/{file.mcnemar.gained}"
    yield NONE if file.mcnemar is None else f"{file.mcnemar.p:.2g}"


def _decibels(file: "FileFigures") -> Iterator[str]:
    yield NONE if file.sqnr_median_db is None else f"{file.sqnr_median_db:.1f}"
    yield NONE if file.sqnr_worst_db is None else f"{file.sqnr_worst_db:.1f}"


def _half(found: Accuracy | None) -> str:
    return NONE if found is None else f"{50 * (found.high - found.low):.2f}"


def _percent(found: Accuracy | None) -> str:
    return NONE if found is None else f"{100 * found.share:.2f}"


def _legend(figures: "Figures") -> Iterator[str]:
    yield f"{figures.images:,} images, {figures.labelled:,} of them with a class."
    if figures.labelled:
        yield (
            "±: half of Wilson's 95 % interval. lost/gained: images that the reference, or the file, gets right alone; "
            "p: McNemar's exact test of whether that is chance."
        )
    if any(file.knn for file in figures.files):
        yield "k-NN: the class that the nearest training images vote for, by the file's own embeddings of both."
    else:
        yield "as ref.: the same top class as the reference. ECE: expected calibration error of the softmax."
    yield "dB: signal to noise of the outputs against the reference's."


def _findings(figures: "Figures", labels: Sequence[str] | None) -> Iterator[str]:
    if figures.images and not figures.labelled:
        names = f" ({', '.join(labels[:3])}, …)" if labels else ""
        yield (
            "No accuracy: not one image has a class. A folder of images is to hold a folder for each class, called "
            f"like it{names}; --labels says what the classes are called."
        )
    for file in figures.files:
        if file.mcnemar is not None and file.mcnemar.worse:
            yield (
                f"{file.name} is worse than the reference: {file.mcnemar.lost} images lost, {file.mcnemar.gained} "
                f"gained (p = {file.mcnemar.p:.2g})."
            )
        if file.worst_classes:
            named = (
                f"{labels[loss.index] if labels else f'class {loss.index}'} "
                f"({loss.reference_correct} -> {loss.correct} of {loss.total})"
                for loss in file.worst_classes
            )
            yield f"{file.name} loses most in {', '.join(named)}."
    if figures.unreadable:
        count = len(figures.unreadable)
        first = "; ".join(f"{name}: {reason}" for name, reason in figures.unreadable[:_SHOWN_UNREADABLE])
        more = "; ..." if count > _SHOWN_UNREADABLE else ""
        yield f"{count} images could not be read and are in no figure ({first}{more})."
