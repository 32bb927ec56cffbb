"""The pictures that files are verified on: in the numbers each file takes, with the classes of their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit_export.base.errors import InputError, nearest
from vit_export.base.files import input_errors
from vit_export.images.read import load_pixels
from vit_export.images.split import ImageSet
from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import feed
from vit_export.model.preprocessing import Preprocessing, normalize


@dataclass(frozen=True)
class Pictures:
    """`pixels`, uint8 [n, size, size, 3], are the images `names` at the model's size; `images` the same normalized."""

    names: tuple[str, ...]
    pixels: np.ndarray
    images: np.ndarray
    preprocessing: Preprocessing

    @classmethod
    def of(cls, images: ImageSet, preprocessing: Preprocessing) -> "Pictures":
        """The pictures of `images`.

        Raises:
            InputError: one cannot be read or resized.
        """
        with input_errors(images.folder):
            pixels = load_pixels(images.paths(), preprocessing)
        return cls(images.files, pixels, normalize(pixels, preprocessing), preprocessing)

    def fed(self, artifact: Artifact) -> np.ndarray:
        """The pictures in the numbers that the file of `artifact` takes: float32, or uint8 pixels."""
        values = artifact.inputs[0].values
        return self.images if values in ("", "normalized") else feed(self.pixels, values, self.preprocessing)


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
    index = _named(labels or (), numbers=required)
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


def _named(labels: Sequence[str], *, numbers: bool) -> dict[str, int]:
    """What a folder may be called, and the class it then holds; a name that two classes share is left out."""
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
    if numbers and not any(name.isdigit() for name in index):
        index |= {str(number): number for number in range(len(labels))}
    return index
