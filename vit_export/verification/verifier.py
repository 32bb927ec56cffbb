"""The verdict: is each exported file still the reference's model, judged by its worst image."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from vit_export.artifacts.identify import format_of
from vit_export.artifacts.read import REQUANTIZED, record_of
from vit_export.base.errors import InputError, VitExportError
from vit_export.base.files import same_path, size_of
from vit_export.base.machine import cpu
from vit_export.base.quiet import import_tensorflow
from vit_export.base.reporting import Reporter, Silent
from vit_export.deployment.half_range import meets_half
from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact, Format, TensorSpec
from vit_export.model.outputs import transformers_names
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import RECORD_FILE, ModelRecord, read_record
from vit_export.model.saved_model import SavedModelParameters
from vit_export.runtimes.places import ARM64, CPU
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, RunnerError, takes_pixels
from vit_export.runtimes.timing.latency import Measurement, Subject, measure, plan_of
from vit_export.runtimes.timing.ranking import warnings_of
from vit_export.verification import metrics
from vit_export.verification.checks import LIMITS, Check, Limits, is_flat, label
from vit_export.verification.evidence import Location
from vit_export.verification.examine import examine, run_reference, unasked
from vit_export.verification.options import VerifyOptions
from vit_export.verification.processes import Processes
from vit_export.verification.ranges import explained
from vit_export.verification.trial import Trial
from vit_export.verification.verdict import FileResult, Reference, Verification

__all__ = ["LIMITS", "Check", "FileResult", "Limits", "Reference", "Verification", "VerifyOptions", "verify"]

LOW_RESPONSE_DB = 10.0
"""Below this, a warning says how badly the part of the outputs that depends on the image is reproduced."""

_BEYOND = "a GPU computes in 16 bits (docs/gpu.md)"

LOCATED = 4
"""Images that layers are compared on: those that are worst."""


def verify(
    reference: str | Path,
    artifacts: Sequence[Artifact],
    pictures: Pictures,
    options: VerifyOptions | None = None,
    reporter: Reporter | None = None,
) -> Verification:
    """Compare each of `artifacts` with the SavedModel `reference` on `pictures`, as `options` say.

    The reference's graph is run if it is arithmetic alone, and believed: `pipeline.verify_files` builds it anew first.
    A float32 .tflite or .onnx file of this package may stand for it, which needs no TensorFlow. It is fed the pictures
    normalized, every file what its recorded input kind says; each runs in its own runtime and in a process of its own.
    A file that fails does not raise: its checks say what was wrong. Where `pictures` know their classes, accuracies are
    added. `reporter` is told the steps.

    Raises:
        InputError: nothing to verify, no pictures, or such as are not finite float32 [n, s, s, 3] when they are
            normalized, or have not one name and class for each.
        ProcessKilled: a child process was killed or starved (exit code 2): nothing is known of its file.
    """
    reference, options, reporter = Path(reference), options or VerifyOptions(), reporter or Silent()

    def step(text: str) -> None:
        reporter.step(f"Verifying: {text}")

    images = _normalized(pictures)
    _validate(artifacts, pictures, images)
    record, kind = _record(reference), _kind(reference)
    if record is not None and not record.classifies:  # no top class could be the one that a folder names
        pictures = replace(pictures, classes=None)
    subjects = [Subject(a.path, a.format, a.bytes) for a in artifacts if not same_path(Path(a.path), reference)]
    basis = Subject(str(reference), kind, size_of(reference))
    # Starting TensorFlow takes seconds: processes that may stay resident together are timed where they are.
    together = plan_of(basis, subjects) == "together"
    with Processes(options) as processes:
        step(f"running the reference on {len(images)} images")
        process = processes.of(basis.path, kind)
        truth, expected = run_reference(process, pictures, images, options.known_outputs, record)
        processes.settle(basis.path, process, keep=together and expected is not None)
        others = any(artifact.format != "saved_model" for artifact in artifacts)
        parameters = _parameters(reference, kind) if record is not None and expected is not None and others else None
        answers = _answers(truth, expected, options)
        same = together and not options.probabilities
        every = _Every(
            reference, processes, pictures, images, record, parameters, process if same else None, together, step
        )
        if CPU in options.places:
            every.timed[CPU.words] = []  # the reference is timed, whatever becomes of the files
        files = [row for artifact in artifacts for row in every.rows(artifact, truth, answers)]
        measured: dict[str, Measurement] = {}
        if options.latency and expected is not None:
            try:
                for where, timed in every.timed.items():
                    measured[where] = _measured(basis, timed, images[0], every.first, processes, where, step)
            except ProcessKilled:
                raise
            except RunnerError as error:
                truth = replace(truth, checks=(*truth.checks, Check("latency", False, detail=str(error).rstrip("."))))
    first = next(iter(measured.values()), None)
    if first is not None:
        truth = replace(truth, latency=first.reference)
        files = [_with_latency(file, measured.get(file.place), reference) for file in files]
    result = Verification(
        reference=truth,
        files=tuple(files),
        images=tuple(pictures.names),
        trained=options.trained,
        threads=options.threads,
        cpu=cpu(),
        latency_plan=first.plan if first is not None else None,
        noise=first.noise if first is not None else None,
        assumed=tuple(record.assumed.values()) if record else (),
    )
    basic = next(iter(expected.values())) if expected else None
    noisy = dict.fromkeys(text for found in measured.values() for text in warnings_of(found))
    warnings = [*_warnings(result, basic), *noisy]
    if ARM64 in options.places:
        warnings.append(
            "The files were run by the runtimes' arm64 builds under emulation: memory and times are not a device's."
        )
    warnings += [f"{', '.join(kinds)}: {found}; {_BEYOND}." for found, kinds in every.leaving.items()]
    return replace(result, warnings=tuple(warnings))


_Answers = list[tuple[TensorSpec, np.ndarray]]


def _answers(truth: Reference, expected: Mapping[str, np.ndarray] | None, options: VerifyOptions) -> _Answers | None:
    """What is expected of files, output by output; None where nothing can be."""
    if expected is None or truth.output is None:
        return None
    found = [(spec, expected[spec.name]) for spec in (truth.output, *truth.more_outputs)]
    return [(found[0][0], metrics.softmax(found[0][1])), *found[1:]] if options.probabilities else found


def _asked(answers: _Answers, read: str | None, record: ModelRecord | None) -> _Answers:
    """Those of `answers` that a file is asked for, of which one output alone is to be `read` where one is named."""
    if read is None:
        return answers
    names = {} if record is None else transformers_names(record.spec)
    return [a for a in answers if read in (a[0].name, names.get(a[0].name))] or answers[:1]


@dataclass
class _Every:
    """What all files of one verification have in common, and what was learnt of them on the way.

    `basis` is the reference's process where it may be asked again. `first` is, by path, the first image as the file
    takes it; `timed` are the files to be timed, by the place in words; `leaving` are the kinds of files that leave
    16-bit floats, by the place where they do.
    """

    reference: Path
    processes: Processes
    pictures: Pictures
    images: np.ndarray
    record: ModelRecord | None
    parameters: ParameterSource | None
    basis: RunnerProcess | None
    together: bool
    step: Callable[[str], None]
    first: dict[str, np.ndarray] = field(default_factory=dict)
    timed: dict[str, list[Subject]] = field(default_factory=dict)
    leaving: dict[str, list[str]] = field(default_factory=dict)

    def rows(self, artifact: Artifact, truth: Reference, answers: _Answers | None) -> Iterator[FileResult]:
        """What `artifact` is found to be at each of the places where it is run."""
        if answers is None:
            yield unasked(artifact)
            return
        options, beyond = self.processes.options, None
        (output, wanted), *further = _asked(answers, options.read.get(artifact.path), self.record)
        fed = _fed(artifact, self.pictures, self.images)
        self.first[artifact.path] = fed[0].copy()
        for place in options.places_of(artifact.format):
            where = "" if place is CPU else f" ({place.words})"
            self.step(f"running {Path(artifact.path).name} on {len(self.images)} images{where}")
            trial = Trial(
                artifact=artifact,
                process=self.processes.of_file(artifact, place),
                pictures=self.pictures,
                images=self.images,
                fed=fed,
                expected=wanted,
                output=output,
                others=tuple(further),
                options=options,
                record=self.record,
                parameters=self.parameters,
                reference=self.basis.run if self.basis is not None and output == truth.output else None,
            )
            file = examine(trial)
            if place is not ARM64 and meets_half(artifact.format, artifact.precision):
                beyond = beyond or self.processes.beyond_half(trial)
            timed = options.latency and trial.process.timed and file.comparison is not None
            if timed and not same_path(Path(artifact.path), self.reference):
                subject = Subject(artifact.path, artifact.format, artifact.bytes, place)
                self.timed.setdefault(trial.process.where, []).append(subject)
            keep = self.together and timed and trial.process.pid is not None
            self.processes.settle(artifact.path, trial.process, keep=keep)
            yield _located(explained(file, place, beyond), trial, self.reference, self.step)
        if beyond is not None:
            self.leaving.setdefault(str(beyond), []).append(label(artifact))


def _measured(
    basis: Subject,
    subjects: Sequence[Subject],
    image: np.ndarray,
    own_images: Mapping[str, np.ndarray],
    processes: Processes,
    where: str,
    step: Callable[[str], None],
) -> Measurement:
    """The times of `subjects` at the place `where`, and of the reference on the CPU.

    Raises:
        RunnerError: the reference cannot be timed.
    """
    own = {path: process for path, process in processes.kept[CPU.words].items() if path == basis.path}
    return measure(
        basis,
        subjects,
        image,
        threads=processes.options.threads,
        own_images=own_images,
        opened={**processes.kept[where], **own},
        step=step,
    )


def _kind(reference: Path) -> Format:
    return format_of(reference) if reference.is_file() else "saved_model"


def _record(reference: Path) -> ModelRecord | None:
    """What the reference says of itself; None for a SavedModel that another tool wrote."""
    if reference.is_file():
        return record_of(reference)
    return read_record(reference) if (reference / RECORD_FILE).is_file() else None


def _parameters(reference: Path, kind: Format) -> ParameterSource | None:
    """The reference's parameters; None where they cannot be read: the variables of its graph are another matter."""
    if kind != "saved_model":
        return None
    import_tensorflow()
    try:
        return SavedModelParameters(reference)
    except InputError:
        return None


