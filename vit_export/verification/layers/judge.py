"""From the figures of every point to a sentence: which is the first that is off."""

import math
import statistics
from collections.abc import Sequence

from vit_export.model.artifact import Precision
from vit_export.verification.evidence import LayerPoint, Location
from vit_export.verification.layers.trail import Figures

ALONE_DB: dict[Precision, tuple[float, float]] = {"float32": (100.0, 115.0), "float16": (45.0, 60.0)}
"""A branch of a float file is off below the first figure, unless the second says that the stream is merely rounded.

The worst branch of healthy files: 117.8 dB in float32 and 53.6 dB in float16 (toys, a trained one, S/32, B/16). A bias
left out came to 12 to 41 dB, another GELU to 73 dB.
"""

STANDS_OUT_DB = 20.0
"""A branch of an int8 file is off so many dB below the median of its branches.

The worst branch of healthy files was 16.5 dB below it (the last attention of a trained toy, "qdq"), less than 8 dB in
models with random weights; transposed kernels, mixed-up heads and the like are 30 dB below and more.
"""

NORM = "encoder norm"


def judge(
    figures: Sequence[Figures], limit_db: float, precision: Precision, images: int, *, agrees: bool, hidden: bool
) -> Location:
    """What `figures`, of every point in order, come to.

    A point is off when its SQNR is below `limit_db`, or when what the file adds to the stream there is off by itself;
    the first of them departs, or 'output' when there is none. `agrees` says that the output keeps to the file's limits:
    then nothing departs, whatever stands out. `hidden` says that it did while interior tensors were kept.
    """
    # Behind a gross fault tensors cannot be told by what they hold: what is usual is learnt from where they can.
    branches = [f.alone_db for f in figures[:-1] if f.tensor and f.name != NORM and f.sqnr_db >= limit_db]
    usual = statistics.median(branches) if branches else math.inf
    if precision == "int8":
        # Equalization moves the final norm's scale and shift into other weights: what is left is neither form of it.
        figures = [Figures(NORM) if f.name == NORM and f.alone_db < usual else f for f in figures]
    known = [f for f in figures if f.tensor]
    standing_out = [f for f in known if _stands_out(f, precision, usual)]
    off = [f for f in known if f.sqnr_db < limit_db or f in standing_out] or figures[-1:]
    departs = None if agrees else off[0].name
    if departs is None:
        detail = _none_departs(known, standing_out, usual)
    else:
        detail = _departs(off[0], known, limit_db, usual if off[0] in standing_out else None)
        if off[0] is figures[-1] and hidden:
            detail += "; not so while interior tensors are kept: it is operators fused by the runtime that depart"
    return Location(tuple(_point(f) for f in figures), departs, limit_db, images, detail)


def _stands_out(figures: Figures, precision: Precision, usual: float) -> bool:
    """Whether what happens at this point is off by itself, whatever came before."""
    if precision in ALONE_DB:
        alone, rounding = ALONE_DB[precision]
        return figures.alone_db < alone and figures.rounding_db < rounding
    return figures.alone_db < usual - STANDS_OUT_DB


def _none_departs(known: Sequence[Figures], standing_out: Sequence[Figures], usual: float) -> str:
    worst = min(known, key=lambda f: f.sqnr_db)
    detail = f"no layer departs: the SQNR is at least {_db(worst.sqnr_db)} (at {worst.name})"
    return f"{detail}; {_by_itself(standing_out[0], usual)}" if standing_out else detail


def _departs(first: Figures, known: Sequence[Figures], limit_db: float, usual: float | None) -> str:
    """The sentence for `first`; `usual` is the SQNR of a branch by itself, None where that of `first` is no worse."""
    before = [f for f in known if f.name != NORM]
    before = before[: before.index(first)] if first in before else before
    start = f"departs at {first.name}"
    if not first.tensor:
        return f"{start}, whose size is another; what can be compared before it agrees"
    if not before:
        return f"{start}: SQNR is {_db(first.sqnr_db)} from the start"
    if usual is None:
        origin = f"{_db(before[0].sqnr_db)} at {before[0].name}"
        return (
            f"SQNR falls little by little, from {origin} to {_db(first.sqnr_db)} at {first.name}: no layer stands out"
        )
    fall = f"{start}: SQNR falls from {_db(before[-1].sqnr_db)} to {_db(first.sqnr_db)}"
    return fall if first.sqnr_db < limit_db else f"{fall}; {_by_itself(first, usual)}"


def _by_itself(figures: Figures, usual: float) -> str:
    return f"{figures.name} by itself has {_db(figures.alone_db)}, where {_db(usual)} is usual"


def _db(figure: float) -> str:
    return "no difference" if figure == math.inf else f"{figure:.0f} dB"


def _point(figures: Figures) -> LayerPoint:
    if not figures.tensor:
        return LayerPoint(figures.name, None, None, None)
    return LayerPoint(figures.name, figures.sqnr_db, figures.worst_relative, figures.tensor)
