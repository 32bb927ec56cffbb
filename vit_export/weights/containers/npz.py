"""NumPy archives (.npz), and the vetting of zips that .keras files go through too (`open_zip`)."""

import io
import math
import warnings
import weakref
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from vit_export.base.errors import InputError
from vit_export.base.zip_file import MAX_MEMBERS, BoundedFile
from vit_export.weights.containers.safetensors_file import (
    BLOCK,
    as_float32,
    damage_refused,
    listed,
    requested,
    size_of_file,
)
from vit_export.weights.containers.tensors import StoredTensor

_MAX_GROWTH = 200  # weights hardly compress; deflate reaches 1000 on zeros alone
_HARMLESS = 256 << 20
_MAX_HEADER = 10_000  # numpy's own limit on a .npy header
_ENCRYPTED = 0x1


def open_npz(path: Path) -> "NpzFile":
    """Open the .npz file `path`: the header of every array is read and checked, no values.

    float16, float32, float64 and bfloat16 (2-byte void, `|V2`, as big_vision writes it) can be read.

    Raises:
        InputError: no such file, not a sound zip of .npy arrays, a zip bomb, or an array of Python objects (a pickle).
    """
    archive = open_zip(path)
    try:
        with damage_refused(path):
            return NpzFile(path, archive)
    except BaseException:
        archive.close()
        raise


@dataclass(frozen=True)
class _Member:
    """Where an array's values lie in the archive: after `offset` bytes of header."""

    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    fortran: bool
    offset: int


class NpzFile:
    """The arrays of one .npz file, a `TensorFile`; keys are member names without '.npy'."""

    def __init__(self, path: Path, archive: "Archive") -> None:
        self.path = path
        self._archive = archive
        self._members: dict[str, _Member] = {}
        self._tensors: dict[str, StoredTensor] = {}
        self._sliced: dict[str, IO[bytes]] = {}
        others = [info.filename for info in archive.infolist() if not info.filename.endswith(".npy")]
        if others:
            raise InputError(
                f"{path} holds members that are no .npy arrays ({listed(others)}), expected arrays only: "
                "save the weights again with np.savez."
            )
        for info in archive.infolist():
            self._add(info)
        weakref.finalize(self, archive.close)

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every array by its key."""
        return self._tensors

    def read(self, key: str, index: int | None = None) -> np.ndarray:
        """The array `key` as float32, or entry `index` of its leading axis; needs that result's memory and 1 MB.

        Of an array in Fortran order the whole is read for one entry too. Entries are cheap in ascending order
        (each byte is read once); an earlier one starts again from the front.

        Raises:
            InputError: no such array or entry, an array of another type, or damaged values.
        """
        stored = requested(self.path, self._tensors, key, index)
        member = self._members[key]
        with damage_refused(self.path):
            if index is None:
                return self._read_whole(member, stored.shape)
            if member.fortran:
                return self._read_whole(member, stored.shape)[index].copy()
            stream = self._sliced.get(key)
            if stream is None:
                # Entries are read past the archive's checksum, so the array is compared with it once before.
                verify(self._archive, member.info)
                stream = self._sliced[key] = self._archive.open(member.info)
            shape = stored.shape[1:]
            stream.seek(member.offset + index * math.prod(shape) * member.dtype.itemsize)
            return _values(stream, member.dtype, math.prod(shape)).reshape(shape)

    def _read_whole(self, member: _Member, shape: tuple[int, ...]) -> np.ndarray:
        with self._archive.open(member.info) as stream:
            stream.read(member.offset)
            values = _values(stream, member.dtype, math.prod(shape))
        return values.reshape(shape[::-1]).T if member.fortran else values.reshape(shape)

    def _add(self, info: zipfile.ZipInfo) -> None:
        key = info.filename.removesuffix(".npy")
        with self._archive.open(info) as stream:
            head = io.BytesIO(stream.read(_MAX_HEADER))
        shape, fortran, dtype = _header(head, key)
        if dtype.hasobject:
            raise InputError(
                f"{self.path}: the array {key[:80]!r} is a pickle of Python objects, which can run any code when it is "
                "opened: load it where you trust it (np.load with allow_pickle=True) and save plain arrays again with "
                "np.savez."
            )
        expected = head.tell() + math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or expected != info.file_size:
            raise ValueError(
                f"the header of {key[:80]!r} says {list(shape)} of {dtype.name}, {expected} bytes, "
                f"but there are {info.file_size}"
            )
        is_bfloat16 = dtype.str == "|V2" and dtype.fields is None and dtype.subdtype is None
        self._members[key] = _Member(info, dtype, fortran, head.tell())
        self._tensors[key] = StoredTensor(shape, "bfloat16" if is_bfloat16 else dtype.name)


def _header(head: IO[bytes], key: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(head)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{key[:80]!r} has an .npy header of version {version}, expected 1.0 or 2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of files written by Python 2, which are as good
        shape, fortran, dtype = readers[version](head)
    return tuple(int(n) for n in shape), fortran, dtype


def _values(stream: IO[bytes], dtype: np.dtype[Any], count: int) -> np.ndarray:
    """The next `count` values of `stream` as float32 [count]."""
    result = np.empty(count, np.float32)
    step = BLOCK // dtype.itemsize
    name = "bfloat16" if dtype.kind == "V" else dtype.name
    for start in range(0, count, step):
        block = result[start : start + step]
        block[:] = as_float32(np.frombuffer(stream.read(block.size * dtype.itemsize), dtype), name)
    return result


class Archive(zipfile.ZipFile):
    """A zip opened by `open_zip`; `size` is the file's, in bytes, and `file` gives its bytes."""

    def __init__(self, path: Path, size: int) -> None:
        self.file = BoundedFile(path)
        self.size = size
        try:
            super().__init__(self.file)
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        """Close the zip and its file."""
        super().close()
        self.file.close()


