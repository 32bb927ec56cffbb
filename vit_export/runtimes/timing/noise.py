"""How quiet the machine was while latency was measured."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True)
class Noise:
    """What disturbed a measurement; None where the system does not tell.

    `unrest` is the largest p90 of a file over its median, `drift` the median of the reference's last third of rounds
    over that of its first. `others` is the share of all processors' time that other programs used meanwhile, `steal`
    the share that a hypervisor gave to other machines (Linux). `load` is the load average of the minute before,
    `governor` how the processor's frequency is chosen (Linux).
    """

    unrest: float
    drift: float | None
    others: float | None
    steal: float | None
    load: float | None
    governor: str | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


class Watch:
    """Counts processor time from its making on; `noise` tells what was not spent by this process and its children."""

    def __init__(self) -> None:
        self._load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._before = _processor_times()

    def noise(self, unrest: float, reference: Sequence[float]) -> Noise:
        """What happened since; `reference` are the medians of the reference's turns, in the order of time."""
        others, steal = _shares(self._before, _processor_times())
        return Noise(unrest, drift(reference), others, steal, self._load, _governor())


def drift(turns: Sequence[float]) -> float | None:
    """The median of the last third of `turns` over that of the first; None for fewer than six."""
    third = len(turns) // 3
    return float(np.median(turns[-third:]) / np.median(turns[:third])) if len(turns) >= 6 else None


def _processor_times() -> tuple[float, float, float, float]:
    """Seconds since the system started: of all processors, of those busy, stolen, and busy with this program."""
    import psutil

    times = psutil.cpu_times()._asdict()
    # Linux counts guests' time as the user's too.
    total = sum(seconds for name, seconds in times.items() if not name.startswith("guest"))
    steal = times.get("steal", 0.0)
    busy = total - times.get("idle", 0.0) - times.get("iowait", 0.0) - steal
    me = psutil.Process()
    # Of children that ended, the system adds up the times in this process's own.
    own = sum(me.cpu_times()[:4])
    for child in me.children(recursive=True):
        with suppress(psutil.Error):
            own += sum(child.cpu_times()[:2])
    return total, busy, steal, own


def _shares(before: Sequence[float], after: Sequence[float]) -> tuple[float | None, float | None]:
    """The shares of others and of a hypervisor in the processors' time between two `_processor_times`."""
    total, busy, steal, own = (b - a for a, b in zip(before, after, strict=True))
    if total <= 0:
        return None, None
    stolen = min(1.0, max(0.0, steal / total)) if os.path.exists("/proc/stat") else None
    return min(1.0, max(0.0, (busy - own) / total)), stolen


def _governor() -> str | None:
    with suppress(OSError):
        return _GOVERNOR.read_text(encoding="utf-8").strip() or None
    return None
