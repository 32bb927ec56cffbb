"""The charts of report.html, each an SVG made from the report's figures; None where there is nothing to draw."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vit_export.base.numbers import figure, number, sentence, shortened
from vit_export.report.svg import Chart, Drawing, Scale, linear, logarithmic
from vit_export.report.view import File, base_name, listed, records, text

DOTS = 150
"""Dots of one row; of more values the worst and an even choice of the others are drawn."""


def differences(files: Sequence[File], names: Sequence[str]) -> Chart | None:
    """One row of dots per file, one dot per image, at its largest difference; its limit is a line."""
    rows = [file for file in files if any(value is not None for value in file.differences)]
    if not rows:
        return None
    limits = [limit for file in rows if (limit := file.limit("worst_difference")) is not None]
    x = logarithmic([v for file in rows for v in file.differences if v is not None] + limits)
    pitch, top = 58.0, 8.0
    bottom = top + pitch * len(rows)
    told = []
    for file in rows:
        ranked = _ranked(file.differences)
        told.append(f"{file.label}: worst {figure(ranked[0][0])} on {_name(names, ranked[0][1])}")
    picture = Drawing(bottom + 44, "Largest difference on each image", "; ".join(told) + ".", "differences")
    picture.x_axis(x, bottom, "largest difference, share of the range", top)
    for row, file in enumerate(rows):
        y = top + pitch * row + 38
        ranked = _ranked(file.differences)
        limit = file.limit("worst_difference")
        value, worst = ranked[0]
        if row:
            picture.line(0, y - 38, 1, y - 38, "grid")
        picture.text(0, y - 20, shortened(file.label, 26), "label", anchor="start", shift=4)
        if limit is not None:
            picture.box(x(limit), y - 12, 1, y + 12, "beyond")
            picture.line(x(limit), y - 14, x(limit), y + 14, "limit")
            side = "end" if x(limit) > 0.5 else "start"
            picture.text(x(limit), y - 20, f"limit {limit:g}", "small limit-text", anchor=side)
        for size, index in reversed(_thinned(ranked)):
            bad = limit is not None and not size <= limit
            title = f"{_name(names, index)}: {figure(size)}"
            shape, kind = ("cross", "bad") if bad else (file.shape, f"{file.kind} dot")
            picture.mark(x(size), y + _jitter(index), shape, kind, size=4, title=title)
        picture.mark(x(value), y + _jitter(worst), "ring", "ringed", size=8, title=f"worst: {_name(names, worst)}")
    caption = "The ring marks each file's worst image; crosses in the shaded area are beyond the limit."
    count = max(len(file.differences) for file in rows)
    return Chart(picture.markup(), caption + (f" {DOTS} of {count} images are drawn." if count > DOTS else ""))


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
    """Pixels up or down that keep dots of the same value apart, the same in every row."""
    return ((index * 0.618034) % 1 - 0.5) * 16


def _name(names: Sequence[str], index: int) -> str:
    return shortened(base_name(names[index]) if index < len(names) else f"image {index + 1}")


def layers(file: File) -> Chart | None:
    """The SQNR of each point of the residual stream, in the model's order; the first that is off is marked."""
    location = file.part("location")
    points = records(location.get("points"))
    values = [number(point.get("sqnr_db")) for point in points]
    known = [value for value in values if value is not None and not math.isnan(value)]
    if len(points) < 2 or not known:
        return None
    limit = number(location.get("limit_db"))
    y = linear([*known, *([limit] if limit is not None else [])], room=0.12, least=2.0)
    departs = text(location.get("departs"))
    names = [text(point.get("name"), "unnamed") for point in points]
    told = [f"{name} {figure(value)} dB" for name, value in zip(names, values, strict=True) if value is not None]
    picture = Drawing(196, f"SQNR by depth of {file.label}", "; ".join(told) + ".", f"{file.id}-layers")
    top, bottom = 22.0, 152.0

    def at(index: int) -> float:
        return (index + 0.5) / len(points)

    def height(value: float) -> float:
        return bottom - y(value) * (bottom - top)

    picture.y_axis(y, top, bottom)
    picture.line(0, bottom, 1, bottom, "axis")
    for index, short in _layer_ticks(names):
        picture.line(at(index), bottom, at(index), bottom + 4, "axis")
        picture.text(at(index), bottom + 17, short, "tick")
    picture.text(0.5, bottom + 36, "encoder layer", "name")
    if limit is not None and math.isfinite(limit):
        picture.line(0, height(limit), 1, height(limit), "limit")
        picture.text(1, height(limit) - 5, f"off below {figure(limit)} dB", "small limit-text", anchor="end")
    for i, (one, two) in enumerate(pairwise(values)):
        if one is not None and two is not None:
            picture.line(at(i), height(one), at(i + 1), height(two), f"path {file.kind}")
    for i, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is None:
            continue
        off = limit is not None and not value >= limit
        shape, kind = ("cross", "bad") if off else ("circle", f"{file.kind} dot")
        picture.mark(at(i), height(value), shape, kind, size=4, title=f"{name}: {figure(value)} dB")
        if name == departs:
            side, x = ("start", 0.0) if at(i) < 1 / 3 else ("middle", 0.5) if at(i) < 2 / 3 else ("end", 1.0)
            picture.mark(at(i), height(value), "ring", "ringed", size=9, title=f"departs at {name}")
            picture.line(at(i), top - 4, at(i), height(value) - 9, "leader")
            picture.text(x, top - 9, f"departs: {shortened(name, 26)}", "label", anchor=side)
    missing = sum(value is None for value in values)
    told = [sentence(text(location.get("detail")))]
    if missing:
        told.append(f"{missing} point{' has' if missing == 1 else 's have'} no tensor in the file.")
    return Chart(picture.markup(), " ".join(filter(None, told)))