def open_zip(path: Path) -> Archive:
    """Open the zip file `path` and vet its list of members; the caller closes it.

    Raises:
        InputError: no such file, truncated, a zip bomb, encrypted, compressed by other than deflate, ambiguous names.
    """
    size = size_of_file(path)
    with damage_refused(path):
        archive = Archive(path, size)
    try:
        with damage_refused(path):
            _vet(path, archive)
    except BaseException:
        archive.close()
        raise
    return archive


def _vet(path: Path, archive: Archive) -> None:
    members = archive.infolist()
    unpacked = sum(m.file_size for m in members)
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path} has {len(members)} members, expected the weights of a model ({MAX_MEMBERS} at most).")
    if unpacked > _HARMLESS and unpacked > _MAX_GROWTH * archive.size:
        raise InputError(
            f"{path} would unpack from {archive.size} bytes to {unpacked}, expected at most {_MAX_GROWTH} times its "
            "size as weights hardly compress: it looks like a zip bomb, so get the file from a source you trust."
        )
    seen = set()
    for m in members:
        if m.filename in seen:
            raise ValueError(f"two members are called {m.filename[:80]!r}")
        seen.add(m.filename)
        if m.flag_bits & _ENCRYPTED:
            raise InputError(f"{path} is encrypted ({m.filename[:80]!r}): unpack it and save it without a password.")
        if m.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise InputError(
                f"{path}: {m.filename[:80]!r} is compressed by method {m.compress_type}, expected stored or deflated: "
                "pack it again."
            )
        is_stored = m.compress_type == zipfile.ZIP_STORED
        if (is_stored and m.compress_size != m.file_size) or m.header_offset + m.compress_size > archive.size:
            raise ValueError(f"the size of {m.filename[:80]!r} is impossible")
    if sum(m.compress_size for m in members) > archive.size:
        raise ValueError("its members overlap")


def verify(archive: Archive, info: zipfile.ZipInfo) -> None:
    """Read the member `info` to its end, where `zipfile` compares its CRC and raises BadZipFile."""
    left = info.file_size
    with archive.open(info) as stream:
        while left:
            count = len(stream.read(min(BLOCK, left)))
            if not count:
                raise EOFError(f"{info.filename[:80]!r} ends early")
            left -= count
