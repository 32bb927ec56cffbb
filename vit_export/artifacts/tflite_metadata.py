"""The TFLite Metadata of a .tflite file: what MediaPipe Tasks, ML Kit and Android Studio read of a model.

A flatbuffer of its own (metadata_schema.fbs, public with MediaPipe) in one of the model's metadata buffers, and files,
such as labels, in a zip appended to the model. The numbers of the schema's fields are here for the reader and the
writer, `tflite.metadata`.
"""

import os
import zipfile
from contextlib import ExitStack
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.facts import damage_told, text_of
from vit_export.artifacts.flatbuffer import Room
from vit_export.artifacts.tflite_file import Reader
from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.base.zip_file import opened_zip
from vit_export.model.spec import MAX_CLASSES

METADATA_NAME = b"TFLITE_METADATA"
IDENTIFIER = b"M001"

# The tables of the schema, each field by its number.
Model = IntEnum("Model", "NAME DESCRIPTION VERSION SUBGRAPHS AUTHOR LICENSE FILES MIN_PARSER_VERSION", start=0)
Subgraph = IntEnum("Subgraph", "NAME DESCRIPTION INPUTS OUTPUTS FILES", start=0)
Tensor = IntEnum("Tensor", "NAME DESCRIPTION DIMENSIONS CONTENT UNITS STATS FILES", start=0)
File = IntEnum("File", "NAME DESCRIPTION TYPE LOCALE VERSION", start=0)
Content = IntEnum("Content", "KIND PROPERTIES RANGE", start=0)
Image = IntEnum("Image", "COLORS SIZE", start=0)
Size = IntEnum("Size", "WIDTH HEIGHT", start=0)
Unit = IntEnum("Unit", "KIND OPTIONS", start=0)
Normalization = IntEnum("Normalization", "MEAN STD", start=0)
Stats = IntEnum("Stats", "MAX MIN", start=0)

# Its unions and enumerations: those of their values that are used here.
FEATURE, IMAGE = 1, 2  # ContentProperties
NORMALIZATION = 1  # ProcessUnitOptions
COLORS = ("unknown", "RGB", "grayscale")
AXIS_LABELS = 2  # AssociatedFileType
_FILE_TYPES = (
    "unknown",
    "descriptions",
    "axis labels",
    "value labels",
    "score calibration",
    "vocabulary",
    "scann index",
)

_MAX_LABELS = 16 * 2**20  # bytes of the label files of all outputs together


