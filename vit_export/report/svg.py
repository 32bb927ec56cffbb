"""Charts of matplotlib as SVG that lives in a page: its colours are the page's variables, its width is the room's.

matplotlib writes colours into style attributes, which the page's policy forbids, names a font and sizes of its own, and
calls things in two charts alike. One pass over its tree mends that. A chart is drawn in units: pixels where it is
WIDTH wide, and then large enough to be read; wherever there is more room, all of it grows.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar
from xml.etree import ElementTree

from markupsafe import Markup

from vit_export.base.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Result = TypeVar("Result")
Given = ParamSpec("Given")
Values = Sequence[float]
Limits = tuple[float, float]

WIDTH = 370.0
_NAMES = ("ink", "soft", "rule", "card", "bad", "bad-paper", "float32", "float16", "int8", "other")
COLOURS = {name: f"#{index:06x}" for index, name in enumerate(_NAMES, 1)}
"""What matplotlib draws in the place of each colour of chart.css."""
_VARIABLES = {colour: f"var(--{name})" for name, colour in COLOURS.items()}
SHAPES = {"circle": "o", "square": "s", "diamond": "D", "cross": "x", "ring": "o"}

_SETTINGS: Any = {
    **{"svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 11.5, "text.parse_math": False},
    **{"figure.dpi": 72, "figure.frameon": False, "axes.facecolor": "none", "axes.axisbelow": True},
    **{f"axes.spines.{side}": False for side in ("left", "top", "right")},
    **{"axes.linewidth": 1.0, "axes.edgecolor": COLOURS["soft"], "axes.labelcolor": COLOURS["soft"]},
    **{
        f"{axis}tick.{key}": value
        for axis in "xy"
        for key, value in (("major.size", 0), ("labelcolor", COLOURS["soft"]))
    },
    **{"grid.color": COLOURS["rule"], "grid.linewidth": 1.0, "lines.linewidth": 1.5, "lines.markeredgewidth": 1.5},
}
_LEFT_OUT = ("clip-path", "transform", "target")
_SVG = "{http://www.w3.org/2000/svg}"


@cache
def asset(name: str) -> str:
    """The text of a file of the page."""
    return (resources.files("vit_export") / "data" / name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Chart:
    """A picture with the sentence below it."""

    svg: Markup
    caption: str


def by_matplotlib(draw: Callable[Given, Result]) -> Callable[Given, Result]:
    """`draw` under these settings, whatever a matplotlibrc says, and without matplotlib's remarks on fonts."""

    @wraps(draw)
    def drawn(*arguments: Given.args, **options: Given.kwargs) -> Result:
        logging.getLogger("matplotlib").setLevel(logging.ERROR)
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that its font lacks are for the reader's font
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_SETTINGS)
            return draw(*arguments, **options)

    return drawn


