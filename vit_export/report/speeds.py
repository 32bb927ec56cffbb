"""The chart of `vit-export compare`, a file of its own."""

import math
from collections.abc import Sequence
from typing import Any

from vit_export.base.numbers import conditions, figure, shortened, three_digits
from vit_export.model.spec import shown_sides, shown_size
from vit_export.report.svg import COLOURS, Picture, by_matplotlib
from vit_export.report.view import Record


@by_matplotlib
def speeds(comparison: Record) -> str:
    """A file of what `compare` found: per variant the time of one call (dot) and the MACs (diamond) in the baseline's.

    Where the dot is right of the diamond, the variant computes more slowly than its MACs let expect.
    """
    rows, baseline, settings = comparison["variants"], comparison["baseline"], comparison["settings"]
    times = [1 / row["measured"]["relative_speed"] if row["measured"] else math.nan for row in rows]
    macs = [row["macs"] / baseline["macs"] for row in rows]
    picture = Picture(30.0 * len(rows) + 160, (170, 300, 96, 64), width=860)
    _multiples(picture, [*times, *macs])
    picture.axes.set(ylim=(len(rows) - 0.5, -0.5), yticks=[])
    picture.line([1, 1], picture.axes.get_ylim(), "soft", "unit", linewidth=1)
    at = picture.axes.get_yaxis_transform()
    title = f"Time of one call and MACs, relative to {shortened(baseline['name'], 20)}"
    top: dict[str, Any] = {"xycoords": "figure fraction", "ha": "left"}
    picture.text(0, 1, title, xytext=(16, -28), fontsize=16, fontweight=600, **top)
    picture.text(0, 1, "● time of one call, measured", "float32", xytext=(16, -54), **top)
    picture.text(0, 1, "◆ multiply-accumulates (MACs), by formula", "int8", xytext=(230, -54), **top)
    on = conditions(settings["threads"], comparison["machine"]["cpu"])
    picture.text(0, 0, shortened(on, 130), "soft", xytext=(16, 16), **top)
    columns = [["times", "ms", "GMACs", "M par."]]
    for y, (row, time, share) in enumerate(zip(rows, times, macs, strict=True)):
        size = row["image_size"]
        label = shortened(row["name"] + ("" if size == settings["image_size"] else f" @{shown_size(size)}"), 20)
        picture.text(0, y, label, xycoords=at, xytext=(-14, 0), ha="right", va="center", bold=True)
        picture.line([time, share], [y, y], "soft", linewidth=2)
        known = (time, row["measured"]["latency"]["median_ms"]) if row["measured"] else (None, None)
        columns.append([three_digits(value) for value in (*known, row["macs"] / 1e9, row["parameters"] / 1e6)])
    for y, figures in enumerate(columns, -1):
        for x, shown in enumerate(figures, 1):
            colour = "soft" if y < 0 else "ink"
            picture.text(1, y, shown, colour, xycoords=at, xytext=(70 * x, 0), ha="right", va="center")
    titles = [f"{row['name']}, {shown_sides(row['image_size'], '×')}: {row['use']}" for row in rows]
    dots = [(time, y, title) for y, (time, title) in enumerate(zip(times, titles, strict=True)) if not math.isnan(time)]
    if dots:
        x, ys, told = zip(*dots, strict=True)
        picture.marks(x, ys, "circle", "float32", "time", told, markersize=12)
    hollow: dict[str, Any] = {
        "markerfacecolor": COLOURS["card"],
        "markeredgecolor": COLOURS["int8"],
        "markeredgewidth": 2.0,
    }
    picture.marks(macs, range(len(rows)), "diamond", "int8", "macs", titles, markersize=7, **hollow)
    listing = (f"{row['name']}: {figure(t)} and {figure(m)}" for row, t, m in zip(rows, times, macs, strict=True))
    return picture.document(title, "; ".join(listing) + ".", "compare")


def _multiples(picture: Picture, values: Sequence[float]) -> None:
    """A logarithmic axis around 1 and all known `values`, with a tick on either side of all of them."""
    known = [1.0, *(value for value in values if math.isfinite(value))]
    wide = max(known) > 500 * min(known)
    room = 10.5 if wide else 2.6  # more than from one tick to the next
    picture.scale("x", (min(known) / room, max(known) * room), log=[1] if wide else [1, 2, 5], unit="×")
    picture.axes.locator_params(axis="x", numticks=12)
