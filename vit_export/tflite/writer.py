"""Reading and writing .tflite files without holding their weights.

A model is a small object tree (`ModelT`) whose large buffers are `Payload`s: a size and a function that produces the
bytes when they are written. Below 2 GB every buffer is inline, as every runtime reads it: the flatbuffer is packed with
empty vectors, the weights are appended behind it, and each empty vector's forward reference is patched to its weights.
Above, buffers are addressed by offset and size (schema 3c), which TensorFlow Lite 2.14 and later read; metadata stays
inline.
Associated files of TFLite Metadata follow as a zip.
"""

import mmap
import struct
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vit_export.base.errors import InputError, StructureError
from vit_export.base.files import publish

# A flatbuffer's references are 31 bits; the margin leaves room for the structure.
INLINE_LIMIT = 2**31 - 2**24
# Buffers at least this large are streamed; smaller ones (shapes, axes) stay in the structure.
_STREAM_FROM = 1024
_ALIGNMENT = 16
_IDENTIFIER = b"TFL3"
_DATA_FIELD, _OFFSET_FIELD, _SIZE_FIELD = 4, 6, 8  # vtable offsets of schema.fbs' table Buffer


@dataclass(frozen=True)
class Payload:
    """The bytes of one buffer, produced when they are written."""

    nbytes: int
    read: Callable[[], np.ndarray]


Payloads = Mapping[int, Payload]
"""Buffer index -> its bytes."""


def schema() -> Any:
    """The generated flatbuffer classes (an adapter: they have moved between packages before)."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


def operator_names() -> dict[int, str]:
    """BuiltinOperator code -> name."""
    return {code: name for name, code in vars(schema().BuiltinOperator).items() if isinstance(code, int)}


def operator_kinds(model: Any) -> list[str]:
    """Name of each operator code of `model`, as `OperatorT.opcodeIndex` addresses them."""
    names = operator_names()
    # Codes above 127 are in the newer field alone, the others in either.
    return [names[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]


def unpack(data: bytes | memoryview) -> Any:
    """The object tree (`ModelT`) of a serialized model."""
    return schema().ModelT.InitFromObj(schema().Model.GetRootAs(data, 0))


def write_model(
    model: Any,
    payloads: Payloads,
    path: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Write `model` with `payloads` as its large buffers; the file appears complete or not at all.

    Buffers that nothing refers to are left empty. `files`, by name, are appended as a zip.

    Raises:
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    with publish(path, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
        _write(model, _in_use(model, payloads), file)
        if files:
            _append(files, file)


def _in_use(model: Any, payloads: Payloads) -> Payloads:
    """The payloads that a tensor or metadata refers to, metadata first; all other buffers of `model` become empty."""
    described = {entry.buffer for entry in model.metadata or []}
    used = described | {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return {index: payloads[index] for index in sorted(payloads, key=lambda i: i not in described) if index in used}


def _append(files: Mapping[str, bytes], file: BinaryIO) -> None:
    # Stored, for readers map the file, and with the offsets that the whole file has.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without a date: the same model is the same file


def fit_inline(payloads: Payloads) -> bool:
    """Whether a file with these payloads keeps every buffer inline."""
    return sum(_round_up(payload.nbytes + _ALIGNMENT) for payload in payloads.values()) <= INLINE_LIMIT


def _write(model: Any, payloads: Payloads, file: BinaryIO) -> None:
    # The readers of metadata look for it inline, whatever the size.
    near = set(payloads) if fit_inline(payloads) else {entry.buffer for entry in model.metadata or []}
    packed = _pack(model, payloads, near)
    position = _round_up(len(packed))
    places = {}
    for index, payload in payloads.items():
        # The data, not its length prefix, has to be aligned.
        position = _round_up(position + 4) if index in near else _round_up(position)
        places[index] = position
        position += payload.nbytes
    _patch(packed, payloads, places, near)
    file.write(packed)
    for index, payload in payloads.items():
        data = np.ascontiguousarray(payload.read())
        if data.nbytes != payload.nbytes:
            raise StructureError(f"TFLite writer: buffer {index} has {data.nbytes} bytes, announced {payload.nbytes}.")
        prefix = struct.pack("<I", payload.nbytes) if index in near else b""
        file.write(b"\0" * (places[index] - len(prefix) - file.tell()))
        file.write(prefix)
        file.write(data.data)


def _pack(model: Any, payloads: Payloads, near: Container[int]) -> bytearray:
    import flatbuffers

    for index in payloads:
        buffer, inline = model.buffers[index], index in near
        buffer.data = np.zeros(0, np.uint8) if inline else None
        # Zero is the default and would not be stored: one marks the place to patch.
        buffer.offset = buffer.size = 0 if inline else 1
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytearray(builder.Output())


def _patch(packed: bytearray, payloads: Payloads, places: Mapping[int, int], near: Container[int]) -> None:
    root = schema().Model.GetRootAs(packed, 0)
    for index, payload in payloads.items():
        table = root.Buffers(index)._tab
        if index in near:
            field = table.Pos + table.Offset(_DATA_FIELD)
            struct.pack_into("<I", packed, field, places[index] - 4 - field)
        else:
            struct.pack_into("<Q", packed, table.Pos + table.Offset(_OFFSET_FIELD), places[index])
            struct.pack_into("<Q", packed, table.Pos + table.Offset(_SIZE_FIELD), payload.nbytes)


class MappedModel:
    """A .tflite file opened by memory map: `model` is its structure, `payloads` its large buffers, read when asked.

    Buffers that a quantizer wrote outside the flatbuffer (offset and size) are found as well as inline ones.
    """

    def __init__(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be opened as a .tflite file ({error}).") from error
        if self._map[4:8] != _IDENTIFIER:
            raise InputError(f"{path} is not a .tflite file: it does not carry the identifier TFL3.")
        self._view = memoryview(self._map)
        self.model = unpack(self._view)
        self.payloads = dict(self._payloads())

    def _payloads(self) -> Iterator[tuple[int, Payload]]:
        for index, buffer in enumerate(self.model.buffers):
            if buffer.offset > 1 and buffer.size > 0:
                data = np.frombuffer(self._view, np.uint8, buffer.size, buffer.offset)
            elif buffer.data is not None and len(buffer.data) >= _STREAM_FROM:
                data = np.asarray(buffer.data, np.uint8)
            else:
                continue
            buffer.data, buffer.offset, buffer.size = None, 0, 0
            yield index, Payload(data.nbytes, partial(_given, data))


def _given(data: np.ndarray) -> np.ndarray:
    return data


def _round_up(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT
