"""The images of a report that are worth a look: which they are, and what each file makes of them."""

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vit_export.base.numbers import figure, number
from vit_export.report.view import File, RankedClass, Record, base_name, listed, ranked_classes, record, records, text

WORST_SHOWN = 6
"""Images of one file, beside its worst, that are shown for a limit they break or a top class that differs."""
IMAGES_SHOWN = 12
"""Images that are shown in all."""
ROWS_LISTED = 200
"""Rows of the list of images beyond a limit, one for each file, the worst first."""


@dataclass(frozen=True)
class ShownImage:
    """An image on the page, what the reference sees in it, and the files it is shown for.

    `folder` is what comes before its name, with the slash: the name of its class, where folders are called so.
    """

    folder: str
    name: str
    picture: str | None
    reference: list[RankedClass]
    candidates: list["Candidate"]


@dataclass(frozen=True)
class Candidate:
    """What a file makes of a shown image; `departs` says that its top class is not the reference's.

    `faults` are the limits that it breaks there, with the figures.
    """

    file: File
    difference: str
    sqnr: str
    faults: list[str]
    departs: bool
    margin: str
    classes: list[RankedClass]


def notable_images(files: Sequence[File], count: int) -> dict[int, list[File]]:
    """Images worth a look, by index, the worst against its limits first, each with the files it is shown for.

    Those are each file's worst image and a few where it breaks a limit or has another top class.
    """
    shown: dict[int, tuple[float, list[File]]] = {}
    for file in files:
        order = sorted(ranked(file, count), key=lambda pair: (-pair[0], pair[1]))
        limited = file.limit("worst_difference") is not None
        wrong = [
            (size, i)
            for size, i in order[1:]
            if (limited and size > 1) or (i < len(file.agrees) and not file.agrees[i])
        ]
        for size, i in order[:1] + wrong[:WORST_SHOWN]:
            worst, of = shown.get(i, (0.0, []))
            shown[i] = (max(worst, size), [*of, file])
    first = sorted(shown, key=lambda i: (-shown[i][0], i))[:IMAGES_SHOWN]
    return {i: shown[i][1] for i in first}


def shown_images(
    report: Record, reference: File | None, files: Sequence[File], names: Sequence[str], pictures: Mapping[str, bytes]
) -> list[ShownImage]:
    """`notable_images` with what is shown of each; `pictures` are JPEG files by image name."""
    labels, shown = listed(report.get("labels")), []
    for index, chosen in notable_images(files, len(names)).items():
        name, picture = base_name(names[index]) or names[index], pictures.get(names[index])
        shown.append(
            ShownImage(
                names[index][: -len(name)] if names[index].endswith(name) else "",
                name,
                f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else None,
                ranked_classes(reference, index, labels) if reference else [],
                [_candidate(file, index, labels, reference) for file in chosen],
            )
        )
    return shown


def failing_images(files: Sequence[File], names: Sequence[str]) -> tuple[list[tuple[str, File, str]], int]:
    """The images beyond a limit, each with a file and what is wrong, the worst first; and how many images that are."""
    found = [
        (size, index, file, "; ".join(faults))
        for file in files
        for size, index in ranked(file, len(names))
        if (faults := faults_of(file, index))
    ]
    found.sort(key=lambda row: (-row[0], row[1]))
    rows = [(names[index], file, faults) for _, index, file, faults in found]
    return rows[:ROWS_LISTED], len({index for _, index, _, _ in found})


def faults_of(file: File, index: int) -> list[str]:
    """The limits that `file` breaks on one image, with the figures, output by output."""
    found = []
    for output, comparison in _outputs(file):
        for called, unit, value, limit, excess in _figures(file, comparison, index):
            if excess > 1:
                found.append(f"{output}{called} {_digits(value, limit)}{unit}, limit {limit:g}")
    return found


def _digits(value: float, limit: float) -> str:
    """`value` with as many digits as it takes to be seen on its side of `limit`."""
    short = figure(value)
    return short if number(short) != limit and abs(value - limit) > 1e-3 * abs(limit) else f"{value:.7g}"


def _outputs(file: File) -> Iterator[tuple[str, Record]]:
    """The comparison of each output, after what it is called where it is not the first."""
    yield "", file.part("comparison")
    for output in records(file.entry.get("outputs")):
        yield f"{text(output.get('name'))}: ", record(output.get("comparison"))


def _figures(file: File, comparison: Record, index: int) -> Iterator[tuple[str, str, float, float, float]]:
    """Each figure of one image that has a limit: name, unit, value, limit, and how many times as large the error is."""
    bounds = number(comparison.get("range"))
    size = _at(comparison, "worst_difference", index)
    limit = file.limit("worst_difference")
    if size is not None and bounds is not None and limit:
        share = size / bounds if bounds > 0 else 0.0 if size == 0 else math.inf
        yield "difference", " of the range", share, limit, share / limit
    value, limit = _at(comparison, "sqnr_db", index), file.limit("sqnr", "sqnr_db")
    if value is not None and limit is not None:
        yield "SQNR", " dB", value, limit, 10 ** min(15.0, (limit - value) / 20)
    value, limit = _at(comparison, "cosine", index), file.limit("cosine")
    if value is not None and limit is not None and limit < 1:
        yield "cosine", "", value, limit, math.sqrt(max(0.0, 1 - value) / (1 - limit))


def _at(comparison: Record, name: str, index: int) -> float | None:
    values = listed(comparison.get(name))
    return number(values[index]) if index < len(values) else None


def ranked(file: File, count: int) -> Iterator[tuple[float, int]]:
    """How far each image is beyond its worst limit, as a factor; where there is none, the difference itself."""
    for index, value in enumerate(file.differences[:count]):
        if value is None:
            continue
        known = [row[-1] for _, comparison in _outputs(file) for row in _figures(file, comparison, index)]
        found = max(known, default=value)
        yield (math.inf if math.isnan(found) or math.isnan(value) else found), index


def _candidate(file: File, index: int, labels: Sequence[Any], reference: File | None) -> Candidate:
    margin, bounds = file.image("reference_margin", index), number(file.part("comparison").get("range"))
    departs = index < len(file.agrees) and not file.agrees[index]
    return Candidate(
        file=file,
        difference=figure(file.differences[index]),
        sqnr=figure(file.image("sqnr_db", index)),
        faults=faults_of(file, index),
        departs=departs,
        margin=figure(margin / bounds) if departs and margin is not None and bounds else "",
        classes=ranked_classes(file, index, labels, reference),
    )
