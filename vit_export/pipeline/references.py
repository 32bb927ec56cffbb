"""What `vit-export verify` is pointed at, made into what can be compared: files into Artifacts, a reference built."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.identify import SUFFIXES
from vit_export.artifacts.read import artifact_of, read_facts, record_of
from vit_export.base.errors import InputError
from vit_export.base.files import scratch_errors, shortened
from vit_export.base.packages import require_tensorflow
from vit_export.base.wording import worded
from vit_export.model.artifact import Artifact, InputKind, Precision, TensorSpec
from vit_export.model.names import SAVED_MODEL_NAME
from vit_export.model.record import ModelRecord, assumptions_told, read_record
from vit_export.model.saved_model import write_saved_model
from vit_export.model.spec import shown_size
from vit_export.report.earlier import recorded
from vit_export.runtimes.runner import takes_pixels

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter
    from vit_export.model.spec import ViTSpec
    from vit_export.weights.checkpoint import Checkpoint


def artifact_at(
    path: Path, *, precision: Precision | None = None, scheme: str | None = None, input: InputKind | None = None
) -> Artifact:
    """The Artifact of the model file `path`: as its export recorded it beside it, else as the file says itself.

    `precision`, `scheme` and `input` are what the user says of it.

    Raises:
        InputError: the file is no model of a known format.
    """
    artifact = recorded(path) or artifact_of(path)
    if precision is not None:
        artifact = replace(artifact, precision=precision)
    if scheme is not None:
        artifact = replace(artifact, scheme=scheme)
    if input is None and any(takes_pixels(entry) for entry in artifact.inputs):
        input = "uint8"  # nothing else fits: a file of another tool may say no more than this
    if input is not None:
        inputs = tuple(replace(entry, values=input) for entry in artifact.inputs)
        artifact = replace(artifact, inputs=inputs)
    return artifact


def output_read(artifact: Artifact, wanted: str | None, sizes: Iterable[int | None]) -> str | None:
    """The output to compare of a file that has several; None where it has one, or where that cannot be told.

    It is the one called `wanted`, else, in a file of another tool, the only one as wide as one of `sizes`. A file of
    ours has one output, and another one beside it is a fault.

    Raises:
        InputError: there is none called `wanted`.
    """
    names = [entry.name for entry in artifact.outputs]
    if wanted is not None:
        if wanted not in names:
            raise InputError(
                f"{Path(artifact.path).name} has no output '{wanted}', it has {', '.join(names)}: choose one of them."
            )
        return wanted
    if len(names) < 2 or read_facts(artifact.path).record is not None:
        return None
    known = {size for size in sizes if size}
    fitting = [entry.name for entry in artifact.outputs if len(entry.shape) <= 2 and entry.shape[-1] in known]
    return fitting[0] if len(fitting) == 1 else None


def reference_at(
    location: str | Path | None, artifacts: Sequence[Artifact], stage: Path, say: "Reporter"
) -> tuple[Path, str, dict[str, Any]]:
    """The SavedModel that `artifacts` are compared with, what to call it, and what the report says of its origin.

    A float32 .tflite or .onnx file of this package stands for one as it is, without TensorFlow. Any other is built
    here, in the folder `stage`. Of a SavedModel that is given the variables and the record are read and its graph is
    left alone, which is a program that anybody may have written; any other checkpoint is built as the model that the
    files are of. None stands for the `saved_model/` beside the files.

    Raises:
        InputError: there is none, it cannot be read, or is of no model that the files could be of.
        OutputError: the temporary folder has too little space.
    """
    from vit_export.weights.open import open_checkpoint
    from vit_export.weights.remote.fetch import shown

    if location is None:
        location = _beside(artifacts)
    if Path(location).is_file() and Path(location).suffix.lower() in SUFFIXES:
        return _file(Path(location)), str(location), {}
    try:
        require_tensorflow()
    except InputError as error:
        raise InputError(
            f"{error} Without it the --reference can be the float32 .tflite or .onnx file of the same export."
        ) from error
    say.step("Opening the reference")
    if _is_saved_model(location):
        read_record(location)
        return build_reference(open_checkpoint(location), stage, say), str(location), {}
    checkpoint = _opened(location, say)
    checkpoint = checkpoint.adapted(_wanted(checkpoint, artifacts))
    for text in (*checkpoint.notes, *assumptions_told(checkpoint.stated)):
        say.note(worded(text))
    name = shown(str(location))
    return build_reference(checkpoint, stage, say), name, {"built_from": name}


def record_of_reference(location: str | Path, say: "Reporter") -> ModelRecord:
    """What the SavedModel or checkpoint at `location` says of its model; its weights are not read.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if _is_saved_model(location):
        return read_record(location)
    say.step("Opening the reference")
    return _opened(location, say).stated


def _is_saved_model(location: str | Path) -> bool:
    return os.path.isdir(location) and (Path(location) / "saved_model.pb").is_file()


def _opened(location: str | Path, say: "Reporter") -> "Checkpoint":
    from vit_export.weights.open import open_checkpoint

    try:
        return open_checkpoint(location, progress=say.progress, note=say.note)
    except InputError as error:
        if "give --" not in error.written:
            raise
        raise InputError(
            f"{error} (These are options of an export: make a SavedModel of it with `vit-export PATH --saved-model`, "
            "and give that to --reference.)"
        ) from error


