"""Pictures as SVG that fits any width: horizontal positions are shares of the width, everything else is in pixels.

A chart stretches with the page while its text, dots and lines keep their size, so one picture serves a telephone and a
desk. The tree is built with ElementTree, which escapes what is put in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from vit_export.base.numbers import figure, visible

ROW = 15.0
"""Pixels between two lines of text."""


@dataclass(frozen=True)
class Chart:
    """A picture with the sentence below it."""

    svg: Markup
    caption: str


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` as shares 0..1, linear or by their logarithm; what lies outside sits on the edge."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The share of the axis at which `value` lies; NaN lies at its end, where it cannot pass for good."""
        if math.isnan(value):
            return 1.0
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """At most `most` + 1 round values of the axis: powers of ten where logarithmic, else multiples of 1, 2, 5."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / most)))]
        step = _round_step((self.high - self.low) / most)
        first = math.ceil(self.low / step - 1e-9)
        return [step * n for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def linear(values: Sequence[float], *, zero: bool = False, room: float = 0.06, least: float = 1e-9) -> Scale:
    """A linear scale around the finite ones of `values` with some `room`, from 0 on where `zero`.

    It spans at least `least`, so that equal values lie in its middle.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (min(0.0, *finite) if zero else min(finite)), max(finite)
    lacking = max(0.0, max(least, 1e-9 * abs(high)) - (high - low))
    high += lacking if zero else lacking / 2
    low -= 0.0 if zero else lacking / 2
    extra = room * (high - low)
    return Scale(low - (0 if zero else extra), high + extra)


def logarithmic(values: Sequence[float], *, decades: int = 8) -> Scale:
    """Whole powers of ten around the positive, finite ones of `values`, at most `decades` of them (the upper ones)."""
    finite = [value for value in values if math.isfinite(value) and value > 0] or [1e-3, 1.0]
    high = math.ceil(math.log10(max(finite)) + 0.02)
    low = max(math.floor(math.log10(min(finite))), high - decades)
    return Scale(10.0 ** min(low, high - 1), 10.0**high, log=True)


class Drawing:
    """One picture of `height` pixels; x is a share 0..1 of its width, y pixels from the top of the plot."""

    def __init__(self, height: float, title: str, description: str, identifier: str) -> None:
        self.height = height
        self._root = ElementTree.Element(
            "svg",
            {
                "class": "plot",
                "height": f"{height:g}",
                "width": "100%",
                "role": "img",
                "aria-labelledby": f"{identifier}-title {identifier}-description",
            },
        )
        for kind, text in (("title", title), ("desc", description)):
            name = "description" if kind == "desc" else kind
            ElementTree.SubElement(self._root, kind, {"id": f"{identifier}-{name}"}).text = visible(text)

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line of the CSS class `kind`."""
        ends = {"x1": _share(x1), "y1": f"{y1:.1f}", "x2": _share(x2), "y2": f"{y2:.1f}"}
        ElementTree.SubElement(self._root, "line", {**ends, "class": kind})

    def box(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A rectangle between two corners."""
        size = {"width": _share(x2 - x1), "height": f"{y2 - y1:.1f}"}
        ElementTree.SubElement(self._root, "rect", {"x": _share(x1), "y": f"{y1:.1f}", **size, "class": kind})

    def text(self, x: float, y: float, text: str, kind: str = "", *, anchor: str = "middle", shift: float = 0) -> None:
        """Text on the base line `y`, `shift` pixels to the right of `x`."""
        place = {"x": _share(x), "y": f"{y:.1f}", "text-anchor": anchor}
        if shift:
            place["dx"] = f"{shift:g}"
        if kind:
            place["class"] = kind
        ElementTree.SubElement(self._root, "text", place).text = visible(text)

    def mark(self, x: float, y: float, shape: str, kind: str, *, size: float = 5, title: str = "") -> None:
        """A mark: 'circle', 'square', 'diamond', 'cross' or 'ring', with a `title` for who points at it."""
        outer = {"x": _share(x), "y": f"{y:.1f}", "overflow": "visible", "class": f"mark {kind}"}
        holder = ElementTree.SubElement(self._root, "svg", outer)
        if title:
            ElementTree.SubElement(holder, "title").text = visible(title)
        if shape in ("circle", "ring"):
            ElementTree.SubElement(holder, "circle", {"r": f"{size:g}"})
            return
        s = f"{size:g}"
        path = {
            "square": f"M-{s},-{s}H{s}V{s}H-{s}Z",
            "diamond": f"M0,-{1.3 * size:g}L{1.3 * size:g},0 0,{1.3 * size:g} -{1.3 * size:g},0Z",
            "cross": f"M-{s},-{s}L{s},{s}M{s},-{s}L-{s},{s}",
        }[shape]
        ElementTree.SubElement(holder, "path", {"d": path})

    def leader(self, x: float, y: float, right: float, down: float) -> None:
        """A thin line from a mark at (x, y) to its label, `right` and `down` pixels away."""
        outer = {"x": _share(x), "y": f"{y:.1f}", "overflow": "visible"}
        holder = ElementTree.SubElement(self._root, "svg", outer)
        ElementTree.SubElement(holder, "path", {"d": f"M0,0L{right:g},{down:g}", "class": "leader"})

    def x_axis(self, scale: Scale, y: float, label: str, top: float = 0.0) -> None:
        """Ticks with thin lines from `top` down to `y`, their values below it, and what they are."""
        for value in scale.ticks():
            self.line(scale(value), top, scale(value), y, "grid")
            self.text(scale(value), y + 15, _tick(value, scale), "tick")
        self.line(0, y, 1, y, "axis")
        self.text(0.5, y + 33, label, "name")

    def y_axis(self, scale: Scale, top: float, bottom: float, unit: str = "", ticks: int = 4) -> None:
        """Ticks with thin lines across, their values at the left."""
        for value in scale.ticks(ticks):
            y = bottom - scale(value) * (bottom - top)
            self.line(0, y, 1, y, "grid")
            self.text(0, y + 4, f"{_tick(value, scale)}{unit}", "tick", anchor="end", shift=-8)

    def markup(self) -> Markup:
        """The SVG element, safe to put into a page."""
        return Markup(ElementTree.tostring(self._root, encoding="unicode"))


def _share(x: float) -> str:
    return f"{100 * x:.2f}%"


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next((m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9)), 10 * power)


def _tick(value: float, scale: Scale) -> str:
    if scale.log and not 1e-3 <= value <= 1e4:
        return f"1e{round(math.log10(value))}".replace("-", "−")
    if scale.log or value == 0:
        return f"{value:g}"
    digits = max(0, -math.floor(math.log10(_round_step((scale.high - scale.low) / 5)) + 1e-9))
    return (
        f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")
        if digits < 7
        else figure(value)
    )
