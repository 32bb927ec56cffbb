"""The representative dataset: which images of a folder set the int8 ranges, and which are kept to check the result."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors
from vit_export.base.text import counted
from vit_export.images.pictures import ImageSet, Pictures, encoded, sha256_of_image
from vit_export.images.read import UnreadableImage, load_image, resize_and_crop, room_for
from vit_export.model.preprocessing import Preprocessing

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")

_TO_CONVERT = (".heic", ".heif", ".avif", ".gif", ".tif", ".tiff")
"""What images are called that are not read, but that people put there to be used."""

REPRESENTATIVE, HELD_OUT = "representative", "held_out"
"""Sub-folders that, when both exist, are the two sides of a split."""

MIN_IMAGES_TO_SPLIT = 4

_PUT_IMAGES = f"put images ({', '.join(EXTENSIONS)}) in it or give another folder"

Skipped = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DataSplit:
    """The two sides of a folder, which share no image, and what was left out.

    `representative` calibrates, `held_out` verifies and may be empty. `skipped` names unreadable files that were met
    while choosing, each with its reason. `note` is None, or sentences on what the user may not expect.
    """

    representative: Pictures
    held_out: Pictures
    skipped: Skipped
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            "representative": self.representative.images.to_dict(),
            "held_out": self.held_out.images.to_dict(),
            "skipped": [list(item) for item in self.skipped],
            "note": self.note,
        }


def list_images(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """List the files below `folder` that look like images (`EXTENSIONS`, any case), sorted; nothing is decoded.

    Names are relative to `folder`, with forward slashes. Hidden files and folders (leading dot) are ignored; linked
    folders are followed unless they lead back to a folder they lie in.

    Raises:
        InputError: the folder does not exist, is a file, cannot be listed, is empty or holds no image.

    """
    return _listed(folder)[0]


def _listed(folder: str | os.PathLike[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`list_images`, and the files beside them whose format has to be converted first."""
    root = Path(folder)
    with input_errors(root):
        if not root.exists():
            raise InputError(f"There is no folder {root}: check the path, or create the folder and {_PUT_IMAGES}.")
        if not root.is_dir():
            raise InputError(f"{root} is a file, expected a folder of images: give the folder that contains it.")
    files = sorted(_walk(root))
    if not files:
        raise InputError(f"The folder {root} is empty: {_PUT_IMAGES}.")
    images = tuple(name for name in files if name.lower().endswith(EXTENSIONS))
    unread = tuple(name for name in files if name.lower().endswith(_TO_CONVERT))
    if not images and unread:
        raise InputError(f"The folder {root} holds {_of_other_formats(unread)}: {_PUT_IMAGES}.")
    if not images:
        raise InputError(f"The folder {root} holds {counted(len(files), 'file')} but no image: {_PUT_IMAGES}.")
    return images, unread


def _of_other_formats(names: Iterable[str]) -> str:
    kinds = [os.path.splitext(name)[1].lower() for name in names]
    told = ", ".join(sorted(set(kinds)))
    return f"{counted(len(kinds), 'image')} of formats that are not read ({told}), which have to be converted first"


def find_images(
    folder: str | os.PathLike[str], preprocessing: Preprocessing, *, limit: int | None = None, seed: int = 0
) -> tuple[Pictures, Skipped]:
    """Return the readable images below `folder`, and the unreadable ones as (relative name, reason).

    Every file is decoded once, so give a `limit` where a folder may be large: files are then tried in the order that
    `seed` fixes until so many were readable.

    Raises:
        InputError: as `list_images`; also when not one image is readable, or `limit` is below 1.

    """
    if limit is not None:
        whole_number("limit", limit, 1, of="images")
    names = list_images(folder)
    chooser = _Chooser(folder, preprocessing, seed)
    readable = chooser.choose(names, len(names) if limit is None else limit)
    if not readable:
        raise _none_readable(os.fspath(folder), chooser.skipped)
    return chooser.pictures(readable), chooser.skipped


def split(
    folder: str | os.PathLike[str],
    preprocessing: Preprocessing,
    count: int = 128,
    held_out: int = 32,
    seed: int = 0,
) -> DataSplit:
    """Choose up to `count` images of `folder` for calibration and up to `held_out` others for verification.

    Where the folder has sub-folders `representative/` and `held_out/`, each side is chosen from its own. Otherwise at
    most a quarter of the images is held out, and of fewer than four none. A held-out file with the same bytes as a
    representative one is dropped.

    The choice follows from the relative names and `seed` alone: same content, same files, whatever the order in which
    the system lists them and wherever the folder lies. Changing `count` leaves the held-out side as it is, as long as
    there are images enough. Only files that are tried are decoded, each once: about as many as are asked for.

    Raises:
        InputError: as `find_images`; also when `count` is below 1 or `held_out` negative.

    """
    whole_number("count", count, 1, of="images")
    whole_number("held_out", held_out, 0, of="images")
    names, unread = _listed(folder)
    notes: list[str] = []
    chooser = _Chooser(folder, preprocessing, seed)
    if all(Path(folder, side).is_dir() for side in (REPRESENTATIVE, HELD_OUT)):
        chosen, kept = _split_by_folders(chooser, names, count, held_out, notes)
    else:
        chosen, kept = _split_by_quarter(chooser, names, count, held_out, notes)
    used = {chooser.sha256(name) for name in chosen}
    distinct = [name for name in kept if chooser.sha256(name) not in used]
    if dropped := len(kept) - len(distinct):
        notes.append(f"{counted(dropped, 'held-out image')} with the same bytes as a calibration image left out.")
        if not distinct:
            notes.append("No image is held out.")
    if unread:
        notes.append(f"Left out: {_of_other_formats(unread)}.")
    return DataSplit(chooser.pictures(chosen), chooser.pictures(distinct), chooser.skipped, " ".join(notes) or None)


