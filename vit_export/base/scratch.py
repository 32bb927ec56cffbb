"""Folders for what is not complete yet: gone when their owner is done, and known for what they are when it was killed.

The owner holds the lock of a file in its folder. The kernel lets go of it when the process ends, however that ends, so
a folder whose lock can be had is nobody's any more. Where a file system has no locks, nothing tells, and all stay.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vit_export.base.interrupts import held

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

OWNER = "vit-export.owner"
JOURNAL = "moves.json"
"""While a scratch folder holds this file, it holds files that were somewhere else: see `moving`."""
_OURS = (".", "vit-export-")


@contextmanager
def owned_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder `prefix…` in `parent` (None: the system's temporary folder), which is gone afterwards.

    What killed processes left there is cleared.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    for left in abandoned(parent):
        _remove(left)
    with ExitStack() as stack:
        with held():
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            stack.callback(_remove, folder)
            with suppress(OSError):  # without an owner it is only not told apart
                stack.callback(os.close, _own(folder))
        yield folder


def _own(folder: Path) -> int:
    unnamed = folder / f"{OWNER}.new"
    descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if take(descriptor):  # only now: a file of this name without a lock says that its owner is gone
        os.replace(unnamed, folder / OWNER)
    return descriptor


def _remove(folder: Path) -> None:
    if not (folder / JOURNAL).exists():
        with held():
            shutil.rmtree(folder, ignore_errors=True)


def abandoned(parent: Path) -> Iterator[Path]:
    """The folders of `owned_folder` in `parent` whose owner was killed, each locked while it is looked at."""
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(_OURS)]
    except OSError:
        return
    for name in names:
        folder = parent / name
        try:
            if folder.is_symlink() or not _is_mine(folder):
                continue
            descriptor = os.open(folder / OWNER, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError:  # a folder of another kind
            continue
        try:
            if take(descriptor):
                yield folder
        finally:
            os.close(descriptor)


def take(descriptor: int) -> bool | None:
    """Take the lock of an open file or folder: False where somebody else has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # network file systems
        return None
    return True


def holder(path: Path) -> str:
    """' (process 123)', which has the lock of `path`, where the system tells."""
    with suppress(OSError, IndexError):
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                return f" (process {fields[4]})"
    return ""


def _is_mine(folder: Path) -> bool:
    """Whether this user made `folder`: in a temporary folder others may have put something there."""
    return not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()
