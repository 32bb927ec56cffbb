"""What `vit-export bench` measures: any files, each in its own runtime and in a process of its own, taking turns."""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.artifacts.identify import files_of, format_of
from vit_export.artifacts.read import artifact_of, read_facts, require_feasible
from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors, shortened, size_of
from vit_export.base.machine import machine
from vit_export.model.artifact import Format, Precision, TensorSpec
from vit_export.model.names import MAX_THREADS, TIME_LIMIT
from vit_export.model.record import read_record
from vit_export.model.spec import ImageSize, checked_size, sides_of
from vit_export.runtimes.process import Memory, RunnerProcess
from vit_export.runtimes.runner import RunnerError, takes_pixels
from vit_export.runtimes.timing.latency import Latency, Measurement, Plan, Subject, measure, plan_of
from vit_export.runtimes.timing.noise import Noise
from vit_export.runtimes.timing.ranking import Rank, ranks, warnings_of

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter

SCHEMA_VERSION = 1
MAX_TIME_LIMIT = 3600.0
MAX_SEED = 2**32 - 1
MAX_RUNS = 100_000
"""Calls of each file: so many that the time ends before."""
OPEN_SIDE = 224
"""Pixels along a side that a file leaves open."""


@dataclass(frozen=True)
class BenchedFile:
    """One row: what a file is and what running it takes; `error` says why the rest is None.

    `input` is the image it takes, `image` [height, width] what it was fed. `first_run_seconds` and `latency` are of one
    call; `memory` of the process after the first. `rank` is by time per image.
    """

    path: str
    name: str
    format: Format | None = None
    precision: Precision | None = None
    scheme: str | None = None
    bytes: int | None = None
    input: TensorSpec | None = None
    image: tuple[int, int] | None = None
    load_seconds: float | None = None
    first_run_seconds: float | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    rank: Rank | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "latency": self.latency and self.latency.to_dict()}


