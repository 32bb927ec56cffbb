"""The output folder: a stage beside it, what earlier exports left there, and what a new model makes untrue."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.files import output_errors
from vit_export.model.artifact import Artifact
from vit_export.model.names import LABELS_NAME, SAVED_MODEL_NAME
from vit_export.model.parameters import parameter_specs
from vit_export.model.record import read_record
from vit_export.model.saved_model import SavedModelParameters
from vit_export.report.earlier import files_told

_CONVERTED = (".tflite", ".onnx", ".onnx.data")


def outdated(folder: Path, saved_model: Path, kept: set[str]) -> tuple[Path, ...]:
    """The files in `folder` that are not of the model `saved_model`, which is about to replace the one there.

    They are the converted files and labels.txt that the report in `folder` tells of, but for those called as in `kept`;
    what it does not tell of is somebody's own. There are none where the old SavedModel is the same model.
    """
    names = dict.fromkeys(name for entry in files_told(folder) for name in entry["files"] if name not in kept)
    made = [folder / name for name in names if name == LABELS_NAME or name.endswith(_CONVERTED)]
    found = tuple(path for path in made if os.path.isfile(path))  # whatever a report calls a file
    return () if not found or _same_model(folder / SAVED_MODEL_NAME, saved_model) else found


def _same_model(old: Path, new: Path) -> bool:
    """Whether two SavedModels hold the same parameters for the same pixels and classes.

    Weights are told by their fingerprints; they are read where one of the two has none.
    """
    try:
        ours, theirs = read_record(old), read_record(new)
        if (ours.spec, ours.preprocessing, ours.labels) != (theirs.spec, theirs.preprocessing, theirs.labels):
            return False
        if ours.fingerprint and theirs.fingerprint:
            return ours.fingerprint == theirs.fingerprint
        first, second = SavedModelParameters(old), SavedModelParameters(new)
        return all(np.array_equal(first.read(p.name), second.read(p.name)) for p in parameter_specs(ours.spec))
    except InputError:  # what cannot be read is not the same
        return False


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A folder beside `output`, on the same disk, that is gone afterwards whatever happens."""
    with output_errors(output):
        created = [p for p in (output.absolute(), *output.absolute().parents) if not p.exists()]
        output.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=".partial-", dir=output))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for folder in created:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def drop(folder: Path, artifacts: tuple[Artifact, ...], outdated: tuple[Path, ...]) -> None:
    """Remove `outdated` files, and external data that a larger ONNX model of the same name left."""
    for path in outdated:
        path.unlink(missing_ok=True)
    for artifact in artifacts:
        if artifact.format == "onnx" and not artifact.extra_files:
            (folder / f"{Path(artifact.path).name}.data").unlink(missing_ok=True)


def at_folder(artifact: Artifact, folder: Path) -> Artifact:
    """`artifact` after its files moved to `folder`."""
    return replace(
        artifact,
        path=str(folder / Path(artifact.path).name),
        extra_files=tuple(str(folder / Path(p).name) for p in artifact.extra_files),
    )
