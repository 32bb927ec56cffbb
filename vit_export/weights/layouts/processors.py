"""Hugging Face's image processors: what `preprocessor_config.json` says of scaling and resizing.

Two groups, each read only where the user has not said it: what a file says strangely is no matter then.
"""

from collections.abc import Mapping
from typing import Any

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Interpolation
from vit_export.model.spec import ImageSize, shown_size
from vit_export.weights.layouts.huggingface_config import size_of

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}

INTERPOLATIONS: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
"""PIL's numbers, by which processors name them."""

_VIT = {
    "resample": 2,
    "image_mean": HALVES["mean"],
    "image_std": HALVES["std"],
    "size": {"height": 224, "width": 224},
    "do_center_crop": False,
    "default_to_square": True,
}
_CLIP = {
    "resample": 3,
    "image_mean": OPENAI["mean"],
    "image_std": OPENAI["std"],
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "default_to_square": False,
}
_CLASSES: dict[str, Mapping[str, Any]] = {
    "CLIP": _CLIP,
    "Bit": _CLIP,
    "Siglip": {**_VIT, "resample": 3, "default_to_square": False},
    "DINOv3ViT": {**_VIT, "image_mean": IMAGENET["mean"], "image_std": IMAGENET["std"]},
    "DeiT": {
        **_VIT,
        "resample": 3,
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224},
    },
}
"""What a field that is null or left out means, by the beginning of the name of the class (…ImageProcessor, …Fast,
…FeatureExtractor), in `models/*/image_processing_*.py` of transformers 5.24; others are taken as ViT's."""

UNDERSTOOD = frozenset(
    ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb", "default_to_square")
)
"""Switches (`do_…`) that are read below, and those that change nothing for RGB images."""

_RESIZING, _SCALING = "--resize, --crop-fraction and --interpolation", "--mean and --std"


def scaling(stated: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`mean` and `std` on the 0..1 scale; None without a file.

    A processor computes `(pixel * rescale_factor - image_mean) / image_std`; another factor than 1/255 is brought into
    mean and std, which is exact.

    Raises:
        InputError: it says something that mean and std cannot express.
    """
    if stated is None:
        return None
    known = _completed(stated)
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


def resizing(stated: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """`resize`, `crop_fraction` and `interpolation`; None without a file.

    Raises:
        InputError: it says something that `Preprocessing` cannot express.
    """
    if stated is None:
        return None
    known = _completed(stated)
    resample = known["resample"]
    if not isinstance(resample, int) or resample not in INTERPOLATIONS:
        raise _unclear("resample", resample, "2 (bilinear) or 3 (bicubic)", _RESIZING)
    if not known.get("do_resize", True):
        raise _unclear("do_resize", False, "true", _RESIZING)
    if known.get("crop_pct") is not None:
        raise _unclear("crop_pct", known["crop_pct"], "none", _RESIZING)
    squash = {"resize": "squash", "crop_fraction": 1.0, "interpolation": INTERPOLATIONS[resample]}
    cropped = _sides(known.get("crop_size")) if known["do_center_crop"] else None
    shortest, resized = _shortest(known), _sides(known["size"])
    if shortest is not None:
        side = shortest if not known["do_center_crop"] else cropped
        if not isinstance(side, int) or side > shortest:
            raise _unclear("crop_size", known.get("crop_size"), f"at most the shortest_edge {shortest}", _RESIZING)
        return {**squash, "resize": "shortest", "crop_fraction": side / shortest}
    if resized is None:
        raise _unclear("size", known["size"], "height and width, or shortest_edge", _RESIZING)
    if cropped is None or cropped == resized:
        return squash
    if not isinstance(resized, int) or not isinstance(cropped, int) or cropped > resized:
        expected = f"at most the size {shown_size(resized)}, both squares"
        raise _unclear("crop_size", known.get("crop_size"), expected, _RESIZING)
    return {**squash, "resize": "shortest", "crop_fraction": cropped / resized}


def assumed_resizing(stated: Mapping[str, Any] | None) -> str | None:
    """How `resizing` differs from what the processor does to images that are not square; None where it does not.

    DeiT's brings them to a square and cuts its centre out; `Preprocessing` cuts out of what keeps its shape, as DeiT
    was trained and evaluated (facebookresearch/deit, `datasets.py`).
    """
    if stated is None:
        return None
    known = _completed(stated)
    cropped, resized = _sides(known.get("crop_size")), _sides(known["size"])
    if not known["do_center_crop"] or _shortest(known) is not None or cropped in (None, resized):
        return None
    return (
        f"the shortest side resized to {resized} pixels and the centre of {cropped} cut out, where "
        f"preprocessor_config.json squashes images to {resized}x{resized} first"
    )


def size(stated: Mapping[str, Any] | None) -> ImageSize | None:
    """The size of the images that the processor makes, None where it does not say."""
    if stated is None:
        return None
    known = _completed(stated)
    if known["do_center_crop"] and (cropped := _sides(stated.get("crop_size"))) is not None:
        return cropped
    return None if stated.get("size") is None else _shortest(known) or _sides(known["size"])


def _completed(stated: Mapping[str, Any]) -> dict[str, Any]:
    """`stated` with what its class does where it says nothing."""
    kind = str(stated.get("image_processor_type") or stated.get("feature_extractor_type"))
    usual = next((fields for name, fields in _CLASSES.items() if kind.startswith(name)), _VIT)
    return {**usual, **{name: value for name, value in stated.items() if value is not None}}


def _shortest(known: Mapping[str, Any]) -> int | None:
    """What the shortest side becomes, None where images are resized to height and width."""
    size = known["size"]
    if isinstance(size, Mapping):
        size = size.get("shortest_edge")
    elif known["default_to_square"]:
        return None
    return size if is_whole(size, 1) else None


def _channels(known: Mapping[str, Any], name: str) -> list[float]:
    values = known[name]
    if is_number(values):
        values = [values] * 3
    elif isinstance(values, list) and len(values) == 1:  # of grey images
        values = values * 3
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(is_number(value) for value in values):
        raise _unclear(name, values, "three numbers", _SCALING)
    return [float(value) for value in values]


def _sides(size: Any) -> ImageSize | None:
    """The size that a number, or height and width, names; None for anything else."""
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    return size_of(size)


def _unclear(what: str, value: Any, expected: str, options: str) -> InputError:
    return InputError(
        f"preprocessor_config.json says {what} {value!r:.80}, expected {expected}: give {options}, or correct it."
    )
