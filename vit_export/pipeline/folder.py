"""The output folder: what earlier exports left there, and what a new model makes untrue."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.files import output_errors
from vit_export.base.scratch import owned_folder
from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact
from vit_export.model.names import HUB_NAME, LABELS_NAME, PAGE_NAME, REPORT_NAME, SAVED_MODEL_NAME
from vit_export.model.parameters import parameter_specs
from vit_export.model.record import read_record
from vit_export.model.saved_model import SavedModelParameters
from vit_export.pipeline import hub_folder
from vit_export.report.content import write_report
from vit_export.report.earlier import files_told
from vit_export.report.page import images_shown, write_page
from vit_export.report.thumbnails import thumbnails

_CONVERTED = (".tflite", ".onnx", ".onnx.data")


def outdated(folder: Path, saved_model: Path, kept: set[str]) -> tuple[Path, ...]:
    """The files in `folder` that are not of the model `saved_model`, which is about to replace the one there.

    They are the converted files and labels.txt that the report in `folder` tells of, and the folder in the hub's form,
    but for those called as in `kept`; what it does not tell of is somebody's own. There are none where the old
    SavedModel is the same model.
    """
    names = dict.fromkeys(name for entry in files_told(folder) for name in entry["files"] if name not in kept)
    made = [folder / name for name in names if name == LABELS_NAME or name.endswith(_CONVERTED)]
    found = tuple(path for path in made if os.path.isfile(path))  # whatever a report calls a file
    if HUB_NAME not in kept and hub_folder.is_ours(folder / HUB_NAME):
        found += (folder / HUB_NAME,)
    return () if not found or _same_model(folder / SAVED_MODEL_NAME, saved_model) else found


def _same_model(old: Path, new: Path) -> bool:
    """Whether two SavedModels hold the same parameters for the same pixels and classes.

    Weights are told by their fingerprints; they are read where one of the two has none.
    """
    try:
        ours, theirs = read_record(old), read_record(new)
        if not ours.spec.is_same_model(theirs.spec):
            return False
        if (ours.preprocessing, ours.labels) != (theirs.preprocessing, theirs.labels):
            return False
        if ours.fingerprint and theirs.fingerprint:
            return ours.fingerprint == theirs.fingerprint
        first, second = SavedModelParameters(old), SavedModelParameters(new)
        return all(np.array_equal(first.read(p.name), second.read(p.name)) for p in parameter_specs(ours.spec))
    except InputError:  # what cannot be read is not the same
        return False


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A hidden folder in `output`, so on the same disk, that is gone afterwards whatever happens."""
    with ExitStack() as stack:
        with output_errors(output):
            stage = stack.enter_context(owned_folder(".partial-", output))
        yield stage


def write_reports(report: dict[str, Any], pictures: Pictures | None, folder: Path) -> list[Path]:
    """Write `report` as report.json, and the page of it with its images, to `folder`; the paths of both."""
    paths = [folder / REPORT_NAME, folder / PAGE_NAME]
    write_report(report, paths[0])
    write_page(report, thumbnails(pictures, images_shown(report)) if pictures else {}, paths[1])
    return paths


def leftover_data(artifacts: Sequence[Artifact]) -> list[str]:
    """The names of data files that larger ONNX models called like `artifacts` may have left."""
    alone = [artifact for artifact in artifacts if artifact.format == "onnx" and not artifact.extra_files]
    return [f"{Path(artifact.path).name}.data" for artifact in alone]


def at_folder(artifact: Artifact, folder: Path) -> Artifact:
    """`artifact` after its files moved to `folder`."""
    return replace(
        artifact,
        path=str(folder / Path(artifact.path).name),
        extra_files=tuple(str(folder / Path(p).name) for p in artifact.extra_files),
    )
