"""Quality against what it costs, the files that no other beats joined by a line."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from vit_export.base.numbers import figure, number, percent, shortened
from vit_export.report.svg import ROW, Chart, Drawing, Scale, linear
from vit_export.report.view import File

LABELLED = 12
"""Files up to which all are named in the plot; of more, those on the front."""

MEASURES = {"accuracy": "Accuracy", "agreement": "Same top class", "sqnr": "SQNR of the worst image"}

WIDTHS = (230.0, 470.0)
"""Pixels of the plot on a telephone and on a desk: labels must not overlap on either."""
LETTER = 6.7
"""Pixels of one letter of a label, on average."""

Point = tuple[float, float, File]
"""Cost, quality, file."""


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
    """Quality against `cost` (smaller is better), the Pareto front of the files that passed drawn as a line."""
    points = [
        (c, s, file) for file in files if (c := cost(file)) is not None and (s := file.score(measure)) is not None
    ]
    points = [point for point in points if math.isfinite(point[0]) and not math.isnan(point[1])]
    if len(points) < 2:
        return None
    own = cost(reference) if reference else None
    own_score = reference.score(measure) if reference and measure == "accuracy" else None
    x = linear([*(p[0] for p in points), *([own] if own is not None else [])], room=0.12)
    bounds = [s for p in points for s in _bounds(p[2], measure)] + ([own_score] if own_score is not None else [])
    y = linear([p[1] for p in points] + bounds, room=0.1, least=0.02 if measure != "sqnr" else 2.0)
    front = _front([p for p in points if not p[2].failed])
    named = MEASURES[measure]
    listing = "; ".join(f"{f.label}: {figure(c)} and {_score(s, measure)}" for c, s, f in points)
    on_front = ", ".join(f.label for _, _, f in front)
    picture = Drawing(
        320,
        f"{named} against {cost_name}",
        f"{listing}. Not beaten in both: {on_front or 'none'}.",
        identifier,
    )
    top, bottom = 12.0, 276.0

    def height(score: float) -> float:
        return bottom - y(score) * (bottom - top)

    picture.x_axis(x, bottom, cost_name, top)
    _score_axis(picture, y, measure, top, bottom)
    if own is not None:
        picture.line(x(own), top, x(own), bottom, "reference-line")
        way = -1 if x(own) > 0.5 else 1
        picture.text(x(own), bottom - 8, "reference", "small", anchor="end" if way < 0 else "start", shift=6 * way)
        if own_score is not None:
            picture.mark(
                x(own), height(own_score), "diamond", "other", title=f"reference: {_score(own_score, measure)}"
            )
    for (c1, s1, _), (c2, s2, _) in pairwise(front):
        picture.line(x(c1), height(s1), x(c2), height(s1), "front")
        picture.line(x(c2), height(s1), x(c2), height(s2), "front")
    members = {f.id for _, _, f in front}
    for c, _, file in points:
        if low_high := _bounds(file, measure):
            picture.line(x(c), height(low_high[0]), x(c), height(low_high[1]), f"whisker thin {file.kind}")
    labelled = points if len(points) <= LABELLED else front
    names = [shortened(f.label, 24) + (" (failed)" if f.failed else "") for _, _, f in labelled]
    marks = [(x(c), height(s)) for c, s, _ in points]
    places = place([(x(c), height(s)) for c, s, _ in labelled], names, marks, top, bottom)
    for (c, s, _), name, (side, down) in zip(labelled, names, places, strict=True):
        if down:
            picture.leader(x(c), height(s), 9 * side, down)
        anchor = "start" if side > 0 else "end"
        picture.text(x(c), height(s) + down + 4, name, "label", anchor=anchor, shift=11 * side)
    for c, s, file in points:
        shape, kind = ("cross", "bad") if file.failed else (file.shape, file.kind)
        state = "" if file.failed else " on-front" if file.id in members else " beaten"
        title = f"{file.name}: {figure(c)}, {_score(s, measure)}{', failed' if file.failed else ''}"
        picture.mark(x(c), height(s), shape, kind + state, title=title)
    caption = f"On the front: {on_front}." if on_front else "No file passed, so there is no front."
    return Chart(picture.markup(), caption)


def place(
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    marks: Sequence[tuple[float, float]],
    top: float,
    bottom: float,
) -> list[tuple[int, float]]:
    """Where the name of each of `points` goes: right (1) or left (-1) of it, and how many pixels further down.

    Points and `marks` are (share of the width, pixels from the top). One name after another takes the place that
    covers least of the marks and of the names placed before, at every one of WIDTHS; nearer is better.
    """
    taken: dict[float, list[tuple[float, float, float]]] = {width: [] for width in WIDTHS}
    places = []
    for (share, y), name in zip(points, names, strict=True):
        length = LETTER * len(name)

        def cost(side: int, down: float, share: float = share, y: float = y, length: float = length) -> float:
            at = y + down
            total = abs(down) / ROW + (0.2 if side < 0 else 0.0) + (100.0 if not top <= at <= bottom else 0.0)
            for width in WIDTHS:
                left = share * width + (11 if side > 0 else -11 - length)
                right = left + length
                total += 0.5 * (max(0.0, -left) + max(0.0, right - width))
                total += 20 * sum(a < right and left < b and abs(at - v) < ROW for a, b, v in taken[width])
                total += 6 * sum(left - 6 < m * width < right + 6 and abs(at - v) < 11 for m, v in marks)
            return total

        downs = [ROW * step for n in range(9) for step in ((n, -n) if n else (0,))]
        side, down = min(((s, d) for d in downs for s in (1, -1)), key=lambda option: cost(*option))
        for width in WIDTHS:
            left = share * width + (11 if side > 0 else -11 - length)
            taken[width].append((left, left + length, y + down))
        places.append((side, down))
    return places


def _front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in cost and quality, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _bounds(file: File, measure: str) -> list[float]:
    """The 95 % interval of an accuracy, else nothing."""
    part = file.part("accuracy") if measure == "accuracy" else {}
    sides = [number(part.get("low")), number(part.get("high"))]
    return [side for side in sides if side is not None] if None not in sides else []


def _score(value: float, measure: str) -> str:
    return f"{figure(value)} dB" if measure == "sqnr" else percent(value)


def _score_axis(picture: Drawing, y: Scale, measure: str, top: float, bottom: float) -> None:
    if measure == "sqnr":
        picture.y_axis(y, top, bottom, "\N{NO-BREAK SPACE}dB")
        return
    shares = Scale(100 * y.low, 100 * y.high)
    picture.y_axis(shares, top, bottom, "\N{NO-BREAK SPACE}%")
