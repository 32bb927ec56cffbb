"""Latency that can be compared: the reference and the candidates take turns.

A machine that heats up, slows down or does something else meanwhile then does so for all of them.
"""

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vit_export.machine import usable_cores
from vit_export.records import Format
from vit_export.verification.runners import RunnerError
from vit_export.verification.workers import RunnerProcess

RUNS = 30
"""Recorded calls of each process."""
MIN_RUNS = 5
"""Recorded calls of each process even where the time is up."""
TIME_LIMIT = 15.0
"""Seconds each process may take before its calls stop at MIN_RUNS."""
WARM_UP = 3
"""Calls before the first recorded one; WARM_UP_SECONDS end them early, but one is always made."""
WARM_UP_SECONDS = 2.0
TURN_SECONDS = 0.2
"""About how long a process computes before it is the next one's turn."""
TOGETHER_BYTES = 2 << 30
"""Up to this sum of file sizes all processes are resident at once; runtimes may hold weights twice (packed)."""
ALTERNATE_BYTES = 1 << 30
"""From this size of the reference on, it and a candidate are never resident at the same time."""

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Flags of /proc/cpuinfo that decide how fast float and int8 matrices multiply (x86, then arm64)."""

Plan = Literal["together", "pairs", "blocks"]


@dataclass(frozen=True)
class Subject:
    """A file to be timed; `bytes` decides what may be resident together."""

    path: str
    format: Format
    bytes: int


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call of `batch` images on `threads` threads, over `runs` recorded calls.

    `reference_median_ms` is the median of one call of the reference (of `reference_batch` images) in the same
    measurement; `speedup` is the reference's median per image divided by this file's. `interleaved` is False when
    the two were too big to be resident together and took turns in blocks.
    """

    median_ms: float
    p90_ms: float
    runs: int
    batch: int
    threads: int
    interleaved: bool
    reference_median_ms: float
    reference_batch: int
    speedup: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """Latencies by path; a file that could not be timed has its RunnerError instead."""

    plan: Plan
    reference: Latency
    files: Mapping[str, Latency | RunnerError]


@dataclass(frozen=True)
class Cpu:
    """The processor latencies were measured on; `cores` is what this process may use."""

    model: str
    features: tuple[str, ...]
    cores: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {"model": self.model, "features": list(self.features), "cores": self.cores}


def cpu() -> Cpu:
    """The processor of this machine: model and FEATURES from /proc/cpuinfo where it exists, else what Python knows."""
    rows: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                rows.setdefault(key.strip(), value.strip())
    flags = set(rows.get("flags", rows.get("Features", "")).split())
    model = rows.get("model name") or rows.get("Hardware") or platform.processor() or platform.machine()
    return Cpu(model, tuple(f for f in FEATURES if f in flags), usable_cores())


def plan_of(reference: Subject, candidates: Sequence[Subject]) -> Plan:
    """How the processes share the memory: all at once, the reference with one candidate at a time, or one by one."""
    if reference.bytes >= ALTERNATE_BYTES:
        return "blocks"
    return "together" if reference.bytes + sum(c.bytes for c in candidates) <= TOGETHER_BYTES else "pairs"