@dataclass(frozen=True)
class Benchmark:
    """All rows in the order of the files; `baseline` is the path of the one that `times` are of."""

    files: tuple[BenchedFile, ...]
    baseline: str | None
    plan: Plan | None
    noise: Noise | None
    warnings: tuple[str, ...]
    threads: int
    time_limit: float
    seed: int
    machine: Mapping[str, Any] = field(default_factory=machine)

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence for each file that could not be run."""
        return tuple(row.error for row in self.files if row.error)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "schema_version": SCHEMA_VERSION,
            "machine": dict(self.machine),
            "settings": {"threads": self.threads, "time_limit": self.time_limit, "seed": self.seed},
            "baseline": self.baseline,
            "plan": self.plan,
            "noise": self.noise and self.noise.to_dict(),
            "warnings": list(self.warnings),
            "failures": list(self.failures),
            "files": [row.to_dict() for row in self.files],
        }


def bench(
    paths: Sequence[str | Path],
    *,
    baseline: str | Path | None = None,
    threads: int = 1,
    time_limit: float = TIME_LIMIT,
    seed: int = 0,
    image_size: ImageSize | None = None,
    reporter: "Reporter | None" = None,
) -> Benchmark:
    """Measure the .tflite and .onnx files and SavedModels that `paths` name, whoever wrote them, in one run.

    A folder that is no SavedModel stands for all of them directly in it. Each file is fed random pixels in the size,
    layout and type of its own input; `image_size`, a side, or height and width, stands in where a file leaves that
    open. The others are compared with `baseline`: by default a SavedModel where there is one, else the first file.
    `time_limit` are seconds for the turns of each file. A file that cannot be run has an `error`; a baseline that
    cannot is replaced, with a warning.

    Raises:
        InputError: nothing to measure, a path that is no such file, or a value out of range.
    """
    from vit_export.base.reporting import Silent

    whole_number("threads", threads, 1, MAX_THREADS)
    whole_number("seed", seed, 0, MAX_SEED)
    if not (math.isfinite(time_limit) and 0 < time_limit <= MAX_TIME_LIMIT):
        raise InputError(f"time_limit is {time_limit:g}, expected seconds, more than 0 and up to {MAX_TIME_LIMIT:g}.")
    if image_size is not None:
        image_size = checked_size(image_size)
    if baseline is not None:
        format_of(baseline)  # a folder of files is no baseline
    for path in paths:
        # What is named is refused here, what lies in a folder becomes a row with its error.
        if not os.path.isdir(path) and format_of(path) != "saved_model":
            require_feasible(read_facts(path))
    named = [*([] if baseline is None else [baseline]), *paths]
    found = files_of(named, "measure", saved_models=True, once=True)
    wanted = None if baseline is None else found[0]
    say = reporter or Silent()
    own = {str(Path(path)) for path in named}
    run = _Run([_described(path, found) for path in found], own, threads, seed, image_size, say)
    with ExitStack() as stack:
        run.start(stack)
        measured = run.measure(wanted, time_limit)
    warnings = [] if measured is None else [*_differences(run.rows), *warnings_of(measured)]
    if measured and wanted and measured.path != str(wanted):
        name = run.row(measured.path).name
        warnings.insert(0, f"{shortened(wanted)} cannot be run, so {name} is the baseline instead.")
    return Benchmark(
        files=tuple(run.rows if measured is None else _with_latencies(run.rows, measured)),
        baseline=None if measured is None else measured.path,
        plan=None if measured is None else measured.plan,
        noise=None if measured is None else measured.noise,
        warnings=tuple(warnings),
        threads=threads,
        time_limit=time_limit,
        seed=seed,
    )


class _Run:
    """The rows, filled while their files are started, run once and timed."""

    def __init__(
        self,
        rows: list[BenchedFile],
        named: Collection[str],
        threads: int,
        seed: int,
        image_size: ImageSize | None,
        say: "Reporter",
    ) -> None:
        self.rows, self.named, self.threads, self.seed, self.image_size = rows, named, threads, seed, image_size
        self.say = say
        self.images: dict[str, np.ndarray] = {}
        self.opened: dict[str, RunnerProcess] = {}

    def row(self, path: str) -> BenchedFile:
        return next(row for row in self.rows if row.path == path)

    def start(self, stack: ExitStack) -> None:
        """Load each file and run it once; what may be resident together stays so, until `stack` is closed."""
        subjects = self._subjects()
        keep = bool(subjects) and plan_of(subjects[0], subjects[1:]) == "together"
        for index, row in enumerate(self.rows):
            if row.error is not None or row.format is None:
                continue
            self.say.step(f"Loading {row.name} and running it once ({index + 1} of {len(self.rows)})")
            process = RunnerProcess(Path(row.path), row.format, self.threads)
            stack.callback(process.close)
            try:
                process.start()
                image = _image(process, self.seed, self.image_size)
                self._run_once(process, image)
                self.rows[index] = replace(
                    row,
                    input=process.inputs[0],
                    image=image.shape[:2],
                    load_seconds=process.load_seconds,
                    first_run_seconds=process.first_run_seconds,
                    memory=process.memory(),
                )
                self.images[row.path] = image
            except (RunnerError, InputError) as error:
                # A SavedModel that does more than compute: named, it is refused as any file is that is none.
                if isinstance(error, InputError) and row.path in self.named:
                    raise
                self._fail(row.path, error)
                process.close()
            else:
                if keep:
                    self.opened[row.path] = process
                else:
                    process.close()

    def _run_once(self, process: RunnerProcess, image: np.ndarray) -> None:
        try:
            process.run(image[np.newaxis])
        except RunnerError as error:
            if self.image_size is not None or not _is_open(process):
                raise
            raise RunnerError(
                f"{process.path.name} leaves the size of its images open and takes none of {OPEN_SIDE} x {OPEN_SIDE} "
                f"pixels: give --image-size ({error})"
            ) from error

    def measure(self, wanted: Path | None, time_limit: float) -> Measurement | None:
        """Time what runs; None where nothing does. A baseline that dies is left out and another one taken."""
        while subjects := self._subjects():
            saved_models = [s for s in subjects if s.format == "saved_model"]
            base = next((s for s in subjects if wanted and s.path == str(wanted)), (saved_models or subjects)[0])
            try:
                measured = measure(
                    base,
                    [subject for subject in subjects if subject is not base],
                    self.images[base.path],
                    threads=self.threads,
                    runs=MAX_RUNS,
                    time_limit=time_limit,
                    patience=None,
                    own_images=self.images,
                    opened=self.opened,
                    step=lambda text: self.say.step(text[:1].upper() + text[1:]),
                )
            except RunnerError as error:
                self._fail(base.path, error)
                continue
            for path, timed in measured.files.items():
                if isinstance(timed, RunnerError):
                    self._fail(path, timed)
            return measured
        return None

    def _subjects(self) -> list[Subject]:
        return [
            Subject(row.path, row.format, row.bytes or 0)
            for row in self.rows
            if row.error is None and row.format is not None
        ]

    def _fail(self, path: str, error: RunnerError | InputError) -> None:
        self.rows = [replace(row, error=str(error)) if row.path == path else row for row in self.rows]


def _described(path: Path, among: Sequence[Path]) -> BenchedFile:
    """The row of a file with what it says of itself."""
    alike = sum(other.name == path.name for other in among) > 1
    row = BenchedFile(str(path), str(path) if alike else path.name or str(path))
    try:
        if format_of(path) == "saved_model":
            with input_errors(path):
                return replace(row, format="saved_model", precision=_precision(path), bytes=size_of(path))
        artifact = artifact_of(path)
    except InputError as error:
        return replace(row, error=str(error))
    return replace(
        row, format=artifact.format, precision=artifact.precision, scheme=artifact.scheme, bytes=artifact.bytes
    )


def _precision(saved_model: Path) -> Precision | None:
    """Ours are float32; another tool's does not say."""
    try:
        read_record(saved_model)
    except InputError:
        return None
    return "float32"


