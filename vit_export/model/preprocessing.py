"""What a model takes: how an RGB image of any size is resized, cropped and normalized (`images.read` does it)."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from vit_export.base.checks import is_number, number
from vit_export.base.errors import InputError
from vit_export.model.spec import ImageSize, checked_size, json_size, sides_of

Resize = Literal["squash", "shortest"]
Interpolation = Literal["bilinear", "bicubic"]


MIN_CROP_FRACTION = 0.1


@dataclass(frozen=True)
class Preprocessing:
    """What happens between an RGB image of any size and a model's input: resize, then normalize.

    `image_size` is the side of the square result in pixels, or its (height, width). `mean` and `std` are those of the
    red, green and blue channel on the 0..1 scale: `normalized = (pixel / 255 - mean) / std`; the default of 0.5 each is
    Google's `(pixel - 127.5) / 127.5`.

    `resize` is "squash" (straight to that size, the aspect ratio is lost: Google, Hugging Face) or "shortest" (the
    image becomes just large enough for `resized_sides`, then the centre is cut out: timm, torchvision). `crop_fraction`
    belongs to "shortest" only: the part of the resized shortest side that the crop keeps.

    Raises:
        InputError: on construction, when a value is out of range or contradicts another.

    """

    image_size: ImageSize
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Resize = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        # JSON has no tuples: a list read back from a file must compare equal to what was written.
        object.__setattr__(self, "image_size", checked_size(self.image_size))
        object.__setattr__(self, "mean", _three("mean", self.mean, lowest_is_allowed=True))
        object.__setattr__(self, "std", _three("std", self.std, lowest_is_allowed=False))
        _one_of("resize", self.resize, get_args(Resize))
        _one_of("interpolation", self.interpolation, get_args(Interpolation))
        fraction = _plain(self.crop_fraction)
        number("crop_fraction", fraction, MIN_CROP_FRACTION, 1)
        object.__setattr__(self, "crop_fraction", float(fraction))
        if self.resize == "squash" and fraction != 1:
            raise InputError(
                f"crop_fraction is {fraction} but resize is 'squash', which crops nothing: "
                "use resize='shortest' or leave crop_fraction at 1."
            )

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of the result in pixels."""
        return sides_of(self.image_size)

    @property
    def resized_side(self) -> int:
        """The shorter of `resized_sides`; of a square model, pixels of the shortest side after resizing."""
        return min(self.resized_sides)

    @property
    def resized_sides(self) -> tuple[int, int]:
        """Height and width that a resized image covers before the centre crop: 256 for 224 and 0.875, 248 for 0.9."""
        # timm's floor(size / crop_pct), but for quotients that floating point leaves just below the whole number that
        # they are: a fraction made of two sizes (224 / 256) has to give back the larger one.
        height, width = (math.floor(side / self.crop_fraction + 1e-6) for side in self.image_sides)
        return height, width

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {
            **asdict(self),
            "image_size": json_size(self.image_size),
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Invert `to_dict`; a missing key is refused as an unknown one is: no default steps in unnoticed.

        Raises:
            InputError: keys other than those of `to_dict`, or values out of range.

        """
        expected = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - expected):
            raise InputError(
                f"Unknown fields in a preprocessing: {', '.join(unknown)}; expected {', '.join(sorted(expected))}."
            )
        if missing := sorted(expected - set(values)):
            raise InputError(f"Fields missing in a preprocessing: {', '.join(missing)}; add them.")
        return cls(**values)


def normalize(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Compute `(pixel / 255 - mean) / std` per channel of uint8 [..., 3], as float32 of the same shape."""
    # A channel has 256 possible values: computed once in float64, each result is the correctly rounded float32.
    scale = np.arange(256, dtype=np.float64)[:, None] / 255
    table = ((scale - np.array(preprocessing.mean)) / np.array(preprocessing.std)).astype(np.float32)
    return table[pixels, np.arange(3)]


def _plain(value: Any) -> Any:
    """A float of numpy's as Python's, anything else as it is."""
    return value.item() if isinstance(value, np.floating) else value


def _three(name: str, values: Any, *, lowest_is_allowed: bool) -> tuple[float, float, float]:
    """Return `values` as three floats between 0 (itself allowed or not) and 1."""
    given = [_plain(v) for v in values] if isinstance(values, tuple | list | np.ndarray) else []
    in_range = all(is_number(v) and 0 <= v <= 1 and (v > 0 or lowest_is_allowed) for v in given)
    if len(given) != 3 or not in_range:
        raise InputError(
            f"{name} is {values!r}, expected three numbers for red, green and blue, "
            f"{'from 0' if lowest_is_allowed else 'above 0 and up'} to 1; divide values on the 0..255 scale by 255."
        )
    red, green, blue = (float(v) for v in given)
    return red, green, blue


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} is {value!r}, expected {' or '.join(repr(c) for c in choices)}.")