def _located(file: FileResult, trial: Trial, reference: Path, step: Callable[[str], None]) -> FileResult:
    """`file` with its layers compared on its worst images, where that is asked for, and it failed and runs.

    Layers are followed on the CPU: one that is as it should be there says nothing of another place.
    """
    artifact, images, options = trial.artifact, trial.images, trial.options
    ran = any(check.name == "finite" for check in file.checks)
    if (
        not options.locate
        or file.passed
        or not ran
        or artifact.format == "saved_model"
        or trial.process.place is not CPU
    ):
        return file
    from vit_export.verification.layers import locate

    step(f"comparing {Path(artifact.path).name} layer by layer")
    # Where outputs are not finite they are so on every image, or nearly: any will do.
    differences = file.comparison.worst_difference if file.comparison else ()
    worst = np.argsort(differences)[::-1][:LOCATED] if differences else np.arange(min(LOCATED, len(images)))
    output = options.read.get(artifact.path)
    try:
        found = locate(reference, artifact, images[worst], trial.fed[worst], output=output, trained=options.trained)
    except VitExportError as error:
        found = Location((), None, 0.0, 0, f"its layers cannot be compared: {str(error).rstrip('.')}")
    return replace(file, location=found)


def _normalized(pictures: Pictures) -> np.ndarray:
    """The pictures as the reference takes them, float32 [n, s, s, 3]."""
    if not isinstance(getattr(pictures, "names", None), Sequence):
        raise InputError(
            f"The images to verify on are of type {type(pictures).__name__}, expected Pictures: the first of what "
            "find_images(folder, preprocessing) returns."
        )
    if not pictures.names:
        raise InputError("Verification takes float32 images [n, height, width, 3], given none: choose other pictures.")
    return pictures.normalized()


