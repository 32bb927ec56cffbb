"""Safetensors files, one or sharded; and the guards and conversions that every container of this package shares."""

import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.json_file import MAX_JSON, json_bytes, parse_json
from vit_export.weights.containers.tensors import LOADABLE, StoredTensor

BLOCK = 1 << 20
"""Bytes or values that are read, checked or converted at a time."""

_DTYPES = {
    "BF16": "bfloat16",
    "BOOL": "bool",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}


class SafetensorsFile:
    """The tensors of one safetensors file or of several shards, a `TensorFile`.

    `metadata` is what the file's header says under `__metadata__`, of all shards together.
    """

    def __init__(self, path: Path, files: Mapping[str, Path], tensors: Mapping[str, StoredTensor]) -> None:
        self.path = path
        self.metadata: Mapping[str, str] = {}
        self.tensors = tensors
        self._files = files

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold the tensors: `path`, or the shards that it lists."""
        return tuple(sorted(set(self._files.values())))

    def read(self, key: str, index: int | None = None) -> np.ndarray:
        """The tensor `key` as float32, or entry `index` of its leading axis.

        Raises:
            InputError: no such tensor or entry, a tensor of another type, or the file has changed since.
        """
        stored = requested(self.path, self.tensors, key, index)
        # Opened anew each time: an open file keeps every page that was ever read of it mapped.
        with damage_refused(self._files[key]), _opened(self._files[key]) as file:
            source = file.get_slice(key)
            if _stored(source) != stored:
                raise ValueError(f"{key[:80]!r} has changed since the file was opened")
            return gathered(source if stored.shape else {(): file.get_tensor(key)}, stored, index)


def open_safetensors(path: Path) -> SafetensorsFile:
    """Open the safetensors file `path`: its header is read and checked, no values.

    Raises:
        InputError: no such file, truncated, or a header that does not fit the file.
    """
    size = size_of_file(path)
    with damage_refused(path):
        with open(path, "rb") as start:
            length = int.from_bytes(start.read(8), "little")
            if length > min(MAX_JSON, size - 8):
                raise ValueError(
                    f"its header claims {length} bytes, expected at most {min(MAX_JSON, max(size - 8, 0))} in this file"
                )
            header = start.read(length)
        with _opened(path) as file:
            tensors = {key: _stored(file.get_slice(key)) for key in file.keys()}  # noqa: SIM118 (not a mapping)
            result = SafetensorsFile(path, dict.fromkeys(tensors, path), tensors)
            result.metadata = file.metadata() or {}
        object_of(header)  # of a name that appears twice its reader takes the last
    return result


def open_sharded(index_path: Path) -> SafetensorsFile:
    """Open the shards that a `*.safetensors.index.json` lists, all of which lie beside it.

    Raises:
        InputError: no such file, not such an index, a shard that is missing, damaged or elsewhere, or tensors of index
            and shards that differ.
    """
    weight_map = _weight_map(index_path)
    files: dict[str, Path] = {}
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for name in sorted(set(weight_map.values())):
        if os.path.basename(name) != name or "\\" in name or name in {"", ".", ".."} or "\0" in name:
            raise InputError(
                f"{index_path} names the shard {name[:80]!r}, expected the name of a file beside it: correct the index."
            )
        path = index_path.parent / name
        if not os.path.exists(path):  # which takes a name that is too long for none
            raise InputError(f"{index_path} needs the shard {name}, which is not beside it: download every shard.")
        shard = open_safetensors(path)
        mapped = {key for key, shard_name in weight_map.items() if shard_name == name}
        if missing := sorted(mapped - set(shard.tensors)):
            raise InputError(
                f"{path} lacks tensors that {index_path.name} says it has ({listed(missing)}): "
                "download the index and every shard of one release."
            )
        if extra := sorted(set(shard.tensors) - mapped):
            raise InputError(
                f"{path} holds tensors that {index_path.name} does not place there ({listed(extra)}): "
                "download the index and every shard of one release."
            )
        files |= dict.fromkeys(mapped, path)
        tensors |= shard.tensors
        metadata |= shard.metadata
    result = SafetensorsFile(index_path, files, tensors)
    result.metadata = metadata
    return result


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="numpy")


def _stored(source: Any) -> StoredTensor:
    name = source.get_dtype()
    return StoredTensor(tuple(source.get_shape()), _DTYPES.get(name, name))


def _weight_map(path: Path) -> dict[str, str]:
    size_of_file(path)
    with damage_refused(path):
        content = object_of(json_bytes(path))
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise InputError(f"{path} has no weight_map of tensor names to file names: give a *.safetensors.index.json.")
    return weight_map


def object_of(text: bytes) -> dict[str, Any]:
    """The JSON object that `text` describes; ValueError where it is none (see `parse_json`)."""
    content = parse_json(text)
    if not isinstance(content, dict):
        raise ValueError("its JSON is no object")
    return content


def size_of_file(path: Path) -> int:
    """Bytes of the regular file `path`; anything else is refused before it is opened, as a pipe would block for ever.

    Raises:
        InputError: missing, unreadable, empty, a folder, a device or a pipe.
    """
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(f"There is no {path}: check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the path and its permissions.") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a folder, expected a file: give a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is a device or a pipe, expected a file: save the weights to a file first.")
    if not status.st_size:
        raise InputError(f"{path} is empty: download or copy it again.")
    return status.st_size


@contextmanager
def damage_refused(path: Path) -> Iterator[None]:
    """Turn whatever reading the bytes of `path` raises inside the block into one InputError."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(f"{path} cannot be read (permission denied): change its permissions.") from error
    except Exception as error:
        # Parsers meet hostile bytes here and raise whatever they stumble over: zlib.error, RuntimeError, KeyError...
        reason = " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
        raise InputError(f"{path} is damaged or truncated ({reason}): download or copy it again.") from error