class _Chooser:
    """Tries the files of a folder in the order that `seed` fixes, and keeps what it decoded."""

    def __init__(self, folder: str | os.PathLike[str], preprocessing: Preprocessing, seed: int) -> None:
        self.folder, self._preprocessing, self._seed = os.fspath(folder), preprocessing, seed
        self._stores: list[np.ndarray] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._hashes: dict[str, str] = {}
        self._skipped: list[tuple[str, str]] = []

    @property
    def skipped(self) -> Skipped:
        """The files that were met and cannot be used, each with the reason."""
        return tuple(sorted(self._skipped))

    def choose(self, names: Iterable[str], wanted: int) -> list[str]:
        """Return the first `wanted` of `names` that decode."""
        order = sorted(
            names, key=lambda name: (hashlib.sha256(f"{self._seed}\0".encode() + encoded(name)).digest(), name)
        )
        store, readable = room_for(min(wanted, len(order)), self._preprocessing.image_sides), list[str]()
        self._stores.append(store)
        for name in order:
            if len(readable) == wanted:
                break
            try:
                store[len(readable)] = resize_and_crop(load_image(Path(self.folder, name)), self._preprocessing)
            except UnreadableImage as error:
                self._skipped.append((name, error.reason))
            except InputError:
                self._skipped.append((name, "it is too elongated for the model's square"))
            else:
                self._places[name] = len(self._stores) - 1, len(readable)
                readable.append(name)
        return readable

    def sha256(self, name: str) -> str:
        """Return the sha256 of a file's bytes, computed once."""
        if name not in self._hashes:
            self._hashes[name] = sha256_of_image(Path(self.folder, name))
        return self._hashes[name]

    def pictures(self, names: Iterable[str]) -> Pictures:
        """Return the pictures of files that one `choose` returned."""
        files = ImageSet.hashed(self.folder, {name: self.sha256(name) for name in names})
        places = [self._places[name] for name in files.files]
        store = self._stores[places[0][0] if places else 0]
        return Pictures(files, self._preprocessing, store, tuple(row for _, row in places))


def _split_by_folders(
    chooser: _Chooser, names: tuple[str, ...], count: int, held_out: int, notes: list[str]
) -> tuple[list[str], list[str]]:
    """Choose each side from the sub-folder of its name."""
    of_side = {side: [n for n in names if n.startswith(f"{side}/")] for side in (REPRESENTATIVE, HELD_OUT)}
    calibration_folder = f"{chooser.folder}/{REPRESENTATIVE}"
    if not of_side[REPRESENTATIVE]:
        raise InputError(f"The folder {calibration_folder} holds no image: {_PUT_IMAGES}.")
    chosen = chooser.choose(of_side[REPRESENTATIVE], count)
    if not chosen:
        raise _none_readable(calibration_folder, chooser.skipped)
    kept = chooser.choose(of_side[HELD_OUT], held_out)
    if held_out and not kept:
        notes.append(f"No image is held out: the sub-folder {HELD_OUT}/ has no readable one.")
    if others := len(names) - sum(len(side) for side in of_side.values()):
        notes.append(f"{counted(others, 'image')} outside {REPRESENTATIVE}/ and {HELD_OUT}/ left out.")
    return chosen, kept


def _split_by_quarter(
    chooser: _Chooser, names: tuple[str, ...], count: int, held_out: int, notes: list[str]
) -> tuple[list[str], list[str]]:
    """Choose both sides from one pile, at most a quarter of it held out."""
    readable = chooser.choose(names, count + min(held_out, len(names) // 4))
    if not readable:
        raise _none_readable(chooser.folder, chooser.skipped)
    apart = min(held_out, (len(names) - len(chooser.skipped)) // 4)  # exact where every file had to be tried
    if held_out and not apart:
        notes.append(
            f"The folder has fewer than {MIN_IMAGES_TO_SPLIT} readable images: "
            "they are for calibration and none is held out."
        )
    # The held-out side first: it then stays the same when another count is asked for.
    return readable[apart : apart + count], readable[:apart]


def _walk(root: Path) -> Iterator[str]:
    """Yield the relative names of all visible entries below `root` that are not folders, in no particular order."""
    pending = [(os.fspath(root), "", frozenset({_identity(root)}))]
    while pending:
        directory, prefix, inside = pending.pop()
        try:
            with os.scandir(directory) as listing:
                entries = [entry for entry in listing if not entry.name.startswith(".")]
        except OSError as error:
            raise InputError(
                f"The folder {directory} cannot be listed ({error.strerror}): check its rights."
            ) from error
        for entry in entries:
            if not os.path.isdir(entry.path):  # DirEntry.is_dir raises on a link to itself
                yield prefix + entry.name
            elif (identity := _identity(entry.path)) not in inside:
                pending.append((entry.path, f"{prefix}{entry.name}/", inside | {identity}))


def _identity(directory: str | os.PathLike[str]) -> tuple[int, int]:
    status = os.stat(directory)
    return status.st_dev, status.st_ino


def _none_readable(folder: str, skipped: Skipped) -> InputError:
    name, reason = skipped[0]
    return InputError(
        f"None of the {counted(len(skipped), 'image')} in {folder} can be read (first: {name}, {reason}): "
        "replace them or give another folder."
    )
