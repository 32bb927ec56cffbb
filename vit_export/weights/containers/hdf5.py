"""Keras 3 weights: `.weights.h5` files and `.keras` archives, whose config is read as plain JSON and never run."""

import io
import math
import struct
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.json_file import MAX_JSON
from vit_export.weights.containers.npz import Archive, open_zip, verify
from vit_export.weights.containers.safetensors_file import (
    BLOCK,
    damage_refused,
    gathered,
    object_of,
    requested,
    size_of_file,
)
from vit_export.weights.containers.tensors import LOADABLE, StoredTensor

if TYPE_CHECKING:
    import h5py

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
"""The members that make a zip a .keras archive."""

_MAX_LINKS = 100_000
_MAX_DEPTH = 64


def open_weights_h5(path: Path) -> "WeightsH5":
    """Open what Keras 3's `model.save_weights("x.weights.h5")` wrote; keys are dataset paths without leading '/'.

    Raises:
        InputError: no such file, damaged, a whole-model .h5 of older Keras, or an HDF5 file that refers to other files.
    """
    size = size_of_file(path)
    with damage_refused(path):
        file = io.FileIO(path)
        return _opened(path, Window(file, 0, size), file.close)


def open_keras_archive(path: Path) -> tuple["WeightsH5", dict[str, Any]]:
    """Open a `.keras` file: its weights, as those of `open_weights_h5`, and its config.json.

    Weights that are deflated (Keras stores them) are unpacked into a nameless temporary file, gone with the result.

    Raises:
        InputError: no such file, no such archive, a zip bomb, damaged members, and all that `open_weights_h5` refuses.
    """
    archive = open_zip(path)
    try:
        if missing := sorted({CONFIG, WEIGHTS} - set(archive.namelist())):
            raise InputError(
                f"{path} is no Keras 3 archive, it lacks {' and '.join(missing)}: save the model with "
                "model.save('model.keras')."
            )
        with damage_refused(path):
            with archive.open(CONFIG) as member:
                config = object_of(member.read(MAX_JSON + 1))
            info = archive.getinfo(WEIGHTS)
            if info.compress_type == zipfile.ZIP_STORED:
                weights = _stored_member(archive, info)
            else:
                weights = _unpacked(archive, info)
    except BaseException:
        archive.close()
        raise

    def close() -> None:
        weights.close()
        archive.close()

    with damage_refused(path):
        return _opened(path, weights, close), config


