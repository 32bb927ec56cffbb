"""The index of a TensorFlow checkpoint, looked through before TensorFlow opens it.

TensorFlow ends the whole process where an entry of the index is not as it should be. So each is read here first. The
format is that of LevelDB's tables: blocks of entries, key by key, then a block that lists the blocks, then a footer.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAX_INDEX = 4 << 20  # bytes; those of the largest variants have some 60 KB
_FOOTER = 48
_MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
_MAX_RANK = 16
_MAX_ELEMENTS = 1 << 40

# Bytes of an element by the number of its type: float32, float64, int32, uint8, int8, text, int64, bool, bfloat16 and
# float16. Texts, such as TensorFlow's list of objects, have lengths of their own.
_BYTES = {1: 4, 2: 8, 3: 4, 4: 1, 6: 1, 7: None, 9: 8, 10: 1, 14: 2, 19: 2}


def require_sound(prefix: Path) -> None:
    """Raise ValueError where TensorFlow would not survive opening the checkpoint `prefix` or reading its shapes.

    What is asked of it is what TensorFlow writes: one file of data, no compression, whole tensors that lie in the file.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import tensor_bundle_pb2

    index, data = prefix.with_name(f"{prefix.name}.index"), prefix.with_name(f"{prefix.name}.data-00000-of-00001")
    for file in (index, data):
        if not file.is_file():
            raise ValueError(f"there is no file {file.name}")
    if index.stat().st_size > _MAX_INDEX:
        raise ValueError(f"{index.name} has more than {_MAX_INDEX} bytes")
    try:
        rows = list(_rows(index.read_bytes()))
        if not rows or rows[0][0] != b"":
            raise ValueError("the index has no header")
        header = tensor_bundle_pb2.BundleHeaderProto.FromString(rows[0][1])
        if header.num_shards != 1 or header.endianness != header.LITTLE:
            raise ValueError("the variables lie in several files, or are of another byte order")
        for key, value in rows[1:]:
            _require_entry(key.decode(), tensor_bundle_pb2.BundleEntryProto.FromString(value), data.stat().st_size)
    except (DecodeError, IndexError, struct.error) as error:
        raise ValueError(f"{index.name} is damaged") from error


def _require_entry(key: str, entry: Any, size: int) -> None:
    sides, each = [dimension.size for dimension in entry.shape.dim], _BYTES.get(entry.dtype, -1)
    if entry.slices or entry.shape.unknown_rank or entry.shard_id or len(sides) > _MAX_RANK:
        raise ValueError(f"{key[:80]!r} is no whole tensor")
    if min(sides, default=0) < 0 or math.prod(max(1, n) for n in sides) > _MAX_ELEMENTS:
        raise ValueError(f"{key[:80]!r} has a shape that no tensor has")
    if each is not None and each * math.prod(sides) != entry.size:
        raise ValueError(f"{key[:80]!r} has a type that no variable has, or bytes that do not fit its shape")
    if entry.offset < 0 or not 0 <= entry.size <= size - entry.offset:
        raise ValueError(f"{key[:80]!r} does not lie in the file of the variables")


def _rows(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of every entry, which come in the order of their keys."""
    footer = table[-_FOOTER:]
    if len(footer) < _FOOTER or not footer.endswith(_MAGIC):
        raise ValueError("the index is cut off")
    position = 0
    handles = []
    for _ in range(2):  # the blocks of metadata, which are not read, and of blocks
        offset, position = _varint(footer, position)
        size, position = _varint(footer, position)
        handles.append(_block(table, offset, size))
    last = None
    for _, handle in _entries(handles[1]):
        offset, position = _varint(handle, 0)
        size, position = _varint(handle, position)
        for key, value in _entries(_block(table, offset, size)):
            if last is not None and key <= last:
                raise ValueError("the keys of the index are in no order")
            last = key
            yield key, value


def _block(table: bytes, offset: int, size: int) -> bytes:
    if offset + size + 5 > len(table) - _FOOTER or table[offset + size]:  # its type, 0 for no compression, and checksum
        raise ValueError("a block of the index lies outside it or is compressed")
    return table[offset : offset + size]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of the entries of a block; a key says how much of the one before it begins with."""
    (count,) = struct.unpack("<I", block[-4:])
    end = len(block) - 4 - 4 * count
    if count < 1 or end < 0:
        raise ValueError("a block of the index is cut off")
    restarts = set(struct.unpack(f"<{count}I", block[end:-4]))
    position, key = 0, b""
    while position < end:
        start = position
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared > len(key) or (start in restarts and shared) or position + own + length > end:
            raise ValueError("an entry of the index is damaged")
        restarts.discard(start)
        key = key[:shared] + block[position : position + own]
        position += own + length
        yield key, block[position - length : position]
    if restarts - {0}:
        raise ValueError("a block of the index points between its entries")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The base-128 number at `position`, of at most 32 bits, and where it ends."""
    number = shift = 0
    while shift < 35:
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position
    raise ValueError("a number of more than 32 bits")