class Picture:
    """One pair of `axes` in a picture of `width` x `height` units, `margins` of it free: left, right, top, bottom.

    Whatever is drawn may have a `kind`, its CSS class in the SVG.
    """

    def __init__(self, height: float, margins: tuple[float, float, float, float], width: float = WIDTH) -> None:
        from matplotlib.figure import Figure

        left, right, top, bottom = margins
        self._figure = Figure((width / 72, height / 72))
        area = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        self.axes: Axes = self._figure.add_axes(area)
        self._titles: list[Sequence[str]] = []

    def scale(
        self, axis: Literal["x", "y"], limits: Limits, name: str = "", *, log: Values = (), unit: str = ""
    ) -> None:
        """Make `axis` reach over `limits`, with a thin line and a round value at each tick.

        It is logarithmic where `log` says at which multiples of powers of ten ticks may be.
        """
        from matplotlib.ticker import LogLocator, MaxNLocator

        self.axes.set(**{f"{axis}scale": "log" if log else "linear", f"{axis}lim": limits, f"{axis}label": name})
        ticks = self.axes.xaxis if axis == "x" else self.axes.yaxis
        ticks.set_major_locator(LogLocator(subs=log, numticks=6) if log else MaxNLocator(5, steps=[1, 2, 5, 10]))
        ticks.set_major_formatter(lambda value, _: tick(value) + unit)
        self.axes.minorticks_off()
        self.axes.grid(axis=axis)

    def line(self, x: Values, y: Values, colour: str, kind: str = "", **style: Any) -> None:
        """A line through the points; `style` as `Axes.plot` takes it."""
        self.axes.plot(x, y, color=COLOURS[colour], gid=self._gid(kind), **style)

    def band(self, x: Values, y: Limits, colour: str, alpha: float) -> None:
        """A rectangle without an edge."""
        self.axes.fill_between(x, *y, color=COLOURS[colour], alpha=alpha, linewidth=0)

    def marks(
        self, x: Values, y: Values, shape: str, colour: str, kind: str, titles: Sequence[str] = (), **style: Any
    ) -> None:
        """Marks of one of SHAPES, each with a title for who points at it; with a `url` in `style` they are a link."""
        face, edge = (COLOURS[colour], COLOURS["card"]) if shape not in ("ring", "cross") else ("none", COLOURS[colour])
        look = {"markerfacecolor": face, "markeredgecolor": edge, "markersize": 10, "zorder": 3, **style}
        self.axes.plot(x, y, SHAPES[shape], clip_on=False, gid=self._gid(f"mark {kind}", titles), **look)

    def text(self, x: float, y: float, text: str, colour: str = "ink", *, bold: bool = False, **style: Any) -> None:
        """Text beside a point; `style` as `Axes.annotate` takes it, `xytext` in units from the point."""
        style = {"xytext": (0, 0), "textcoords": "offset points", "annotation_clip": False, "zorder": 4, **style}
        style |= {"fontweight": 600, "gid": self._gid("label")} if bold else {}
        self.axes.annotate(visible(text), (x, y), color=COLOURS[colour], **style)

    def svg(self, title: str, description: str, identifier: str) -> ElementTree.Element:
        """The picture as an element; `identifier` tells what it defines from what other charts of the page do."""
        import matplotlib

        matplotlib.rcParams["svg.hashsalt"] = identifier  # the same names in each run, others in another chart
        content = io.BytesIO()
        self._figure.savefig(content, format="svg", metadata={"Date": None})
        root = ElementTree.fromstring(content.getvalue())
        box = root.attrib["viewBox"]
        self._mend(root)
        names = {"title": f"{identifier}-title", "desc": f"{identifier}-description"}
        # What is in a picture cannot be reached; what is in a group of links can.
        role = "img" if root.find(".//a") is None else "group"
        root.attrib = {"class": "plot", "viewBox": box, "role": role, "aria-labelledby": " ".join(names.values())}
        for place, (tag, text) in enumerate((("title", title), ("desc", description))):
            root.insert(place, element := ElementTree.Element(tag, {"id": names[tag]}))
            element.text = visible(text)
        return root

    def markup(self, title: str, description: str, identifier: str) -> Markup:
        """The picture, safe to put into a page."""
        return Markup(ElementTree.tostring(self.svg(title, description, identifier), encoding="unicode"))

    def document(self, title: str, description: str, identifier: str) -> str:
        """The picture as a file of its own, which follows the reader's system into the dark."""
        root = self.svg(title, description, identifier)
        root.set("xmlns", _SVG.strip("{}"))
        # Before anything that is drawn; in a page the width has a limit.
        root.insert(2, element := ElementTree.Element("style"))
        element.text = f"{asset('chart.css')}.plot {{ max-width: none; }}\n"
        root.insert(3, ElementTree.Element("rect", {"width": "100%", "height": "100%", "fill": "var(--card)"}))
        return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'

    def _gid(self, kind: str, titles: Sequence[str] = ()) -> str | None:
        """The name by which `_mend` finds what is drawn again."""
        self._titles.append(titles)
        return f"{len(self._titles) - 1}:{kind.strip()}" if kind else None

    def _mend(self, group: ElementTree.Element) -> None:
        """Turn a group of matplotlib's tree, and all in it, into one that a strict page can hold."""
        number, known, kind = group.attrib.pop("id", "").partition(":")
        if known:  # a class for each of the marks, or for the line or the text
            kinds = (list(group.iter(_SVG + tag)) for tag in ("use", "text", "path"))
            for index, element in enumerate(next(filter(None, kinds), [])):
                element.set("class", kind)
                for title in self._titles[int(number)][index : index + 1]:
                    ElementTree.SubElement(element, f"{_SVG}title").text = visible(title)
        group.tag, group.text = group.tag.removeprefix(_SVG), (group.text or "").strip()
        for element in list(group):
            identifier = element.get("id", "")
            self._mend(element)
            element.tail = None
            own = {name.rpartition("}")[2]: value for name, value in element.items()}
            look = _presentation(own.pop("style", ""))
            if element.tag == "path" and group.tag == "defs":
                own["id"] = identifier
            if element.tag == "use":  # all marks of a group look alike
                group.attrib |= look
                look = {}
            kept = {name: _rounded(value) for name, value in own.items() if name not in _LEFT_OUT}
            element.attrib = kept | look
            if element.tag == "a" and (told := element.findtext(".//title")):
                element.set("aria-label", told)
            if element.tag in ("metadata", "style", "clipPath") or (element.tag in ("defs", "g") and not len(element)):
                group.remove(element)


def _presentation(style: str) -> dict[str, str]:
    """The presentation attributes that say what a style attribute says; the family of fonts is the page's."""
    found = dict(part.strip().split(": ", 1) for part in style.split(";") if part.strip())
    found.pop("font-family", None)
    return {name: _VARIABLES.get(value, value) for name, value in found.items()}


def _rounded(value: str) -> str:
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}", " ".join(value.split()))


def linear(values: Values, *, zero: bool = False, room: float = 0.06, least: float = 1e-9) -> Limits:
    """Ends of an axis around the finite ones of `values` with some `room`, from 0 on where `zero`.

    It spans at least `least`, so that equal values lie in its middle.
    """
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = (min(0.0, *finite) if zero else min(finite)), max(finite)
    lacking = max(0.0, max(least, 1e-9 * abs(high)) - (high - low))
    below, extra = (0.0 if zero else lacking / 2), room * (high - low + lacking)
    return low - below - (0.0 if zero else extra), high + lacking - below + extra


def logarithmic(values: Values, *, decades: int = 8) -> Limits:
    """Whole powers of ten around the positive, finite ones of `values`, at most `decades` of them (the upper ones)."""
    finite = [value for value in values if math.isfinite(value) and value > 0] or [1e-3, 1.0]
    high = math.ceil(math.log10(max(finite)) + 0.02)
    low = max(math.floor(math.log10(min(finite))), high - decades)
    return 10.0 ** min(low, high - 1), 10.0**high


def clamped(value: float, limits: Limits) -> float:
    """`value` where it is on the axis, else the nearer end; NaN is at the upper one, where it cannot pass for good."""
    return limits[1] if math.isnan(value) else min(max(value, limits[0]), limits[1])


def tick(value: float) -> str:
    """The value at a tick: 0, 0.01, 20, 2 000, 1e−5."""
    text = f"{value:,.6g}" if not value or 1e-3 <= abs(value) <= 1e6 else re.sub("e([+-])0?", r"e\1", f"{value:.0e}")
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−").replace("e+", "e")
