"""What `vit-export compare` shows: two tables for a terminal, and a chart as SVG drawn without any library."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import publish, shortened
from vit_export.base.numbers import MEGABYTE, conditions, three_digits

if TYPE_CHECKING:
    from vit_export.pipeline.compare import ComparedVariant, Measured, VariantComparison

COLUMNS = 100
BUSY = 2.0
"""A p90 of so many medians says that the machine did other work meanwhile."""

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW, _BOTTOM = 860, 170, 560, 96, 30, 64
_LABEL_LENGTH = 20
_MAX_TICKS = 10
# Characters that XML 1.0 cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Both modes from one file: an <img> in a page follows the reader's system.
_STYLE = """
svg { font: 13px system-ui, sans-serif; }
.paper { fill: #ffffff; } text { fill: #1f2328; } .dim { fill: #59636e; } .title { font-size: 16px; font-weight: 600; }
.grid { stroke: #d1d9e0; } .unit { stroke: #59636e; } .gap { stroke: #59636e; stroke-width: 2; }
.time { fill: #0969da; } .macs { fill: #ffffff; stroke: #bc4c00; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117; } text { fill: #f0f6fc; } .dim { fill: #9198a1; }
.grid { stroke: #3d444d; } .unit { stroke: #9198a1; } .gap { stroke: #9198a1; }
.time { fill: #4493f8; } .macs { fill: #0d1117; stroke: #f0883e; }
}
"""


def render_comparison(comparison: "VariantComparison", console: Console | None = None) -> None:
    """Print the tables in 100 columns, then what each variant is for and how the figures came about."""
    console = console or Console(width=COLUMNS)
    console.print(_specifications(comparison))
    if comparison.baseline.measured is not None:
        console.print()
        console.print(_measurements(comparison))
    console.print()
    for row in comparison.variants:
        console.print(Text(f"{row.spec.name:<9} {row.use}"), soft_wrap=True)
    console.print()
    for line in _closing(comparison):
        console.print(Text(line, style="dim"))


def check_plot(path: Path, *, overwrite: bool = False) -> None:
    """Find out before minutes of work that no plot can be written to `path`.

    Raises:
        InputError: it is not called .svg.
        OutputError: it exists (and `overwrite` is false), is a folder, or its folder cannot be written.
    """
    if path.suffix.lower() != ".svg":
        raise InputError(f"The plot {shortened(path)} has the extension '{path.suffix}', expected '.svg': name it so.")
    try:
        if path.is_dir():
            raise OutputError(f"The plot {path} is a folder, expected the name of a file: give another one to --plot.")
        exists, folder = os.path.lexists(path), _folder_above(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    if exists and not overwrite:
        raise OutputError(f"{path} exists already: pass --overwrite to replace it, or give another file to --plot.")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"The plot {path} cannot be written to {folder}: give a file in another folder to --plot.")


def _folder_above(path: Path) -> Path:
    """The nearest thing above `path` that exists; OSError where a name below it is too long or it cannot be entered."""
    # As `files.publish` calls the file while it is incomplete.
    names, folder = [f".{path.name}.12345678"], path.absolute().parent
    while not folder.exists():
        names.append(folder.name)
        folder = folder.parent
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(folder / name)
    return folder


def _unwritable(path: Path, cause: BaseException | None) -> OutputError:
    reason = getattr(cause, "strerror", None) or "refused"
    return OutputError(
        f"The plot {shortened(path)} cannot be written ({reason}): give a file in another folder to --plot."
    )


def write_plot(comparison: "VariantComparison", path: Path, *, overwrite: bool = False) -> None:
    """Write the chart of `comparison` to `path`, complete or not at all.

    Raises:
        InputError, OutputError: see `check_plot`; or the disk is full.
    """
    check_plot(path, overwrite=overwrite)
    text = draw(comparison)
    try:
        with publish(path, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OutputError as error:
        raise _unwritable(path, error.__cause__) from error


def draw(comparison: "VariantComparison") -> str:
    """The chart as SVG: per variant the time of one call (dot) and the MACs (diamond), both in the baseline's.

    Where the dot is right of the diamond, the variant computes more slowly than its MACs let expect.
    """
    baseline, rows = comparison.baseline, comparison.variants
    ratios = [_ratios(row, baseline) for row in rows]
    axis = _Axis([value for pair in ratios for value in pair if value is not None])
    height = _TOP + _ROW * len(rows) + _BOTTOM
    root = ElementTree.Element(
        "svg", {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {_WIDTH} {height}", "role": "img"}
    )
    title = f"Time of one call and MACs, relative to {_cut(baseline.spec.name, _LABEL_LENGTH)}"
    _add(root, "title", title)
    _add(root, "style", _STYLE)
    _add(root, "rect", class_="paper", width=_WIDTH, height=height)
    _add(root, "text", title, class_="title", x=16, y=28)
    _add(root, "circle", class_="time", cx=22, cy=50, r=6)
    _add(root, "text", "time of one call, measured", x=36, y=54)
    _diamond(root, 238, 50)
    _add(root, "text", "multiply-accumulates (MACs), by formula", x=252, y=54)
    for x, heading in zip(_columns(), ("times", "ms", "GMACs", "M par."), strict=True):
        _add(root, "text", heading, class_="dim", x=x, y=_TOP - 12, text_anchor="end")
    bottom = _TOP + _ROW * len(rows)
    for tick in axis.ticks:
        place = axis.place(tick)
        _add(root, "line", class_="unit" if tick == 1 else "grid", x1=place, y1=_TOP - 4, x2=place, y2=bottom)
        _add(root, "text", f"{tick:g}×", class_="dim", x=place, y=bottom + 18, text_anchor="middle")
    for number, (row, (time, macs)) in enumerate(zip(rows, ratios, strict=True)):
        _draw_row(root, axis, _TOP + _ROW * number + _ROW / 2, row, comparison.image_size, time, macs)
    _add(
        root,
        "text",
        _cut(_conditions(comparison), 130),
        class_="dim",
        x=16,
        y=bottom + 48,
    )
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


class _Axis:
    """A logarithmic axis over `values` and 1; its ticks are 1, 2, 5, 10, ..., or powers of ten when those are many."""

    def __init__(self, values: list[float]) -> None:
        low, high = min([1.0, *values]), max([1.0, *values])
        decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        for steps in ((1, 2, 5), (1,)):
            ticks = [step * 10.0**decade for decade in decades for step in steps]
            # From the last tick below all values to the first above, so that no mark lies on the edge.
            first = max(i for i, tick in enumerate(ticks) if tick < low)
            last = min(i for i, tick in enumerate(ticks) if tick > high)
            self.ticks = ticks[first : last + 1]
            if len(self.ticks) <= _MAX_TICKS:
                break

    def place(self, value: float) -> float:
        """The x of `value`, in the chart's units."""
        low, high = math.log10(self.ticks[0]), math.log10(self.ticks[-1])
        return round(_LEFT + (_RIGHT - _LEFT) * (math.log10(value) - low) / (high - low), 1)


def _draw_row(
    root: ElementTree.Element,
    axis: _Axis,
    y: float,
    row: "ComparedVariant",
    asked_size: int,
    time: float | None,
    macs: float,
) -> None:
    spec, base = row.spec, y + 4
    group = _add(root, "g")
    _add(group, "title", f"{spec.name}, {spec.image_size}×{spec.image_size}: {row.use}")
    label = _cut(spec.name + ("" if spec.image_size == asked_size else f" @{spec.image_size}"), _LABEL_LENGTH)
    _add(group, "text", label, class_="label", x=_LEFT - 14, y=base, text_anchor="end")
    if time is not None:
        _add(group, "line", class_="gap", x1=axis.place(time), y1=y, x2=axis.place(macs), y2=y)
        _add(group, "circle", class_="time", cx=axis.place(time), cy=y, r=6)
    _diamond(group, axis.place(macs), y)
    median = row.measured.latency.median_ms if row.measured else None
    figures = (
        three_digits(time),
        three_digits(median),
        three_digits(spec.num_macs / 1e9),
        three_digits(spec.num_parameters / 1e6),
    )
    for x, text in zip(_columns(), figures, strict=True):
        _add(group, "text", text, x=x, y=base, text_anchor="end")


def _ratios(row: "ComparedVariant", baseline: "ComparedVariant") -> tuple[float | None, float]:
    """Time (None where not measured) and MACs of `row` in those of `baseline`."""
    time = 1 / row.measured.latency.speedup if row.measured else None
    return time, row.spec.num_macs / baseline.spec.num_macs


def _columns() -> tuple[int, ...]:
    return tuple(_RIGHT + offset for offset in (70, 140, 210, 280))


def _diamond(parent: ElementTree.Element, x: float, y: float, r: float = 5) -> None:
    _add(parent, "path", class_="macs", d=f"M{x} {y - r}L{x + r} {y}L{x} {y + r}L{x - r} {y}Z")


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: object) -> ElementTree.Element:
    """A child element; ElementTree escapes what has to be, and `class_` and `text_anchor` are SVG's names."""
    named = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, named)
    element.text = None if text is None else _NOT_XML.sub("\ufffd", text)
    return element


def _specifications(comparison: "VariantComparison") -> Table:
    table = _table()
    for heading in ("image\nsize", "\npatch", "\ntokens", "\nlayers", "\nwidth", "\nmlp", "\nheads"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("param.\nM", "MACs\nG", "output:\nlogits", "\nfeatures", "token\nsequence"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.variants:
        spec = row.spec
        sizes = (spec.image_size, spec.patch_size, spec.num_tokens, spec.num_layers, spec.hidden_size, spec.mlp_size)
        shapes = ("×".join(map(str, shape)) for shape in row.outputs.values())
        counts = (three_digits(spec.num_parameters / 1e6), three_digits(spec.num_macs / 1e9))
        table.add_row(Text(spec.name), *map(str, sizes), str(spec.num_heads), *counts, *shapes)
    return table


def _measurements(comparison: "VariantComparison") -> Table:
    table = _table()
    name = comparison.baseline.spec.name
    headings = ["median\nms", "p90\nms", f"speed, {_cut(name, _LABEL_LENGTH)}\nis 1", "peak\nMB"]
    for heading in (*headings, *(f"{precision}\nMB" for precision in comparison.precisions)):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row in comparison.variants:
        measured = row.measured
        if measured is None:
            table.add_row(Text(row.spec.name), Text("failed", style="bold red"))
            continue
        latency = measured.latency
        figures = [latency.median_ms, latency.p90_ms, latency.speedup, measured.memory.peak / MEGABYTE]
        figures += [measured.file_bytes[precision] / MEGABYTE for precision in comparison.precisions]
        table.add_row(Text(row.spec.name), *map(three_digits, figures))
    return table


def _table() -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("\nvariant", overflow="fold", min_width=8)
    return table


def _closing(comparison: "VariantComparison") -> Iterator[str]:
    """What was measured and how, in sentences."""
    yield "Sizes, parameters and MACs by formula; output shapes are those for one image."
    if comparison.baseline.measured is None:
        return
    name = comparison.baseline.spec.name
    timed = [row.measured for row in comparison.variants if row.measured]
    paired = [m.latency.reference_median_ms for m in (*timed, comparison.baseline.measured)]
    # One three_digits cannot show it, but a machine that others use changes its pace: say by how much.
    ends = dict.fromkeys((three_digits(min(paired)), three_digits(max(paired))))
    spread = f"{' to '.join(ends)} ms{' in the course of it' if len(ends) > 1 else ''}"
    yield (
        f"Measured: one call of the float32 .tflite file with random weights, {_conditions(comparison)}. "
        f"Each took turns with {name}, whose median was {spread}; speed is the median of the ratios within a round."
    )
    before = max(m.memory.baseline for m in (*timed, comparison.baseline.measured)) / MEGABYTE
    yield (
        "Peak memory is that of the process that runs the float32 file, Python and runtime included "
        f"(up to {three_digits(before)} MB of it before the file is loaded). int8 is the dynamic scheme."
    )
    if (unrest := max(map(_unrest, (*timed, comparison.baseline.measured)))) > BUSY:
        yield f"The machine did other work meanwhile: p90 is up to {unrest:.1f} times the median."


def _unrest(measured: "Measured") -> float:
    return measured.latency.p90_ms / measured.latency.median_ms


def _conditions(comparison: "VariantComparison") -> str:
    return conditions(comparison.threads, comparison.machine["cpu"])


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
