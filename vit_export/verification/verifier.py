"""The verdict: is each exported file still the reference's model, judged by its worst image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.errors import InputError, VitExportError
from vit_export.base.files import same_path, size_of_folder
from vit_export.base.machine import cpu
from vit_export.model.artifact import Artifact, Format
from vit_export.model.record import RECORD_FILE, ModelRecord, read_record
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError, takes_pixels
from vit_export.runtimes.timing.latency import Measurement, Subject, measure, plan_of
from vit_export.runtimes.timing.ranking import warnings_of
from vit_export.verification import metrics
from vit_export.verification.checks import LIMITS, Check, Limits, is_flat
from vit_export.verification.evidence import Location
from vit_export.verification.examine import Questions, examine, run_reference
from vit_export.verification.verdict import FileResult, Reference, Verification

__all__ = ["LIMITS", "Check", "FileResult", "Limits", "Reference", "Verification", "verify"]

Feeds = Callable[[Artifact], np.ndarray]
"""The pictures to verify on as a file takes them, [n, s, s, 3] of its own dtype (float32 where it is quantized)."""

LOW_RESPONSE_DB = 10.0
"""Below this, a warning says how badly the part of the outputs that depends on the image is reproduced."""

LOCATED = 4
"""Images that layers are compared on: those that are worst."""


def verify(
    reference: Path,
    artifacts: Sequence[Artifact],
    images: np.ndarray,
    image_names: Sequence[str],
    *,
    threads: int = 1,
    trained: bool = False,
    measure_latency: bool = True,
    known_outputs: np.ndarray | None = None,
    feeds: Feeds | None = None,
    classes: Sequence[int] | None = None,
    probabilities: bool = False,
    locate: bool = False,
    emulate: str | None = None,
    read: Mapping[str, str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Compare each of `artifacts` with the SavedModel `reference` on `images`, float32 [n, s, s, 3].

    Every file runs in its own runtime and in a process of its own, on the CPU with `threads` threads. A file that
    fails does not raise: its checks say what was wrong. `progress` is told in words what is being done.
    `known_outputs`, float32 [m, k], are what the model itself returned in memory for the first m images, before it
    was saved: they show that the SavedModel is that model. `feeds` gives the same pictures in a file's own numbers;
    without it every file is fed `images`, as the reference always is. `classes`, the labelled class of each image by
    its index, adds accuracies. With `probabilities` files are compared with the softmax of the reference's logits.
    With `locate` the layers of a file that fails are compared one by one. `emulate` names an architecture (`arm64`)
    whose builds of the runtimes run the files, without latencies. `read` names, by path, the output to compare of a
    file of another tool that has several.

    Raises:
        InputError: nothing to verify, images of another shape or type or not finite, or not one name for each; a file
            that takes other numbers than normalized ones and no `feeds`.
    """
    _validate(artifacts, images, image_names, threads, classes)
    feeds = feeds or _normalized(artifacts, images)
    measure_latency = measure_latency and emulate is None
    say = progress or (lambda message: None)
    subjects = [Subject(a.path, a.format, a.bytes) for a in artifacts if not same_path(Path(a.path), reference)]
    basis = Subject(str(reference), "saved_model", size_of_folder(reference))
    # Starting TensorFlow takes seconds: processes that may stay resident together are timed where they are.
    together = plan_of(basis, subjects) == "together"
    with _Processes(threads) as processes:
        say(f"running the reference on {len(images)} images")
        process = processes.of(basis.path, "saved_model")
        truth, expected = run_reference(process, images, image_names, known_outputs)
        if expected is not None and classes is not None:
            truth = replace(truth, accuracy=metrics.accuracy(expected, classes))
        questions = None
        if expected is not None and (output := truth.output) is not None:
            run = process.run if together else None
            known = _record(reference)
            questions = Questions(image_names, images, expected, output, trained, classes, known, run)
        processes.settle(basis.path, process, keep=together and questions is not None)
        files = []
        first: dict[str, np.ndarray] = {}
        for artifact in artifacts:
            say(f"running {Path(artifact.path).name} on {len(images)} images")
            chosen = (read or {}).get(artifact.path)
            process = processes.of(artifact.path, artifact.format, emulate, chosen)
            fed = _fed(artifact, feeds, images)
            first[artifact.path] = fed[0].copy()
            file = examine(artifact, process, questions, fed, probabilities=probabilities)
            keep = together and measure_latency and file.comparison is not None
            processes.settle(artifact.path, process, keep=keep)
            files.append(_located(file, reference, images, fed, chosen, trained, say) if locate and questions else file)
        measured: Measurement | RunnerError | None = None
        if measure_latency and expected is not None:
            ran = {file.artifact.path for file in files if file.comparison is not None}
            timed = [subject for subject in subjects if subject.path in ran]
            measured = _measured(basis, timed, images[0], first, processes, say)
    if isinstance(measured, RunnerError):
        truth = replace(truth, checks=(*truth.checks, Check("latency", False, detail=str(measured).rstrip("."))))
    elif measured is not None:
        truth = replace(truth, latency=measured.reference)
        files = [_with_latency(file, measured, reference) for file in files]
    result = Verification(
        reference=truth,
        files=tuple(files),
        images=tuple(image_names),
        trained=trained,
        threads=threads,
        cpu=cpu(),
        latency_plan=measured.plan if isinstance(measured, Measurement) else None,
        noise=measured.noise if isinstance(measured, Measurement) else None,
    )
    hard_to_believe = warnings_of(measured) if isinstance(measured, Measurement) else ()
    emulated = (
        f"The files were run by the runtimes' {emulate} builds under emulation: memory and times are not a device's."
    )
    return replace(result, warnings=(*_warnings(result, expected), *hard_to_believe, *([emulated] if emulate else [])))


