"""What a file to ship may cost and lose."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vit_export.base.numbers import MEGABYTE, figure, number
from vit_export.report.candidates import Candidate, Interval, points
from vit_export.report.view import Record


@dataclass(frozen=True)
class Budget:
    """The most that an image may take, that may be lost and that a file may weigh; None is no limit.

    `points` of accuracy are lost against the same model's float reference.
    """

    ms: float | None = None
    points: float | None = None
    megabytes: float | None = None

    @classmethod
    def of(cls, budget: Record) -> "Budget":
        """The budget of a record: `max_ms`, `max_drop` in points of accuracy, `max_mb` in millions of bytes."""
        return cls(number(budget.get("max_ms")), number(budget.get("max_drop")), number(budget.get("max_mb")))

    def __str__(self) -> str:
        parts = [
            "" if self.ms is None else f"{self.ms:g} ms",
            "" if self.megabytes is None else f"{self.megabytes:g} MB",
            "" if self.points is None else f"{self.points:g} point{'' if self.points == 1 else 's'} lost",
        ]
        return _listed(list(filter(None, parts)))

    def kept(self, file: Candidate) -> bool:
        """Whether every limit is kept by the measured value; a limit on what was not measured is not."""
        return all(found is not None and _within(found.value, limit) for limit, found, _ in self._limits(file))

    def left_open(self, file: Candidate) -> bool:
        """Whether some limit is missed by the measured value, and none by the whole of its interval."""
        known = all(found is not None and found.known and found.low <= limit for limit, found, _ in self._limits(file))
        return known and not self.kept(file)

    def missed(self, file: Candidate) -> float:
        """How far it misses the limit that it misses most, as a share of that; infinite where something is unknown.

        Of the points lost, one counts as much as the whole of another limit: theirs may be 0.
        """
        return max(
            math.inf if found is None else (found.value - limit) / (1.0 if unit == "points" else limit or 1e-9)
            for limit, found, unit in self._limits(file)
        )

    def misses(self, file: Candidate) -> str:
        """The limits that it misses, and by how much."""
        told = []
        for limit, found, unit in self._limits(file):
            if found is None or _within(found.value, limit):
                continue
            beyond = found.value - limit
            if unit == "points":
                told.append(f"{points(found.value)} lost, {points(beyond)} more than {limit:g}")
            else:
                told.append(f"{figure(found.value)} {unit}, {figure(beyond)} more than {limit:g}")
        return _listed(told, "; ")

    def unsure(self, file: Candidate) -> str:
        """What is kept by the measured value, but not by all of its interval."""
        names = {"ms": "time", "MB": "size", "points": "loss"}
        unsure = [names[unit] for limit, found, unit in self._limits(file) if found and not _within(found.high, limit)]
        return f"the interval of the {' and that of the '.join(unsure)} reaches beyond the budget" if unsure else ""

    def unmeasured(self, file: Candidate) -> str:
        """What would have to be measured first."""
        names = {"ms": "timed", "MB": "weighed", "points": "evaluated"}
        return " and ".join(names[unit] for _, found, unit in self._limits(file) if found is None)

    def _limits(self, file: Candidate) -> Iterator[tuple[float, Interval | None, str]]:
        if self.ms is not None:
            yield self.ms, file.ms, "ms"
        if self.megabytes is not None:
            size = None if file.bytes is None else file.bytes / MEGABYTE
            yield self.megabytes, None if size is None else Interval(size, size, size), "MB"
        if self.points is not None:
            yield self.points, file.drop, "points"


UNBOUND = Budget()


def _within(value: float, limit: float) -> bool:
    """Whether `limit` is kept, however a float rounds: 50.5 % less than 51 % is no more than half a point."""
    return value - limit <= 1e-9 * max(1.0, abs(limit))


def _listed(parts: Sequence[str], joint: str = ", ") -> str:
    return " and ".join(filter(None, (joint.join(parts[:-1]), *parts[-1:])))
