"""What files say of the images of one shard: a table with a row for each image and file, the only source of figures.

| column | |
|---|---|
| `image` | what the image is called in its data set |
| `label` | its class, null where nobody says |
| `error` | why it cannot be read; then `file` is empty and all that follows null |
| `file` | the file that answered, by its name among the evaluated ones |
| `top`, `logits` | the five largest outputs, best first: classes and values |
| `log_sum` | log of the sum of exp of all outputs, so that softmax(x) is exp(x - log_sum) |
| `label_logit` | the output of the labelled class |
| `signal`, `squared_error` | sum of the reference's squares, and of the squares of the difference from it |
| `embedding` | all outputs, where neighbours are wanted |
"""

import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.files import output_errors
from vit_export.evaluation.classes import Classes
from vit_export.evaluation.data import Item, Shard
from vit_export.images.read import UnreadableImage, decode_image, resize_and_crop
from vit_export.model.artifact import Format
from vit_export.model.input_kinds import feed
from vit_export.model.record import ModelRecord
from vit_export.runtimes.runner import Runner, open_runner

if TYPE_CHECKING:
    import pyarrow

BEST = 5
CHUNK = 32
"""Images that are decoded together, so that a file with a batch is fed whole ones."""


@dataclass(frozen=True)
class Subject:
    """A file to evaluate: its `name` among all of them, and what feeds it. The first one is the reference."""

    name: str
    path: str
    format: Format
    sha256: str
    values: str
    record: dict[str, Any]

    def runner(self) -> Runner:
        """The file in its runtime, on one thread; loaded once a process."""
        return _runner(self.path, self.format)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


@lru_cache
def _runner(path: str, format: Format) -> Runner:
    return open_runner(Path(path), format, 1)


@lru_cache
def _record(text: str) -> ModelRecord:
    return ModelRecord.from_dict(json.loads(text))


def schema() -> "pyarrow.Schema":
    """The columns of a table of rows."""
    import pyarrow as arrow

    return arrow.schema(
        [
            ("image", arrow.string()),
            ("label", arrow.int32()),
            ("error", arrow.string()),
            ("file", arrow.string()),
            ("top", arrow.list_(arrow.int32())),
            ("logits", arrow.list_(arrow.float32())),
            ("log_sum", arrow.float64()),
            ("label_logit", arrow.float64()),
            ("signal", arrow.float64()),
            ("squared_error", arrow.float64()),
            ("embedding", arrow.list_(arrow.float32())),
        ]
    )


def rows_of(
    shard: Shard, subjects: Sequence[Subject], classes: Classes, *, embeddings: bool = False
) -> "pyarrow.Table":
    """The rows of all images in `shard`: each is decoded once and brought once to each size that files take.

    Raises:
        InputError: the shard cannot be read, or a label is called like no class.
        RunnerError: a file cannot be run.
    """
    import pyarrow as arrow

    batches = []
    for items in _chunks(shard.items()):
        batches.append(
            arrow.RecordBatch.from_pylist(list(_rows(items, subjects, classes, embeddings)), schema=schema())
        )
    return arrow.Table.from_batches(batches, schema=schema())


def packed(table: "pyarrow.Table") -> bytes:
    """`table` as a Parquet file."""
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd")
    return file.getvalue()


def write_rows(rows: bytes, path: Path) -> None:
    """Write a Parquet file to `path`, complete or not at all, whatever ends this process or this machine.

    Raises:
        OutputError: the disk is full, or the folder is gone or may not be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with output_errors(path):
        try:
            with open(unfinished, "wb") as file:
                file.write(rows)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    chunk = list[Item]()
    for item in items:
        chunk.append(item)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _rows(
    items: Sequence[Item], subjects: Sequence[Subject], classes: Classes, embeddings: bool
) -> Iterator[dict[str, Any]]:
    records = [_known(subject) for subject in subjects]
    sizes = list(dict.fromkeys(record.preprocessing for record in records))
    pixels: dict[Any, list[np.ndarray]] = {size: [] for size in sizes}
    good, labels = list[Item](), list[int | None]()
    for item in items:
        label = classes.index(item)
        try:
            image = decode_image(item.data, item.name)
            resized = [resize_and_crop(image, size) for size in sizes]
        except InputError as error:
            reason = error.reason if isinstance(error, UnreadableImage) else "it is too elongated for the model"
            yield {"image": item.name, "label": label, "error": reason, "file": ""}
            continue
        for size, one in zip(sizes, resized, strict=True):
            pixels[size].append(one)
        good.append(item)
        labels.append(label)
    if not good:
        return
    reference: np.ndarray | None = None
    for subject, record in zip(subjects, records, strict=True):
        images = feed(np.stack(pixels[record.preprocessing]), subject.values, record.preprocessing)
        outputs = subject.runner().run(images)
        flat = outputs.reshape(len(outputs), -1).astype(np.float64)
        if reference is None:
            reference = flat
        elif flat.shape != reference.shape:
            raise InputError(
                f"{subject.name} answers with {flat.shape[1]} numbers, {subjects[0].name} with {reference.shape[1]}: "
                "evaluate the files of one model together."
            )
        for number, item in enumerate(good):
            yield {
                "image": item.name,
                "label": labels[number],
                "file": subject.name,
                **_answer(outputs[number], labels[number], classify=record.classifies),
                "signal": float(np.square(reference[number]).sum()),
                "squared_error": float(np.square(flat[number] - reference[number]).sum()),
                "embedding": flat[number].astype(np.float32) if embeddings else None,
            }


def _known(subject: Subject) -> ModelRecord:
    return _record(json.dumps(subject.record))


def _answer(output: np.ndarray, label: int | None, *, classify: bool) -> dict[str, Any]:
    if not classify:
        return {}
    top = np.argsort(-output, kind="stable")[:BEST]
    exact = output.astype(np.float64)
    highest = exact.max()
    return {
        "top": [int(index) for index in top],
        "logits": [float(output[index]) for index in top],
        "log_sum": float(highest + np.log(np.exp(exact - highest).sum())),
        "label_logit": None if label is None else float(exact[label]),
    }
