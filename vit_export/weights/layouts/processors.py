"""Hugging Face's image processors: what `preprocessor_config.json` says of scaling and resizing.

Two groups, each read only where the user has not said it: what a file says strangely is no matter then.
"""

from collections.abc import Mapping
from typing import Any

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Interpolation

INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers, by which processors name them."""

UNDERSTOOD = frozenset(
    ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "default_to_square")
)
"""Switches (`do_…`) that are read below, and those that change nothing for RGB images."""

_RESIZING, _SCALING = "--resize, --crop-fraction and --interpolation", "--mean and --std"


def scaling(known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`mean` and `std` on the 0..1 scale; None without a file.

    A processor computes `(pixel * rescale_factor - image_mean) / image_std`; another factor than 1/255 is brought into
    mean and std, which is exact.

    Raises:
        InputError: it says something that mean and std cannot express.
    """
    if known is None:
        return None
    for name, value in known.items():
        if name.startswith("do_") and name not in UNDERSTOOD and value:
            raise _unclear(name, value, "false", f"{_SCALING} and {_RESIZING} if it does not matter")
    if not known.get("do_rescale", True):
        raise _unclear(
            "do_rescale", False, "true, for it does not say who else divides the pixels by 255",
            f"{_SCALING} on the 0..1 scale (for a model that was trained on pixels of 0 to 255, both divided by 255)",
        )  # fmt: skip
    for name in ("rescale_offset", "offset"):
        if known.get(name):
            raise _unclear(name, known[name], "false", _SCALING)
    factor = known.get("rescale_factor", 1 / 255)
    if not is_number(factor) or not 0 < factor < 1e3:
        raise _unclear("rescale_factor", factor, "1/255", _SCALING)
    if not known.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    else:
        mean, std = (_channels(known, name) for name in ("image_mean", "image_std"))
    scale = 1.0 if abs(factor * 255 - 1) <= 1e-4 else 1 / (255 * factor)
    found = {"mean": [value * scale for value in mean], "std": [value * scale for value in std]}
    if not all(0 <= value <= 1 for value in found["mean"]) or not all(0 < value <= 1 for value in found["std"]):
        raise _unclear(
            "image_mean and image_std",
            [mean, std],
            "numbers of 0 to 1 (divide those on the 0..255 scale by 255)",
            _SCALING,
        )
    return found


def resizing(known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`resize`, `crop_fraction` and `interpolation`; None without a file.

    Raises:
        InputError: it says something that `Preprocessing` cannot express.
    """
    if known is None:
        return None
    resample = known.get("resample", 2)
    if not isinstance(resample, int) or resample not in INTERPOLATIONS:
        raise _unclear("resample", resample, "2 (bilinear) or 3 (bicubic)", _RESIZING)
    if not known.get("do_resize", True):
        raise _unclear("do_resize", False, "true", _RESIZING)
    if known.get("crop_pct") is not None:
        raise _unclear("crop_pct", known["crop_pct"], "none", _RESIZING)
    squash = {"resize": "squash", "crop_fraction": 1.0, "interpolation": INTERPOLATIONS[resample]}
    crops, shortest, resized = known.get("do_center_crop", False), _shortest(known), _square(known.get("size"))
    if shortest is not None and is_whole(shortest, 1):
        side = _crop(known) if crops else shortest
        if side is None or side > shortest:
            raise _unclear("crop_size", known.get("crop_size"), f"at most the shortest_edge {shortest}", _RESIZING)
        return {**squash, "resize": "shortest", "crop_fraction": side / shortest}
    if known.get("size") is not None and resized is None:
        raise _unclear("size", known["size"], "a square, or shortest_edge", _RESIZING)
    if crops and _crop(known) not in (None, resized):
        raise _unclear("do_center_crop after a resize to a square of", resized, "a size with shortest_edge", _RESIZING)
    return squash


def side(known: Mapping[str, Any] | None) -> int | None:
    """The side of the images that the processor makes, None where it does not say."""
    if known is None:
        return None
    if known.get("do_center_crop", False) and (cropped := _crop(known)) is not None:
        return cropped
    return _shortest(known) or _square(known.get("size"))


def _shortest(known: Mapping[str, Any]) -> int | None:
    """What the shortest side becomes, None where images are resized to a square.

    A plain number is a square, but for processors that say otherwise and those of CLIP.
    """
    size = known.get("size")
    if isinstance(size, Mapping):
        size = size.get("shortest_edge")
    else:
        kind = known.get("image_processor_type") or known.get("feature_extractor_type")
        if known.get("default_to_square", not str(kind).startswith("CLIP")):
            return None
    return size if is_whole(size, 1) else None


def _channels(known: Mapping[str, Any], name: str) -> list[float]:
    values = known.get(name, [0.5] * 3)
    if is_number(values):
        values = [values] * 3
    if not isinstance(values, list) or len(values) != 3 or not all(is_number(value) for value in values):
        raise _unclear(name, values, "three numbers", _SCALING)
    return [float(value) for value in values]


def _crop(known: Mapping[str, Any]) -> int | None:
    return _square(known.get("crop_size"))


def _square(size: Any) -> int | None:
    """The side that a size names, as a number or as equal height and width; None for anything else."""
    if isinstance(size, Mapping):
        return size["height"] if is_whole(size.get("height"), 1) and size["height"] == size.get("width") else None
    return size if is_whole(size, 1) else None


def _unclear(what: str, value: Any, expected: str, options: str) -> InputError:
    return InputError(
        f"preprocessor_config.json says {what} {value!r:.80}, expected {expected}: give {options}, or correct it."
    )
