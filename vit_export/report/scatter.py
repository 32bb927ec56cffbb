"""A chart of what quality costs: a point for each file, its name beside it, the Pareto front as a line of steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from operator import itemgetter
from typing import Any

from vit_export.base.numbers import shortened
from vit_export.base.text import visible
from vit_export.report.svg import COLOURS, Chart, Picture, by_matplotlib, clamped, linear

LABELLED = 12
"""Files up to which all are named beside their points; of more their numbers, or those on the front alone."""
LETTER, LINE = 6.4, 15.0
"""Units of one letter of a label, on average, and of a line of them."""
_MANY_TIMES = 12.0
"""From this ratio of the greatest cost to the least on, the axis is logarithmic."""


@dataclass(frozen=True)
class Point:
    """A file at its `cost` and `quality`, each with the ends of its interval where there is one.

    `told` are both in words. `on_front` says whether it is on the front; None has the chart decide by these two alone.
    `row` is the id of its row in the page, which the point then links to, and `number` what the row is called.
    """

    name: str
    label: str
    cost: float
    quality: float
    told: str
    shape: str
    kind: str
    failed: bool = False
    cost_ends: tuple[float, ...] = ()
    quality_ends: tuple[float, ...] = ()
    on_front: bool | None = None
    row: str = ""
    number: str = ""


@dataclass(frozen=True)
class Mark:
    """What the files are held against: a cost as an upright line, a quality as a level one, or a point of both."""

    label: str
    cost: float | None = None
    quality: float | None = None
    told: str = ""


@by_matplotlib
def scatter(
    points: Sequence[Point],
    title: str,
    cost_name: str,
    unit: str,
    identifier: str,
    marks: Sequence[Mark] = (),
) -> Chart | None:
    """Quality in `unit` against cost (smaller is better), the Pareto front of the files that did not fail as a line.

    None where there are fewer than two points.
    """
    points = [point for point in points if math.isfinite(point.cost) and not math.isnan(point.quality)]
    if len(points) < 2:
        return None
    costs = [c for point in points for c in (point.cost, *point.cost_ends)]
    marked = [mark.cost for mark in marks if mark.cost is not None]
    heights = [q for point in points for q in (point.quality, *point.quality_ends)]
    y = linear([*heights, *(mark.quality for mark in marks if mark.quality is not None)], room=0.1, least=2.0)
    picture = Picture(290, (46, 8, 8, 40))
    if min(*costs, *marked) > 0 and max(*costs, *marked) > _MANY_TIMES * min(*costs, *marked):
        room = (max(*costs, *marked) / min(*costs, *marked)) ** 0.12
        x = min(*costs, *marked) / room, max(*costs, *marked) * room
        picture.scale("x", x, cost_name, log=[1, 2, 5])
    else:
        x = linear([*costs, *marked], room=0.12)
        picture.scale("x", x, cost_name)
    picture.scale("y", y, unit=f"\N{NO-BREAK SPACE}{unit}")
    for mark in marks:
        _held_against(picture, mark, x, y)
    good = [point for point in points if not point.failed]
    front = _front([point for point in good if point.on_front is not False])
    filled = [point for point in good if point.on_front or (point.on_front is None and point in front)]
    if len(front) > 1:
        steps = [point.cost for point in front], [clamped(point.quality, y) for point in front]
        picture.line(*steps, "ink", "front", drawstyle="steps-post", alpha=0.55)
    for point in points:
        level = clamped(point.quality, y)
        ends = [clamped(end, y) for end in point.quality_ends]
        picture.line([point.cost] * len(ends), ends, point.kind, alpha=0.7)
        picture.line(
            [clamped(end, x) for end in point.cost_ends], [level] * len(point.cost_ends), point.kind, alpha=0.7
        )
    _names(picture, points, filled, y)
    for point in sorted(points, key=lambda point: point in filled):
        _drawn(picture, point, clamped(point.quality, y), filled=point in filled)
    on_front = ", ".join(
        f"{point.number} {point.label}".strip() for point in sorted(filled, key=lambda point: point.cost)
    )
    listing = "; ".join(f"{point.label}: {point.told}" for point in points)
    caption = f"On the front: {on_front}." if on_front else "No file passed, so there is no front."
    described = f"{listing}. On the front: {on_front or 'none'}."
    return Chart(picture.markup(title, described, identifier), caption)


def place(
    points: Sequence[Sequence[float]], names: Sequence[str], marks: Sequence[Sequence[float]], area: Sequence[float]
) -> list[tuple[int, float]]:
    """Where the name of each of `points` goes: right (1) or left (-1) of it, and how many units further up.

    One name after another takes the place that covers least of the `marks` and of the names placed before; nearer is
    better, and what leaves the `area` (left, lower, right, upper) is worse. All are in units.
    """
    taken: list[tuple[float, float, float]] = []
    places = []
    for (x, y), name in zip(points, names, strict=True):
        options = []
        for up, side in product(sorted((LINE * n for n in range(-8, 9)), key=abs), (1, -1)):
            left, at = x + (11 if side > 0 else -11 - LETTER * len(name)), y + up
            right = left + LETTER * len(name)
            cost = abs(up) / LINE + 0.2 * (side < 0) + 100.0 * (not area[1] <= at <= area[3])
            cost += 0.5 * (max(0.0, area[0] - left) + max(0.0, right - area[2]))
            cost += 20 * sum(a < right and left < b and abs(at - v) < LINE for a, b, v in taken)
            cost += 6 * sum(left - 6 < m < right + 6 and abs(at - n) < 11 for m, n in marks)
            options.append((cost, side, up, (left, right, at)))
        _, side, up, box = min(options, key=itemgetter(0))
        taken.append(box)
        places.append((side, up))
    return places


def _held_against(picture: Picture, mark: Mark, x: tuple[float, float], y: tuple[float, float]) -> None:
    if mark.cost is not None and mark.quality is not None:
        picture.marks([mark.cost], [clamped(mark.quality, y)], "diamond", "other", "file", [mark.told])
    elif mark.cost is not None:
        picture.line([mark.cost, mark.cost], y, "soft", linestyle="--")
        left = mark.cost > picture.axes.transData.inverted().transform((sum(picture.axes.bbox.intervalx) / 2, 0))[0]
        at: dict[str, Any] = {"xytext": (-6 if left else 6, 6), "ha": "right" if left else "left"}
        picture.text(mark.cost, y[0], mark.label, "soft", **at)
    elif mark.quality is not None:
        picture.line(x, [mark.quality, mark.quality], "soft", linestyle="--")
        picture.text(x[0], mark.quality, mark.label, "soft", xytext=(4, 5))


def _names(picture: Picture, points: Sequence[Point], filled: Sequence[Point], y: tuple[float, float]) -> None:
    """The names of `points` beside them; where they are many their numbers, or the names of those that are `filled`."""
    many = len(points) > LABELLED
    numbered = many and all(point.number for point in points)
    named = filled if many and not numbered else sorted(points, key=lambda point: point not in filled)
    names = [point.number if numbered else _shown(point) for point in named]
    marks = picture.axes.transData.transform([(point.cost, clamped(point.quality, y)) for point in points]).tolist()
    at = [marks[points.index(point)] for point in named]
    places = place(at, names, marks, list(picture.axes.bbox.extents))
    for point, name, (side, up) in zip(named, names, places, strict=True):
        leader: dict[str, Any] = {
            "arrowstyle": "-",
            "color": COLOURS["soft"],
            "relpos": (0 if side > 0 else 1, 0.5),
            "shrinkB": 0,
        }
        where: dict[str, Any] = {"xytext": (11 * side, up), "ha": "left" if side > 0 else "right", "va": "center"}
        picture.text(point.cost, clamped(point.quality, y), name, bold=True, arrowprops=leader if up else None, **where)


def _shown(point: Point) -> str:
    """The name of a point; it is spelled out before it is shortened, for what the reader sees has to fit."""
    return f"{shortened(visible(point.label), 23)} (failed)" if point.failed else shortened(visible(point.label), 28)


def _drawn(picture: Picture, point: Point, level: float, *, filled: bool) -> None:
    """The mark of a point: a cross where it failed, hollow where it is not on the front."""
    title = [f"{point.name}: {point.told}{', failed' if point.failed else ''}"]
    look: dict[str, Any] = {"url": f"#{point.row}"} if point.row else {}
    if point.failed:
        picture.marks([point.cost], [level], "cross", "bad", "bad", title, markeredgewidth=2.25, **look)
        return
    if not filled:
        look |= {"markerfacecolor": COLOURS["card"], "markeredgewidth": 2.0, "markeredgecolor": COLOURS[point.kind]}
    picture.marks([point.cost], [level], point.shape, point.kind, "file", title, **look)


def _front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both, the cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front
