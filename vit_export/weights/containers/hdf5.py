"""Keras 3 weights: `.weights.h5` files and `.keras` archives, whose config is read as plain JSON and never run.

libhdf5 never runs in this process: a child of limited means (`hdf5_listing`) says where in the file each tensor lies,
and the numbers are read from there.
"""

import io
import json
import math
import signal
import struct
import subprocess
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.base.json_file import MAX_JSON
from vit_export.base.python import python_command, python_environment
from vit_export.base.text import visible
from vit_export.weights.containers.hdf5_listing import Window
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

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
"""The members that make a zip a .keras archive."""

OWN_MODELS = (
    "expected a VisionTransformer of vit_export or a ViT of keras_hub, the Keras models that are read: copy the "
    "weights of another into one that create_vit makes (docs/weights.md shows how), and export that."
)
"""What to do with a model that Keras or TensorFlow saved and that is another's."""

TENSORFLOW_TRANSFORMERS = (
    "the weights of a TensorFlow model of transformers, expected safetensors: with transformers 4, "
    "ViTForImageClassification.from_pretrained('its folder', from_tf=True).save_pretrained('new') writes them; give "
    "that folder."
)
"""What to do with a tf_model.h5."""

CPU_SECONDS = 30
"""What the child may take; Keras' own files of 2.5 GB take it a fraction of a second."""

_LIST = "from vit_export.weights.containers.hdf5_listing import serve; serve()"
_PATIENCE = 300.0  # seconds on the clock: a file may come over a slow network
_STORED = {"float16": ("<f2", ">f2"), "float32": ("<f4", ">f4"), "float64": ("<f8", ">f8"), "bfloat16": ("|V2",)}


def open_weights_h5(path: Path) -> "WeightsH5":
    """Open what Keras 3's `model.save_weights("x.weights.h5")` wrote; keys are dataset paths without leading '/'.

    Raises:
        InputError: no such file, damaged, a whole-model .h5 of older Keras, or an HDF5 file that refers to other files.
    """
    size = size_of_file(path)
    with damage_refused(path):
        file = io.FileIO(path)
        return _opened(path, file, 0, size, file.close)


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
                file, start = archive.file, _start_of_stored(archive, info)
            else:
                file, start = _unpacked(archive, info), 0
    except BaseException:
        archive.close()
        raise

    def close() -> None:
        file.close()
        archive.close()

    with damage_refused(path):
        return _opened(path, file, start, info.file_size, close), config


class WeightsH5:
    """The datasets of one HDF5 file, a `TensorFile`; `places` tell of each how and where in `file` it is stored."""

    def __init__(
        self, path: Path, file: Window, tensors: Mapping[str, StoredTensor], places: Mapping[str, tuple[str, int]]
    ) -> None:
        self.path = path
        self._file, self._tensors, self._places = file, tensors, places

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
            return gathered(_Rows(self._file, stored.shape, *self._places[key]), stored, index)


class _Rows:
    """Slices along the leading axis of the elements that lie in `file` from `place` on; [()] of a scalar."""

    def __init__(self, file: Window, shape: tuple[int, ...], dtype: str, place: int) -> None:
        self._file, self._shape, self._dtype, self._place = file, shape[1:], np.dtype(dtype), place

    def __getitem__(self, rows: slice | tuple[()]) -> np.ndarray:
        start, count = (rows.start, (rows.stop - rows.start,)) if isinstance(rows, slice) else (0, ())
        values = np.empty((*count, *self._shape), self._dtype)
        self._file.seek(self._place + start * math.prod(self._shape) * self._dtype.itemsize)
        if self._file.readinto(values.reshape(-1).view(np.uint8)) != values.nbytes:
            raise EOFError("it ends early")
        return values


def _opened(path: Path, file: Any, start: int, size: int, close: Callable[[], None]) -> WeightsH5:
    """The datasets of the HDF5 file in a part of `file`; `close` is called when they are gone, or on an error."""
    try:
        answer = _answer(path, file, start, size)
        if "legacy" in answer:
            raise _legacy(path, answer["legacy"])
        if "unfit" in answer:
            raise InputError(
                f"{path}: {visible(str(answer['unfit']))[:200]}, expected weights as Keras 3 writes them: load the "
                "model in Keras and save it with model.save('model.keras')."
            )
        if "damaged" in answer:
            raise ValueError(visible(str(answer["damaged"])))
        tensors, places = _checked(answer["tensors"], size)
        result = WeightsH5(path, Window(file, start, size), tensors, places)
    except BaseException:
        close()
        raise
    weakref.finalize(result, close)
    return result


def _answer(path: Path, file: Any, start: int, size: int) -> dict[str, Any]:
    """What the child says of the file; see `hdf5_listing.listing`."""
    try:
        done = subprocess.run(
            python_command("-c", _LIST, str(start), str(size), str(CPU_SECONDS)),
            stdin=file,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            env={**python_environment(), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise _endless(path) from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        if name == "SIGXCPU":
            raise _endless(path)
        if name == "SIGKILL":
            raise InputError(
                f"The process that read {shortened(path)} was killed, as the kernel does when memory runs out: free "
                "some, and try again."
            )
        raise InputError(
            f"{shortened(path)} crashes the HDF5 library ({name}): it is damaged, or made to do that; download or copy "
            "it again."
        )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it does not say why"]
        raise ValueError(f"its reader ended with {done.returncode}: {visible(last[0])}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _endless(path: Path) -> InputError:
    return InputError(
        f"{shortened(path)} keeps the HDF5 library busy without an end (it was stopped): it is damaged, or made to do "
        "that; download or copy it again."
    )


def _legacy(path: Path, names: list[str]) -> InputError:
    if any(name.partition("/")[2].startswith("tf_") for name in names):
        return InputError(f"{path} holds {TENSORFLOW_TRANSFORMERS}")
    return InputError(f"{path} is a legacy Keras .h5 file, {OWN_MODELS}")


def _checked(listed: Mapping[str, Any], size: int) -> tuple[dict[str, StoredTensor], dict[str, tuple[str, int]]]:
    """What the child listed of a file of `size` bytes: nothing that it says leads out of the file."""
    tensors, places = {}, {}
    for key, (shape, dtype, stored, place) in listed.items():
        tensors[key] = StoredTensor(tuple(map(int, shape)), str(dtype))
        if dtype in LOADABLE:
            nbytes = math.prod(tensors[key].shape) * np.dtype(stored).itemsize
            if stored not in _STORED[dtype] or min(shape, default=0) < 0 or not 0 <= place <= size - nbytes:
                raise ValueError(f"{key[:80]!r} does not lie in the file")
            places[key] = stored, place
    return tensors, places


def _start_of_stored(archive: Archive, info: zipfile.ZipInfo) -> int:
    """Where in the file the bytes of a stored member begin, which are compared with their checksum once."""
    verify(archive, info)
    archive.file.seek(info.header_offset + 26)  # the lengths of name and extra field, which the bytes come after
    name_length, extra_length = struct.unpack("<HH", archive.file.read(4))
    return info.header_offset + 30 + int(name_length) + int(extra_length)


def _unpacked(archive: Archive, info: zipfile.ZipInfo) -> Any:
    """A temporary file without a name that holds the bytes of a deflated member."""
    file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (it outlives this function)
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
