"""The charts of report.html, each an SVG made from the report's figures; None where there is nothing to draw."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vit_export.base.numbers import figure, number, percent, sentence, shortened
from vit_export.base.text import visible
from vit_export.report.scatter import Mark, Point, scatter
from vit_export.report.svg import COLOURS, Chart, Limits, Picture, by_matplotlib, clamped, linear, logarithmic
from vit_export.report.view import File, base_name, listed, records, text

DOTS = 150
"""Dots of one row; of more values the worst and an even choice of the others are drawn."""
MEASURES = {"accuracy": "Accuracy", "agreement": "Same top class", "sqnr": "SQNR of the worst image"}


def measure_of(files: Sequence[File], *, trained: bool) -> str:
    """What tells the files' quality apart: accuracy where labelled, else agreement of a trained model, else SQNR.

    Where every file agrees equally often, agreement tells nothing apart.
    """
    if any(file.score("accuracy") is not None for file in files):
        return "accuracy"
    shares = {share for file in files if (share := file.score("agreement")) is not None}
    return "agreement" if trained and len(shares) > 1 else "sqnr"


def trade_off(
    files: Sequence[File],
    reference: File | None,
    measure: str,
    cost: Callable[[File], float | None],
    cost_name: str,
    identifier: str,
) -> Chart | None:
    """Quality against `cost` (smaller is better), and the reference's."""
    part, unit = (1, "dB") if measure == "sqnr" else (100, "%")
    points = []
    for file in files:
        at, score = cost(file), file.score(measure)
        if at is None or score is None:
            continue
        ends = tuple(part * end for end in _bounds(file)) if measure == "accuracy" else ()
        told = f"{figure(at)}, {_score(score, measure)}"
        points.append(
            Point(file.name, file.label, at, part * score, told, file.shape, file.kind, file.failed, quality_ends=ends)
        )
    own = cost(reference) if reference else None
    marks = [] if own is None else [Mark("reference", own)]
    if reference and own is not None and measure == "accuracy" and (score := reference.score(measure)) is not None:
        marks.append(Mark("reference", own, part * score, f"reference: {_score(score, measure)}"))
    return scatter(points, f"{MEASURES[measure]} against {cost_name}", cost_name, unit, identifier, marks)


def _bounds(file: File) -> list[float]:
    """The 95 % interval of the accuracy, else nothing."""
    sides = [number(file.part("accuracy").get(side)) for side in ("low", "high")]
    return [side for side in sides if side is not None] if None not in sides else []


def _score(value: float, measure: str) -> str:
    return f"{figure(value)} dB" if measure == "sqnr" else percent(value)


def _rows(count: int, limits: Limits, name: str, *, pitch: float, log: Sequence[float] = ()) -> Picture:
    """A picture of `count` rows of `pitch` units over one axis; y are units from the top."""
    picture = Picture(pitch * count + 48, (12, 12, 8, 40))
    picture.scale("x", limits, name, log=log)
    picture.axes.set(ylim=(pitch * count, 0), yticks=[])
    return picture


def _title(picture: Picture, y: float, label: str, value: str, colour: str) -> None:
    """The name of a row at its left, a figure at its right."""
    at = picture.axes.get_yaxis_transform()
    picture.text(0, y, label, xycoords=at, xytext=(4, 0), bold=True)
    picture.text(1, y, value, colour, xycoords=at, xytext=(-4, 0), ha="right")


