"""The child process that reads the structure of an HDF5 file: which datasets there are and where their bytes lie.

libhdf5 follows what a file says: a few changed bytes crash it or keep it going round for ever, deaf to Ctrl-C. So it
runs in a process that has little memory and little time and is asked one question; the numbers themselves lie in the
file as they are, and `hdf5` reads them without libhdf5. The file comes as standard input, already open.
"""

import io
import json
import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

_MEMORY = 1 << 30  # bytes beyond what Python and h5py take
_MAX_LINKS = 100_000
_MAX_DEPTH = 64
_MAX_LENGTH = 1000  # characters of a path
_MAX_NAMES = 100
_LEGACY = ("layer_names", "model_config")


class Window(io.RawIOBase):
    """The `size` bytes of an open file from `start` on, as a read-only file."""

    def __init__(self, file: Any, start: int, size: int) -> None:
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


class Unfit(Exception):
    """A sound HDF5 file that is none of Keras' weights; the text says in what, after the name of the file."""


def listing(file: Any) -> dict[str, Any]:
    """What the HDF5 file that `file` reads holds, JSON-ready, with one key of three.

    `tensors`: by their paths shape, dtype (as in StoredTensor), numpy's description of how the elements are stored and
    the place of the first in bytes; the last two are None for what is no weight. `legacy`: names of the first groups of
    a file of Keras 2. `unfit`: what is wrong with a file that is neither; damaged ones raise anything.
    """
    import h5py

    # Given a Python file rather than a name, HDF5 takes no locks, which some network folders refuse.
    with h5py.File(file, "r") as opened:
        if any(name in opened.attrs for name in _LEGACY):
            return {"legacy": _names(opened)}
        try:
            return {"tensors": {key: _described(opened, key, dataset) for key, dataset in _datasets(opened)}}
        except Unfit as error:
            return {"unfit": str(error)}


def serve() -> None:
    """Answer on standard output with the `listing` of a part of standard input.

    The arguments are where it starts, its bytes, and the seconds of the CPU that this process may take.
    """
    import h5py  # noqa: F401 - before there are limits

    start, size, seconds = map(int, sys.argv[1:])
    _limit(seconds)
    try:
        answer = listing(Window(io.FileIO(0, closefd=False), start, size))
    except Exception as error:  # the bytes are hostile, and h5py raises whatever it stumbles over
        answer = {"damaged": str(error) or type(error).__name__}
    json.dump(answer, sys.stdout)


def _limit(seconds: int) -> None:
    """Bound the time and the memory of this process, and leave no core file where it crashes."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no limits, macOS refuses some
        import resource

        _lower(resource.RLIMIT_CORE, 0)
        _lower(resource.RLIMIT_CPU, seconds)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, used + _MEMORY)


def _lower(what: int, to: int) -> None:
    import resource

    soft, hard = resource.getrlimit(what)
    bounds = [bound for bound in (soft, hard, to) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(what, (min(bounds), hard))


def _names(file: "h5py.File") -> list[str]:
    """The names of the first groups and of what is directly in them."""
    import h5py

    found: list[str] = []
    for name in file:
        found.append(name)
        link = file.id.links.get_info(name.encode("utf-8", "surrogateescape"))
        if link.type == h5py.h5l.TYPE_HARD and isinstance(group := file[name], h5py.Group):
            found += [f"{name}/{inner}" for _, inner in zip(range(_MAX_NAMES), group, strict=False)]
        if len(found) >= _MAX_NAMES:
            break
    return found[:_MAX_NAMES]


def _datasets(file: "h5py.File") -> Iterator[tuple[str, "h5py.Dataset"]]:
    """Every dataset with its path; a link that leads elsewhere is refused before it is followed."""
    import h5py

    groups: list[tuple[str, h5py.Group]] = [("", file["/"])]
    seen = {h5py.h5o.get_info(file.id).addr}
    links = 0
    while groups:
        prefix, group = groups.pop()
        for name in group:
            key, links = f"{prefix}{name}", links + 1
            if links > _MAX_LINKS or key.count("/") > _MAX_DEPTH or len(key) > _MAX_LENGTH:
                raise ValueError(
                    f"it has more than {_MAX_LINKS} entries, entries nested deeper than {_MAX_DEPTH}, or names longer "
                    f"than {_MAX_LENGTH}"
                )
            if group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type != h5py.h5l.TYPE_HARD:
                raise Unfit(f"{key[:80]!r} is a link to another place or file")
            member = group[name]
            address = h5py.h5o.get_info(member.id).addr
            if address in seen:
                # A group inside itself would be walked for ever, and many names of one group nearly so.
                raise Unfit(f"{key[:80]!r} is in the file under two names")
            seen.add(address)
            if isinstance(member, h5py.Group):
                groups.append((f"{key}/", member))
            elif isinstance(member, h5py.Dataset):
                yield key, member


def _described(
    file: "h5py.File", key: str, dataset: "h5py.Dataset"
) -> tuple[tuple[int, ...], str, str | None, int | None]:
    from h5py import h5d, h5t

    from vit_export.weights.containers.tensors import LOADABLE

    layout = dataset.id.get_create_plist()
    # Asked before anything else: the shape alone of a virtual dataset would open the files it is made of.
    if layout.get_layout() == h5d.VIRTUAL or (layout.get_layout() == h5d.CONTIGUOUS and layout.get_external_count()):
        raise Unfit(f"{key[:80]!r} lies in other files")
    if layout.get_layout() == h5d.CHUNKED:
        raise Unfit(f"{key[:80]!r} is stored in chunks")
    shape, kind = dataset.shape, dataset.id.get_type()
    if shape is None:
        raise Unfit(f"{key[:80]!r} has no values")
    name, stored = _dtype(dataset)
    ieee = [getattr(h5t, f"IEEE_F{bits}{order}") for bits in (16, 32, 64) for order in ("LE", "BE")]
    if kind.get_class() == h5t.FLOAT and kind not in ieee:
        name = f"float of an unusual format ({8 * kind.get_size()} bits)"
    if name not in LOADABLE:
        return tuple(shape), name, None, None
    size = math.prod(shape) * kind.get_size()
    if size and (dataset.id.get_storage_size() != size or size > file.id.get_filesize()):
        raise ValueError(f"{key[:80]!r} says it has {size} bytes, but there are {dataset.id.get_storage_size()}")
    place = dataset.id.get_offset() if size else 0
    if place is None:
        raise Unfit(f"{key[:80]!r} is stored inside its header")
    return tuple(shape), name, stored, place


def _dtype(dataset: "h5py.Dataset") -> tuple[str, str]:
    """The name of a dataset's type, and numpy's description of it."""
    try:
        dtype = dataset.dtype
    except Exception:  # a type numpy has no name for: listed, never read
        return "unknown", ""
    # Keras keeps bfloat16 as 2 opaque bytes: HDF5 has no name for it.
    if dtype.str == "|V2" and dtype.fields is None and dtype.subdtype is None:
        return "bfloat16", dtype.str
    return dtype.name, dtype.str