def measure(
    reference: Subject,
    candidates: Sequence[Subject],
    image: np.ndarray,
    *,
    threads: int = 1,
    runs: int = RUNS,
    time_limit: float = TIME_LIMIT,
    own_images: Mapping[str, np.ndarray] | None = None,
    opened: Mapping[str, RunnerProcess] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Measurement:
    """Time `candidates` against `reference` on `image`, float32 [s, s, 3].

    `own_images` holds, by path, that image for files that take it in other numbers, or as uint8.
    `opened` lends processes (by path) that run already; they stay open, and must have been started with `threads`.

    Raises:
        RunnerError: the reference cannot be timed.
    """
    plan = plan_of(reference, candidates)
    images = defaultdict(lambda: image, own_images or {})
    session = _Session(reference, images, threads, runs, time_limit, opened or {}, progress or (lambda message: None))
    if plan == "together":
        session.interleave(candidates)
    elif plan == "pairs":
        session.pair(candidates)
    else:
        session.alternate(candidates)
    return session.result(plan)


class _Session:
    """The state of one `measure`: the seconds recorded so far, per process and group."""

    def __init__(
        self,
        reference: Subject,
        images: Mapping[str, np.ndarray],
        threads: int,
        runs: int,
        time_limit: float,
        opened: Mapping[str, RunnerProcess],
        progress: Callable[[str], None],
    ) -> None:
        self.reference, self.images, self.threads = reference, images, threads
        self.runs, self.time_limit, self.opened, self.progress = runs, time_limit, opened, progress
        # Seconds of a candidate and of the reference in the same group; `all` is every call of the reference.
        self.seconds: dict[str, tuple[list[float], list[float]]] = {}
        self.all: list[float] = []
        self.batch: dict[str, int] = {}
        self.errors: dict[str, RunnerError] = {}

    def interleave(self, candidates: Sequence[Subject]) -> None:
        """Time `candidates` and the reference, all resident, turn by turn."""
        self.progress(f"timing {', '.join(Path(c.path).name for c in candidates)} against the reference")
        with ExitStack() as stack:
            processes = {}
            for subject in [self.reference, *candidates]:
                if process := self._attempt(subject, stack):
                    processes[subject.path] = process
            seconds = self._turns(processes)
        own = seconds.pop(self.reference.path)
        self.all += own
        self.seconds |= {path: (values, own) for path, values in seconds.items()}

    def pair(self, candidates: Sequence[Subject]) -> None:
        """Time the reference with one candidate after another, no two candidates resident."""
        with ExitStack() as stack:
            if process := self._attempt(self.reference, stack):
                self.opened = {**self.opened, self.reference.path: process}
            for candidate in candidates:
                self.interleave([candidate])

    def alternate(self, candidates: Sequence[Subject]) -> None:
        """Time reference, candidate, reference, candidate, ..., reference in blocks, one resident at a time."""
        before = self._block(self.reference)
        for candidate in candidates:
            own = self._block(candidate)
            after = self._block(self.reference)
            if own:
                self.seconds[candidate.path] = (own, before + after)
            self.all += before
            before = after
        self.all += before

    def result(self, plan: Plan) -> Measurement:
        files: dict[str, Latency | RunnerError] = dict(self.errors)
        for path, (own, reference) in self.seconds.items():
            files[path] = self._latency(path, own, reference, plan != "blocks")
        return Measurement(plan, self._latency(self.reference.path, self.all, self.all, plan != "blocks"), files)

    def _block(self, subject: Subject) -> list[float]:
        self.progress(f"timing {Path(subject.path).name} in a block of its own")
        with ExitStack() as stack:
            process = self._attempt(subject, stack)
            return self._turns({subject.path: process}).get(subject.path, []) if process else []

    def _attempt(self, subject: Subject, stack: ExitStack) -> RunnerProcess | None:
        """The subject's process, lent or started; None, with the error kept, when a candidate's does not start."""
        if subject.path in self.opened:
            process = self.opened[subject.path]
        else:
            process = RunnerProcess(Path(subject.path), subject.format, self.threads)
            try:
                stack.enter_context(process)
            except RunnerError as error:
                self._fail(subject.path, error)
                return None
        self.batch[subject.path] = process.batch or 1
        return process

    def _fail(self, path: str, error: RunnerError) -> None:
        if path == self.reference.path:
            raise error
        self.errors[path] = error

    def _turns(self, processes: dict[str, RunnerProcess]) -> dict[str, list[float]]:
        """Recorded seconds by path: warm-up, then rounds of turns, each round starting with another process."""
        turn: dict[str, tuple[int, int]] = {}
        for path, process in processes.items():
            try:
                turn[path] = _turn_calls(_warm_up(process, self.images[path]), alone=len(processes) == 1)
            except RunnerError as error:
                self._fail(path, error)
        seconds: dict[str, list[float]] = {path: [] for path in turn}
        deadline = time.monotonic() + self.time_limit * len(seconds)
        first = 0
        while seconds and min(len(s) for s in seconds.values()) < self._wanted(deadline):
            paths = list(seconds)
            first = (first + 1) % len(paths)
            for path in paths[first:] + paths[:first]:
                settle, calls = turn[path]
                try:
                    seconds[path] += processes[path].time(settle + calls, self.images[path])[settle:]
                except RunnerError as error:
                    self._fail(path, error)
                    del seconds[path]
        return seconds

    def _wanted(self, deadline: float) -> int:
        return self.runs if time.monotonic() < deadline else min(MIN_RUNS, self.runs)

    def _latency(self, path: str, own: list[float], reference: list[float], interleaved: bool) -> Latency:
        median, reference_median = float(np.median(own)), float(np.median(reference))
        batch, reference_batch = self.batch[path], self.batch[self.reference.path]
        return Latency(
            median_ms=1e3 * median,
            p90_ms=1e3 * float(np.percentile(own, 90)),
            runs=len(own),
            batch=batch,
            threads=self.threads,
            interleaved=interleaved,
            reference_median_ms=1e3 * reference_median,
            reference_batch=reference_batch,
            speedup=(reference_median / reference_batch) / (median / batch),
        )


def _warm_up(process: RunnerProcess, image: np.ndarray) -> float:
    """The fastest of up to WARM_UP calls, in seconds."""
    end = time.monotonic() + WARM_UP_SECONDS
    seconds = process.time(1, image)
    while len(seconds) < WARM_UP and time.monotonic() < end:
        seconds += process.time(1, image)
    return min(seconds)


def _turn_calls(call_seconds: float, *, alone: bool) -> tuple[int, int]:
    """Unrecorded and recorded calls of one turn.

    The first call of a turn finds caches that another process has filled; where a call is short that would be most of
    what is measured, so it is not recorded. A call longer than a turn does not notice.
    """
    calls = max(1, min(10, int(TURN_SECONDS / max(call_seconds, 1e-6))))
    return (0 if alone or call_seconds >= TURN_SECONDS else 1), calls
