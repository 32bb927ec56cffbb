"""Files that change places together: all of them or none, whatever comes in between."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vit_export.base.errors import OutputError, first_line
from vit_export.base.interrupts import heed, held
from vit_export.base.scratch import JOURNAL, abandoned, owned_folder
from vit_export.base.text import visible

_OLD, _NEW = "old", "new"
_LONGEST_JOURNAL = 1 << 20
_NAMED = 5

_Moves = dict[str, list[int] | None]
"""What moves, by name: what is to come is known by its `_identity`, what only goes has None."""


def exchange(folder: Path, new: Sequence[Path], gone: Sequence[str] = ()) -> None:
    """Move the files and folders `new` into `folder`, in place of what has their names, and those called `gone` out.

    They have to be complete and on the same disk. What they replace, and what is gone, is deleted at the end; until
    then it is in a hidden folder, from which it comes back if a move fails, and with `recover` if this process is
    killed. Signals wait until it is over.

    Raises:
        OSError: something cannot be moved; everything is as before.
        OutputError: not everything could be brought back after that: the message says where it is.
    """
    sources = {path.name: path for path in new}
    moves: _Moves = dict.fromkeys(gone) | {name: _identity(path) for name, path in sources.items()}
    heed()
    with held(), owned_folder(".previous-", folder) as scratch:
        for name in (_OLD, _NEW):
            (scratch / name).mkdir()
        _write_journal(scratch, moves)
        try:
            for name in moves:
                if os.path.lexists(folder / name):
                    (folder / name).rename(scratch / _OLD / name)
                if name in sources:
                    sources[name].rename(folder / name)
            (scratch / JOURNAL).unlink()
        except BaseException as error:
            if left := _undo(folder, scratch, moves):
                raise OutputError(
                    f"{folder} cannot be written ({_reason(error)}), and what was there could not all be brought back: "
                    f"{_listed(left)} is kept in {scratch / _OLD}; move it from there."
                ) from error
            (scratch / JOURNAL).unlink(missing_ok=True)
            raise


def recover(folder: Path) -> list[str]:
    """Clear what processes that were killed left in `folder`, and bring back what they had moved away.

    Returns:
        What the user should know of it, in sentences.
    """
    told = []
    for scratch in abandoned(folder):
        with suppress(OSError):
            if (scratch / JOURNAL).exists():
                old = _names_in(scratch / _OLD)
                left = _undo(folder, scratch, _read_journal(scratch))
                if back := [name for name in old if name not in left]:
                    told.append(f"Brought back what a command that was killed had moved away: {_listed(back)}.")
                if left:
                    told.append(
                        f"{scratch / _OLD} keeps what a command that was killed had moved away, and whose place is "
                        f"taken: {_listed(left)}. Move it from there, or delete {scratch}."
                    )
                    continue
            shutil.rmtree(scratch)
    return told


def _undo(folder: Path, scratch: Path, moves: _Moves) -> list[str]:
    """Put everything back where it was, judged by what is there; the names of what could not be."""
    for _ in range(2):  # what fails may do so once
        for name in reversed(moves):
            place, old = folder / name, scratch / _OLD / name
            with suppress(OSError):
                if moves[name] is not None and _identity(place) == moves[name]:
                    place.rename(scratch / _NEW / name)
                if os.path.lexists(old) and not os.path.lexists(place):
                    old.rename(place)
    return _names_in(scratch / _OLD)


def _identity(path: Path) -> list[int] | None:
    """What stays of a file or folder when it moves on its disk, and what no other there has; None where there is none.

    Its number alone may soon be that of another one.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return [found.st_ino, found.st_mtime_ns]


def _names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else []


def _write_journal(scratch: Path, moves: _Moves) -> None:
    unnamed = scratch / f"{JOURNAL}.new"
    with open(unnamed, "w", encoding="utf-8") as file:
        json.dump(moves, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unnamed, scratch / JOURNAL)


def _read_journal(scratch: Path) -> _Moves:
    """The moves that were begun; none of what cannot be understood, and none from or to another folder."""
    with open(scratch / JOURNAL, encoding="utf-8") as file, suppress(ValueError, RecursionError):
        moves = json.loads(file.read(_LONGEST_JOURNAL))
        if isinstance(moves, dict) and _names_in(scratch / _OLD):
            return {name: moves[name] for name in moves if Path(name).name == name and name not in ("", "..")}
    return {}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(visible, names[:_NAMED]))
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or first_line(error)).lower()
