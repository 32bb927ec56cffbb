"""What one export will make: the request, checked before anything is built, and the files that follow from it."""

import os
from pathlib import Path

from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import output_errors, refuse_existing
from vit_export.model.artifact import Format, PlannedFile
from vit_export.model.names import (
    DYNAMIC,
    HUB_NAME,
    INPUTS,
    INT8_SCHEMES,
    LABELS_NAME,
    MAX_BATCH,
    MAX_THREADS,
    OPSETS,
    PAGE_NAME,
    REPORT_NAME,
    SAVED_MODEL_NAME,
    file_name,
)
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.report.earlier import is_ours


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
    _check_numbers(request, spec)
    files = []
    for file_format in (f for f in request.formats if f != "saved_model"):
        for precision in request.precisions:
            scheme = _scheme(request, file_format) if precision == "int8" else None
            path = request.output / file_name(spec.name, file_format, precision, scheme)
            files.append(PlannedFile(path, file_format, precision, scheme))
    require_writable(request.output)
    for file in files:
        refuse_existing(file.path, overwrite=request.overwrite, folder=False)
        if file.format == "onnx":  # above 2 GB the weights go beside it
            data = file.path.with_name(f"{file.path.name}.data")
            refuse_existing(data, overwrite=request.overwrite, folder=False)
    if request.hf_layout:
        from vit_export.pipeline import hub_folder  # which imports numpy

        refuse_existing(request.output / HUB_NAME, overwrite=request.overwrite, folder=True)
        hub_folder.require_untouched(request.output / HUB_NAME)
    if not reuses_saved_model(request, saved_model):
        refuse_existing(request.output / SAVED_MODEL_NAME, overwrite=request.overwrite, folder=True)
        _require_ours(request.output / SAVED_MODEL_NAME)
        if labelled:
            refuse_existing(request.output / LABELS_NAME, overwrite=request.overwrite, folder=False)
    for name in (REPORT_NAME, PAGE_NAME):
        path = request.output / name
        refuse_existing(path, overwrite=request.overwrite or is_ours(path), folder=False)
    return tuple(files)


def _check_numbers(request: ExportRequest, spec: ViTSpec) -> None:
    if request.batch != DYNAMIC:
        whole_number("batch", request.batch, 1, MAX_BATCH, advice=f", or '{DYNAMIC}'")
    whole_number("threads", request.threads, 1, MAX_THREADS)
    whole_number("calibration_images", request.calibration_images, 1, 100_000)
    whole_number("seed", request.seed, 0, 2**32 - 1)
    if request.input not in INPUTS:
        raise InputError(f"Unknown input {request.input!r}: choose one of {', '.join(INPUTS)}.")
    if request.budget is not None:
        request.budget.check(spec)
    if request.held_out_images is not None:
        whole_number("held_out_images", request.held_out_images, 1, 100_000)
    if request.opset is not None:
        whole_number("opset", request.opset, OPSETS[0], OPSETS[-1])


def reuses_saved_model(request: ExportRequest, saved_model: Path | None) -> bool:
    """Whether the folder `saved_model` is the one that this export would write."""
    return saved_model is not None and saved_model.resolve() == (request.output / SAVED_MODEL_NAME).resolve()


def _require_ours(saved_model: Path) -> None:
    """Raise OutputError when a folder that no export has made is in the place of a SavedModel."""
    from vit_export.model.record import RECORD_FILE

    with output_errors(saved_model):
        if saved_model.is_dir() and any(saved_model.iterdir()) and not (saved_model / RECORD_FILE).is_file():
            raise OutputError(
                f"{saved_model} is no SavedModel of vit-export, so --overwrite does not replace it: move it away, or "
                "choose another folder with --output."
            )


def require_outside(output: Path, saved_model: Path) -> None:
    """Raise OutputError when `output` is the SavedModel that is read, or a folder in it."""
    if output.resolve().is_relative_to(saved_model.resolve()):
        raise OutputError(
            f"{output} lies inside the SavedModel {saved_model} that is to be exported: choose another --output."
        )


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


def require_writable(folder: Path) -> None:
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
