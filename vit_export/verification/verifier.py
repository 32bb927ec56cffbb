"""The verdict: is each exported file still the reference's model, judged by its worst image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.errors import InputError
from vit_export.files import size_of_folder
from vit_export.records import Artifact, Format
from vit_export.verification import metrics
from vit_export.verification.checks import (
    LIMITS,
    Check,
    Limits,
    class_order,
    described,
    figures,
    finite,
    is_flat,
    limits_of,
    repeatable,
    saved_as_built,
    stored,
    varies,
)
from vit_export.verification.latency import Measurement, Subject, cpu, measure, plan_of
from vit_export.verification.metrics import Accuracy, Comparison
from vit_export.verification.runners import RunnerError, takes_pixels
from vit_export.verification.verdict import FileResult, Reference, Verification
from vit_export.verification.workers import Memory, RunnerProcess

__all__ = ["LIMITS", "Check", "FileResult", "Limits", "Reference", "Verification", "verify"]

Feeds = Callable[[Artifact], np.ndarray]
"""The pictures to verify on as a file takes them, [n, s, s, 3] of its own dtype (float32 where it is quantized)."""

FEATURES = "features"
"""Name of the output of a model without classifier: it has no top class to agree on."""

LOW_RESPONSE_DB = 10.0
"""Below this, a warning says how badly the part of the outputs that depends on the image is reproduced."""

BUSY = 2.0
"""A p90 of so many medians says that latency was measured on a machine that did other work too."""


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
    progress: Callable[[str], None] | None = None,
) -> Verification:
    """Compare each of `artifacts` with the SavedModel `reference` on `images`, float32 [n, s, s, 3].

    Every file runs in its own runtime and in a process of its own, on the CPU with `threads` threads. A file that
    fails does not raise: its checks say what was wrong. `progress` is told in words what is being done.
    `known_outputs`, float32 [m, k], are what the model itself returned in memory for the first m images, before it
    was saved: they show that the SavedModel is that model. `feeds` gives the same pictures in a file's own numbers;
    without it every file is fed `images`, as the reference always is. `classes`, the labelled class of each image by
    its index, adds accuracies.

    Raises:
        InputError: nothing to verify, images of another shape or type or not finite, or not one name for each; a file
            that takes other numbers than normalized ones and no `feeds`.
    """
    _validate(artifacts, images, image_names, threads, classes)
    feeds = feeds or _normalized(artifacts, images)
    say = progress or (lambda message: None)
    subjects = [Subject(a.path, a.format, a.bytes) for a in artifacts if not _same(Path(a.path), reference)]
    basis = Subject(str(reference), "saved_model", size_of_folder(reference))
    # Starting TensorFlow takes seconds: processes that may stay resident together are timed where they are.
    keep = measure_latency and plan_of(basis, subjects) == "together"
    measured: Measurement | RunnerError | None = None
    with ExitStack() as stack:
        opened: dict[str, RunnerProcess] = {}

        def process_of(path: str, format: Format) -> RunnerProcess:
            process = RunnerProcess(Path(path), format, threads)
            stack.callback(process.close)
            return process

        def settle(path: str, process: RunnerProcess, ran: bool) -> None:
            if keep and ran and not (opened and _same(Path(path), reference)):
                opened[path] = process
            else:
                process.close()

        say(f"running the reference on {len(images)} images")
        process = process_of(basis.path, "saved_model")
        truth, expected = _run_reference(process, images, image_names, known_outputs)
        if expected is not None and classes is not None:
            truth = replace(truth, accuracy=metrics.accuracy(expected, classes))
        settle(basis.path, process, expected is not None)
        files = []
        first: dict[str, np.ndarray] = {}
        for artifact in artifacts:
            say(f"running {Path(artifact.path).name} on {len(images)} images")
            process = process_of(artifact.path, artifact.format)
            fed = _fed(artifact, feeds, images)
            first[artifact.path] = fed[0].copy()
            files.append(_run_file(artifact, process, truth, expected, fed, image_names, trained, classes))
            settle(artifact.path, process, files[-1].comparison is not None)
        if measure_latency and expected is not None:
            ran = {file.artifact.path for file in files if file.comparison is not None}
            try:
                measured = measure(
                    basis,
                    [subject for subject in subjects if subject.path in ran],
                    images[0],
                    threads=threads,
                    own_images=first,
                    opened=opened,
                    progress=say,
                )
            except RunnerError as error:
                measured = error
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
    )
    return replace(result, warnings=tuple(_warnings(result, expected)))


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


def _same(path: Path, reference: Path) -> bool:
    return path.resolve() == reference.resolve()


def _run_reference(
    process: RunnerProcess, images: np.ndarray, names: Sequence[str], known: np.ndarray | None
) -> tuple[Reference, np.ndarray | None]:
    """The reference's facts and its outputs, None unless they can be compared with."""
    path, size = str(process.path), size_of_folder(process.path)
    try:
        process.start()
        if len(process.outputs) != 1:
            raise RunnerError(f"{process.path.name} has {len(process.outputs)} outputs, expected one.")
        outputs = process.run(images)
        memory = process.memory()
        again = process.run(images[:1])
    except RunnerError as error:
        return Reference(path, size, (Check("runs", False, detail=str(error).rstrip(".")),)), None
    checks = [Check("runs", True), finite(outputs, names)]
    if outputs.ndim != 2:
        detail = f"outputs have shape {list(outputs.shape)}, expected [images, outputs]"
        checks.append(Check("outputs", False, value=outputs.shape, detail=detail))
    elif checks[1].passed and not np.array_equal(again, outputs[:1]):
        checks.append(Check("deterministic", False, detail=f"{names[0]} gives different outputs when it is run again"))
    elif checks[1].passed and known is not None:
        checks.append(saved_as_built(known, outputs))
    good = all(check.passed for check in checks)
    truth = Reference(
        path=path,
        bytes=size,
        checks=tuple(checks),
        output=process.outputs[0],
        range=metrics.output_range(outputs) if good else None,
        memory=memory,
        load_seconds=process.load_seconds,
    )
    return truth, outputs if good else None


