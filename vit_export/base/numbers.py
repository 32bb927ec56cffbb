"""How values of a report read: numbers with as many digits as they deserve, and names in the room there is."""

import math
from collections.abc import Mapping
from typing import Any

from vit_export.base.text import counted

NONE = "–"
MEGABYTE = 1e6

_SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def sentence(text: Any) -> str:
    """`text` on one line, ending with a full stop."""
    line = " ".join(str(text).split())
    return line if not line or line.endswith((".", "!", "?", "…")) else f"{line}."


def shortened(text: str, width: int = 48) -> str:
    """`text` in at most `width` characters: the middle goes, for names differ at both ends."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"


def number(value: Any) -> float | None:
    """The float that a report holds as a number or, where JSON lacks it, as 'NaN' or 'Infinity'; None for all else."""
    if isinstance(value, str):
        return _SPELLED.get(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON bounds no integer
        return math.inf if value > 0 else -math.inf


def figure(value: float | None) -> str:
    """`value` with three digits that count: 0.012, 4.56, 123, 2529, 3.1e-07, ∞."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "−∞"
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-3:
        return f"{value:.1e}".replace("-", "−")
    text = f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.3g}"
    return text.replace("-", "−")


def conditions(threads: int, cpu: Mapping[str, Any]) -> str:
    """On what latencies were measured; `cpu` is the dict of a `Cpu`."""
    features = f" ({', '.join(cpu['features'])})" if cpu["features"] else ""
    return f"{counted(threads, 'thread')} of {cpu['cores']} usable cores, {cpu['model']}{features}"


def three_digits(value: float | None) -> str:
    """`value` for a column of a table, in three digits or more: 0.0120, 4.50, 123, 2529."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:#.3g}"


def unit(value: float | None, name: str) -> str:
    """`value` with its unit, '4.56 ms'; the dash where there is none."""
    return NONE if value is None else f"{figure(value)}\N{NO-BREAK SPACE}{name}"


def megabytes(value: float | None) -> str:
    """Bytes as millions of them."""
    return unit(None if value is None else value / MEGABYTE, "MB")


def seconds(value: float | None) -> str:
    """Seconds, or milliseconds below a tenth of one."""
    return unit(1e3 * value, "ms") if value is not None and value < 0.1 else unit(value, "s")


def percent(share: float | None) -> str:
    """A share as per cent with one digit, never 100 for less than all."""
    if share is None or not math.isfinite(share):
        return figure(share)
    shown = f"{100 * share:.1f}"
    if shown == "100.0":
        shown = "100" if share >= 1 else "99.9"
    return f"{shown}\N{NO-BREAK SPACE}%"


def span(low: float | None, high: float | None) -> str:
    """An interval, '17.1 to 17.6'; empty where a side is missing."""
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"