def read_tflite_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The TFLite Metadata of the .tflite file at `path`, JSON-ready; None where there is none.

    "name", "description", "version", "author", "license", "min_parser_version" (None where absent); "files", the names
    of the files in the appended zip; "inputs" and "outputs", of each tensor "name", "description" and "files" (of each
    "name", "type", "description", "locale"). An input has also "colors" and "size" (width and height, None where it
    has none), and where there are any "mean" and "std", by which (pixel - mean) / std is its value for a pixel from 0
    to 255, "min" and "max". An output with a file of labels for its axis has them as "labels".

    Raises:
        InputError: the file, its metadata or its zip is damaged or cut off, or the zip lacks the labels.
    """
    path = Path(path)
    with damage_told(path, ".tflite"), ExitStack() as stack:
        data = Reader(path).metadata(METADATA_NAME)
        if data is None:
            return None
        if data[4:8] != IDENTIFIER:
            raise ValueError("another schema")
        # Each part of it is looked at twice at the most.
        model = _Table(data, int.from_bytes(data[:4], "little"), Room(2 * len(data), shortened(path)))
        subgraph = next(iter(model.tables(Model.SUBGRAPHS)), None)
        inputs = subgraph.tables(Subgraph.INPUTS) if subgraph else []
        outputs = subgraph.tables(Subgraph.OUTPUTS) if subgraph else []
        archive = stack.enter_context(opened_zip(path)) if zipfile.is_zipfile(path) else None
        names = archive.namelist() if archive else []
        labels = Room(_MAX_LABELS, f"{shortened(path)}, with its label files,")
        return {
            "name": model.text(Model.NAME),
            "description": model.text(Model.DESCRIPTION),
            "version": model.text(Model.VERSION),
            "author": model.text(Model.AUTHOR),
            "license": model.text(Model.LICENSE),
            "min_parser_version": model.text(Model.MIN_PARSER_VERSION),
            "files": names,
            "inputs": [{**_tensor(tensor), **_image(tensor)} for tensor in inputs],
            "outputs": [{**_tensor(tensor), **_labels(tensor, archive, labels, path)} for tensor in outputs],
        }


def _tensor(tensor: "_Table") -> dict[str, Any]:
    return {
        "name": tensor.text(Tensor.NAME),
        "description": tensor.text(Tensor.DESCRIPTION),
        "files": [
            {
                "name": file.text(File.NAME),
                "type": _named(_FILE_TYPES, file.byte(File.TYPE)),
                "description": file.text(File.DESCRIPTION),
                "locale": file.text(File.LOCALE),
            }
            for file in tensor.tables(Tensor.FILES)
        ],
    }


def _image(tensor: "_Table") -> dict[str, Any]:
    found: dict[str, Any] = {"colors": None, "size": None}
    content = tensor.table(Tensor.CONTENT)
    if content and content.byte(Content.KIND) == IMAGE and (image := content.table(Content.PROPERTIES)):
        found["colors"] = _named(COLORS, image.byte(Image.COLORS))
        if size := image.table(Image.SIZE):
            found["size"] = [size.number(Size.WIDTH), size.number(Size.HEIGHT)]
    for unit in tensor.tables(Tensor.UNITS):
        if unit.byte(Unit.KIND) == NORMALIZATION and (options := unit.table(Unit.OPTIONS)):
            found["mean"], found["std"] = options.floats(Normalization.MEAN), options.floats(Normalization.STD)
    if stats := tensor.table(Tensor.STATS):
        found["min"], found["max"] = stats.floats(Stats.MIN), stats.floats(Stats.MAX)
    return found


def _labels(tensor: "_Table", archive: zipfile.ZipFile | None, room: Room, path: Path) -> dict[str, Any]:
    """The labels of the first file of them, as MediaPipe takes them."""
    for file in tensor.tables(Tensor.FILES):
        if file.byte(File.TYPE) == AXIS_LABELS:
            name = file.text(File.NAME) or ""
            if archive is None or name not in archive.NameToInfo:
                raise InputError(
                    f"{shortened(path)} says that its labels are in {shortened(repr(name))}, which is not in the zip "
                    "behind the model: export it again."
                )
            room.take(archive.NameToInfo[name].file_size, 1)
            labels = archive.read(name).decode().removesuffix("\n")
            if labels.count("\n") >= MAX_CLASSES:
                raise ValueError(f"more than {MAX_CLASSES} labels")
            return {"labels": labels.split("\n")}
    return {}


def _named(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)


class _Table:
    """One table of a flatbuffer, its fields by number."""

    def __init__(self, data: bytes, position: int, room: Room) -> None:
        from flatbuffers.table import Table

        self._table, self._room = Table(data, position), room

    def text(self, field: int) -> str | None:
        place = self._place(field)
        if place is None:
            return None
        found = text_of(self._table.String(place))
        self._room.take(len(found), 1)
        return found

    def byte(self, field: int) -> int:
        place = self._place(field)
        return self._table.Bytes[place] if place is not None else 0

    def number(self, field: int) -> int:
        """An unsigned number of 32 bits, 0 where it is not there."""
        place = self._place(field)
        return int.from_bytes(self._table.Bytes[place : place + 4], "little") if place is not None else 0

    def table(self, field: int) -> "_Table | None":
        place = self._place(field)
        return self._at(place) if place is not None else None

    def tables(self, field: int) -> list["_Table"]:
        start, count = self._vector(field)
        return [self._at(start + 4 * i) for i in range(count)]

    def floats(self, field: int) -> list[float]:
        start, count = self._vector(field)
        return [float(value) for value in np.frombuffer(self._table.Bytes, "<f4", count, start)] if count else []

    def _at(self, place: int) -> "_Table":
        return _Table(self._table.Bytes, self._table.Indirect(place), self._room)

    def _place(self, field: int) -> int | None:
        offset = self._table.Offset(4 + 2 * field)
        return self._table.Pos + offset if offset else None

    def _vector(self, field: int) -> tuple[int, int]:
        """Where the elements of a vector, 4 bytes each, begin, and how many there are."""
        offset = self._table.Offset(4 + 2 * field)
        if not offset:
            return 0, 0
        start, count = self._table.Vector(offset), self._table.VectorLen(offset)
        if start + 4 * count > len(self._table.Bytes):
            raise ValueError(f"a vector of {count} entries")
        return start, self._room.take(count, 4)
