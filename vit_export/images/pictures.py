"""Pictures: image files of one folder, decoded once per run, in whatever numbers a stage wants them.

Tuning, calibration, verification and thumbnails are all given the same `Pictures`.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from vit_export.base.errors import InputError, nearest
from vit_export.base.files import digest_of_file, input_errors
from vit_export.images.read import UnreadableImage, load_pixels
from vit_export.model.input_kinds import feed
from vit_export.model.labels import wordnet_of
from vit_export.model.preprocessing import Preprocessing, normalize


@dataclass(frozen=True)
class ImageSet:
    """Some image files of one folder. Construct with `ImageSet.of`, which sorts them and computes the digest.

    `files` are relative to `folder`, with forward slashes, sorted. `digest` is the sha256 over each name and the
    sha256 of that file's bytes: it depends on the files alone, wherever the folder lies.
    """

    folder: str
    files: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, folder: str | os.PathLike[str], files: Iterable[str]) -> Self:
        """Return the set of `files` (relative names) in `folder`.

        Raises:
            InputError: a file cannot be read.

        """
        return cls.hashed(folder, {name: sha256_of_image(Path(folder, name)) for name in files})

    @classmethod
    def hashed(cls, folder: str | os.PathLike[str], hashes: dict[str, str]) -> Self:
        """Return the set of the files whose sha256 `hashes` gives by relative name."""
        lines = (encoded(name) + b"\0" + hashes[name].encode() + b"\n" for name in sorted(hashes))
        return cls(os.fspath(folder), tuple(sorted(hashes)), hashlib.sha256(b"".join(lines)).hexdigest())

    def paths(self) -> tuple[Path, ...]:
        """Return the files with their folder, in the order of `files`."""
        return tuple(Path(self.folder, name) for name in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**asdict(self), "files": list(self.files)}

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The images of a set at a model's size; row `rows[i]` of `store`, uint8 [m, height, width, 3], is the i-th.

    Sets that were read together share one `store`. `classes` are the labelled classes of the images by their index,
    None where nobody said.
    """

    images: ImageSet
    preprocessing: Preprocessing
    store: npt.NDArray[np.uint8]
    rows: tuple[int, ...]
    classes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, images: ImageSet, preprocessing: Preprocessing) -> Self:
        """Read the files of `images`.

        Raises:
            InputError: one cannot be read or resized.

        """
        with input_errors(images.folder):
            return cls(images, preprocessing, load_pixels(images.paths(), preprocessing), tuple(range(len(images))))

    @property
    def names(self) -> tuple[str, ...]:
        """The images as a report names them: relative to their folder."""
        return self.images.files

    def pixels(self, indices: Sequence[int] | None = None) -> npt.NDArray[np.uint8]:
        """Return the images (those of `indices`), uint8 [n, height, width, 3]."""
        chosen = self.rows if indices is None else [self.rows[i] for i in indices]
        return self.store[list(chosen)]

    def normalized(self, count: int | None = None, among: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return at most `count` images, spread over those `among` which to choose: float32 [n, height, width, 3]."""
        there = range(len(self)) if among is None else among
        return normalize(self.pixels(spread(there, len(there) if count is None else count)), self.preprocessing)

    def fed(self, kind: str, count: int | None = None) -> npt.NDArray[Any]:
        """Return the first `count` images (None: all) as a file of the input kind `kind` takes them: float32, or uint8.

        The kind "" is that of normalized images.
        """
        return feed(self.pixels(range(len(self))[:count]), kind or "normalized", self.preprocessing)

    def batches(self, batch: int, kind: str, among: Sequence[int] | None = None) -> "Batches":
        """Return the images, or those `among` them, in static batches, as files of the input kind `kind` take them."""
        return Batches(self, batch, kind, range(len(self)) if among is None else among)

    def labelled(self, labels: Sequence[str] | None, *, required: bool = False) -> Self:
        """Return the same pictures with the classes that their folders name (`classes_of`)."""
        classes = classes_of(self.images, labels, required=required)
        return replace(self, classes=None if classes is None else tuple(classes))

    def __len__(self) -> int:
        return len(self.images)


class Batches(Sequence[np.ndarray]):
    """Pictures in batches [batch, height, width, 3], made when they are asked for; the last is filled up."""

    def __init__(self, pictures: Pictures, batch: int, kind: str, among: Sequence[int]) -> None:
        self._pictures, self._batch, self._kind, self._among = pictures, batch, kind, among

    def __len__(self) -> int:
        return math.ceil(len(self._among) / self._batch)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first = index * self._batch
        pixels = self._pictures.pixels([self._among[i % len(self._among)] for i in range(first, first + self._batch)])
        return feed(pixels, self._kind, self._pictures.preprocessing)


def spread(positions: Sequence[int], count: int) -> list[int]:
    """At most `count` of `positions`, evenly spread over them."""
    count = min(count, len(positions))
    return [positions[i * len(positions) // count] for i in range(count)]


def encoded(name: str) -> bytes:
    """The bytes of a file's name, which the system allows to be any."""
    return name.encode("utf-8", "surrogateescape")


def sha256_of_image(path: Path) -> str:
    """The sha256 of an image file's bytes.

    Raises:
        UnreadableImage: (an InputError) it cannot be read.
    """
    try:
        return digest_of_file(path)
    except OSError as error:
        raise UnreadableImage(os.fspath(path), error.strerror or type(error).__name__) from error


def classes_of(images: ImageSet, labels: Sequence[str] | None, *, required: bool = False) -> list[int] | None:
    """The class of each image where every one lies in a folder called like a label, else None.

    A label may hold synonyms ('tench, Tinca tinca'): any one of them names the folder. '/', which no folder can be
    called, is '_'. Where classes are `required`, a folder may also be called by the number of its class.

    Raises:
        InputError: `required`, and there are no labels, or a folder is called like none of them.
    """
    if required and not labels:
        raise InputError(
            "--labels-from folders takes the names of the classes from the model, and it has none: give --labels."
        )
    index = named_classes(labels or (), numbers=required)
    folders = [Path(name).parent.name for name in images.files]
    unknown = sorted({folder for folder in folders if folder not in index})
    if not unknown and folders:
        return [index[folder] for folder in folders]
    if required:
        first = unknown[0] if unknown else ""
        guess = nearest(first, index) if first else None
        hint = f"did you mean '{guess}'? " if guess else ""
        raise InputError(
            f"{len(unknown)} folders in {images.folder} are called like no class, first '{first or '.'}': {hint}"
            f"expected one folder for each class, called like it ('{(labels or ('',))[0]}') or by its number."
        )
    return None


def named_classes(labels: Sequence[str], *, numbers: bool = True) -> dict[str, int]:
    """What a folder may be called, and the class it then holds; a name that two classes share is left out.

    ImageNet's classes also go by WordNet's numbers.
    """
    index: dict[str, int] = {}
    taken: set[str] = set()
    for number, label in enumerate(labels):
        for name in {label.replace("/", "_"), *(part.strip().replace("/", "_") for part in label.split(","))}:
            if name in taken:
                index.pop(name, None)
            else:
                index[name] = number
            taken.add(name)
    for number, label in enumerate(labels):
        index[label.replace("/", "_")] = number  # a whole label beats another's synonym
    for number, name in enumerate(wordnet_of(labels)):
        index.setdefault(name, number)
    if numbers and not any(name.isdigit() for name in index):
        index |= {str(number): number for number in range(len(labels))}
    return index
