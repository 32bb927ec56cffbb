"""From an image file to the tensor a Vision Transformer reads: the only such function of this package.

Calibration, verification and the metadata of an exported file all take their numbers from here, so a model is
calibrated on what it is verified on and on what an app has to feed it.
"""

import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from vit_export.base.errors import InputError
from vit_export.model.spec import MAX_IMAGE_SIZE

Resize = Literal["squash", "shortest"]
Interpolation = Literal["bilinear", "bicubic"]

MAX_PIXELS = 178_956_970
"""Largest image that is decoded: half a GiB as RGB, where Pillow too suspects a decompression bomb."""

MIN_CROP_FRACTION = 0.1

# Pillow knows some forty formats, several of which start other programs or are long unmaintained.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_FORMATS_TEXT = "JPEG, PNG, WebP or BMP"

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

_UPRIGHT = {  # EXIF orientation -> the operation that turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(InputError):
    """An image file that cannot be read; `path` names it and `reason` says why in a few words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"Cannot read the image {path}: {reason}; replace the file or leave it out.")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Preprocessing:
    """What happens between an RGB image of any size and a model's input: resize, then normalize.

    `image_size` is the side of the square result in pixels. `mean` and `std` are those of the red, green and blue
    channel on the 0..1 scale: `normalized = (pixel / 255 - mean) / std`; the default of 0.5 each is Google's
    `(pixel - 127.5) / 127.5`.

    `resize` is "squash" (straight to the square, the aspect ratio is lost: Google, Hugging Face) or "shortest" (the
    shortest side becomes `resized_side`, then the centre is cut out: timm, torchvision). `crop_fraction` belongs to
    "shortest" only: the part of the resized shortest side that the crop keeps.

    Raises:
        InputError: on construction, when a value is out of range or contradicts another.

    """

    image_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    resize: Resize = "squash"
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        size = self.image_size
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MAX_IMAGE_SIZE:
            raise InputError(f"image_size is {size!r}, expected a whole number of pixels from 1 to {MAX_IMAGE_SIZE}.")
        # JSON has no tuples: a list read back from a file must compare equal to what was written.
        object.__setattr__(self, "mean", _three("mean", self.mean, lowest_is_allowed=True))
        object.__setattr__(self, "std", _three("std", self.std, lowest_is_allowed=False))
        _one_of("resize", self.resize, get_args(Resize))
        _one_of("interpolation", self.interpolation, get_args(Interpolation))
        fraction = self.crop_fraction
        if not _is_number(fraction) or not MIN_CROP_FRACTION <= fraction <= 1:
            raise InputError(f"crop_fraction is {fraction!r}, expected a number from {MIN_CROP_FRACTION} to 1.")
        object.__setattr__(self, "crop_fraction", float(fraction))
        if self.resize == "squash" and fraction != 1:
            raise InputError(
                f"crop_fraction is {fraction} but resize is 'squash', which crops nothing: "
                "use resize='shortest' or leave crop_fraction at 1."
            )

    @property
    def resized_side(self) -> int:
        """Pixels of the shortest side after resizing and before the centre crop: 256 for 224 and 0.875, 248 for 0.9."""
        # timm's floor(size / crop_pct), but for quotients that floating point leaves just below the whole number that
        # they are: a fraction made of two sizes (224 / 256) has to give back the larger one.
        return math.floor(self.image_size / self.crop_fraction + 1e-6)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dict."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

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


def load_image(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read a JPEG, PNG, WebP or BMP file as people see it: uint8 [height, width, 3], RGB.

    The EXIF orientation is applied. Grey, palette and CMYK become RGB; transparency is laid over white, the usual
    page behind a cut-out (what lies under transparent pixels is arbitrary); 16 bits per channel are reduced to their
    high byte. Of an animation the first picture is taken. Colour profiles are ignored, as training pipelines do.

    Raises:
        UnreadableImage: (an InputError) missing, not a file, of another format, damaged, truncated, or larger than
            `MAX_PIXELS`.

    """
    name = os.fspath(path)
    if not Path(path).exists():
        raise UnreadableImage(name, "there is no such file")
    if not Path(path).is_file():  # a pipe would block for ever
        raise UnreadableImage(name, "it is not a regular file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large photographs and of damaged EXIF blocks, which are no fault here.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                image.load()
                upright = _UPRIGHT.get(_orientation(image))
                rgb = _to_rgb(image)
                return np.array(rgb if upright is None else rgb.transpose(upright))
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"it has more than {MAX_PIXELS // 10**6} million pixels") from error
    except Image.UnidentifiedImageError as error:
        empty = Path(path).stat().st_size == 0
        raise UnreadableImage(name, "it is empty" if empty else f"it is no {_FORMATS_TEXT} file") from error
    except PermissionError as error:
        raise UnreadableImage(name, "permission was denied") from error
    except Exception as error:
        # Decoders meet hostile bytes here and raise whatever they stumble over: OSError, SyntaxError, struct.error...
        raise UnreadableImage(name, f"it is damaged or truncated ({_one_line(error)})") from error


def resize_and_crop(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Bring `image`, uint8 [height, width, 3], to the model's size: uint8 [image_size, image_size, 3].

    Pillow's resampling: antialiased when it shrinks, rounded to whole pixel values. Sizes and offsets of "shortest"
    are torchvision's: the longer side is rounded down, the crop starts at round((side - image_size) / 2).

    Raises:
        InputError: another dtype or shape, or an image so elongated that resizing would need `MAX_PIXELS`.

    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"An image is {pixels.dtype} {list(pixels.shape)}, expected uint8 [height, width, 3] in RGB order: "
            "use load_image, or convert it first."
        )
    size = preprocessing.image_size
    resampling = _RESAMPLING[preprocessing.interpolation]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if preprocessing.resize == "squash":
        return np.array(picture.resize((size, size), resampling))

    width, height = picture.size
    short_side = preprocessing.resized_side
    long_side = short_side * max(width, height) // min(width, height)
    if short_side * long_side > MAX_PIXELS:
        raise InputError(
            f"An image of {width} x {height} pixels is too elongated to bring its shortest side to {short_side}: "
            "crop it, or leave it out."
        )
    new_size = (short_side, long_side) if width <= height else (long_side, short_side)
    left, top = (round((side - size) / 2) for side in new_size)
    resized = picture.resize(new_size, resampling)
    return np.array(resized.crop((left, top, left + size, top + size)))


def normalize(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Compute `(pixel / 255 - mean) / std` per channel of uint8 [..., 3], as float32 of the same shape."""
    # A channel has 256 possible values: computed once in float64, each result is the correctly rounded float32.
    scale = np.arange(256, dtype=np.float64)[:, None] / 255
    table = ((scale - np.array(preprocessing.mean)) / np.array(preprocessing.std)).astype(np.float32)
    return table[pixels, np.arange(3)]


def prepare(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Make the model's input of `image`, uint8 [height, width, 3]: float32 [image_size, image_size, 3].

    Raises:
        InputError: see `resize_and_crop`.

    """
    return normalize(resize_and_crop(image, preprocessing), preprocessing)


def load_batch(paths: Iterable[str | os.PathLike[str]], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Make the model's input of the image files `paths`, in their order: float32 [n, image_size, image_size, 3].

    The whole batch is held in memory (0.6 MB an image at 224); no paths give n = 0.

    Raises:
        InputError: a file cannot be read (`load_image`) or resized (`resize_and_crop`).

    """
    files = list(paths)
    size = preprocessing.image_size
    batch = np.empty((len(files), size, size, 3), np.float32)
    for row, path in zip(batch, files, strict=True):
        row[:] = prepare(load_image(path), preprocessing)
    return batch


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when the image says nothing that can be understood."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block says nothing, and the pixels are still good: viewers ignore it too
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any Pillow mode to RGB, transparency over white."""
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255. The high byte is what it keeps of 16-bit colour.
        values = np.asarray(image)
        grey = (np.clip(values, 0, 65535) >> 8).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey = np.where(values == transparent, np.uint8(255), grey)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool) and math.isfinite(value)


def _three(name: str, values: Any, *, lowest_is_allowed: bool) -> tuple[float, float, float]:
    """Return `values` as three floats between 0 (itself allowed or not) and 1."""
    given = list(values) if isinstance(values, tuple | list | np.ndarray) else []
    in_range = all(_is_number(v) and 0 <= v <= 1 and (v > 0 or lowest_is_allowed) for v in given)
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


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:120] or type(error).__name__