def _layer_ticks(names: Sequence[str]) -> list[tuple[int, str]]:
    """Where numbers of layers (at most about six) and the two ends are written below the axis."""
    numbered = [
        (i, words[2])
        for i, name in enumerate(names)
        if len(words := name.split()) >= 4 and words[:2] == ["encoder", "layer"] and words[3] == "attention"
    ]
    step = max(1, math.ceil(len(numbered) / 6))
    return [(i, layer) for place, (i, layer) in enumerate(numbered) if place % step == 0]


def latencies(reference: File | None, files: Sequence[File]) -> Chart | None:
    """Milliseconds of one call per file on one axis: every recorded call where kept, quartiles, median, p90 and p99."""
    rows = [f for f in [*([reference] if reference else []), *files] if f.milliseconds is not None]
    if not rows:
        return None
    ends = [value for f in rows for key in ("p99_ms", "p90_ms") if (value := number(f.part("latency").get(key)))]
    x = linear(ends + [number(f.part("latency").get("median_ms")) or 0.0 for f in rows], zero=True, room=0.08)
    pitch, top = 50.0, 6.0
    bottom = top + pitch * len(rows)
    told = [f"{f.label}: median {figure(number(f.part('latency').get('median_ms')))} ms" for f in rows]
    picture = Drawing(bottom + 44, "Time of one call", "; ".join(told) + ".", "latency")
    picture.x_axis(x, bottom, "milliseconds of one call", top)
    outside = sum(_latency_row(picture, x, f, top + pitch * row + 32) for row, f in enumerate(rows))
    sampled = any(_samples(f) for f in rows)
    caption = "The thick line is the median, the whisker reaches from it to p90 and (thin) p99"
    caption += "; dots are single calls, the box holds the middle half of them." if sampled else "."
    calls = "call lies" if outside == 1 else "calls lie"
    return Chart(picture.markup(), caption + (f" {outside} {calls} beyond the axis." if outside else ""))


def _samples(file: File) -> list[float]:
    values = (number(value) for value in listed(file.part("latency").get("samples_ms")))
    return [value for value in values if value is not None and math.isfinite(value)]


def _latency_row(picture: Drawing, x: Scale, file: File, y: float) -> int:
    """Draw one file's calls around the base line `y`; the number of calls beyond the axis."""
    latency = file.part("latency")
    median, p90, p99 = (number(latency.get(key)) for key in ("median_ms", "p90_ms", "p99_ms"))
    assert median is not None
    samples = _samples(file)
    picture.text(0, y - 14, shortened(file.label, 28), "label", anchor="start", shift=4)
    shown = f"{figure(median)} ms"
    picture.text(1, y - 14, shown, "small", anchor="end", shift=-4)
    if samples:
        low, high = (float(q) for q in np.percentile(samples, (25, 75)))
        picture.box(x(low), y - 7, x(high), y + 7, f"box {file.kind}")
        for size, index in _thinned(_ranked([v for v in samples if v <= x.high])):
            picture.mark(x(size), y + _jitter(index) * 0.7, "circle", f"{file.kind} sample", size=2)
    if p99 is not None:
        picture.line(x(p90 or median), y, x(p99), y, f"whisker thin {file.kind}")
        picture.line(x(p99), y - 4, x(p99), y + 4, f"whisker {file.kind}")
    if p90 is not None:
        picture.line(x(median), y, x(p90), y, f"whisker {file.kind}")
        picture.line(x(p90), y - 6, x(p90), y + 6, f"whisker {file.kind}")
    picture.line(x(median), y - 9, x(median), y + 9, f"median {file.kind}")
    return sum(value > x.high for value in samples)
