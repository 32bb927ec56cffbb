"""The files beside an .onnx file that hold the data of its tensors: which they are, and that they are its own."""

import os
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from vit_export.artifacts.facts import text_of
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors, shortened

if TYPE_CHECKING:
    import onnx


def external_entries(path: Path, tensor: "onnx.TensorProto") -> dict[str, str]:
    """What `tensor`, of the file at `path`, says of the file that its data lies in, which may be missing.

    Raises:
        InputError: it is not in the folder of `path` or below, by its name or through a link.
    """
    entries = {text_of(entry.key): text_of(entry.value) for entry in tensor.external_data}
    name = entries.setdefault("location", "")
    # Either system's separators: what is one here may be part of a name there.
    ways = (PurePosixPath(name), PureWindowsPath(name))
    away = any(way.anchor or ".." in way.parts for way in ways) or len(entries) < len(tensor.external_data)
    # An asterisk: to ONNX Runtime "*/_ORT_MEM_ADDR_/*" is no file but the memory of its process.
    if not name or away or "*" in name or not name.isprintable() or _leads_out(path, name):
        raise InputError(
            f"{shortened(path)} keeps weights in {shortened(repr(name))}, expected the name of a file in its own "
            "folder or below, and no link out of it: it may have been made to read other files; export the model again."
        )
    return entries


def _leads_out(path: Path, name: str) -> bool:
    """Whether a link takes `name`, beside `path`, to another folder than that in which `path` itself really lies."""
    real = Path(os.path.realpath(path.parent / name))
    # A cache may keep links to both files, and both files in one place.
    return not any(real.is_relative_to(folder) for folder in (path.parent.resolve(), path.resolve().parent))


class ExternalFiles:
    """The files that a model's external tensors lie in: `sizes`, in bytes, and `checksums` (SHA-1), by their names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        self.checksums: dict[str, str] = {}

    def require(self, tensor: "onnx.TensorProto", size: int) -> None:
        """Raise InputError unless the file of `tensor`, of `size` bytes, is there and holds it."""
        entries = external_entries(self._path, tensor)
        name = entries["location"]
        if name not in self.sizes:
            self.sizes[name] = self._size(name)
        if checksum := entries.get("checksum"):
            self.checksums[name] = checksum
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        if offset < 0 or length < 0 or offset + length > self.sizes[name]:
            raise InputError(
                f"{shortened(self._path.parent / name)} has {self.sizes[name]} bytes, but {self._path.name} expects "
                f"{offset + length} or more: it is cut off or belongs to another file; fetch or export both again."
            )

    def _size(self, name: str) -> int:
        file = self._path.parent / name
        with input_errors(file):
            if not file.is_file():
                raise InputError(
                    f"{shortened(self._path)} keeps weights in {shortened(name)}, which is not there: put that file "
                    "beside it, under this name."
                )
            return file.stat().st_size
