"""What earlier exports left in a folder: their reports, and the files that a new model there makes untrue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.model.names import LABELS_NAME, SAVED_MODEL_NAME
from vit_export.model.parameters import parameter_specs
from vit_export.model.saved_model import SavedModelParameters
from vit_export.report.content import earlier_reports

_CONVERTED = (".tflite", ".onnx", ".onnx.data")


def outdated(folder: Path, saved_model: Path, kept: set[str]) -> tuple[Path, ...]:
    """The files in `folder` that are not of the model `saved_model`, which is about to replace the one there.

    They are the converted files and labels.txt that reports in `folder` list, but for those called as in `kept`; what
    no report lists is somebody's own. There are none where the old SavedModel is the same model.
    """
    names = dict.fromkeys(name for report in earlier_reports(folder) for name in _listed(report) if name not in kept)
    found = tuple(folder / name for name in names if (folder / name).is_file())
    return () if not found or _same_model(folder / SAVED_MODEL_NAME, saved_model) else found


def _listed(report: dict[str, Any]) -> Iterator[str]:
    artifacts = report.get("artifacts")
    for artifact in artifacts if isinstance(artifacts, list) else ():
        if isinstance(artifact, dict):
            extra = artifact.get("extra_files")
            for path in (artifact.get("path"), *(extra if isinstance(extra, list) else ())):
                if isinstance(path, str) and path.endswith(_CONVERTED):
                    yield Path(path).name
    if report.get("labels"):
        yield LABELS_NAME


def _same_model(old: Path, new: Path) -> bool:
    """Whether two SavedModels hold the same parameters for the same pixels and classes."""
    try:
        first, second = SavedModelParameters(old), SavedModelParameters(new)
        ours, theirs = first.record, second.record
        if (ours.spec, ours.preprocessing, ours.labels) != (theirs.spec, theirs.preprocessing, theirs.labels):
            return False
        return all(np.array_equal(first.read(p.name), second.read(p.name)) for p in parameter_specs(ours.spec))
    except InputError:  # what cannot be read is not the same
        return False