def listed(names: list[str]) -> str:
    """The first five of `names`, and how many more there are."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(name[:80] for name in names[:5]) + more


def requested(path: Path, tensors: Mapping[str, StoredTensor], key: str, index: int | None) -> StoredTensor:
    """The entry of `tensors` (those of `path`) that `read(key, index)` asks for.

    Raises:
        InputError: no such tensor, no such entry, or a type that is not in `LOADABLE`.
    """
    stored = tensors.get(key)
    if stored is None:
        raise InputError(f"{path} holds no tensor {key[:80]!r}: it has {listed(list(tensors)) or 'none at all'}.")
    if stored.dtype not in LOADABLE:
        raise InputError(
            f"{path}: {key[:80]!r} is stored as {stored.dtype}, expected {', '.join(LOADABLE[:-1])} or {LOADABLE[-1]}: "
            "save the weights as floating-point numbers."
        )
    entries = stored.shape[0] if stored.shape else 0
    if index is not None and not 0 <= index < entries:
        raise InputError(f"{path}: {key[:80]!r} has {entries} entries along its first axis, none is number {index}.")
    return stored


def as_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` of a type in `LOADABLE` as float32; bfloat16 may come as any 2-byte type, float32 is not copied."""
    if dtype == "bfloat16":
        bits = values.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes infinite; finding it is not for here
        return values.astype(np.float32, copy=False)


def gathered(source: Any, stored: StoredTensor, index: int | None) -> np.ndarray:
    """The tensor whose slices along the leading axis `source` reads (`source[()]` if it has none), or one entry.

    Needs memory for the result and for 4 MB, or for an entry of the leading axis if that is larger.
    """
    shape = stored.shape
    if not math.prod(shape):
        return np.empty(shape if index is None else shape[1:], np.float32)
    if not shape:
        return as_float32(np.asarray(source[()]), stored.dtype)
    if index is not None:
        return as_float32(source[index : index + 1], stored.dtype)[0]
    result = np.empty(shape, np.float32)
    rows = max(1, BLOCK // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])  # safetensors refuses a slice that ends behind the tensor
        result[start:stop] = as_float32(source[start:stop], stored.dtype)
    return result