@by_matplotlib
def differences(files: Sequence[File], names: Sequence[str]) -> Chart | None:
    """One row of dots per file, one dot per image, at its largest difference; its limit is a line."""
    rows = [file for file in files if any(value is not None for value in file.differences)]
    if not rows:
        return None
    limits = [limit for file in rows if (limit := file.limit("worst_difference")) is not None]
    x = logarithmic([v for file in rows for v in file.differences if v is not None] + limits)
    picture, told = _rows(len(rows), x, "largest difference, share of the range", pitch=58, log=[1]), []
    for y, file in zip(range(38, 58 * len(rows), 58), rows, strict=True):
        ranked, limit = _ranked(file.differences), file.limit("worst_difference")
        _title(picture, y - 20, shortened(visible(file.label), 26), "" if limit is None else f"limit {limit:g}", "bad")
        picture.line(x, [y + 20, y + 20], "rule", linewidth=1, zorder=0)
        if limit is not None:
            start = clamped(limit, x)
            picture.band((start, x[1]), (y - 12, y + 12), "bad-paper", 0.75)
            picture.line([start, start], [y - 14, y + 14], "bad", linestyle="--")
        dots = [
            (
                clamped(size, x),
                y + _jitter(i),
                limit is not None and not size <= limit,
                f"{_name(names, i)}: {figure(size)}",
            )
            for size, i in reversed(_thinned(ranked))
        ]
        _dots(picture, file, dots)
        value, name = ranked[0][0], _name(names, ranked[0][1])
        picture.marks([dots[-1][0]], [dots[-1][1]], "ring", "ink", "ringed", [f"worst: {name}"], markersize=16)
        told.append(f"{file.label}: worst {figure(value)} on {name}")
    caption = "The ring marks each file's worst image; crosses in the shaded area are beyond the limit."
    count = max(len(file.differences) for file in rows)
    caption += f" {DOTS} of {count} images are drawn." if count > DOTS else ""
    return Chart(picture.markup("Largest difference on each image", "; ".join(told) + ".", "differences"), caption)


def _dots(picture: Picture, file: File, dots: Sequence[tuple[float, float, bool, str]]) -> None:
    """The file's marks at (x, y), or crosses where the third says that a limit is broken, with their titles."""
    good = (False, file.shape, file.kind, "dot", {"alpha": 0.7, "markeredgewidth": 0.75})
    for bad, shape, colour, kind, look in (good, (True, "cross", "bad", "bad", {"markeredgewidth": 2.25})):
        if some := [dot for dot in dots if dot[2] is bad]:
            x, y, _, titles = zip(*some, strict=True)
            picture.marks(x, y, shape, colour, kind, titles, markersize=8, **look)


def _ranked(values: Sequence[float | None]) -> list[tuple[float, int]]:
    """Values with their index, the largest (or NaN) first."""
    known = [(math.inf if math.isnan(v) else v, i) for i, v in enumerate(values) if v is not None]
    return sorted(known, key=lambda pair: (-pair[0], pair[1]))


