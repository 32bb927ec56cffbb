"""What a file says of images: its record tells what to feed it, as in verification, and what its answers are."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.identify import files_of, format_of
from vit_export.artifacts.read import read_facts, require_feasible
from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors, shortened
from vit_export.base.reporting import Reporter, Silent
from vit_export.images.read import UnreadableImage, load_pixels, room_for
from vit_export.images.split import list_images
from vit_export.model.artifact import Format, InputKind, TensorSpec
from vit_export.model.input_kinds import feed
from vit_export.model.names import MAX_THREADS
from vit_export.model.outputs import names_in_file
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, read_record
from vit_export.pipeline.references import image_size_of, record_of_reference
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError, takes_pixels

FIRST_VALUES = 6
"""Numbers of an embedding that are shown."""

_AT_ONCE = 64  # images whose float32 numbers are in memory
_SUMS_TO_ONE = 1e-3


@dataclass(frozen=True)
class Predictions:
    """The answers of `file`: `answers` as `ModelRecord.answers`, `output` the output that was read.

    `images` has one entry an image, JSON-ready: its path as `image`, and `classes` (index, label or None, probability,
    the largest first), `values` of a regression, or of an embedding its `size`, `norm`, `first` numbers and the
    `nearest` others (image, cosine). `notes` are what to know of them. `unreadable` has the path of each image that has
    no answer, and why it cannot be read.
    """

    file: str
    output: str
    answers: str | None
    images: tuple[dict[str, Any], ...]
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class _Subject:
    """The file to run, and how: `input` is the kind of its images, `output` the name of the output to read."""

    path: Path
    format: Format
    record: ModelRecord
    preprocessing: Preprocessing
    input: str
    output: str
    assumed: tuple[str, ...] = ()


def predict(
    file: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    *,
    top: int = 5,
    threads: int = 1,
    reference: str | Path | None = None,
    input: InputKind | None = None,
    reporter: Reporter | None = None,
) -> Predictions:
    """What the .tflite or .onnx file, SavedModel or folder with one such `file` says of `images`, files or folders.

    Every image is prepared as the record in the file says. One of another tool has no record: `reference`, the model
    that it was made from or its checkpoint, says what is missing, and `input` which numbers it takes as an image.
    `top` is how many classes, or nearest images, each answer has.

    Raises:
        InputError: the file is no model, does not say what it takes, or not one image can be read.
        RunnerError: its runtime cannot run the file, or its answers are no numbers.
    """
    whole_number("top", top, 1)
    whole_number("threads", threads, 1, MAX_THREADS)
    subject = _subject(file, reference, input, reporter or Silent())
    paths, pixels, unreadable = _readable(_images(images), subject.preprocessing)
    with RunnerProcess(subject.path, subject.format, threads, output=subject.output) as process:
        rows = [
            process.run(feed(pixels[at : at + _AT_ONCE], subject.input, subject.preprocessing))
            for at in range(0, len(paths), _AT_ONCE)
        ]
    found = np.concatenate(rows).reshape(len(paths), -1)
    for path, row in zip(paths, found, strict=True):
        if not np.isfinite(row).all():
            raise RunnerError(f"{subject.path.name} answers {shortened(path)} with NaN or infinity: verify the file.")
    return replace(_told(subject, paths, found, top), unreadable=unreadable)


def _images(given: Sequence[str | os.PathLike[str]]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, given):
        with input_errors(path):
            found += [path / name for name in list_images(path)] if path.is_dir() else [path]
    if not found:
        raise InputError("There is no image to predict: give image files, or a folder of them.")
    return found


def _readable(
    paths: Sequence[Path], preprocessing: Preprocessing
) -> tuple[list[Path], np.ndarray, tuple[tuple[str, str], ...]]:
    """The images that can be read, their pixels [n, height, width, 3], and the others as (path, reason)."""
    good, pixels = list[Path](), room_for(len(paths), preprocessing.image_sides)
    unreadable = list[UnreadableImage]()
    for path in paths:
        try:
            (pixels[len(good)],) = load_pixels([path], preprocessing)
        except UnreadableImage as error:
            unreadable.append(error)
        else:
            good.append(path)
    if not good:
        first = unreadable[0]
        if len(unreadable) == 1:
            raise first
        raise InputError(
            f"None of the {len(paths)} images can be read (first: {shortened(first.path)}, {first.reason}): give "
            "others."
        )
    return good, pixels[: len(good)], tuple((error.path, error.reason) for error in unreadable)


def _subject(file: Any, reference: str | Path | None, input: InputKind | None, say: Reporter) -> _Subject:
    paths = files_of([file], "predict with")
    if len(paths) > 1:
        names = shortened(", ".join(path.name for path in paths))
        raise InputError(f"{shortened(file)} holds {len(paths)} files ({names}): give one of them.")
    (path,) = paths
    format = format_of(path)
    if format == "saved_model":
        _refuse_what_is_said(path, reference, input)
        record = read_record(path)
        return _Subject(
            path, format, record, record.preprocessing, "normalized", _embedding(path, record, [*record.spec.outputs])
        )
    facts = read_facts(path)
    require_feasible(facts)
    entry = facts.inputs[0] if facts.inputs else None
    if facts.record is not None and entry is not None:
        _refuse_what_is_said(path, reference, input)
        record = ModelRecord.from_dict(facts.record)
        output = _embedding(path, record, [spec.name for spec in facts.outputs])
        return _Subject(path, format, record, record.preprocessing, entry.values or "normalized", output)
    if reference is None:
        why = facts.notes[-1].rstrip(".") if facts.notes else f"{shortened(path.name)} holds no record of vit-export"
        raise InputError(
            f"{why}, so nothing says what pixels it takes and what its answers are: give --reference, the model or "
            "checkpoint that it was made from, and --input where it takes other numbers than normalized ones."
        )
    if entry is None:
        raise InputError(f"{shortened(path.name)} takes no images: expected a file with one input.")
    record = record_of_reference(reference, say)
    kind = input or ("uint8" if takes_pixels(entry) else "normalized")
    assumed: tuple[str, ...] = ()
    if input is None and kind == "normalized":
        assumed = ("the file takes normalized images (--input says otherwise)",)
    pixels = replace(record.preprocessing, image_size=image_size_of(facts.inputs) or record.spec.image_size)
    return _Subject(path, format, record, pixels, kind, _as_wide(path, record, facts.outputs), assumed)


def _refuse_what_is_said(path: Path, reference: object, input: object) -> None:
    for option, given in (("--reference", reference), ("--input", input)):
        if given is not None:
            raise InputError(f"{shortened(path.name)} says itself what {option} is to say: leave it out.")


def _embedding(path: Path, record: ModelRecord, found: Sequence[str]) -> str:
    """The first output of a file of ours that is one vector an image; the file calls its outputs as in `found`."""
    names = names_in_file(record.spec, found)
    vectors = [theirs for ours, theirs in names.items() if ours != "tokens" and theirs in found]
    if not vectors and list(record.spec.outputs) == ["tokens"]:
        raise InputError(
            f"{shortened(path.name)} returns tokens alone, and images are told apart by one vector each: export with "
            "--returns features,tokens."
        )
    return vectors[0] if vectors else found[0]  # as earlier releases called the only one


def _as_wide(path: Path, record: ModelRecord, outputs: Sequence[TensorSpec]) -> str:
    """The output of another tool's file that is the reference's."""
    size = record.spec.output_size
    fitting = [spec.name for spec in outputs if len(spec.shape) <= 2 and spec.shape[-1:] == (size,)]
    if len(fitting) != 1:
        given = shortened(", ".join(f"{spec.name} {list(spec.shape)}" for spec in outputs))
        raise InputError(
            f"{shortened(path.name)} returns {given}, expected one output of {size} numbers as the reference has: give "
            "the model that the file was made from."
        )
    return fitting[0]


def _told(subject: _Subject, paths: Sequence[Path], found: np.ndarray, top: int) -> Predictions:
    record, answers = subject.record, subject.record.answers
    notes: tuple[str, ...] = ()
    if answers is None:
        entries = _compared(paths, found, top)
    elif answers == "regression":
        entries = [{"values": row.tolist()} for row in found]
    else:
        if answers == "multi_label_classification":
            shares = 1 / (1 + np.exp(-found.astype(np.float64)))
        elif (found >= 0).all() and (np.abs(found.sum(axis=1) - 1) < _SUMS_TO_ONE).all():
            shares, notes = found, ("The outputs sum to 1 for every image: they are taken as probabilities.",)
        else:
            shares = _softmax(found)
        entries = [{"classes": _classes(row, record.labels, top)} for row in shares]
    if not record.trained:
        notes += ("The weights are untrained, so the answers mean nothing.",)
    told = tuple({"image": str(path), **entry} for path, entry in zip(paths, entries, strict=True))
    assumed = (*record.assumed.values(), *subject.assumed)
    return Predictions(str(subject.path), subject.output, answers, told, assumed, notes)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _classes(shares: np.ndarray, labels: Sequence[str] | None, top: int) -> list[dict[str, Any]]:
    order = np.argsort(-shares, kind="stable")[:top]
    named = labels if labels is not None and len(labels) == len(shares) else None
    return [{"index": int(i), "label": named[i] if named else None, "probability": float(shares[i])} for i in order]


def _compared(paths: Sequence[Path], found: np.ndarray, top: int) -> list[dict[str, Any]]:
    """Each embedding, and the images whose embeddings point most nearly its way."""
    norms = np.linalg.norm(found.astype(np.float64), axis=1)
    unit = found / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]
    entries = []
    for index, row in enumerate(found):
        cosines = unit @ unit[index]
        order = [int(i) for i in np.argsort(-cosines, kind="stable") if i != index][:top]
        entries.append(
            {
                "size": len(row),
                "norm": float(norms[index]),
                "first": row[:FIRST_VALUES].tolist(),
                "nearest": [{"image": str(paths[i]), "cosine": float(cosines[i])} for i in order],
            }
        )
    return entries
