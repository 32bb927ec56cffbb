"""The cells of a sweep: each model's files with their content keys, what is the same once."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.base.reporting import Reporter
from vit_export.model.artifact import PlannedFile
from vit_export.pipeline.choice import choose_images
from vit_export.pipeline.request import ExportRequest
from vit_export.sweeps.cell import Cell
from vit_export.sweeps.keys import code, identity_of_images, identity_of_model, key_of
from vit_export.sweeps.models import Model
from vit_export.sweeps.plan import SweepRequest
from vit_export.sweeps.telling import Within


def require_measurable(request: SweepRequest, models: Sequence[Model]) -> None:
    """Raise InputError where the accuracy that is asked for is none that a model has."""
    for model in models if request.data is not None else ():
        if model.record is None:
            continue
        if request.knn is not None and model.record.classifies:
            raise InputError(f"{model.name} is a classifier, --knn judges embeddings: add --features.")
        if request.knn is None and not model.record.classifies:
            raise InputError(
                f"{model.name} has no classifier, and embeddings are judged by neighbours: give --knn and --train too."
            )


def grid_of(request: SweepRequest, models: Sequence[Model], images: Path, say: Reporter) -> list[Cell]:
    """All cells with their keys; of such as are the same the first."""
    found: dict[str, Cell] = {}
    ids: set[str] = set()
    within, alike = Within(say), list[str]()
    for model in models:
        looked_at = {} if model.record is None else _looked_at(request, model, images, within)
        for format, precision, scheme in request.files:
            cell = Cell(model, format, precision, scheme, looked_at)
            if cell.id in ids:  # a size that is given, and the model's own
                continue
            ids.add(cell.id)
            if model.record is None:
                found[cell.id] = cell
                continue
            key = key_of(
                model=identity_of_model(model.record, model.identity),
                file=[format, precision, scheme, request.input],
                images=looked_at,
                code=code(),
            )
            if key not in found:
                found[key] = replace(cell, key=key)
            else:
                alike.append(f"{cell.id} is {found[key].id}")
    if alike:
        say.note(f"Made once what is the same: {'; '.join(alike)}.")
    return [*found.values()]


def _looked_at(request: SweepRequest, model: Model, images: Path, say: Reporter) -> dict[str, Any]:
    """The images that the export of a model looks at."""
    assert model.record is not None
    asked = ExportRequest(
        model.record.spec,
        request.output,
        calibration=images,
        calibration_images=request.calibration_images,
        held_out_images=request.held_out_images,
    )
    files = tuple(PlannedFile(request.output, *file) for file in request.files)
    chosen = choose_images(asked, model.record.spec, model.record.preprocessing, files, say)
    assert chosen is not None
    return identity_of_images(chosen)
