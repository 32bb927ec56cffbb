"""How well a median is known: intervals that assume nothing about the distribution and see that noise comes in spells.

The observations are one number per round (the median of a turn, a ratio of two turns), in the order of time.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
MIN_OBSERVATIONS = 6
SETTLED = 0.05
"""An interval narrower than this part of the median says that it is known."""
MIN_CALLS_OF_P99 = 100
"""With fewer calls the 99th percentile would be the slowest one: a maximum under another name."""


class Interval(NamedTuple):
    """Where a median lies with a confidence of CONFIDENCE, both ends included."""

    low: float
    high: float

    def width(self, median: float) -> float:
        """From end to end, as a part of `median`."""
        return (self.high - self.low) / median

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


def median_interval(values: Sequence[float]) -> Interval | None:
    """The interval of the median of what `values`, in the order of time, are observations of.

    Its ends are the k-th smallest and the k-th largest value. Of n independent observations of whatever distribution,
    k - 1 or fewer lie below the true median with the probability P(B <= k - 1), B ~ Binomial(n, 1/2), so the interval
    holds it with 1 - 2 P(B <= k - 1); k is the largest for which that is CONFIDENCE or more (David and Nagaraja, Order
    Statistics, 3rd ed. 2003, section 7.1; Le Boudec, Performance Evaluation of Computer and Communication Systems,
    2010, theorem 2.1). That takes six observations, 1 - 2 / 2**6 = 97 %, so for fewer there is None.

    A busy machine is slow for a spell, so observations resemble their neighbours and n of them tell less than n. Taken
    as above or below the median they are signs, and the variance of the count of one sign, n / 4, is larger by the
    factor v of `clustering` (Gastwirth and Rubin, J. Am. Stat. Assoc. 66, 816-820, 1971). By the normal approximation
    with that variance, k is at most (n + 1) / 2 - 1.96 sqrt(v n) / 2; where that is less than 1 there is None. A spell
    as long as the whole measurement cannot be seen in it, by this or any interval; ratios within a round do not suffer
    from it.
    """
    n = len(values)
    if n < MIN_OBSERVATIONS:
        return None
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    k = min(_rank(n), math.floor((n + 1 - z * math.sqrt(clustering(values) * n)) / 2))
    if k < 1:
        return None
    ordered = sorted(values)
    return Interval(ordered[k - 1], ordered[n - k])


def clustering(values: Sequence[float]) -> float:
    """By how much spells enlarge the variance of the number of `values` above their median; 1 where there are none.

    That is 1 + 2 (r1 + r2 + ...), of the correlations r of the signs so many values apart. What is estimated from few
    values is mostly noise from some distance on, so they are added in pairs up to the first that is not positive
    (Geyer, Statistical Science 7, 473-483, 1992). Alternation is not rewarded.
    """
    median = float(np.median(values))
    signs = np.array([1.0 if value > median else -1.0 for value in values if value != median])
    total = 0.0
    for lag in range(1, len(signs) // 2, 2):
        pair = sum(float(np.mean(signs[later:] * signs[:-later])) for later in (lag, lag + 1))
        if pair <= 0:
            break
        total += pair
    return 1 + 2 * total


def percentile(calls: Sequence[float], percent: float) -> float:
    """The value that `percent` of `calls` do not exceed, interpolated."""
    return float(np.percentile(calls, percent))


def p99(calls: Sequence[float]) -> float | None:
    """The 99th percentile, None for fewer than MIN_CALLS_OF_P99."""
    return percentile(calls, 99) if len(calls) >= MIN_CALLS_OF_P99 else None


def thinned(values: Sequence[float], most: int) -> list[float]:
    """At most `most` of `values`, evenly spread, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


@lru_cache
def _rank(n: int) -> int:
    """The rank k of `median_interval` for `n` independent observations; 0 where there is none."""
    from scipy.special import bdtrik

    # Where the distribution passes (1 - CONFIDENCE) / 2: of at most k - 1 below the median, it stays under that.
    return max(0, math.ceil(bdtrik((1 - CONFIDENCE) / 2, n, 0.5)))
