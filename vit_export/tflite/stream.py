"""Writing .tflite files without holding their weights.

A model is a small object tree (`ModelT`) whose large buffers are `LazyTensor`s: their bytes are produced when they are
written. Below 2 GB every buffer is inline, as every runtime reads it: the flatbuffer is packed with empty vectors, the
weights are appended behind it, and each empty vector's forward reference is patched to its weights. Above, buffers are
addressed by offset and size (schema 3c), which TensorFlow Lite 2.14 and later read; metadata stays inline. Associated
files of TFLite Metadata follow as a zip.
"""

import struct
import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vit_export.artifacts.flatbuffer import IDENTIFIER, Buffers
from vit_export.base.adapters.litert import schema, table_of
from vit_export.base.files import publish

# A flatbuffer's references are 31 bits; the margin leaves room for the structure.
INLINE_LIMIT = 2**31 - 2**24
_ALIGNMENT = 16
_DATA_FIELD, _OFFSET_FIELD, _SIZE_FIELD = 4, 6, 8  # vtable offsets of schema.fbs' table Buffer


def write_model(
    model: Any,
    buffers: Buffers,
    path: Path,
    *,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
    lasting: bool = True,
) -> None:
    """Write `model` with `buffers` as its large buffers; the file appears complete or not at all.

    Buffers that nothing refers to are left empty. `files`, by name, are appended as a zip. For `lasting` see `publish`.

    Raises:
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    with publish(path, overwrite=overwrite, lasting=lasting) as temporary, open(temporary, "wb") as file:
        write_to(file, model, buffers)
        if files:
            _append(files, file)


def write_to(file: BinaryIO, model: Any, buffers: Buffers) -> None:
    """Write `model` with `buffers` as its large buffers to `file`, which is empty."""
    _write(model, _in_use(model, buffers), file)


def _in_use(model: Any, buffers: Buffers) -> Buffers:
    """The `buffers` that a tensor or metadata refers to, metadata first; all other buffers of `model` become empty."""
    described = {entry.buffer for entry in model.metadata or []}
    used = described | {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    for index, buffer in enumerate(model.buffers):
        if index not in used:
            buffer.data = None
    return {index: buffers[index] for index in sorted(buffers, key=lambda i: i not in described) if index in used}


def _append(files: Mapping[str, bytes], file: BinaryIO) -> None:
    # Stored, for readers map the file, and with the offsets that the whole file has.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without a date: the same model is the same file


def fit_inline(buffers: Buffers) -> bool:
    """Whether a file with these large buffers keeps every buffer inline."""
    return sum(_round_up(tensor.nbytes + _ALIGNMENT) for tensor in buffers.values()) <= INLINE_LIMIT


def _write(model: Any, buffers: Buffers, file: BinaryIO) -> None:
    # The readers of metadata look for it inline, whatever the size.
    near = set(buffers) if fit_inline(buffers) else {entry.buffer for entry in model.metadata or []}
    packed = _pack(model, buffers, near)
    position = _round_up(len(packed))
    places = {}
    for index, tensor in buffers.items():
        # The data, not its length prefix, has to be aligned.
        position = _round_up(position + 4) if index in near else _round_up(position)
        places[index] = position
        position += tensor.nbytes
    _patch(packed, buffers, places, near)
    file.write(packed)
    for index, tensor in buffers.items():
        prefix = struct.pack("<I", tensor.nbytes) if index in near else b""
        file.write(b"\0" * (places[index] - len(prefix) - file.tell()))
        file.write(prefix)
        file.write(tensor.elements())


def _pack(model: Any, buffers: Buffers, near: Container[int]) -> bytearray:
    import flatbuffers

    for index in buffers:
        buffer, inline = model.buffers[index], index in near
        buffer.data = np.zeros(0, np.uint8) if inline else None
        # Zero is the default and would not be stored: one marks the place to patch.
        buffer.offset = buffer.size = 0 if inline else 1
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytearray(builder.Output())


def _patch(packed: bytearray, buffers: Buffers, places: Mapping[int, int], near: Container[int]) -> None:
    root = schema().Model.GetRootAs(packed, 0)
    for index, tensor in buffers.items():
        table = table_of(root.Buffers(index))
        if index in near:
            field = table.Pos + table.Offset(_DATA_FIELD)
            struct.pack_into("<I", packed, field, places[index] - 4 - field)
        else:
            struct.pack_into("<Q", packed, table.Pos + table.Offset(_OFFSET_FIELD), places[index])
            struct.pack_into("<Q", packed, table.Pos + table.Offset(_SIZE_FIELD), tensor.nbytes)


def _round_up(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT
