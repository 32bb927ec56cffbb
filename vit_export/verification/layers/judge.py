"""From the figures of every point to a sentence: which is the first that is off."""

import math
import statistics
from collections.abc import Sequence

from vit_export.records import Precision
from vit_export.verification.evidence import LayerPoint, Location
from vit_export.verification.layers.trail import Figures

ALONE_DB: dict[Precision, tuple[float, float]] = {"float32": (100.0, 115.0), "float16": (45.0, 60.0)}
"""A branch of a float file is off below the first figure, unless the second says that the stream is merely rounded."""

STANDS_OUT_DB = 12.0
"""A branch of an int8 file is off so many dB below the median of its branches."""

NORM = "encoder norm"


def judge(
    figures: Sequence[Figures], limit_db: float, precision: Precision, images: int, *, agrees: bool, hidden: bool
) -> Location:
    """What `figures`, of every point in order, come to.

    A point is off when its SQNR is below `limit_db`, or when what the file adds to the stream there is off by itself;
    the first of them departs, or 'output' when there is none. `agrees` says that the output keeps to the file's limits:
    then nothing departs. `hidden` says that it did while interior tensors were kept, but not as the file is run.
    """
    branches = [f.alone_db for f in figures[:-1] if f.tensor and f.name != NORM]
    usual = statistics.median(branches) if branches else math.inf
    if precision == "int8":
        # Equalization moves the final norm's scale and shift into other weights: what is left is neither form of it.
        figures = [Figures(NORM) if f.name == NORM and _stands_out(f, precision, usual) else f for f in figures]
    known = [f for f in figures if f.tensor]
    departs = None
    if agrees:
        worst = min(known, key=lambda f: f.sqnr_db)
        detail = f"no layer departs: the SQNR is {worst.sqnr_db:.0f} dB or more everywhere (least: {worst.name})"
    else:
        off = (f for f in known if f.sqnr_db < limit_db or _stands_out(f, precision, usual))
        first = next(off, figures[-1])
        departs, detail = first.name, _sentence(first, known, limit_db, usual, _stands_out(first, precision, usual))
        if first is figures[-1] and hidden:
            detail += "; not so while interior tensors are kept: it is operators fused by the runtime that depart"
    return Location(tuple(_point(f) for f in figures), departs, limit_db, images, detail)


def _stands_out(figures: Figures, precision: Precision, usual: float) -> bool:
    """Whether what happens at this point is off by itself, whatever came before."""
    if precision in ALONE_DB:
        alone, rounding = ALONE_DB[precision]
        return figures.alone_db < alone and figures.rounding_db < rounding
    return figures.alone_db < usual - STANDS_OUT_DB


def _sentence(first: Figures, known: Sequence[Figures], limit_db: float, usual: float, stands_out: bool) -> str:
    before = [f for f in known[: known.index(first)] if f.name != NORM] if first in known else list(known)
    if not first.tensor:
        return f"departs at {first.name}, which cannot be compared; the SQNR before it is {before[-1].sqnr_db:.0f} dB"
    if not before:
        return f"departs at {first.name}: the SQNR is {first.sqnr_db:.0f} dB from the start"
    fall = f"SQNR falls from {before[-1].sqnr_db:.0f} to {first.sqnr_db:.0f} dB"
    if not stands_out:
        start = f"from {before[0].sqnr_db:.0f} dB at {before[0].name}"
        return f"SQNR falls little by little, {start} to below {limit_db:g} dB at {first.name}; no layer stands out"
    if first.sqnr_db < limit_db:
        return f"departs at {first.name}: {fall}"
    return f"departs at {first.name}: {fall}, by itself {first.alone_db:.0f} dB where {usual:.0f} dB are usual"


def _point(figures: Figures) -> LayerPoint:
    if not figures.tensor:
        return LayerPoint(figures.name, None, None, None)
    return LayerPoint(figures.name, figures.sqnr_db, figures.worst_relative, figures.tensor)