def _is_open(process: RunnerProcess) -> bool:
    """Whether the file says that it takes images of any size."""
    return any(None in spec.shape[1:] for spec in process.inputs)


def _image(process: RunnerProcess, seed: int, image_size: ImageSize | None = None) -> np.ndarray:
    """Random pixels [height, width, 3] as the file takes them: uint8, or float32 from -1 to 1."""
    spec = process.inputs[0]
    if len(process.inputs) != 1 or spec.layout not in ("NHWC", "NCHW"):
        shown = ", ".join(f"{entry.name} {list(entry.shape)}".replace("None", "?") for entry in process.inputs)
        raise RunnerError(f"{process.path.name} takes {shown}, expected one batch of RGB images.")
    sides = spec.shape[1:3] if spec.layout == "NHWC" else spec.shape[2:4]
    size = (*(own or open_ for own, open_ in zip(sides, sides_of(image_size or OPEN_SIDE), strict=True)), 3)
    random = np.random.default_rng(seed)
    if takes_pixels(spec):
        return random.integers(0, 256, size, np.uint8)
    return random.uniform(-1, 1, size).astype(np.float32)


def _with_latencies(rows: Sequence[BenchedFile], measured: Measurement) -> list[BenchedFile]:
    places = ranks(measured)
    latencies = {measured.path: measured.reference, **measured.files}
    found = []
    for row in rows:
        latency = latencies.get(row.path)
        found.append(replace(row, latency=latency, rank=places[row.path]) if isinstance(latency, Latency) else row)
    return found


def _differences(rows: Sequence[BenchedFile]) -> list[str]:
    """What makes the rows less comparable than they look."""
    sizes = sorted({row.image for row in rows if row.image})
    if len(sizes) < 2:
        return []
    shown = ", ".join(f"{height}×{width}" for height, width in sizes)
    return [f"The files take images of different sizes ({shown} pixels): each is timed on one of its own size."]