def _beside(artifacts: Sequence[Artifact]) -> Path:
    folders = {Path(artifact.path).parent for artifact in artifacts}
    found = [folder / SAVED_MODEL_NAME for folder in sorted(folders)]
    if len(found) != 1 or not (found[0] / "saved_model.pb").is_file():
        missing = "the files lie in several folders" if len(found) > 1 else f"there is no {found[0]}"
        raise InputError(
            f"Nothing says what the files are to be compared with ({missing}): give --reference, a SavedModel or a "
            "checkpoint."
        )
    return found[0]


def _wanted(checkpoint: "Checkpoint", artifacts: Sequence[Artifact]) -> "ViTSpec":
    """The model that the files are of: the checkpoint's but for the size of the images and what comes last."""
    known = checkpoint.spec
    if (told := _told(checkpoint, artifacts)) is not None:
        return told
    shapes = {(image_size_of(artifact.inputs), _width(artifact)) for artifact in artifacts}
    if len(shapes) > 1:
        shown = ", ".join(
            sorted(f"{shown_size(size) if size else 'any'} pixels and {width} outputs" for size, width in shapes)
        )
        raise InputError(f"The files are of different models ({shown}): verify each kind in a command of its own.")
    size, width = shapes.pop()
    wanted = known if size is None else known.with_(image_size=size)
    bare = {"num_classes": None, "returns": (), "l2_normalize": False}
    tops = {known.num_classes: {}, known.pre_logits_size: bare}
    tops.setdefault(known.hidden_size, {**bare, "pre_logits_size": None})
    if width is not None and width not in tops:
        raise InputError(
            f"{Path(artifacts[0].path).name} has {width} outputs, the checkpoint's model {known.num_classes or 'no'} "
            f"classes and features of width {known.hidden_size}: give the SavedModel that the file was made from."
        )
    return wanted if width is None else wanted.with_(**tops[width])


def _told(checkpoint: "Checkpoint", artifacts: Sequence[Artifact]) -> "ViTSpec | None":
    """The checkpoint's model with the outputs that files of ours say they have; None where they do not say it."""
    told = set()
    for artifact in artifacts:
        record = None if artifact.format == "saved_model" else read_facts(artifact.path).record
        if record is None or "returns" not in record["spec"]:
            return None
        spec = ModelRecord.from_dict({**record}).spec
        told.add((tuple(spec.outputs), spec.l2_normalize, spec.image_size, spec.num_classes))
    if len(told) != 1:
        return None
    ((names, l2_normalize, image_size, classes),) = told
    if classes not in (None, checkpoint.spec.num_classes):
        return None
    return checkpoint.returning(names, l2_normalize=l2_normalize).with_(image_size=image_size)


def image_size_of(inputs: Sequence[TensorSpec]) -> tuple[int, int] | None:
    """Height and width of the images that a file takes, None where it leaves them open or takes no images."""
    entry = inputs[0] if inputs else None
    if entry is None or len(entry.shape) != 4:
        return None
    height, width = entry.shape[2:] if entry.layout == "NCHW" else entry.shape[1:3]
    return None if height is None or width is None else (height, width)


def _width(artifact: Artifact) -> int | None:
    return next((entry.shape[-1] for entry in artifact.outputs if entry.shape), None)


def build_reference(checkpoint: "Checkpoint", stage: Path, say: "Reporter") -> Path:
    """The SavedModel of `checkpoint`, built from its parameters and written to the temporary folder `stage`.

    Raises:
        InputError: the parameters cannot be read.
        OutputError: the temporary folder has too little space.
    """
    say.step("Loading TensorFlow")
    from vit_export.base.quiet import import_tensorflow

    import_tensorflow()
    from vit_export.base.machine import release_memory
    from vit_export.model.in_memory import assign_parameters
    from vit_export.model.keras_model import reference_model

    say.step(f"Building the reference ({checkpoint.spec.num_parameters / 1e6:.1f} M parameters)")
    model = checkpoint.model or reference_model(checkpoint.spec)
    if checkpoint.model is None:
        assign_parameters(model, checkpoint.read, progress=say.progress)
    say.step("Writing the reference as a SavedModel")
    folder = stage / SAVED_MODEL_NAME
    with scratch_errors():
        write_saved_model(model, folder, checkpoint.record)
    del model
    release_memory()
    return folder


def _file(path: Path) -> Path:
    """`path`, if files can be compared with it as with a SavedModel."""
    artifact, outputs = artifact_of(path), record_of(path).spec.outputs
    given = artifact.precision if artifact.precision != "float32" else "other input or outputs"
    usual = all(entry.values == "normalized" for entry in artifact.inputs)
    if artifact.precision != "float32" or not usual or {entry.name for entry in artifact.outputs} != {*outputs}:
        raise InputError(
            f"{shortened(path)} cannot be the reference, expected a float32 file of vit-export with its usual input "
            f"(normalized) and outputs ({', '.join(outputs)}), given {given}: give the SavedModel or a checkpoint."
        )
    return path
