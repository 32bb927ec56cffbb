"""Latency that can be compared: the reference and the candidates take turns.

A machine that heats up, slows down or does something else meanwhile then does so for all of them. How well each median
is known is said beside it, and whether the files can be ranked at all (`ranking`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vit_export.base.machine import Cpu, cpu
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError
from vit_export.runtimes.timing.noise import Noise, Watch
from vit_export.runtimes.timing.rounds import MAX_RUNS, End, Limits, Plan, Session, Subject, Turns, medians, plan_of
from vit_export.runtimes.timing.statistics import SETTLED, Interval, median_interval, p99, percentile, thinned

__all__ = ["Cpu", "Latency", "Measurement", "Plan", "Subject", "cpu", "measure", "plan_of"]

TIME_LIMIT = 15.0
"""Seconds each process may take for its first calls (`timing.RUNS`)."""
PATIENCE = 4.0
"""Seconds after which, with those calls recorded, a wide interval is accepted: an export should not wait for a quiet
machine."""
SAMPLES = 400
"""Recorded calls that are kept of each file."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one call of `batch` images on `threads` threads: `runs` recorded calls in `rounds` turns.

    `median_ms` is the median of the medians of the turns and lies between `low_ms` and `high_ms` with a confidence of
    95 % (`statistics.median_interval`; None where the rounds are too few, or too much like their neighbours, to say).
    `p90_ms` and `p99_ms` are of all recorded calls and describe those alone: what a caller met on this machine, its
    other work included (p99 is None for fewer than 100 calls). The first call of a short turn, which finds caches that
    another file has filled, is in none of them.

    `speedup` says how many times faster than the reference an image is: the median over rounds of the reference's
    median over this file's, per image, with its own interval. A machine that slows down does so for both, so it may be
    known better than either time. `interleaved` is False when the two were too big to be resident together and took
    turns in blocks: `speedup` is then the ratio of the two medians, and its interval that of the ends of theirs.
    `reference_median_ms` is of one call (of `reference_batch` images) of the reference in the same rounds.

    `samples_ms` are recorded calls in the order of time, at most 400, evenly thinned, to the microsecond. `ended_by`
    says what ended the rounds: every file's interval was narrow, the time was up, or the calls asked for were made.
    """

    median_ms: float
    low_ms: float | None = None
    high_ms: float | None = None
    p90_ms: float
    p99_ms: float | None = None
    runs: int
    rounds: int = 0
    ended_by: End = "runs"
    batch: int = 1
    threads: int = 1
    interleaved: bool = True
    reference_median_ms: float
    reference_batch: int = 1
    speedup: float
    speedup_low: float | None = None
    speedup_high: float | None = None
    samples_ms: tuple[float, ...] = ()

    @property
    def interval(self) -> Interval | None:
        """The interval of the median, in milliseconds; None where it is unknown."""
        return None if self.low_ms is None or self.high_ms is None else Interval(self.low_ms, self.high_ms)

    @property
    def speedup_interval(self) -> Interval | None:
        """The interval of the speedup; None where it is unknown."""
        low, high = self.speedup_low, self.speedup_high
        return None if low is None or high is None else Interval(low, high)

    @property
    def settled(self) -> bool:
        """Whether the median is known: its interval is narrower than 5 % of it."""
        return self.interval is not None and self.interval.width(self.median_ms) < SETTLED

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "settled": self.settled, "samples_ms": list(self.samples_ms)}


@dataclass(frozen=True)
class Measurement:
    """Latencies by path; a file that could not be timed has its RunnerError instead.

    `path` is the reference's. `turns` holds, by path and where all files had a turn in each round, the medians of their
    turns: seconds per image.
    """

    plan: Plan
    reference: Latency
    files: Mapping[str, Latency | RunnerError]
    path: str = ""
    noise: Noise | None = None
    turns: Mapping[str, Sequence[float]] = field(default_factory=dict)


def measure(
    reference: Subject,
    candidates: Sequence[Subject],
    image: np.ndarray,
    *,
    threads: int = 1,
    runs: int = MAX_RUNS,
    time_limit: float = TIME_LIMIT,
    patience: float | None = PATIENCE,
    own_images: Mapping[str, np.ndarray] | None = None,
    opened: Mapping[str, RunnerProcess] | None = None,
    step: Callable[[str], None] | None = None,
) -> Measurement:
    """Time `candidates` against `reference` on `image`, float32 [s, s, 3].

    Rounds end when the interval of every file's median is narrower than 5 % of it, or when each process has taken
    `time_limit` seconds, or `patience` (None: `time_limit`) and made 30 calls; and after `runs` recorded calls of each,
    be that fewer than 30, however well the medians are known. A process that does not settle keeps the others going:
    all take part in every round.

    `own_images` holds, by path, that image for files that take it in other numbers, or as uint8.
    `opened` lends processes (by path) that run already; they stay open, and must have been started with `threads`.
    `step` is told in words what is timed.

    Raises:
        RunnerError: the reference cannot be timed.
    """
    plan = plan_of(reference, candidates)
    images = defaultdict(lambda: image, own_images or {})
    limits = Limits(time_limit, time_limit if patience is None else min(patience, time_limit), runs)
    session = Session(reference, images, threads, limits, opened or {}, step or (lambda text: None))
    watch = Watch()
    session.run(plan, candidates)
    return _measurement(session, plan, watch)


def _measurement(session: Session, plan: Plan, watch: Watch) -> Measurement:
    base = session.reference.path
    latencies: dict[str, Latency] = {
        path: _latency(session, path, file.turns, file.reference, file.ended, paired=file.paired)
        for path, file in session.files.items()
    }
    reference = _latency(session, base, session.own, session.own, session.ended, paired=plan != "blocks")
    turns = {}
    if plan == "together":
        recorded = {base: session.own, **{path: file.turns for path, file in session.files.items()}}
        turns = {path: tuple(t / session.batch[path] for t in medians(own)) for path, own in recorded.items()}
    unrest = max(timed.p90_ms / timed.median_ms for timed in (reference, *latencies.values()))
    noise = watch.noise(unrest, medians(session.own))
    return Measurement(plan, reference, {**session.errors, **latencies}, base, noise, turns)


def _latency(session: Session, path: str, own: Turns, reference: Turns, ended: End, *, paired: bool) -> Latency:
    """The figures of the file at `path` from its own turns and those of the reference beside them."""
    values, others = medians(own), medians(reference)
    median, reference_median = float(np.median(values)), float(np.median(others))
    batch, reference_batch = session.batch[path], session.batch[session.reference.path]
    each = batch / reference_batch
    interval, reference_interval = median_interval(values), median_interval(others)
    if paired or own is reference:
        ratios = [each * other / value for other, value in zip(others, values, strict=True)]
        speedup, known = float(np.median(ratios)), median_interval(ratios)
    else:
        speedup, known = each * reference_median / median, None
        if interval and reference_interval:
            known = Interval(
                each * reference_interval.low / interval.high, each * reference_interval.high / interval.low
            )
    calls = [seconds for turn in own for seconds in turn]
    slow = p99(calls)
    return Latency(
        median_ms=1e3 * median,
        low_ms=1e3 * interval.low if interval else None,
        high_ms=1e3 * interval.high if interval else None,
        p90_ms=1e3 * percentile(calls, 90),
        p99_ms=None if slow is None else 1e3 * slow,
        runs=len(calls),
        rounds=len(own),
        ended_by=ended,
        batch=batch,
        threads=session.threads,
        interleaved=paired,
        reference_median_ms=1e3 * reference_median,
        reference_batch=reference_batch,
        speedup=speedup,
        speedup_low=known.low if known else None,
        speedup_high=known.high if known else None,
        samples_ms=tuple(round(1e3 * seconds, 3) for seconds in thinned(calls, SAMPLES)),
    )