def _thinned(ranked: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """At most DOTS of the values: the 30 largest and, of the others, an even choice that keeps their distribution."""
    if len(ranked) <= DOTS:
        return ranked
    rest = ranked[30:]
    chosen = np.linspace(0, len(rest) - 1, DOTS - 30).round().astype(int)
    return ranked[:30] + [rest[i] for i in chosen]


def _jitter(index: int) -> float:
    """Units up or down that keep dots of the same value apart, the same in every row."""
    return ((index * 0.618034) % 1 - 0.5) * 16


def _name(names: Sequence[str], index: int) -> str:
    return shortened(base_name(names[index]) if index < len(names) else f"image {index + 1}")


@by_matplotlib
def layers(file: File) -> Chart | None:
    """The SQNR of each point of the residual stream, in the model's order; the first that is off is marked."""
    location = file.part("location")
    points = records(location.get("points"))
    names = [text(point.get("name"), "unnamed") for point in points]
    values = [number(point.get("sqnr_db")) for point in points]
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(points) < 2 or not known:
        return None
    limit, departs = number(location.get("limit_db")), text(location.get("departs"))
    y = linear([*known, *([limit] if limit is not None else [])], room=0.12, least=2.0)
    picture = Picture(196, (30, 8, 26, 40))
    picture.scale("y", y)
    picture.axes.set(xlim=(-0.5, len(points) - 0.5), xlabel="encoder layer")
    ticks = _layer_ticks(names)
    picture.axes.set_xticks([i for i, _ in ticks], [layer for _, layer in ticks])
    if limit is not None and math.isfinite(limit):
        picture.axes.axhline(limit, color=COLOURS["bad"], linestyle="--")
        at = picture.axes.get_yaxis_transform()
        picture.text(1, limit, f"off below {figure(limit)} dB", "bad", xycoords=at, xytext=(0, 5), ha="right")
    heights = [math.nan if value is None else clamped(value, y) for value in values]
    picture.line(range(len(points)), heights, file.kind, linewidth=2, alpha=0.65)
    dots = []
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None:
            continue
        dots.append((i, heights[i], limit is not None and not value >= limit, f"{name}: {figure(value)} dB"))
        if name == departs:
            picture.marks([i], [heights[i]], "ring", "ink", "ringed", [f"departs at {name}"], markersize=18)
            picture.line([i, i], [heights[i], y[1]], "soft", linewidth=1, zorder=1)
            third = 3 * i // len(points)
            place: dict[str, Any] = {
                "xycoords": "axes fraction",
                "xytext": (0, 8),
                "ha": ("left", "center", "right")[third],
            }
            picture.text(third / 2, 1, f"departs: {shortened(visible(name), 26)}", bold=True, **place)
    _dots(picture, file, dots)
    missing = sum(value is None for value in values)
    caption = [sentence(text(location.get("detail")))]
    if missing:
        caption.append(f"{missing} point{' has' if missing == 1 else 's have'} no tensor in the file.")
    told = [f"{name} {figure(value)} dB" for name, value in zip(names, values, strict=True) if value is not None]
    drawn = picture.markup(f"SQNR by depth of {file.label}", "; ".join(told) + ".", f"{file.id}-layers")
    return Chart(drawn, " ".join(filter(None, caption)))


def _layer_ticks(names: Sequence[str]) -> list[tuple[int, str]]:
    """Where numbers of layers, at most about six, are written below the axis."""
    numbered = [
        (i, words[2])
        for i, name in enumerate(names)
        if len(words := name.split()) >= 4 and words[:2] == ["encoder", "layer"] and words[3] == "attention"
    ]
    return numbered[:: max(1, math.ceil(len(numbered) / 6))]


@by_matplotlib
def latencies(reference: File | None, files: Sequence[File]) -> Chart | None:
    """Milliseconds of one call per file on one axis: every recorded call where kept, quartiles, median, p90 and p99."""
    rows = [f for f in [*([reference] if reference else []), *files] if f.milliseconds is not None]
    if not rows:
        return None
    known = [number(f.part("latency").get(key)) or 0.0 for f in rows for key in ("median_ms", "p90_ms", "p99_ms")]
    x = linear(known, zero=True, room=0.08)
    picture = _rows(len(rows), x, "milliseconds of one call", pitch=50)
    outside = sum(_calls(picture, x, f, 50 * row + 32) for row, f in enumerate(rows))
    told = [f"{f.label}: median {figure(number(f.part('latency').get('median_ms')))} ms" for f in rows]
    caption = "The thick line is the median, the whisker reaches from it to p90 and (thin) p99"
    sampled = any(_samples(f) for f in rows)
    caption += "; dots are single calls, the box holds the middle half of them." if sampled else "."
    calls = "call lies" if outside == 1 else "calls lie"
    caption += f" {outside} {calls} beyond the axis." if outside else ""
    return Chart(picture.markup("Time of one call", "; ".join(told) + ".", "latency"), caption)


def _samples(file: File) -> list[float]:
    values = (number(value) for value in listed(file.part("latency").get("samples_ms")))
    return [value for value in values if value is not None and math.isfinite(value)]


def _calls(picture: Picture, x: Limits, file: File, y: float) -> int:
    """Draw one file's calls around the base line `y`; the number of calls beyond the axis."""
    median, p90, p99 = (number(file.part("latency").get(key)) for key in ("median_ms", "p90_ms", "p99_ms"))
    samples = _samples(file)
    _title(picture, y - 14, shortened(visible(file.label), 28), f"{figure(median)} ms", "soft")
    if samples:
        box = [clamped(float(quartile), x) for quartile in np.percentile(samples, (25, 75))]
        picture.band(box, (y - 7, y + 7), file.kind, 0.16)
        dots = _thinned(_ranked([v for v in samples if v <= x[1]]))
        places = [max(size, x[0]) for size, _ in dots], [y + 0.7 * _jitter(index) for _, index in dots]
        picture.marks(*places, "circle", file.kind, "sample", markersize=4, alpha=0.35, markeredgewidth=0)
    start = median or 0.0
    for end, half, width in ((p90, 6, 2), (p99, 4, 1)):
        if end is not None:
            picture.line([clamped(start, x), clamped(end, x)], [y, y], file.kind, linewidth=width)
            picture.line([clamped(end, x)] * 2, [y - half, y + half], file.kind, linewidth=2)
            start = end
    middle = clamped(median or 0.0, x)
    picture.line([middle, middle], [y - 9, y + 9], file.kind, f"median {file.kind}", linewidth=3.5)
    return sum(value > x[1] for value in samples)
