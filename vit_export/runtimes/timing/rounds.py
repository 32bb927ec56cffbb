"""Turns: the processes that run the files compute one after the other, round by round, until the medians are known."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vit_export.model.artifact import Format
from vit_export.runtimes.places import CPU, Place
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError
from vit_export.runtimes.timing.statistics import SETTLED, median_interval

RUNS = 30
"""Recorded calls of each process, where `Limits.seconds` allow; then the interval of the median decides."""
MAX_RUNS = 1000
"""Recorded calls after which an interval that is still wide is accepted: such calls are too short to be worth more."""
MIN_ROUNDS = 8
"""Rounds even where the time is up. Six may have an interval, but of quiet ones too many have none by chance."""
NEXT_LOOK = 1.25
"""From one look at the intervals to the next the rounds grow by this: a look after every round would stop at the first
interval that is narrow by chance."""
WARM_UP_SECONDS = 2.0
"""The end of a warm-up that does not settle; one call is always made."""
STEADY = 0.05
"""A process is warm when two successive turns differ by no more than this."""
TURN_SECONDS = 0.2
"""About how long a process computes before it is the next one's turn."""
MAX_CALLS = 25
"""Recorded calls of one turn, however short they are."""
TOGETHER_BYTES = 2 << 30
"""Up to this sum of file sizes all processes are resident at once; runtimes may hold weights twice (packed)."""
ALTERNATE_BYTES = 1 << 30
"""From this size of the reference on, it and a candidate are never resident at the same time."""
NAMED = 6
"""Files that the text of a step names."""

Plan = Literal["together", "pairs", "blocks"]
End = Literal["interval", "time", "runs"]
Turns = list[list[float]]
"""Seconds of the recorded calls of one process, turn by turn."""

clock = time.monotonic


@dataclass(frozen=True)
class Subject:
    """A file to be timed where it is run, at `place`; `bytes` decides what may be resident together."""

    path: str
    format: Format
    bytes: int
    place: Place = CPU


@dataclass(frozen=True)
class Limits:
    """When the rounds end: at intervals narrower than SETTLED, or before.

    `seconds` each process may take for its first RUNS calls; `patience` are those after which, with RUNS calls
    recorded, no more is done for the interval. `runs` calls of each end them in any case.
    """

    seconds: float
    patience: float
    runs: int


@dataclass
class Recorded:
    """What was recorded of one file; `reference` are the turns of the reference that its own are compared with.

    `paired` says that both have a turn in each round; `ended` what ended the rounds.
    """

    turns: Turns
    reference: Turns
    paired: bool
    ended: End


