"""What one export will make: the request, checked before anything is built, and the files that follow from it."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vit_export.base.errors import InputError, OutputError, nearest
from vit_export.base.files import output_errors, refuse_existing
from vit_export.model.artifact import Format, InputKind, Precision
from vit_export.model.spec import ViTSpec

if TYPE_CHECKING:
    from vit_export.model.preprocessing import Preprocessing
    from vit_export.weights.checkpoint import Checkpoint

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INPUTS: tuple[InputKind, ...] = get_args(InputKind)

INT8_SCHEMES: dict[Format, tuple[str, ...]] = {
    "tflite": ("static", "dynamic", "full", "auto"),
    "onnx": ("dynamic", "qdq"),
}
"""int8 schemes by format, the default first."""

NEEDS_IMAGES = (*(("tflite", scheme) for scheme in INT8_SCHEMES["tflite"]), ("onnx", "qdq"))
"""int8 schemes that are chosen by images of the representative dataset, and mostly take ranges from them too."""

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
"""The same for people."""
SAVED_MODEL_NAME = "saved_model"
LABELS_NAME = "labels.txt"
SEARCHED = "auto"
"""The int8 scheme that looks for the fastest mix within a budget."""
DEFAULT_MIN_SQNR = 35.0
"""Its budget in dB where none is given."""

MAX_BATCH, MAX_THREADS = 1024, 256
OPSETS = range(13, 24)


@dataclass(frozen=True)
class ExportRequest:
    """Everything a user can ask of one export; construction checks types and names, `plan_files` the numbers.

    `weights` is a checkpoint, or where one is (see `weights.open.open_checkpoint`); None means random weights.
    `spec` is the model to export, None for the checkpoint's own; with weights it may differ from theirs in image size
    and classifier. `preprocessing` and `labels` replace the checkpoint's. `input` is what the files take as an image
    (see `input_kinds.KINDS`). `output` is the folder the files go to; `calibration` a folder of images, or None for the
    default photographs, of which `held_out_images` verify (None: as many as are quick to run). `formats` may be empty:
    the SavedModel is always written. `min_sqnr` (dB of the outputs) and `min_agreement` (share of images with the same
    top class) are the budget of the int8 scheme `auto`. `trained` says whether the weights were learnt, None for what
    they say themselves.

    Raises:
        InputError: on construction, when a value has another type, or a format or precision does not exist.
    """

    spec: ViTSpec | None
    output: Path
    formats: tuple[Format, ...] = FORMATS
    precisions: tuple[Precision, ...] = ("float32",)
    int8_scheme: str | None = None
    min_sqnr: float | None = None
    min_agreement: float | None = None
    weights: "str | Path | Checkpoint | None" = None
    preprocessing: "Preprocessing | None" = None
    labels: tuple[str, ...] | None = None
    input: InputKind = "normalized"
    calibration: Path | None = None
    calibration_images: int = 128
    held_out_images: int | None = None
    batch: int = 1
    threads: int = 1
    seed: int = 0
    opset: int | None = None
    verify: bool = True
    overwrite: bool = False
    trained: bool | None = None

    def __post_init__(self) -> None:
        replaced: dict[str, object] = {
            "output": _path("output", self.output),
            "formats": _chosen("formats", self.formats, FORMATS),
            "precisions": _chosen("precisions", self.precisions, PRECISIONS),
        }
        if not replaced["precisions"]:
            raise InputError(f"precisions is empty, expected some of {', '.join(PRECISIONS)}.")
        if self.calibration is not None:
            replaced["calibration"] = _path("calibration", self.calibration)
        if self.labels is not None:
            replaced["labels"] = _listed("labels", self.labels, "a list with the name of each class")
        for name, value in replaced.items():
            object.__setattr__(self, name, value)
        for name in ("verify", "overwrite", *(("trained",) if self.trained is not None else ())):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected True or False.")
        if self.spec is not None and not isinstance(self.spec, ViTSpec):
            raise InputError(f"spec is of type {type(self.spec).__name__}, expected a ViTSpec: see ViTSpec.of.")
        if self.preprocessing is not None:
            from vit_export.model.preprocessing import Preprocessing

            if not isinstance(self.preprocessing, Preprocessing):
                given = type(self.preprocessing).__name__
                raise InputError(f"preprocessing is of type {given}, expected a Preprocessing.")


@dataclass(frozen=True)
class PlannedFile:
    """One file to make."""

    path: Path
    format: Format
    precision: Precision
    scheme: str | None = None


def plan_files(
    request: ExportRequest, spec: ViTSpec, saved_model: Path | None = None, *, labelled: bool = False
) -> tuple[PlannedFile, ...]:
    """The files that `request` asks for, converters' only (the SavedModel comes before them).

    `saved_model` is the folder that holds these very weights already, if one does; `labelled` says that labels will be
    written beside the files.

    Raises:
        InputError: a value no export can have, or an int8 scheme that a chosen format lacks.
        OutputError: a file exists and may not be replaced, or the folder cannot be created.
    """
    _require("batch", request.batch, 1, MAX_BATCH)
    _require("threads", request.threads, 1, MAX_THREADS)
    _require("calibration_images", request.calibration_images, 1, 100_000)
    _require("seed", request.seed, 0, 2**32 - 1)
    if request.input not in INPUTS:
        raise InputError(f"Unknown input {request.input!r}: choose one of {', '.join(INPUTS)}.")
    _require_budget(request)
    if request.held_out_images is not None:
        _require("held_out_images", request.held_out_images, 1, 100_000)
    if request.opset is not None:
        _require("opset", request.opset, OPSETS[0], OPSETS[-1])
    files = []
    for file_format in (f for f in request.formats if f != "saved_model"):
        for precision in request.precisions:
            scheme = _scheme(request, file_format) if precision == "int8" else None
            name = f"{spec.name}_{precision}"
            if scheme is not None and scheme != INT8_SCHEMES[file_format][0]:
                name += f"_{scheme}"
            files.append(PlannedFile(request.output / f"{name}.{file_format}", file_format, precision, scheme))
    _require_writable(request.output)
    for file in files:
        refuse_existing(file.path, overwrite=request.overwrite, folder=False)
        if file.format == "onnx":  # above 2 GB the weights go beside it
            data = file.path.with_name(f"{file.path.name}.data")
            refuse_existing(data, overwrite=request.overwrite, folder=False)
    if not reuses_saved_model(request, saved_model):
        refuse_existing(request.output / SAVED_MODEL_NAME, overwrite=request.overwrite, folder=True)
        if labelled:
            refuse_existing(request.output / LABELS_NAME, overwrite=request.overwrite, folder=False)
    for name in (REPORT_NAME, PAGE_NAME):
        refuse_existing(request.output / name, overwrite=True, folder=False)
    return tuple(files)


def reuses_saved_model(request: ExportRequest, saved_model: Path | None) -> bool:
    """Whether the folder `saved_model` is the one that this export would write."""
    return saved_model is not None and saved_model.resolve() == (request.output / SAVED_MODEL_NAME).resolve()


def require_outside(output: Path, saved_model: Path) -> None:
    """Raise OutputError when `output` is the SavedModel that is read, or a folder in it."""
    if output.resolve().is_relative_to(saved_model.resolve()):
        raise OutputError(
            f"{output} lies inside the SavedModel {saved_model} that is to be exported: choose another --output."
        )


def _path(name: str, value: object) -> Path:
    if isinstance(value, str | Path) and str(value):
        try:
            if b"\0" not in os.fsencode(value):
                return Path(value)
        except UnicodeEncodeError:
            pass
    raise InputError(f"{name} is {value!r}, expected the path of a folder.")


def _listed(name: str, values: object, expected: str) -> tuple[Any, ...]:
    """`values` as a tuple; text, which Python would take apart into letters, is no list."""
    if isinstance(values, str | bytes | Path) or not isinstance(values, Iterable):
        raise InputError(f"{name} is {values!r}, expected {expected}.")
    return tuple(values)


def _chosen(name: str, values: object, known: tuple[str, ...]) -> tuple[Any, ...]:
    """`values` as a tuple of some of `known`, each once."""
    found = _listed(name, values, f"a list of some of {', '.join(known)}")
    for value in found:
        if value not in known:
            guess = nearest(value, known) if isinstance(value, str) else None
            hint = f"did you mean {guess!r}?" if guess else f"choose from {', '.join(known)}."
            raise InputError(f"Unknown entry {value!r} in {name}: {hint}")
        if found.count(value) > 1:
            raise InputError(f"{name} has {value!r} twice: give each once.")
    return found


def _scheme(request: ExportRequest, file_format: Format) -> str:
    schemes = INT8_SCHEMES[file_format]
    if request.int8_scheme is None:
        return schemes[0]
    if request.int8_scheme not in schemes:
        raise InputError(
            f"The int8 scheme '{request.int8_scheme}' does not exist for {file_format} ({' or '.join(schemes)} does): "
            "export that format in a command of its own, or leave the scheme out."
        )
    return request.int8_scheme


def _require_budget(request: ExportRequest) -> None:
    for name, value, least, most in (
        ("min_sqnr", request.min_sqnr, 0.0, 150.0),
        ("min_agreement", request.min_agreement, 0.0, 1.0),
    ):
        if value is None:
            continue
        if request.int8_scheme != SEARCHED:
            raise InputError(f"{name} is the budget of the int8 scheme '{SEARCHED}': ask for that, or leave it out.")
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise InputError(f"{name} is {value!r}, expected a number from {least:g} to {most:g}.")


def _require(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}, expected a whole number from {least} to {most}.")


def _require_writable(folder: Path) -> None:
    """Find out before minutes of work, not after, that nothing can be written."""
    existing = folder.absolute()
    with output_errors(folder):
        while not existing.exists():
            existing = existing.parent
    if not existing.is_dir():
        raise OutputError(
            f"{folder} cannot be written: {existing} is a file, expected a folder; choose another --output."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written (permission denied): choose another folder with --output.")