def _validate(artifacts: Sequence[Artifact], pictures: Pictures, images: np.ndarray) -> None:
    if not artifacts:
        raise InputError("There is no file to verify.")
    if len({a.path for a in artifacts}) < len(artifacts):
        raise InputError("A file is listed twice among those to verify.")
    if images.ndim != 4 or images.shape[-1] != 3 or not len(images) or images.dtype != np.float32:
        raise InputError(
            f"Verification takes float32 images [n, height, width, 3], given {images.dtype} {images.shape}."
        )
    if pictures.classes is not None and len(pictures.classes) != len(images):
        raise InputError(f"There are {len(images)} images to verify on but {len(pictures.classes)} classes.")
    if len(pictures.names) != len(images):
        raise InputError(f"There are {len(images)} images to verify on but {len(pictures.names)} names.")
    if not np.isfinite(images).all():
        raise InputError("The images to verify on contain values that are not finite.")


def _fed(artifact: Artifact, pictures: Pictures, images: np.ndarray) -> np.ndarray:
    """What `artifact` is fed: the pictures of `images` as float32, or uint8 where it takes pixels."""
    fed = pictures.fed(artifact.inputs[0].values if artifact.inputs else "")
    dtype = np.dtype(np.uint8 if any(takes_pixels(entry) for entry in artifact.inputs) else np.float32)
    if fed.dtype != dtype or fed.shape != images.shape:
        raise InputError(
            f"{Path(artifact.path).name} is fed {fed.dtype} images {list(fed.shape)}, "
            f"expected {dtype} {list(images.shape)}."
        )
    return fed


def _with_latency(file: FileResult, measured: Measurement | None, reference: Path) -> FileResult:
    """`file` with its latency as it was `measured` where it ran, if it was."""
    if measured is None:
        return file
    path = Path(file.artifact.path)
    own = file.place == CPU.words and same_path(path, reference)
    latency = measured.reference if own else measured.files.get(file.artifact.path)
    if isinstance(latency, ProcessKilled):
        raise latency
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
    if Path(result.reference.path).is_file():
        yield (
            f"The reference is a file itself, {Path(result.reference.path).name}: a fault that the files share with it "
            "is not found. The SavedModel or the weights would show it."
        )
    if len(result.images) < 2:
        yield "One image only: whether outputs depend on the image and keep their order could not be checked."
    elif expected is not None and is_flat(expected):
        yield "The reference gives nearly the same output for every image: agreement with it proves little."
    for file in result.files:
        yield from (f"{file.label}: {note}" for note in file.artifact.notes if note.startswith(REQUANTIZED))
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
