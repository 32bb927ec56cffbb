"""The rows of benchmarks/real.py: each file made, judged and timed, and what went wrong with it."""

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
from real_avx2 import Avx2
from real_files import File
from real_openvino import OpenVinoProcess
from real_quality import Judge, Quality

from vit_export.base.errors import first_line
from vit_export.base.machine import usable_cores
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError
from vit_export.runtimes.timing.latency import Subject, measure

TIME_LIMIT = 3600.0
"""Seconds that each file may be timed; the rounds end before."""


@dataclass
class Row:
    """What was found of one file; `error` says why there is no more, `steps` how long each step of making it took."""

    file: File
    path: Path | None = None
    seconds: float | None = None
    steps: dict[str, float] = field(default_factory=dict)
    bytes: int | None = None
    quality: Quality | None = None
    median_ms: float | None = None
    interval_ms: tuple[float, float] | None = None
    faster: float | None = None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        told = {name: value for name, value in vars(self).items() if name not in ("file", "path", "quality")}
        quality = asdict(self.quality) if self.quality else None
        about = {"label": self.file.label, "runtime": self.file.runtime, "ours": self.file.ours}
        return {**about, **told, "quality": quality}


class Clock:
    """A Reporter that tells steps on stderr and keeps how long each took, in seconds."""

    def __init__(self) -> None:
        self.steps: dict[str, float] = {}
        self._text, self._began = "", 0.0

    def step(self, text: str) -> None:
        """The step `text` begins; the one before it is done."""
        now = time.monotonic()
        if self._text:
            self.steps[self._text] = round(self.steps.get(self._text, 0.0) + now - self._began, 2)
        self._text, self._began = text, now
        if text:
            click.echo(f"  {text}", err=True)

    def progress(self, done: int, total: int) -> None:
        """Nothing: steps are short enough."""

    def note(self, text: str) -> None:
        """Tell it."""
        click.echo(f"  {text}", err=True)

    def taken(self) -> dict[str, float]:
        """The seconds of the steps since this was last asked."""
        self.step("")
        steps, self.steps = self.steps, {}
        return steps


def make(row: Row, clock: Clock) -> None:
    """Make the file of `row`; what fails is kept as its error, for the others are worth a table without it."""
    click.echo(f"Making {row.file.label}", err=True)
    if row.file.missing:
        row.error = row.file.missing
        return
    try:
        row.file.prepare()
        clock.taken()
        began = time.monotonic()
        row.path = row.file.make()
    except Exception as error:
        row.error = f"not made: {type(error).__name__}: {first_line(error)}"
    else:
        row.seconds = round(time.monotonic() - began, 1)
        row.bytes = sum(path.stat().st_size for path in (row.path, row.path.with_suffix(".bin")) if path.is_file())
    row.steps = clock.taken()


def process_of(row: Row, threads: int, avx2: Avx2 | None = None) -> RunnerProcess:
    """A process, not started yet, that runs the file of `row`; in the environment `avx2` if there is one."""
    if row.path is None:
        raise RunnerError(f"There is no file for {row.file.label}.")
    if row.file.runtime == "openvino":
        process: RunnerProcess = OpenVinoProcess(row.path, threads)
    else:
        process = RunnerProcess(row.path, row.file.runtime, threads)
    return avx2.process(process) if avx2 else process


def judge(row: Row, judge: Judge, avx2: Avx2 | None = None) -> None:
    """Set the quality of `row`, or its error."""
    click.echo(f"Judging {row.file.label}", err=True)
    try:
        with process_of(row, usable_cores(), avx2) as process:
            began = time.monotonic()
            row.quality = judge.judge(process)
            if avx2:
                avx2.check(process, began)
    except RunnerError as error:
        row.error = f"not run: {first_line(error)}"


def take_times(rows: list[Row], image: np.ndarray, rounds: int, avx2: Avx2 | None = None) -> None:
    """Time the files of `rows` in turns, one thread each, on `image`, float32 [s, s, 3]; set times or errors."""
    by_path: dict[str, Row] = {}
    with ExitStack() as stack:
        opened, subjects = {}, []
        for row in rows:
            path = f"{row.path}#{row.file.runtime}"  # two runtimes may run one file
            try:
                opened[path] = stack.enter_context(process_of(row, 1, avx2))
            except RunnerError as error:
                row.error = f"not timed: {first_line(error)}"
                continue
            by_path[path] = row
            subjects.append(Subject(path, opened[path].format, row.bytes or 0))
        if not subjects:
            return
        click.echo(f"Timing {len(subjects)} files in turns", err=True)
        limits = {"runs": rounds, "time_limit": TIME_LIMIT, "patience": None}
        began = time.monotonic()
        found = measure(subjects[0], subjects[1:], image, opened=opened, **limits)
        if avx2:
            for process in opened.values():
                if process.pid is not None:  # it has not crashed
                    avx2.check(process, began)
    turns = {by_path[path].file.label: np.array(own) for path, own in found.turns.items()}
    for path, latency in {found.path: found.reference, **found.files}.items():
        row = by_path[path]
        if isinstance(latency, RunnerError):
            row.error = f"not timed: {first_line(latency)}"
            continue
        row.median_ms = latency.median_ms
        row.interval_ms = tuple(latency.interval) if latency.interval else None
        if row.file.label in turns and row.file.basis in turns:
            row.faster = float(np.median(turns[row.file.basis] / turns[row.file.label]))
