"""The step between the SavedModel and verification: every planned file, from the stored parameters alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vit_export.base.machine import release_memory
from vit_export.base.quiet import import_tensorflow
from vit_export.base.reporting import Reporter
from vit_export.deployment.fit import fit_of
from vit_export.deployment.half_range import KEY, FittedParameters, meets_half
from vit_export.images.pictures import Pictures
from vit_export.int8.budget import default_budget
from vit_export.model.artifact import Artifact, Format, PlannedFile
from vit_export.model.names import SEARCHED
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import SavedModelParameters
from vit_export.pipeline.request import ExportRequest

RANGE_IMAGES = 2
"""Images that tell whether the values of a model fit 16-bit floats: those that do not are far beyond them."""


def convert(
    request: ExportRequest,
    record: ModelRecord,
    saved_model: Path,
    files: tuple[PlannedFile, ...],
    pictures: Pictures | None,
    stage: Path,
    say: Reporter,
) -> tuple[Artifact, ...]:
    """Write every planned file into the folder `stage`; `pictures` are the representative dataset."""
    if not files:
        return ()
    import_tensorflow()
    source = SavedModelParameters(saved_model)
    fitted, fitted_record = _fitted(source, record, files, pictures, say)
    made = []
    for file in files:
        budget = (request.budget or default_budget(trained=record.trained)) if file.scheme == SEARCHED else None
        staged = replace(file, path=stage / file.path.name)
        own = (fitted, fitted_record) if meets_half(file.format, file.precision) else (source, record)
        made.append(_converter(file.format)(*own, staged, pictures, budget, request.file_options, say))
        for note in made[-1].notes:
            say.note(f"{file.path.name}: {note}")
        release_memory()
    return tuple(made)


def _fitted(
    source: ParameterSource,
    record: ModelRecord,
    files: tuple[PlannedFile, ...],
    pictures: Pictures | None,
    say: Reporter,
) -> tuple[ParameterSource, ModelRecord]:
    """What files that meet 16-bit floats are made of: the model as it is, or the same function in their range."""
    met = dict.fromkeys(file.label for file in files if meets_half(file.format, file.precision))
    if pictures is None or not met:
        return source, record
    say.step("Looking at the range of the model's values")
    fit = fit_of(source, pictures.normalized(RANGE_IMAGES))
    if not fit:
        return source, record
    say.note(f"{', '.join(met)}: {fit.note}.")
    return FittedParameters(source, fit), record.saying(**{KEY: fit.to_dict()})


def _converter(format: Format) -> Callable[..., Artifact]:
    """The converter of a format: all have one signature, for all precisions and schemes."""
    from vit_export.onnx.convert import convert as onnx
    from vit_export.tflite.convert import convert as tflite

    return {"tflite": tflite, "onnx": onnx}[format]