@dataclass
class Session:
    """The state of one measurement: what was recorded so far, of the reference (`own`) and by path."""

    reference: Subject
    images: Mapping[str, np.ndarray]
    threads: int
    limits: Limits
    opened: Mapping[str, RunnerProcess]
    step: Callable[[str], None]
    own: Turns = field(default_factory=list)
    files: dict[str, Recorded] = field(default_factory=dict)
    batch: dict[str, int] = field(default_factory=dict)
    errors: dict[str, RunnerError] = field(default_factory=dict)
    ends: list[End] = field(default_factory=list)

    def run(self, plan: Plan, candidates: Sequence[Subject]) -> None:
        """Time `candidates` and the reference according to `plan`.

        Raises:
            RunnerError: the reference cannot be timed.
        """
        {"together": self._interleave, "pairs": self._pair, "blocks": self._alternate}[plan](candidates)

    @property
    def ended(self) -> End:
        """What ended the turns of the reference: the least good of its groups."""
        return next(end for end in ("runs", "time", "interval") if end in self.ends)

    @property
    def _name(self) -> str:
        return Path(self.reference.path).name

    def _interleave(self, candidates: Sequence[Subject]) -> None:
        """Time `candidates` and the reference, all resident, turn by turn."""
        names = ", ".join(Path(c.path).name for c in candidates[:NAMED])
        more = f" and {len(candidates) - NAMED} more" if len(candidates) > NAMED else ""
        where = "".join({f" ({c.place.words})": None for c in candidates if c.place is not CPU})
        self.step(f"timing {names}{more}{where} against {self._name}" if names else f"timing {self._name}")
        with ExitStack() as stack:
            processes = {}
            for subject in [self.reference, *candidates]:
                if process := self._attempt(subject, stack):
                    processes[subject.path] = process
            turns, end = self._turns(processes)
        own = turns.pop(self.reference.path)
        self.own += own
        self.files |= {path: Recorded(values, own, True, end) for path, values in turns.items()}

    def _pair(self, candidates: Sequence[Subject]) -> None:
        """Time the reference with one candidate after another, no two candidates resident."""
        with ExitStack() as stack:
            if process := self._attempt(self.reference, stack):
                self.opened = {**self.opened, self.reference.path: process}
            for candidate in candidates:
                self._interleave([candidate])

    def _alternate(self, candidates: Sequence[Subject]) -> None:
        """Time reference, candidate, reference, candidate, ..., reference in blocks, one resident at a time."""
        before, _ = self._block(self.reference)
        for candidate in candidates:
            own, end = self._block(candidate)
            after, _ = self._block(self.reference)
            if own:
                self.files[candidate.path] = Recorded(own, before + after, False, end)
            self.own += before
            before = after
        self.own += before

    def _block(self, subject: Subject) -> tuple[Turns, End]:
        self.step(f"timing {Path(subject.path).name} in a block of its own")
        with ExitStack() as stack:
            if process := self._attempt(subject, stack):
                turns, end = self._turns({subject.path: process})
                return turns.get(subject.path, []), end
        return [], "time"

    def _attempt(self, subject: Subject, stack: ExitStack) -> RunnerProcess | None:
        """The subject's process, lent or started; None, with the error kept, when a candidate's does not start."""
        if subject.path in self.opened:
            process = self.opened[subject.path]
        else:
            process = RunnerProcess(Path(subject.path), subject.format, self.threads, place=subject.place)
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

    def _turns(self, processes: dict[str, RunnerProcess]) -> tuple[dict[str, Turns], End]:
        """Recorded turns by path: warm-up, then rounds of turns, each round starting with another process."""
        calls: dict[str, tuple[int, int]] = {}
        for path, process in processes.items():
            try:
                calls[path] = _turn_calls(_warm_up(process, self.images[path]), alone=len(processes) == 1)
            except RunnerError as error:
                self._fail(path, error)
        turns: dict[str, Turns] = {path: [] for path in calls}
        began, rounds, look = clock(), 0, MIN_ROUNDS
        while turns:
            paths = list(turns)
            first = rounds % len(paths)
            for path in paths[first:] + paths[:first]:
                settle, count = calls[path]
                try:
                    turns[path].append(processes[path].time(settle + count, self.images[path])[settle:])
                except RunnerError as error:
                    self._fail(path, error)
                    del turns[path]
            rounds += 1
            looked = rounds >= look
            if looked:
                look = max(look + 1, math.ceil(look * NEXT_LOOK))
            if end := self._end(turns, rounds, clock() - began, looked=looked):
                break
        else:
            return {}, "time"
        self.ends.append(end)
        return turns, end

    def _end(self, turns: dict[str, Turns], rounds: int, elapsed: float, *, looked: bool) -> End | None:
        """What ends the rounds now; None if nothing does. `elapsed` are the seconds of all processes together."""
        fewest = min((sum(map(len, own)) for own in turns.values()), default=0)
        each = elapsed / max(len(turns), 1)
        enough, full = fewest >= RUNS, fewest >= self.limits.runs
        late = rounds >= MIN_ROUNDS and (each >= self.limits.seconds or (enough and each >= self.limits.patience))
        if (full or late or (enough and looked)) and all(settled(own) for own in turns.values()):
            return "interval"
        return "runs" if full else "time" if late else None


def medians(turns: Turns) -> list[float]:
    """The median of each turn: the observations that `statistics.median_interval` takes."""
    return [float(np.median(turn)) for turn in turns]


def settled(turns: Turns) -> bool:
    """Whether the interval of the median is narrower than SETTLED."""
    values = medians(turns)
    interval = median_interval(values)
    return interval is not None and interval.width(float(np.median(values))) < SETTLED


def plan_of(reference: Subject, candidates: Sequence[Subject]) -> Plan:
    """How the processes share the memory: all at once, the reference with one candidate at a time, or one by one."""
    if reference.bytes >= ALTERNATE_BYTES:
        return "blocks"
    return "together" if reference.bytes + sum(c.bytes for c in candidates) <= TOGETHER_BYTES else "pairs"


def _warm_up(process: RunnerProcess, image: np.ndarray) -> float:
    """The fastest call, in seconds, once two successive turns (the first call counts as one) agree or time is up."""
    end = clock() + WARM_UP_SECONDS
    seconds = process.time(1, image)
    before = fastest = seconds[0]
    while clock() < end:
        seconds = process.time(_turn_calls(fastest, alone=True)[1], image)
        median, fastest = float(np.median(seconds)), min(fastest, *seconds)
        if abs(median - before) <= STEADY * before:
            break
        before = median
    return fastest


def _turn_calls(call_seconds: float, *, alone: bool) -> tuple[int, int]:
    """Unrecorded and recorded calls of one turn.

    The first call of a turn finds caches that another process has filled; where a call is short that would be most of
    what is measured, so it is not recorded. A call longer than a turn does not notice.
    """
    calls = max(1, min(MAX_CALLS, int(TURN_SECONDS / max(call_seconds, 1e-6))))
    return (0 if alone or call_seconds >= TURN_SECONDS else 1), calls
