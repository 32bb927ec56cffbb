"""What may be shipped: a file of a report or a cell of a sweep, as the figures that decide, each with its interval."""

import math
from collections.abc import Hashable
from dataclasses import dataclass

from vit_export.base.numbers import figure, megabytes, number, percent, unit
from vit_export.report.view import File, Record, base_name, listed, record, text

AS_SMALL = 1.01
"""Sizes that differ by a smaller factor are the same."""
AS_CLOSE = 1.0
"""Decibels of the worst image by which two files differ in nothing that matters."""

_95 = 1.96
"""Standard deviations on each side of the middle that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A measured `value` and the ends of its 95 % interval, which are infinite where it is unknown."""

    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def known(self) -> bool:
        """Whether it has ends."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def overlaps(self, other: "Interval") -> bool:
        """Whether some value may be that of both."""
        return self.low <= other.high and other.low <= self.high

    def differs(self, other: "Interval") -> bool:
        """Whether the interval of the difference leaves out 0.

        By Newcombe's square-and-add (Statistics in Medicine, 1998), as if neither measurement knew of the other.
        """
        upper, lower = (self, other) if self.value > other.value else (other, self)
        return upper.value - lower.value > math.hypot(upper.value - upper.low, lower.high - lower.value)


@dataclass(frozen=True)
class Candidate:
    """A file and what is known of it; None where it was not measured.

    Files of one `model` (network, weights and image size) are to give the same answers. `ms` is the time of an image,
    `bytes` the size of the file, `worst_db` the SQNR of its worst image. `accuracy` is the share of an evaluation's
    images that it gets right and `drop` how many points (per cent of the images) it loses against its own model's float
    reference. `remark` is told with its figures and decides nothing.
    """

    name: str
    model: Hashable
    model_name: str
    passed: bool
    ms: Interval | None = None
    bytes: float | None = None
    worst_db: float | None = None
    accuracy: Interval | None = None
    drop: Interval | None = None
    untrained: bool = False
    remark: str = ""

    def as_fast(self, other: "Candidate") -> bool:
        """Whether the times of both may be one; where one was not timed, nothing tells them apart."""
        return self.ms is None or other.ms is None or self.ms.overlaps(other.ms)

    def as_accurate(self, other: "Candidate") -> bool:
        """Whether the images that were evaluated do not tell both apart.

        Files of one model were compared with its reference image by image, which tells more than their two shares do.
        """
        if self.model == other.model and self.drop and other.drop and self.drop.known and other.drop.known:
            return not self.drop.differs(other.drop)
        return self.accuracy is None or other.accuracy is None or not self.accuracy.differs(other.accuracy)

    def beats(self, other: "Candidate") -> bool:
        """Whether it is better in time, size or accuracy and worse in none; what cannot be told apart is equal.

        Where there is no accuracy, SQNR stands for it among files of one model, and of others none beats any.
        """
        if self.accuracy is None and self.model != other.model:
            return False
        signs = [
            0 if self.as_fast(other) or not self.ms or not other.ms else _sign(other.ms.value - self.ms.value),
            0 if self._as_small(other) else _sign((other.bytes or 0.0) - (self.bytes or 0.0)),
        ]
        if self.accuracy and other.accuracy:
            signs.append(0 if self.as_accurate(other) else _sign(self.accuracy.value - other.accuracy.value))
        elif self.worst_db is not None and other.worst_db is not None:
            gap = self.worst_db - other.worst_db
            signs.append(0 if not abs(gap) >= AS_CLOSE else _sign(gap))
        return min(signs) >= 0 and max(signs) > 0

    def figures(self) -> str:
        """What was measured, in words."""
        ms = self.ms
        ends = list(dict.fromkeys(map(figure, (ms.low, ms.high)))) if ms and ms.known else []
        told = [f"{' to '.join(ends)} ms" if ends else f"about {unit(ms.value, 'ms')}" if ms else ""]
        told += [megabytes(self.bytes), f"{unit(self.worst_db, 'dB')} on its worst image"]
        if self.accuracy is not None:
            told += [f"{percent(self.accuracy.value)} right", "" if self.drop is None else points_lost(self.drop)]
        return ", ".join(filter(None, [*told, self.remark])).replace("\N{NO-BREAK SPACE}", " ")

    def _as_small(self, other: "Candidate") -> bool:
        sizes = sorted(size or 0.0 for size in (self.bytes, other.bytes))
        return sizes[1] <= AS_SMALL * sizes[0]


def of_report(file: File) -> Candidate:
    """The candidate that a file of a report is; all of them are of its one model."""
    middle, right = file.milliseconds, file.score("accuracy")
    latency = file.part("latency")
    return Candidate(
        name=file.name,
        model=None,
        model_name="",
        passed=file.verdict == "pass",
        ms=None if middle is None else _interval(middle, latency, ("low_ms", "high_ms"), number(latency.get("batch"))),
        bytes=file.bytes,
        worst_db=file.score("sqnr"),
        remark="" if right is None else f"{percent(right)} of the labelled images right",
    )


def of_cell(cell: Record) -> Candidate:
    """The candidate that a cell of a sweep is."""
    latency, evaluation = record(cell.get("latency")), record(cell.get("evaluation"))
    accuracy, lost = record(evaluation.get("accuracy")), _finite(evaluation.get("drop"))
    ms, share = _finite(latency.get("ms")), _finite(accuracy.get("share"))
    test = record(evaluation.get("mcnemar"))
    counts = [number(value) for value in (test.get("lost"), test.get("gained"), accuracy.get("total"))]
    sides = [side for side in map(number, listed(cell.get("image_size"))) if side is not None]
    size = "x".join(f"{side:.0f}" for side in (sides[:1] if len(set(sides)) == 1 else sides))
    weights = text(cell.get("weights"))
    return Candidate(
        name=text(cell.get("id"), "unnamed cell"),
        model=(text(cell.get("model")), weights, size),
        model_name=", ".join(filter(None, (text(cell.get("model")), size and f"{size} px", base_name(weights)))),
        passed=cell.get("verdict") == "pass",
        ms=None if ms is None else _interval(ms, latency, ("low_ms", "high_ms")),
        bytes=_finite(cell.get("bytes")),
        worst_db=number(cell.get("sqnr_worst_db")),
        accuracy=None if share is None else _interval(share, accuracy, ("low", "high")),
        # What was not tested against the reference and loses nothing is the reference itself.
        drop=None if lost is None else Interval(lost, *(_paired(*counts) if test or lost else (0.0, 0.0))),
        untrained=cell.get("trained") is False,
    )


def points_lost(drop: Interval) -> str:
    """How many points are lost or gained, with the interval."""
    if round(drop.value, 2) == 0:
        told = "no point lost"
    else:
        told = f"{points(drop.value)} {'lost' if drop.value > 0 else 'gained'}"
    if not drop.known or max(abs(drop.low), abs(drop.high)) < 0.005:
        return told
    ends = sorted((drop.low, drop.high) if drop.value >= 0 else (-drop.low, -drop.high))
    return f"{told} ({ends[0]:.2f} to {ends[1]:.2f})".replace("-", "−")


def points(value: float) -> str:
    """A number of points, at the most two digits after the dot."""
    size = f"{abs(value):.2f}".rstrip("0").rstrip(".")
    return f"{size} point{'' if size == '1' else 's'}"


def _finite(value: object) -> float | None:
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def _interval(value: float, of: Record, ends: tuple[str, str], divisor: float | None = None) -> Interval:
    low, high = (number(of.get(end)) for end in ends)
    if low is None or high is None or not low <= high:
        return Interval(value)
    return Interval(value, low / (divisor or 1.0), high / (divisor or 1.0))


def _paired(lost: float | None, gained: float | None, total: float | None) -> tuple[float, float]:
    """The 95 % interval of the points lost, where `lost` images of `total` are right in the reference alone.

    As Agresti and Min have it (Statistics in Medicine, 2005): half an image is added to each of the four counts.
    """
    if lost is None or gained is None or not total:
        return -math.inf, math.inf
    lost, gained, total = lost + 0.5, gained + 0.5, total + 2.0
    middle = (lost - gained) / total
    half = _95 * math.sqrt(max(0.0, lost + gained - (lost - gained) ** 2 / total)) / total
    return 100 * (middle - half), 100 * (middle + half)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