def _run_file(
    artifact: Artifact,
    process: RunnerProcess,
    truth: Reference,
    expected: np.ndarray | None,
    images: np.ndarray,
    names: Sequence[str],
    trained: bool,
    classes: Sequence[int] | None,
) -> FileResult:
    """Everything but latency. The checks go from the file to its figures and stop where no more can be asked."""
    checks = stored(artifact)
    if not checks[0].passed:
        return FileResult(artifact, tuple(checks))
    if expected is None or truth.output is None:
        checks.append(Check("reference", False, detail="not compared, because the reference failed"))
        return FileResult(artifact, tuple(checks))
    limits = limits_of(artifact)
    comparison: Comparison | None = None
    memory: Memory | None = None
    accuracy: Accuracy | None = None
    try:
        process.start()
        checks += described(artifact, process, truth.output)
        if len(process.inputs) == 1 == len(process.outputs):
            outputs = process.run(images)
            memory = process.memory()
            checks.append(finite(outputs, names))
            if outputs.shape != expected.shape:
                detail = f"outputs have shape {list(outputs.shape)}, the reference's {list(expected.shape)}"
                checks.append(Check("output_shape", False, list(expected.shape), list(outputs.shape), detail))
            elif checks[-1].passed:
                comparison = metrics.compare(expected, outputs, classes=truth.output.name != FEATURES)
                accuracy = None if classes is None else metrics.accuracy(outputs, classes)
                checks += [varies(expected, outputs), class_order(expected, outputs)]
                if limits is None:
                    checks.append(Check("limits", False, detail="there are no limits for such a file"))
                else:
                    checks += figures(comparison, limits, names, trained=trained)
                tolerance = comparison.range * limits.worst_difference if limits else 0.0
                checks += repeatable(process, outputs, images, names, tolerance)
            checks.append(Check("runs", True))
    except RunnerError as error:
        checks.append(Check("runs", False, detail=str(error).rstrip(".")))
    return FileResult(
        artifact, tuple(checks), comparison, None, memory, process.load_seconds, process.first_run_seconds, accuracy
    )


def _with_latency(file: FileResult, measured: Measurement, reference: Path) -> FileResult:
    path = Path(file.artifact.path)
    latency = measured.reference if _same(path, reference) else measured.files.get(file.artifact.path)
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
        if file.latency and file.latency.speedup < 1 and file.artifact.format != "saved_model":
            half = file.artifact.precision == "float16"
            why = ": float16 is for GPUs and NPUs, a CPU gains nothing from it" if half else ""
            yield f"{file.label} is slower than the reference on this CPU{why}."
    if result.threads > result.cpu.cores:
        yield f"Latency was measured on {result.threads} threads, but only {result.cpu.cores} cores may be used."
    latencies = [result.reference.latency, *(file.latency for file in result.files)]
    unrest = max((timed.p90_ms / timed.median_ms for timed in latencies if timed), default=1.0)
    if unrest > BUSY:
        yield f"The machine did other work while latency was measured: p90 is up to {unrest:.1f} times the median."
    if result.latency_plan == "blocks":
        yield "The reference is too big to be resident beside another file: latencies were taken in alternating blocks."
