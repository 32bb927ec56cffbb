"""What one export will make: the request, checked before anything is built, and the files that follow from it."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vit_export.errors import InputError, OutputError
from vit_export.files import refuse_existing
from vit_export.records import Format, InputKind, Precision
from vit_export.spec import ViTSpec

if TYPE_CHECKING:
    from vit_export.preprocess import Preprocessing
    from vit_export.weights.checkpoint import Checkpoint

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INPUTS: tuple[InputKind, ...] = get_args(InputKind)

INT8_SCHEMES: dict[Format, tuple[str, ...]] = {"tflite": ("static", "dynamic", "full"), "onnx": ("dynamic",)}
"""int8 schemes by format, the default first."""

NEEDS_CALIBRATION = ("static", "full")
"""int8 schemes that take the ranges of activations from a representative dataset."""

REPORT_NAME = "report.json"
SAVED_MODEL_NAME = "saved_model"
LABELS_NAME = "labels.txt"
MAX_BATCH, MAX_THREADS = 1024, 256
OPSETS = range(13, 24)


@dataclass(frozen=True)
class ExportRequest:
    """Everything a user can ask of one export. Construct, then `plan_files` checks it.

    `weights` is a checkpoint, or where one is (see `weights.sources.open_checkpoint`); None means random weights.
    `spec` is the model to export, None for the checkpoint's own; with weights it may differ from theirs in image size
    and classifier. `preprocessing` and `labels` replace the checkpoint's. `input` is what the files take as an image
    (see `pixels.KINDS`). `output` is the folder the files go to; `calibration` a folder of images, or None for the
    default photographs, of which `held_out_images` verify (None: as many as are quick to run).
    """

    spec: ViTSpec | None
    output: Path
    formats: tuple[Format, ...] = FORMATS
    precisions: tuple[Precision, ...] = ("float32",)
    int8_scheme: str | None = None
    weights: "str | Path | Checkpoint | None" = None
    preprocessing: "Preprocessing | None" = None
    labels: tuple[str, ...] | None = None
    input: InputKind = "normalized"
    calibration: Path | None = None
    calibration_images: int = 128
    held_out_images: int | None = None
    batch: int = 1
    threads: int = 2
    seed: int = 0
    opset: int | None = None
    verify: bool = True
    overwrite: bool = False


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
        raise InputError(f"Unknown input '{request.input}': choose one of {', '.join(INPUTS)}.")
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
        refuse_existing(file.path, overwrite=request.overwrite)
        if file.format == "onnx":  # above 2 GB the weights go beside it
            refuse_existing(file.path.with_name(f"{file.path.name}.data"), overwrite=request.overwrite)
    if not reuses_saved_model(request, saved_model):
        refuse_existing(request.output / SAVED_MODEL_NAME, overwrite=request.overwrite)
        if labelled:
            refuse_existing(request.output / LABELS_NAME, overwrite=request.overwrite)
    return tuple(files)


def reuses_saved_model(request: ExportRequest, saved_model: Path | None) -> bool:
    """Whether the folder `saved_model` is the one that this export would write."""
    return saved_model is not None and saved_model.resolve() == (request.output / SAVED_MODEL_NAME).resolve()


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


def _require(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"{name} is {value}, expected a whole number from {least} to {most}.")


def _require_writable(folder: Path) -> None:
    """Find out before minutes of work, not after, that nothing can be written."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(
            f"{folder} cannot be written: {existing} is a file, expected a folder; choose another --output."
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{folder} cannot be written (permission denied): choose another folder with --output.")