class WeightsH5:
    """The datasets of one HDF5 file, a `TensorFile`."""

    def __init__(self, path: Path, file: "h5py.File") -> None:
        self.path = path
        self._file = file
        self._tensors = {key: self._described(key, dataset) for key, dataset in self._datasets()}

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every dataset by its path."""
        return self._tensors

    def read(self, key: str, index: int | None = None) -> np.ndarray:
        """The dataset `key` as float32, or entry `index` of its leading axis.

        Raises:
            InputError: no such dataset or entry, a dataset of another type, or damaged values.
        """
        stored = requested(self.path, self._tensors, key, index)
        with damage_refused(self.path):
            return gathered(self._file[key], stored, index)

    def _datasets(self) -> Iterator[tuple[str, "h5py.Dataset"]]:
        """Every dataset with its path; a link that leads elsewhere is refused before it is followed."""
        import h5py

        groups: list[tuple[str, h5py.Group]] = [("", self._file["/"])]
        seen = {h5py.h5o.get_info(self._file.id).addr}
        links = 0
        while groups:
            prefix, group = groups.pop()
            for name in group:
                key, links = f"{prefix}{name}", links + 1
                if links > _MAX_LINKS or key.count("/") > _MAX_DEPTH:
                    raise ValueError(
                        f"it has more than {_MAX_LINKS} entries, or entries nested deeper than {_MAX_DEPTH}"
                    )
                if group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
                    raise self._refusal(key, "is a link to another place or file")
                member = group[name]
                address = h5py.h5o.get_info(member.id).addr
                if address in seen:
                    # A group inside itself would be walked for ever, and many names of one group nearly so.
                    raise self._refusal(key, "is in the file under two names")
                seen.add(address)
                if isinstance(member, h5py.Group):
                    groups.append((f"{key}/", member))
                elif isinstance(member, h5py.Dataset):
                    yield key, member

    def _described(self, key: str, dataset: "h5py.Dataset") -> StoredTensor:
        from h5py import h5d, h5t

        layout = dataset.id.get_create_plist()
        # Asked before anything else: the shape alone of a virtual dataset would open the files it is made of.
        if layout.get_layout() == h5d.VIRTUAL or (
            layout.get_layout() == h5d.CONTIGUOUS and layout.get_external_count()
        ):
            raise self._refusal(key, "lies in other files")
        if layout.get_layout() == h5d.CHUNKED:
            raise self._refusal(key, "is stored in chunks")
        shape, kind = dataset.shape, dataset.id.get_type()
        if shape is None:
            raise self._refusal(key, "has no values")
        name = _dtype_name(dataset)
        ieee = [getattr(h5t, f"IEEE_F{bits}{order}") for bits in (16, 32, 64) for order in ("LE", "BE")]
        if kind.get_class() == h5t.FLOAT and kind not in ieee:
            name = f"float of an unusual format ({8 * kind.get_size()} bits)"
        size = math.prod(shape) * kind.get_size()
        if name in LOADABLE and size and (dataset.id.get_storage_size() != size or size > self._file.id.get_filesize()):
            raise ValueError(f"{key[:80]!r} says it has {size} bytes, but there are {dataset.id.get_storage_size()}")
        return StoredTensor(tuple(shape), name)

    def _refusal(self, key: str, what: str) -> InputError:
        return InputError(
            f"{self.path}: {key[:80]!r} {what}, expected weights as Keras 3 writes them: load the model in Keras and "
            "save it with model.save('model.keras')."
        )


class Window(io.RawIOBase):
    """The `size` bytes of an open file from `start` on, as a read-only file."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        """True: the window can be read."""
        return True

    def seekable(self) -> bool:
        """True: the window can be read from any place."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to `offset` bytes from the start, the position or the end."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill `buffer` as far as there are bytes and return how many."""
        left = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        self._file.seek(self._start + self._position)
        done = 0
        while done < len(left) and (count := self._file.readinto(left[done:])):
            done += count
        self._position += done
        return done


def _opened(path: Path, file: Any, close: Callable[[], None]) -> WeightsH5:
    """The datasets of the HDF5 file that `file` reads; `close` is called when they are gone, or at once on an error."""
    import h5py

    opened = None
    try:
        # Given a Python file rather than a name, HDF5 takes no locks, which some network folders refuse.
        opened = h5py.File(file, "r")
        if "layer_names" in opened.attrs or "model_config" in opened.attrs:
            raise InputError(
                f"{path} is a legacy Keras .h5 file, expected what Keras 3's save_weights writes: load the model in "
                "Keras and save it with model.save('model.keras')."
            )
        result = WeightsH5(path, opened)
    except BaseException:
        if opened is not None:
            opened.close()
        close()
        raise
    weakref.finalize(result, close)
    weakref.finalize(result, opened.close)  # the latest is called first
    return result


def _dtype_name(dataset: "h5py.Dataset") -> str:
    try:
        dtype = dataset.dtype
    except Exception:  # a type numpy has no name for: listed, never read
        return "unknown"
    # Keras keeps bfloat16 as 2 opaque bytes: HDF5 has no name for it.
    return "bfloat16" if dtype.str == "|V2" and dtype.fields is None and dtype.subdtype is None else dtype.name


def _stored_member(archive: Archive, info: zipfile.ZipInfo) -> Window:
    """The bytes of a stored member, compared with their checksum once and then read in place."""
    verify(archive, info)
    archive.file.seek(info.header_offset + 26)  # the lengths of name and extra field, which the bytes come after
    name_length, extra_length = struct.unpack("<HH", archive.file.read(4))
    return Window(archive.file, info.header_offset + 30 + name_length + extra_length, info.file_size)


def _unpacked(archive: Archive, info: zipfile.ZipInfo) -> Any:
    """A temporary file without a name that holds the bytes of a deflated member."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (it outlives this function)
    try:
        with archive.open(info) as stream:
            while block := stream.read(BLOCK):
                file.write(block)
        if file.tell() != info.file_size:
            raise EOFError(f"{info.filename} ends early")
    except BaseException:
        file.close()
        raise
    return file
