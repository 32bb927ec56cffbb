"""What earlier exports left in a folder: the files that a new model there makes untrue."""

from pathlib import Path

import numpy as np

from vit_export.base.errors import InputError
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
    found = tuple(path for path in made if path.is_file())
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
