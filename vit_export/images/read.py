"""From an image file to the pixels a Vision Transformer reads: the only such functions of this package.

Calibration, verification and the metadata of an exported file all take their numbers from here, so a model is
calibrated on what it is verified on and on what an app has to feed it.
"""

import io
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Preprocessing, normalize

IN_MEMORY = 1 << 28
"""Bytes of decoded images that are kept in memory; 1,700 at 224 pixels."""

MAX_PIXELS = 178_956_970
"""Largest image that is decoded: half a GiB as RGB, where Pillow too suspects a decompression bomb."""

# Pillow knows some forty formats, several of which start other programs or are long unmaintained.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_FORMATS_TEXT = "JPEG, PNG, WebP or BMP"
_OTHER_FORMATS = (  # how files begin that people take for those
    (rb".{4}ftyp(heic|heix|heim|heis|hevc|mif1|msf1)", "HEIC"),
    (rb".{4}ftyp(avif|avis)", "AVIF"),
    (rb"GIF8", "GIF"),
    (rb"II\*\0|MM\0\*", "TIFF or raw"),
    (rb"\s*<(\?xml|svg)", "SVG"),
)
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
    return _decoded(path, name, empty=Path(path).stat().st_size == 0)


def decode_image(data: bytes, name: str) -> npt.NDArray[np.uint8]:
    """The image whose file's bytes are `data` and which is called `name`, as `load_image` reads it.

    Raises:
        UnreadableImage: (an InputError) as `load_image`.
    """
    return _decoded(io.BytesIO(data), name, empty=not data)


def _decoded(source: str | os.PathLike[str] | io.BytesIO, name: str, *, empty: bool) -> npt.NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large photographs and of damaged EXIF blocks, which are no fault here.
            warnings.simplefilter("ignore")
            with Image.open(source, formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                image.load()
                upright = _UPRIGHT.get(_orientation(image))
                rgb = _to_rgb(image)
                return np.array(rgb if upright is None else rgb.transpose(upright))
    except Image.DecompressionBombError as error:
        raise UnreadableImage(name, f"it has more than {MAX_PIXELS // 10**6} million pixels") from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImage(name, "it is empty" if empty else _of_another_format(source)) from error
    except PermissionError as error:
        raise UnreadableImage(name, "permission was denied") from error
    except Exception as error:
        # Decoders meet hostile bytes here and raise whatever they stumble over: OSError, SyntaxError, struct.error...
        raise UnreadableImage(name, f"it is damaged or truncated ({_one_line(error)})") from error


def _of_another_format(source: str | os.PathLike[str] | io.BytesIO) -> str:
    """What an image that Pillow cannot identify is, in a few words."""
    head = source.getvalue()[:16] if isinstance(source, io.BytesIO) else b""
    if not isinstance(source, io.BytesIO):
        with suppress(OSError), open(source, "rb") as file:
            head = file.read(16)
    text = f"it is no {_FORMATS_TEXT} file"
    found = next((name for start, name in _OTHER_FORMATS if re.match(start, head, re.DOTALL)), None)
    return text if found is None else f"{text} but {found}, which has to be converted first"


def resize_and_crop(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """Bring `image`, uint8 [height, width, 3], to the model's size: uint8 [height', width', 3].

    Pillow's resampling: antialiased when it shrinks, rounded to whole pixel values. Sizes and offsets of "shortest"
    are torchvision's for a square: the longer side is rounded down, the crop starts at round((side - wanted side) / 2).
    For other shapes they are timm's (`ResizeKeepRatio`, then the same crop), whose sides are rounded to the nearest.

    Raises:
        InputError: another dtype or shape, or an image so elongated that resizing would need `MAX_PIXELS`.

    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"An image is {pixels.dtype} {list(pixels.shape)}, expected uint8 [height, width, 3] in RGB order: "
            "use load_image, or convert it first."
        )
    tall, wide = preprocessing.image_sides
    resampling = _RESAMPLING[preprocessing.interpolation]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if preprocessing.resize == "squash":
        return np.array(picture.resize((wide, tall), resampling))

    width, height = picture.size
    covered = preprocessing.resized_sides
    # The image is made as small as it can be and still cover both sides: one of them fits, the other is cut.
    if covered[0] == covered[1]:
        shortest = min(width, height)
        new_size = (covered[0] * width // shortest, covered[0] * height // shortest)
    else:
        ratio = min(height / covered[0], width / covered[1])
        new_size = (round(width / ratio), round(height / ratio))
    if new_size[0] * new_size[1] > MAX_PIXELS:
        raise InputError(
            f"An image of {width} x {height} pixels is too elongated to bring its shortest side to {min(covered)}: "
            "crop it, or leave it out."
        )
    left, top = (round((side - wanted) / 2) for side, wanted in zip(new_size, (wide, tall), strict=True))
    resized = picture.resize(new_size, resampling)
    return np.array(resized.crop((left, top, left + wide, top + tall)))


def prepare(image: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Make the model's input of `image`, uint8 [height, width, 3]: float32 [height', width', 3].

    Raises:
        InputError: see `resize_and_crop`.

    """
    return normalize(resize_and_crop(image, preprocessing), preprocessing)


def load_batch(paths: Iterable[str | os.PathLike[str]], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Make the model's input of the image files `paths`, in their order: float32 [n, height', width', 3].

    The whole batch is held in memory (0.6 MB an image at 224); no paths give n = 0.

    Raises:
        InputError: a file cannot be read (`load_image`) or resized (`resize_and_crop`).

    """
    return normalize(load_pixels(paths, preprocessing), preprocessing)


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


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:120] or type(error).__name__


def load_pixels(paths: Iterable[str | os.PathLike[str]], preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    """The image files `paths` brought to the model's size, in their order: uint8 [n, height', width', 3].

    `feed` makes any file's input of them; no paths give n = 0.

    Raises:
        InputError: a file cannot be read (`load_image`) or resized (`resize_and_crop`).
    """
    files = list(paths)
    found = room_for(len(files), preprocessing.image_sides)
    for row, path in zip(found, files, strict=True):
        image = load_image(path)
        try:
            row[:] = resize_and_crop(image, preprocessing)
        except InputError as error:
            raise UnreadableImage(os.fspath(path), "it is too elongated for the model's images") from error
    return found


def room_for(count: int, sides: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An array for `count` images, uint8 [count, *sides, 3]; a large one lies on disk, in a file without a name."""
    shape = (count, *sides, 3)
    if math.prod(shape) <= IN_MEMORY:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(prefix="vit-export-") as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)
