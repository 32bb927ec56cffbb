"""The figures of every point of a file's residual stream, over the images it was run on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vit_export.verification import metrics

GONE = 10.0
"""A tensor with so many times the squared error of a later one was no part of the stream."""


@dataclass(frozen=True)
class Pair:
    """One tensor of one image as it should be and as the file has it, of one shape."""

    truth: np.ndarray
    found: np.ndarray

    @cached_property
    def error(self) -> float:
        """The sum of squared differences."""
        return energy(self.found - self.truth)


@dataclass
class Figures:
    """One point in a file and the worst image's figures of it, infinite as long as there is none.

    `tensor` is what the file calls it, None where it has none. `sqnr_db` compares with the reference's own tensor. The
    others compare with what the reference makes of the file's tensor at the point before, so that only what happens
    between the two counts: `alone_db` is relative to what is added to the stream there, `rounding_db` to the stream.
    """

    name: str
    tensor: str | None = None
    sqnr_db: float = math.inf
    alone_db: float = math.inf
    rounding_db: float = math.inf
    _difference: float = 0.0
    _range: tuple[float, float] = (math.inf, -math.inf)

    @property
    def worst_relative(self) -> float:
        """The largest difference divided by the range of the reference's tensor."""
        return metrics.relative(self._difference, self._range[1] - self._range[0])

    def compare(self, pair: Pair) -> None:
        """Take in one image's tensor beside the reference's."""
        self.sqnr_db = min(self.sqnr_db, decibel(energy(pair.truth), pair.error))
        difference = float(np.abs(pair.found - pair.truth).max())
        self._difference = max(self._difference, difference if math.isfinite(difference) else math.inf)
        self._range = min(self._range[0], float(pair.truth.min())), max(self._range[1], float(pair.truth.max()))

    def compare_added(self, start: np.ndarray, pair: Pair) -> None:
        """Take in one image's tensor beside what the reference makes of `start`, the file's tensor before it."""
        self.alone_db = min(self.alone_db, decibel(energy(pair.truth - start), pair.error))
        self.rounding_db = min(self.rounding_db, decibel(energy(pair.truth), pair.error))

    def compare_whole(self, pair: Pair) -> None:
        """`compare_added` where nothing of what came before is kept."""
        self.compare_added(np.zeros_like(pair.truth), pair)


def energy(values: np.ndarray) -> float:
    """The sum of squares; infinite where a value is not finite."""
    total = float(np.square(values, dtype=np.float64).sum())
    return total if math.isfinite(total) else math.inf


def decibel(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise, negative infinite without signal or with infinite noise."""
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if 0 < signal < math.inf and noise < math.inf else -math.inf


def strangers(points: Mapping[int, Pair]) -> list[int]:
    """Those of `points` whose tensors only happen to be the most alike, because the file lacks the right ones.

    What is once in the residual stream stays in it, errors too: a tensor with a far larger error than a later one was
    not of it. Whole streams and the kept rows are compared among themselves. And where a file lacks attention's
    sums (or mlp's) in all layers so far, because operators are fused, it will not have the next one.
    """
    found = []
    least: dict[int, float] = {}
    for point in sorted(points, reverse=True):
        pair = points[point]
        smallest = least.get(len(pair.truth), math.inf)
        if pair.error > GONE * smallest:
            found.append(point)
        least[len(pair.truth)] = min(pair.error, smallest)
    for point in sorted(points):
        alike = range(2 - point % 2, point, 2)  # attention is odd, mlp even, the embedding 0
        if alike and point not in found and all(other in found or other not in points for other in alike):
            found.append(point)
    return found
