"""What is evaluated: files with what feeds them, and the classes that a data set's labels stand for."""

from collections.abc import Sequence
from pathlib import Path

from vit_export.artifacts.identify import files_of, format_of
from vit_export.artifacts.read import artifact_of, read_facts
from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_folder, shortened
from vit_export.evaluation.classes import SORTED, Classes, classes_of
from vit_export.evaluation.data import DataSet
from vit_export.evaluation.rows import Subject
from vit_export.model.labels import read_labels
from vit_export.model.record import ModelRecord, read_record
from vit_export.runtimes.runner import takes_pixels

_ANY = 1 << 31
"""As many classes as a column of labels can number."""


def subjects_of(paths: Sequence[str | Path], reference: str | Path | None) -> tuple[list[Subject], ModelRecord]:
    """The files to evaluate, the reference first, and the reference's record.

    Raises:
        InputError: a file is of no use for it, or the reference does not say what pixels it takes.
    """
    files = list(files_of(list(paths), "evaluate", once=True))
    first = files[0] if reference is None else Path(reference)
    if reference is not None and not first.exists():
        raise InputError(f"There is no reference {shortened(first)}: give a .tflite or .onnx file, or a SavedModel.")
    everyone = [first, *(file for file in files if file.resolve() != first.resolve())]
    known = _record(first)
    if known is None:
        raise InputError(
            f"{shortened(first.name)} holds no record of vit-export, which says what pixels it takes: give one that "
            "does to --reference."
        )
    names = _names(everyone)
    subjects = []
    for path in everyone:
        record = known if path == first else _record(path) or known
        subjects.append(_subject(names[path], path, record))
    return subjects, known


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file is called: its name, or as much of its path as tells it from another one."""
    names = {path: path.name for path in paths}
    for path, name in names.items():
        if list(names.values()).count(name) > 1:
            names[path] = str(path)
    return names


def _record(path: Path) -> ModelRecord | None:
    if format_of(path) == "saved_model":
        return read_record(path)
    told = read_facts(path).record
    return None if told is None else ModelRecord.from_dict(told)


def _subject(name: str, path: Path, record: ModelRecord) -> Subject:
    if record.answers in ("multi_label_classification", "regression"):
        raise InputError(
            f"{shortened(name)} answers with {record.answers.replace('_', ' ')}, expected a classifier of one class an "
            "image or an embedding: evaluate counts top classes."
        )
    format = format_of(path)
    if format == "saved_model":
        values, digest = "normalized", digest_of_folder(path)
    else:
        artifact = artifact_of(path)
        entry = artifact.inputs[0]
        values, digest = entry.values or ("uint8" if takes_pixels(entry) else "normalized"), artifact.sha256
    return Subject(name, str(path.resolve()), format, digest, values, record.to_dict())


def classes_for(record: ModelRecord, labels: str | None, data: DataSet) -> Classes:
    """The classes of a model with `record` as `data` calls them: `labels` names them, else the model does.

    Raises:
        InputError: `labels` cannot be read, or goes by folders that `data` has not as many of.
    """
    count = record.spec.num_classes if record.classifies else None
    if labels != SORTED:
        return classes_of(count, record.labels if labels is None else read_labels(labels))
    folders = _folders(data)
    if not folders:
        raise InputError(
            f"--labels {SORTED} goes by folders, and {shortened(data.location)} has none: give a file of names."
        )
    return classes_of(count, None, folders)


def classes_of_neighbours(labels: str | None, data: DataSet) -> Classes:
    """The classes that neighbours in `data` vote for: its folders, the names in `labels`, or any numbers.

    Raises:
        InputError: `labels` cannot be read.
    """
    if labels is not None and labels != SORTED:
        names = read_labels(labels)
        return classes_of(len(names), names)
    folders = _folders(data)
    return classes_of(len(folders), None, folders) if folders else Classes(_ANY)


def _folders(data: DataSet) -> list[str]:
    """What the folders of images are called, in alphabetical order."""
    parts = [shard.part for shard in data.shards if shard.kind == "folder"]
    return sorted({Path(str(name)).parent.name for part in parts for name in part})
