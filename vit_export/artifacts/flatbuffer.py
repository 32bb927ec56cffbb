"""Reading .tflite files without holding their weights.

A model is a small object tree (`ModelT`) whose large buffers are `LazyTensor`s: their bytes are produced when they are
written. Buffers are found inline as well as outside the flatbuffer (schema 3c: offset and size).
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.facts import damage_told, require_few
from vit_export.base.adapters.litert import names_of, schema
from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.base.lazy import LazyTensor

# Buffers at least this large are streamed; smaller ones (shapes, axes) stay in the structure.
_STREAM_FROM = 1024

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every .tflite file."""


Buffers = Mapping[int, LazyTensor]
"""Buffer index -> its elements, of the type of the tensor it belongs to or as bytes."""


def operator_kinds(model: Any) -> list[str]:
    """Name of each operator code of `model`, as `OperatorT.opcodeIndex` addresses them."""
    names = names_of("BuiltinOperator")
    # Codes above 127 are in the newer field alone, the others in either.
    return [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]


def unpack(data: bytes | memoryview) -> Any:
    """The object tree (`ModelT`) of a serialized model."""
    return schema().ModelT.InitFromObj(schema().Model.GetRootAs(data, 0))


class Room:
    """How many bytes the parts of a file may take together; in `what`, a file by its name."""

    def __init__(self, nbytes: int, what: str) -> None:
        self._left, self._what = nbytes, what

    def take(self, count: int, each: int) -> int:
        """Let `count` parts of at least `each` bytes have their place; returns `count`.

        Raises:
            InputError: there is no place for them in the file, unless some are in it for several others too.
        """
        if not 0 <= count * each <= self._left:
            raise InputError(
                f"{self._what} names more parts than it has room for, as if one were many: it is damaged or cut off, "
                "or made to take all memory; fetch or export it again."
            )
        self._left -= count * each
        return count


_SLOT, _TABLE = 4, 16
"""Bytes that an entry of a vector takes at the least: a number, or the place of a table and the table."""


def require_room(model: Any, nbytes: int, path: Path) -> None:
    """Raise InputError where `model`, the root of a file of `nbytes` bytes, has more parts than it has room for.

    A vector may name one table a thousand times, and so may that table's vectors: a few kilobytes stand for millions of
    tensors. After this, to walk through all of them takes as long as to read the file.
    """
    room = Room(nbytes, shortened(path))
    for count in (
        model.OperatorCodesLength(),
        model.BuffersLength(),
        model.MetadataLength(),
        model.SignatureDefsLength(),
        model.SubgraphsLength(),
    ):
        room.take(count, _SLOT)
    for index in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(index)
        require_few(path, signature.InputsLength() + signature.OutputsLength())
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        room.take(graph.TensorsLength() + graph.OperatorsLength(), _TABLE)
        require_few(path, graph.InputsLength() + graph.OutputsLength())
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            room.take(len(tensor.Name() or b""), 1)
            room.take(tensor.ShapeLength() + tensor.ShapeSignatureLength() + tensor.VariantTensorsLength(), _SLOT)
            if (sparsity := tensor.Sparsity()) is not None:
                room.take(sparsity.DimMetadataLength(), _SLOT)
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            room.take(operator.InputsLength() + operator.OutputsLength(), _SLOT)


class MappedModel:
    """A .tflite file opened by memory map: `model` is its structure, `buffers` its large buffers, read when asked.

    Buffers that a quantizer wrote outside the flatbuffer (offset and size) are found as well as inline ones.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be opened as a .tflite file ({error}).") from error
        if self._map[4:8] != IDENTIFIER:
            raise InputError(f"{path} is not a .tflite file: it does not carry the identifier TFL3.")
        self._view = memoryview(self._map)
        with damage_told(path, ".tflite"):
            require_room(schema().Model.GetRootAs(self._view, 0), len(self._view), path)
            self.model = unpack(self._view)
            self.buffers = dict(self._buffers())

    def data(self, index: int) -> np.ndarray:
        """The bytes of buffer `index`, large or not: uint8 [n]."""
        if index in self.buffers:
            return np.frombuffer(self.buffers[index].elements(), np.uint8)
        data = self.model.buffers[index].data
        return np.zeros(0, np.uint8) if data is None else np.asarray(data, np.uint8)

    def _buffers(self) -> Iterator[tuple[int, LazyTensor]]:
        for index, buffer in enumerate(self.model.buffers):
            if buffer.offset > 1 and buffer.size > 0:
                data = np.frombuffer(self._view, np.uint8, buffer.size, buffer.offset)
            elif buffer.data is not None and len(buffer.data) >= _STREAM_FROM:
                data = np.asarray(buffer.data, np.uint8)
            else:
                continue
            buffer.data, buffer.offset, buffer.size = None, 0, 0
            yield index, LazyTensor.of(f"buffer {index}", data)
