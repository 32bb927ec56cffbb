"""Which of the files that were timed are faster than which, and when nobody can tell.

Two files are compared by the ratio of their medians in the same round: whatever slowed the machine down then did so for
both. One is the faster where the interval of that ratio excludes 1. Files that were never resident together are
compared through the reference they took turns with.

A file's rank is a range: from one more than the files that are surely faster to the place that those which are surely
slower leave to it, as in "2-3". That needs no order among files that cannot be told apart, and holds though such ties
are not transitive (Goldstein and Spiegelhalter, J. R. Stat. Soc. A 159, 385-443, 1996, rank with such intervals). Each
pair is decided with a confidence of 95 %, so among many files that are equally fast some pair may seem not to be.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vit_export.base.machine import usable_cores
from vit_export.runtimes.timing.latency import Latency, Measurement
from vit_export.runtimes.timing.noise import Noise
from vit_export.runtimes.timing.statistics import SETTLED, Interval, median_interval

UNREST = 2.0
"""Medians in a p90 that say that the machine did other work too."""
DRIFT = 1.1
"""The change of the reference's pace, as a factor, that says that the machine did other work too."""
OTHERS = 0.2
"""The share of the processors' time used by others that says that the machine did other work too."""
STEAL = 0.02
"""The share of the processors' time taken by a hypervisor that says that the machine did other work too."""
NAMED = 3
"""Files or pairs that a sentence names; of the rest it gives the number."""


@dataclass(frozen=True, order=True)
class Rank:
    """The best and the worst place that a file may have; 1 is the fastest."""

    best: int
    worst: int

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


def ranks(measurement: Measurement) -> dict[str, Rank]:
    """The ranks by path of all files that were timed, the reference too, by time per image."""
    timed = _timed(measurement)
    slower, faster = dict.fromkeys(timed, 0), dict.fromkeys(timed, 0)
    for one, other in combinations(timed, 2):
        ratio = time_ratio(measurement, one, other)
        if ratio is None or 1 in ratio:
            continue
        first, second = (one, other) if ratio.high < 1 else (other, one)
        faster[second] += 1
        slower[first] += 1
    return {path: Rank(1 + faster[path], len(timed) - slower[path]) for path in timed}


def time_ratio(measurement: Measurement, one: str, other: str) -> Interval | None:
    """The interval of the time per image of `one` over that of `other`, paths; None where too little was measured."""
    turns = measurement.turns
    if one in turns and other in turns:
        return median_interval([a / b for a, b in zip(turns[one], turns[other], strict=True)])
    timed = _timed(measurement)
    mine, its = timed[one].speedup_interval, timed[other].speedup_interval
    if one == measurement.path:
        return its
    if other == measurement.path:
        return mine and Interval(1 / mine.high, 1 / mine.low)
    # The ends of both: wider than 95 %, as nothing is known of the two together.
    return Interval(its.low / mine.high, its.high / mine.low) if mine and its else None


def warnings_of(measurement: Measurement) -> tuple[str, ...]:
    """Sentences on what makes the latencies of `measurement` hard to believe; none on a quiet machine."""
    return tuple(_warnings(measurement))


def _warnings(measurement: Measurement) -> Iterator[str]:
    threads, cores = measurement.reference.threads, usable_cores()
    if threads > cores:
        yield f"Latency was measured on {threads} threads, but only {cores} cores may be used."
    if measurement.plan == "blocks":
        yield "The reference is too big to be resident beside another file: latencies were taken in alternating blocks."
    timed = _timed(measurement)
    loose = {path: known for path, known in timed.items() if known.ended_by == "time" and not known.settled}
    if loose:
        yield f"The time for measuring ended before the medians were known to 5 %: {_uncertain(loose)}."
    if sentence := _undecided(measurement):
        yield sentence
    if reasons := ", ".join(_other_work(measurement.noise, _name(measurement.path))):
        yield f"The machine did other work while latency was measured: {reasons}."


def _uncertain(loose: dict[str, Latency]) -> str:
    known = {path: latency.interval.width(latency.median_ms) for path, latency in loose.items() if latency.interval}
    widest = sorted(known, key=lambda path: -known[path])
    shown = [f"{_name(path)} not at all" for path in loose if path not in known]
    return _few(shown + [f"{_name(path)} to {100 * known[path]:.0f} %" for path in widest])


def _undecided(measurement: Measurement) -> str | None:
    """The sentence on pairs of files whose ratio is known less well than the files differ."""
    pairs = list(combinations(_timed(measurement), 2))
    open_pairs = []
    for one, other in pairs:
        ratio = time_ratio(measurement, one, other)
        # Files known to be equally fast are no matter of noise.
        if ratio is None or (1 in ratio and ratio.width(1) >= SETTLED):
            open_pairs.append((one, other))
    if not open_pairs:
        return None
    if len(open_pairs) == len(pairs) > 1:
        return "The machine is too noisy to rank these files: their intervals are wider than their differences."
    names = [f"{_name(one)} and {_name(other)}" for one, other in open_pairs]
    return f"The machine is too noisy to say which is faster: {_few(names, '; ')}."


def _other_work(noise: Noise | None, reference: str) -> Iterator[str]:
    if noise is None:
        return
    if noise.unrest > UNREST:
        yield f"p90 is up to {noise.unrest:.1f} times the median"
    if noise.drift is not None and not 1 / DRIFT <= noise.drift <= DRIFT:
        yield f"{reference} took {noise.drift:.2f} times as long at the end as at the beginning"
    if noise.others is not None and noise.others > OTHERS:
        yield f"other programs used {100 * noise.others:.0f} % of the processors"
    if noise.steal is not None and noise.steal > STEAL:
        yield f"other machines of the same host used {100 * noise.steal:.0f} % of the processors"


def _few(texts: list[str], separator: str = ", ") -> str:
    more = len(texts) - NAMED
    return separator.join(texts[:NAMED]) + (f"{separator}and {more} more" if more > 0 else "")


def _name(path: str) -> str:
    return Path(path).name or "the reference"


def _timed(measurement: Measurement) -> dict[str, Latency]:
    found = {path: latency for path, latency in measurement.files.items() if isinstance(latency, Latency)}
    return {measurement.path: measurement.reference, **found}