class _Processes:
    """The processes of one verification, by the path of their file; those that are kept are timed where they are."""

    def __init__(self, threads: int) -> None:
        self.threads, self.kept = threads, dict[str, RunnerProcess]()
        self._stack = ExitStack()

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def of(self, path: str, format: Format, emulate: str | None = None, output: str | None = None) -> RunnerProcess:
        """A process, not started yet, for the file at `path`; it ends with the verification at the latest."""
        process = RunnerProcess(Path(path), format, self.threads, emulate=emulate, output=output)
        self._stack.callback(process.close)
        return process

    def settle(self, path: str, process: RunnerProcess, *, keep: bool) -> None:
        """Leave the `process` of `path` running to be timed, or end it; of one file one process is enough."""
        if keep and not any(same_path(Path(path), Path(other)) for other in self.kept):
            self.kept[path] = process
        else:
            process.close()


def _measured(
    basis: Subject,
    subjects: Sequence[Subject],
    image: np.ndarray,
    own_images: Mapping[str, np.ndarray],
    processes: _Processes,
    say: Callable[[str], None],
) -> Measurement | RunnerError:
    try:
        return measure(
            basis,
            subjects,
            image,
            threads=processes.threads,
            own_images=own_images,
            opened=processes.kept,
            step=say,
        )
    except RunnerError as error:
        return error


def _record(reference: Path) -> ModelRecord | None:
    """What the reference says of itself; None for a SavedModel that another tool wrote."""
    return read_record(reference) if (reference / RECORD_FILE).is_file() else None


def _located(
    file: FileResult,
    reference: Path,
    images: np.ndarray,
    fed: np.ndarray,
    output: str | None,
    trained: bool,
    say: Callable[[str], None],
) -> FileResult:
    """`file` with its layers compared on its worst images, where it failed and runs."""
    ran = any(check.name == "finite" for check in file.checks)
    if file.passed or not ran or file.artifact.format == "saved_model":
        return file
    from vit_export.verification.layers import locate

    say(f"comparing {Path(file.artifact.path).name} layer by layer")
    # Where outputs are not finite they are so on every image, or nearly: any will do.
    differences = file.comparison.worst_difference if file.comparison else ()
    worst = np.argsort(differences)[::-1][:LOCATED] if differences else np.arange(min(LOCATED, len(images)))
    try:
        found = locate(reference, file.artifact, images[worst], fed[worst], output=output, trained=trained)
    except VitExportError as error:
        found = Location((), None, 0.0, 0, f"its layers cannot be compared: {str(error).rstrip('.')}")
    return replace(file, location=found)


