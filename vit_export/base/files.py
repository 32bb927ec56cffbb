"""Files that appear complete or not at all: written beside their place, synced, then renamed."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vit_export.base.errors import InputError, OutputError, VitExportError
from vit_export.base.moving import exchange, recover
from vit_export.base.scratch import holder, owned_folder, take

_CHUNK = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHOWN = 200


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one OutputError."""
    try:
        yield
    except VitExportError:  # said already, and perhaps of something that was read
        raise
    except OSError as error:
        raise OutputError(_refusal(path, error)) from error
    except Exception as error:
        # TensorFlow and ONNX wrap the operating system's errors in classes of their own.
        text = str(error).lower()
        if "no space left" in text or ("resource_exhausted" in text and "write" in text):
            raise OutputError(_refusal(path, OSError(errno.ENOSPC, ""))) from error
        if "file too large" in text:
            raise OutputError(_refusal(path, OSError(errno.EFBIG, ""))) from error
        if "permission denied" in text or "read-only file system" in text:
            raise OutputError(_refusal(path, OSError(errno.EACCES, ""))) from error
        raise


@contextmanager
def input_errors(what: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals while reading `what` into one InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:  # said of something that was written meanwhile
            raise OutputError(_refusal(Path(error.filename or "A temporary file"), error)) from error
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{shortened(what)} cannot be read ({reason}): check the path and its rights.") from error


def refuse_existing(path: Path, *, overwrite: bool, folder: bool | None = None) -> None:
    """Raise OutputError when `path` exists and `overwrite` is false, or when it cannot even be asked for.

    `folder` says what is to be written there: what is of the other kind is not replaced even with `overwrite`.
    """
    with output_errors(path):
        if not path.exists() and not path.is_symlink():
            return
        if folder is not None and path.is_dir() != folder and not path.is_symlink():
            kinds = ("a folder", "a file") if folder else ("a file", "a folder")
            raise OutputError(
                f"{path} is {kinds[1]}, where {kinds[0]} is to be written: move it away, or give another folder."
            )
    if not overwrite:
        raise OutputError(f"{path} exists already: pass --overwrite to replace it, or give another folder.")


@contextmanager
def publish(path: Path, *, overwrite: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it becomes `path`, on failure it is gone.

    What is not `lasting`, a file that goes before the command ends, need not reach the disk.

    Raises:
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    recover(path.parent)
    refuse_existing(path, overwrite=overwrite)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with owned_folder(f".{path.name}.", path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            refuse_existing(path, overwrite=True, folder=temporary.is_dir())
            if lasting:
                sync(temporary)
            if temporary.is_dir() and os.path.lexists(path):  # a folder does not take the place of another
                exchange(path.parent, [temporary])
            else:
                os.replace(temporary, path)


def require_new_file(path: Path, option: str, *, overwrite: bool = False) -> None:
    """Find out before minutes of work that the file which `option` names cannot be written.

    Raises:
        OutputError: it exists (and `overwrite` is false), is a folder, or its folder cannot be written.
    """
    names, folder = [f".{path.name}.12345678"], path.absolute().parent  # as `publish` calls what is incomplete
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder, expected the name of a file: give another one to {option}.")
        exists = os.path.lexists(path)
        while not folder.exists():
            names.append(folder.name)
            folder = folder.parent
        for name in names:  # the system tells of a name that is too long where the name is asked for
            with suppress(FileNotFoundError, NotADirectoryError):
                os.lstat(folder / name)
    except OSError as error:
        raise OutputError(_refused_file(path, option, error)) from error
    if exists and not overwrite:
        raise OutputError(f"{path} exists already: pass --overwrite to replace it, or give another file to {option}.")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path} cannot be written to {folder}: give a file in another folder to {option}.")


def write_new_file(path: Path, text: str, option: str, *, overwrite: bool = False) -> None:
    """Write `text` to the file that `option` names, complete or not at all.

    Raises:
        OutputError: see `require_new_file`; or the disk is full.
    """
    require_new_file(path, option, overwrite=overwrite)
    try:
        with publish(path, overwrite=overwrite) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OutputError as error:
        raise OutputError(_refused_file(path, option, error.__cause__)) from error


def _refused_file(path: Path, option: str, cause: BaseException | None) -> str:
    reason = getattr(cause, "strerror", None) or "refused"
    return f"{shortened(path)} cannot be written ({reason}): give a file in another folder to {option}."


@contextmanager
def scratch_folder(prefix: str, need: float, what: str, otherwise: str) -> Iterator[Path]:
    """Yield a temporary folder, gone afterwards, for `what` takes `need` bytes; `otherwise` is what else helps.

    Raises:
        OutputError: the disk has too little space, or the folder cannot be made.
    """
    with ExitStack() as stack:
        with scratch_errors():
            place = tempfile.gettempdir()
            free = shutil.disk_usage(place).free
            if free < need:
                raise OutputError(
                    f"{what} takes {need / 1e9:.1f} GB of disk in {place}, which has {free / 1e9:.1f} GB free: make "
                    f"room, set TMPDIR to a folder on another disk, or {otherwise}."
                )
            folder = stack.enter_context(owned_folder(prefix))
        yield folder


@contextmanager
def scratch_errors() -> Iterator[None]:
    """One sentence for the system's refusal of a file in a temporary folder, which nobody has chosen."""
    try:
        with output_errors(Path("the temporary folder")):
            yield
    except OutputError as error:
        if error.__cause__ is None:
            raise
        cause = getattr(error.__cause__, "strerror", None) or "no space left, no permission, or a limit by ulimit -f"
        raise OutputError(
            f"The temporary folder cannot take what is written there ({cause}): make room there, or set TMPDIR to "
            "another folder."
        ) from error


def publish_folder(path: Path, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Let `write` fill a temporary folder, then make it `path` (see `publish`)."""
    with publish(path, overwrite=overwrite) as temporary:
        temporary.mkdir()
        write(temporary)


def move_into(folder: Path, paths: Sequence[Path], *, overwrite: bool = False, gone: Sequence[str] = ()) -> None:
    """Move complete files and folders into `folder`, and those called `gone` out of it for ever: all of it or nothing.

    Raises:
        OutputError: one exists already (and `overwrite` is false) or cannot be moved.
    """
    for path in paths:
        refuse_existing(folder / path.name, overwrite=overwrite, folder=path.is_dir())
    with output_errors(folder):
        for path in paths:
            sync(path)
        exchange(folder, paths, gone)


@contextmanager
def claimed(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Have `folder` for oneself in the block; it is made where there is none, and goes again where nothing came to it.

    What commands that were killed left in it is cleared, and `note` told what that brought back. On file systems
    without locks nobody is kept out.

    Raises:
        OutputError: another process writes into it, or it cannot be made.
    """
    descriptor: int | None = None
    made: list[Path] = []
    try:
        with output_errors(folder):
            made = [place for place in (folder.absolute(), *folder.absolute().parents) if not place.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # not every system opens folders
                descriptor = os.open(folder, os.O_RDONLY)
        if descriptor is not None and take(descriptor) is False:
            made = []
            raise OutputError(
                f"Another command{holder(folder)} is writing into {shortened(folder)}: wait until it has ended, or "
                "choose another folder."
            )
        for text in recover(folder):
            note(text)
        yield
    finally:
        for place in made:
            with suppress(OSError):  # not empty, or not there any more
                place.rmdir()
        if descriptor is not None:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file, or every file of a folder, to disk."""
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def cache_folder() -> Path:
    """Where what is fetched is kept: $VIT_EXPORT_CACHE, or else vit-export in $XDG_CACHE_HOME or ~/.cache."""
    chosen, home = os.environ.get("VIT_EXPORT_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(chosen or f"{home}/vit-export").expanduser().absolute()


def digest_of_file(path: Path, algorithm: str = "sha256") -> str:
    """The digest of a file's bytes, in hex."""
    digest = hashlib.new(algorithm, usedforsecurity=algorithm != "sha1")
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_folder(path: Path) -> str:
    """sha256 over the names and digests of a folder's files, in hex."""
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{digest_of_file(file)}\n".encode())
    return digest.hexdigest()


def same_path(one: Path, other: Path) -> bool:
    """Whether both lead to the same place."""
    return one.resolve() == other.resolve()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def shortened(path: str | Path) -> str:
    """`path` as a message shows it: in full, unless nobody could read that."""
    text = str(path)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}…{text[-_SHOWN // 4 :]}"


def _refusal(path: Path, error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return f"{shortened(path)} cannot be written: the name is too long; choose a shorter one with --output."
    if error.errno == errno.EFBIG:
        return f"{path} would become larger than a file may be here: raise the limit (ulimit -f)."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"No space left on the disk for {path}: free some, or choose another folder with --output."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} cannot be written (permission denied): choose another folder with --output."
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return (
            f"{path} cannot be written: a part of the path is a file, expected folders; choose another with --output."
        )
    return f"{path} cannot be written ({error.strerror or error}): choose another folder with --output."
