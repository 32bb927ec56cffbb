"""What numbers an exported file takes as an image: the table of input kinds, and the images in each kind's numbers.

The reference always takes normalized images. A file may take what a camera or a decoder gives instead, because what is
left to do is affine per channel and the patch embedding, a matrix product without padding, can hold it
(`rewrites.FoldedInput`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vit_export.base.errors import InputError
from vit_export.model.artifact import InputKind, Precision
from vit_export.model.preprocessing import Preprocessing, normalize

Three = tuple[float, float, float]
"""One number each for red, green and blue."""


@dataclass(frozen=True)
class Pixels:
    """One input kind: the `dtype` of the file's input, and what a uint8 pixel is multiplied by to get its number.

    `per_pixel` None means `(pixel / 255 - mean) / std`, with the mean and std of the model's `Preprocessing`.
    """

    name: InputKind
    dtype: Literal["float32", "uint8"]
    per_pixel: float | None


KINDS: dict[str, Pixels] = {
    kind.name: kind
    for kind in (
        Pixels("normalized", "float32", None),
        Pixels("0..1", "float32", 1 / 255),
        Pixels("0..255", "float32", 1.0),
        Pixels("uint8", "uint8", 1.0),
    )
}


_SUBNORMAL = (
    "for pixels from 0 to 255 the patch kernel is so small that part of it is subnormal in float16: on an accelerator "
    "that takes subnormal numbers for 0 the answers are wrong; choose the input 0..1 or normalized there."
)


def kind_of(name: str) -> Pixels:
    """The row of KINDS called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in KINDS:
        raise InputError(f"Unknown input '{name}': choose one of {', '.join(KINDS)}.")
    return KINDS[name]


def notes_on(name: str, precision: Precision) -> tuple[str, ...]:
    """What to know of a file of this kind and precision; nothing, mostly."""
    return (_SUBNORMAL,) if precision == "float16" and kind_of(name).per_pixel == 1 else ()


def affine(name: str, preprocessing: Preprocessing) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`factor` and `centre`, each [3], with `normalized = factor * (value - centre)` for the values of kind `name`."""
    per_pixel = kind_of(name).per_pixel
    if per_pixel is None:
        return np.ones(3), np.zeros(3)
    unit = 255 * per_pixel  # the value of a white pixel
    return 1 / (unit * np.array(preprocessing.std)), unit * np.array(preprocessing.mean)


def left_to_do(name: str, preprocessing: Preprocessing) -> tuple[Three, Three]:
    """The mean and std with which an app gets a file's input: `(pixel / 255 - mean) / std` for every kind.

    Those of the model where the file takes normalized images, else 0 and 1 ("0..1") or 0 and 1/255 ("0..255" and
    "uint8", where that leaves the pixel as it is).
    """
    per_pixel = kind_of(name).per_pixel
    if per_pixel is None:
        return preprocessing.mean, preprocessing.std
    std = 1 / (255 * per_pixel)
    return (0.0, 0.0, 0.0), (std, std, std)


def feed(pixels: npt.NDArray[np.uint8], name: str, preprocessing: Preprocessing) -> np.ndarray:
    """The images `pixels`, uint8 [..., 3], as a file of kind `name` takes them, in its dtype and of the same shape.

    For "uint8" that is `pixels` itself, not a copy.

    Raises:
        InputError: there is no such kind, or `pixels` are not uint8.
    """
    kind = kind_of(name)
    if pixels.dtype != np.uint8:
        raise InputError(f"Pixels are {pixels.dtype}, expected uint8 from 0 to 255.")
    if kind.dtype == "uint8":
        return pixels
    if kind.per_pixel is None:
        return normalize(pixels, preprocessing)
    # There are 256 values: each is rounded to float32 once.
    return (np.arange(256) * kind.per_pixel).astype(np.float32)[pixels]