def _validate(
    artifacts: Sequence[Artifact],
    images: np.ndarray,
    names: Sequence[str],
    threads: int,
    classes: Sequence[int] | None,
) -> None:
    if not artifacts:
        raise InputError("There is no file to verify.")
    if len({a.path for a in artifacts}) < len(artifacts):
        raise InputError("A file is listed twice among those to verify.")
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images) or images.dtype != np.float32:
        raise InputError(f"Verification takes float32 images [n, size, size, 3], given {images.dtype} {images.shape}.")
    if classes is not None and len(classes) != len(images):
        raise InputError(f"There are {len(images)} images to verify on but {len(classes)} classes.")
    if len(names) != len(images):
        raise InputError(f"There are {len(images)} images to verify on but {len(names)} names.")
    if not np.isfinite(images).all():
        raise InputError("The images to verify on contain values that are not finite.")
    if threads < 1:
        raise InputError(f"The number of threads is {threads}, expected 1 or more.")


def _normalized(artifacts: Sequence[Artifact], images: np.ndarray) -> Feeds:
    for artifact in artifacts:
        for entry in artifact.inputs:
            if entry.values not in ("", "normalized"):
                raise InputError(f"{Path(artifact.path).name} takes {entry.values} images: give `feeds` to verify it.")
    return lambda artifact: images


def _fed(artifact: Artifact, feeds: Feeds, images: np.ndarray) -> np.ndarray:
    """What `artifact` is fed: the pictures of `images` as float32, or uint8 where it takes pixels."""
    fed = feeds(artifact)
    dtype = np.dtype(np.uint8 if any(takes_pixels(entry) for entry in artifact.inputs) else np.float32)
    if fed.dtype != dtype or fed.shape != images.shape:
        raise InputError(
            f"{Path(artifact.path).name} is fed {fed.dtype} images {list(fed.shape)}, "
            f"expected {dtype} {list(images.shape)}."
        )
    return fed


def _with_latency(file: FileResult, measured: Measurement, reference: Path) -> FileResult:
    path = Path(file.artifact.path)
    latency = measured.reference if same_path(path, reference) else measured.files.get(file.artifact.path)
    if isinstance(latency, RunnerError):
        return replace(file, checks=(*file.checks, Check("latency", False, detail=str(latency).rstrip("."))))
    return file if file.comparison is None else replace(file, latency=latency)


def _warnings(result: Verification, expected: np.ndarray | None) -> Iterator[str]:
    if not result.trained:
        also = ", and int8 figures say nothing about trained weights"
        int8 = any(file.artifact.precision == "int8" for file in result.files)
        yield (
            "The weights are untrained: agreement of classes means little (it is reported, not judged)"
            f"{also if int8 else ''}."
        )
    if len(result.images) < 2:
        yield "One image only: whether outputs depend on the image and keep their order could not be checked."
    elif expected is not None and is_flat(expected):
        yield "The reference gives nearly the same output for every image: agreement with it proves little."
    for file in result.files:
        low = file.comparison is not None and file.comparison.response_sqnr_db < LOW_RESPONSE_DB
        if file.comparison and low and expected is not None and not is_flat(expected):
            yield (
                f"{file.label}: what changes from image to image is reproduced with an SQNR of only "
                f"{file.comparison.response_sqnr_db:.1f} dB."
            )
        slower = file.latency is not None and file.latency.speedup_high is not None and file.latency.speedup_high < 1
        if slower and file.artifact.format != "saved_model":
            half = file.artifact.precision == "float16"
            why = ": float16 is for GPUs and NPUs, a CPU gains nothing from it" if half else ""
            yield f"{file.label} is slower than the reference on this CPU{why}."
