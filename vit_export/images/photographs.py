"""The default representative dataset, cut from the photographs inside the scikit-image package: no download.

`vit-export calibration [FOLDER]` writes 128 images to `FOLDER/representative` and 32 to `FOLDER/held_out`.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import digest_of_file, sync
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.base.moving import exchange, recover
from vit_export.base.scratch import owned_folder
from vit_export.images.read import load_image
from vit_export.images.split import HELD_OUT, REPRESENTATIVE

DEFAULT_FOLDER = "calibration"
SOURCES, MANIFEST = "SOURCES.md", "manifest.json"

MIN_SIDE = 224
"""Shortest side of a crop in the photograph, in pixels, where the photograph has so many."""

MAX_SIDE = 512
"""Longest side of a written image, in pixels."""

_QUALITY = 95
# Crop sizes as fractions of the photograph, and aspect ratios (width : height), taken in turn.
_SCALES = (0.85, 0.5, 0.7, 0.55, 0.92, 0.62, 0.78)
_ASPECTS = (1.0, 4 / 3, 3 / 4, 1.0, 3 / 2)
# Multiples of these fill a square evenly (the additive recurrence of the plastic number).
_STEP_X, _STEP_Y = 0.7548776662466927, 0.5698402909980532

_ENTRIES = (HELD_OUT, REPRESENTATIVE, SOURCES, MANIFEST)  # the manifest last: it says that the rest is there


@dataclass(frozen=True)
class Photograph:
    """One photograph of scikit-image: `count` images are cut from it, all for one `side`.

    `scene` groups photographs that show the same thing. `mirror` allows flipped crops (writing must not be).
    """

    file: str
    side: str
    count: int
    title: str
    licence: str
    scene: str = ""
    mirror: bool = True

    @property
    def stem(self) -> str:
        """The file's name without extension, which begins the name of each image cut from it."""
        return self.file.partition(".")[0]


_BY_PROJECT = "no statement of its own; distributed with scikit-image (BSD-3-Clause)"
_MIDDLEBURY = "none stated; Middlebury 2014 stereo benchmark, cite D. Scharstein et al., GCPR 2014"

# Two sides that share no scene. Three quarters of each are colour photographs; people, animals, objects, indoors,
# night, microscopy, fine texture, flat areas and writing are spread over both.
PHOTOGRAPHS: tuple[Photograph, ...] = (
    Photograph("astronaut.png", REPRESENTATIVE, 27, "Eileen Collins, NASA", "public domain (NASA)"),
    Photograph("coffee.png", REPRESENTATIVE, 25, "a cup of coffee, by Rachel Michetti", "CC0"),
    Photograph("motorcycle_left.png", REPRESENTATIVE, 15, "a motorcycle, left view", _MIDDLEBURY, "motorcycle"),
    Photograph("motorcycle_right.png", REPRESENTATIVE, 13, "a motorcycle, right view", _MIDDLEBURY, "motorcycle"),
    Photograph("hubble_deep_field.jpg", REPRESENTATIVE, 12, "Hubble eXtreme Deep Field", "public domain (NASA)"),
    Photograph("ihc.png", REPRESENTATIVE, 12, "stained colonic glands, CMMI", "no known copyright restrictions"),
    Photograph("brick.png", REPRESENTATIVE, 5, "a brick wall, CC0Textures", "CC0"),
    Photograph("grass.png", REPRESENTATIVE, 5, "grass, by linolafett", "CC0"),
    Photograph("moon.png", REPRESENTATIVE, 4, "the surface of the moon", _BY_PROJECT),
    Photograph("page.png", REPRESENTATIVE, 3, "a printed page", _BY_PROJECT, mirror=False),
    Photograph("text.png", REPRESENTATIVE, 3, "handwriting, from Wikipedia", "public domain", mirror=False),
    Photograph("cell.png", REPRESENTATIVE, 2, "a cell in saline, by Paul Müller et al.", "CC0"),
    Photograph("clock_motion.png", REPRESENTATIVE, 2, "a blurred clock, by Stefan van der Walt", "public domain"),
    Photograph("chelsea.png", HELD_OUT, 10, "Chelsea the cat, by Stefan van der Walt", "CC0"),
    Photograph("rocket.jpg", HELD_OUT, 9, "Falcon 9 at night, SpaceX", "public domain (SpaceX)"),
    Photograph("retina.jpg", HELD_OUT, 5, "a retina, by Mikael Häggström", "CC0"),
    Photograph("camera.png", HELD_OUT, 3, "a cameraman, by Lav Varshney", "CC0"),
    Photograph("coins.png", HELD_OUT, 3, "coins from Pompeii, Brooklyn Museum", "no known copyright restrictions"),
    Photograph("gravel.png", HELD_OUT, 2, "gravel, CC0Textures", "CC0"),
)


@dataclass(frozen=True)
class Crop:
    """A rectangle of a photograph in pixels, and whether it is mirrored."""

    left: int
    top: int
    width: int
    height: int
    mirrored: bool


def crops(width: int, height: int, count: int, *, mirror: bool = True) -> Iterator[Crop]:
    """`count` rectangles of a photograph of `width` x `height` pixels, always the same: first all of it, then parts.

    Scale, aspect ratio and position vary; no side is below `MIN_SIDE` unless the photograph's own is.
    """
    yield Crop(0, 0, width, height, mirrored=False)
    for index in range(1, count):
        scale, aspect = _SCALES[index % len(_SCALES)], _ASPECTS[index % len(_ASPECTS)]
        side = scale * min(width, height)
        crop_width = _between(round(side * max(aspect, 1)), MIN_SIDE, width)
        crop_height = _between(round(side / min(aspect, 1)), MIN_SIDE, height)
        left = round((index * _STEP_X) % 1 * (width - crop_width))
        top = round((index * _STEP_Y) % 1 * (height - crop_height))
        yield Crop(left, top, crop_width, crop_height, mirrored=mirror and index % 2 == 0)


def write_photographs(
    folder: str | os.PathLike[str] = DEFAULT_FOLDER,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> bool:
    """Write the default representative dataset to `folder`; False when it is there already, complete and unchanged.

    The images are RGB or grey JPEGs, longest side at most `MAX_SIDE`; `SOURCES.md` names their origin and
    `manifest.json` lists their sha256. A `README.md` and hidden files in `folder` stay as they are. `progress` is
    called with (images done, images in all). The set appears complete or not at all; of two processes that write it at
    the same time, one does and the other takes what is there.

    Raises:
        InputError: scikit-image or one of its photographs is missing.
        OutputError: `folder` is a file, holds something else, holds a set that differs and `overwrite` is False, or
            cannot be written.

    """
    target = Path(folder)
    try:
        existed = target.is_dir()
        recover(target)
        if target.exists() and not existed:
            raise OutputError(f"{target} is a file, expected a folder to write the photographs to: give another path.")
        if _is_up_to_date(target):
            return False
        if existed:
            _refuse_to_lose_files(target, overwrite=overwrite)
    except OSError as error:
        raise _refusal(target, error) from error
    source = photographs_folder()
    try:
        # Beside a new folder, but inside an existing one, which may be a mounted volume: renaming needs one disk.
        parent = target if existed else target.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with owned_folder(".photographs-", parent) as staging:
            fresh = staging / "new"
            fresh.mkdir()
            _write_set(source, fresh, progress)
            sync(fresh)
            if existed:
                exchange(target, [fresh / name for name in _ENTRIES])
            else:
                fresh.rename(target)
    except OSError as error:
        if _is_up_to_date(target):  # another process wrote the same set in the meantime
            return False
        raise _refusal(target, error) from error
    return True


def has_photographs(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` has the default representative dataset, complete and unchanged."""
    try:
        return _is_up_to_date(Path(folder))
    except OSError:
        return False


def _refusal(target: Path, error: OSError) -> OutputError:
    return OutputError(
        f"Cannot write the photographs to {target} ({error.strerror or error}): check its rights and free space."
    )


def photographs_folder() -> Path:
    """Return the folder of the installed scikit-image that holds its photographs, without importing scikit-image.

    Raises:
        InputError: scikit-image is not installed.

    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise InputError(
            "The default photographs come with scikit-image, which is not installed: install scikit-image."
        )
    return Path(found.origin).parent / "data"


def _write_set(source: Path, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    """Write the whole set into the empty `folder`."""
    total, done = sum(photograph.count for photograph in PHOTOGRAPHS), 0
    files: dict[str, str] = {}
    for side in (REPRESENTATIVE, HELD_OUT):
        (folder / side).mkdir()
    for photograph in PHOTOGRAPHS:
        pixels = load_image(source / photograph.file)
        height, width = pixels.shape[:2]
        is_grey = bool((pixels == pixels[:, :, :1]).all())
        for index, crop in enumerate(crops(width, height, photograph.count, mirror=photograph.mirror)):
            part = pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
            picture = Image.fromarray(np.ascontiguousarray(part[:, ::-1] if crop.mirrored else part))
            picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC, reducing_gap=None)
            name = f"{photograph.side}/{photograph.stem}-{index:02d}.jpg"
            # No chroma subsampling, which would soften the colours that calibration is to see.
            (picture.convert("L") if is_grey else picture).save(folder / name, quality=_QUALITY, subsampling=0)
            files[name] = digest_of_file(folder / name)
            done += 1
            if progress is not None:
                progress(done, total)
    (folder / SOURCES).write_text(_sources(), encoding="utf-8")
    manifest = {"recipe": _recipe(), "files": dict(sorted(files.items()))}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _read_manifest(target: Path) -> dict[str, Any]:
    """Return the manifest in `target`, or {} where there is none that can be understood."""
    try:
        manifest = parse_json(json_bytes(target / MANIFEST))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) else {}


def _is_up_to_date(target: Path) -> bool:
    """Whether `target` holds what `_write_set` would write, unchanged."""
    manifest = _read_manifest(target)
    if manifest.get("recipe") != _recipe() or set(manifest["files"]) != set(_image_files(target)):
        return False
    try:
        return (target / SOURCES).is_file() and all(
            digest_of_file(target / n) == h for n, h in manifest["files"].items()
        )
    except OSError:  # what cannot be read back is not up to date
        return False


def _refuse_to_lose_files(target: Path, *, overwrite: bool) -> None:
    """Raise OutputError unless writing the set to `target` is asked for and destroys nothing but an earlier set."""
    if not target.is_dir():
        return
    listed = set(_read_manifest(target).get("files", ()))
    entries = {entry.name for entry in target.iterdir() if not entry.name.startswith(".")} - {"README.md"}
    foreign = sorted((entries - set(_ENTRIES)) | {name for name in _image_files(target) if name not in listed})
    if foreign:
        raise OutputError(
            f"The folder {target} holds files that are not part of the default set ({foreign[0]}"
            f"{f' and {len(foreign) - 1} more' if len(foreign) > 1 else ''}): move them away or give another folder."
        )
    if entries and not overwrite:
        raise OutputError(
            f"The set of photographs in {target} is incomplete, changed or of another version: "
            "pass --overwrite to replace it, or give another folder."
        )


def _image_files(target: Path) -> Iterator[str]:
    """Relative names of all visible files below the two sides of `target`."""
    for side in (REPRESENTATIVE, HELD_OUT):
        for path in (target / side).rglob("*"):
            if not path.name.startswith(".") and not path.is_dir():
                yield path.relative_to(target).as_posix()


def _recipe() -> str:
    """Return the sha256 of everything that decides what is cut: another recipe, another set."""
    recipe = [asdict(p) for p in PHOTOGRAPHS], MIN_SIDE, MAX_SIDE, _QUALITY, _SCALES, _ASPECTS, _STEP_X, _STEP_Y
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


def _sources() -> str:
    """Return the text of SOURCES.md."""
    lines = [
        "# Where these images come from",
        "",
        "Cut by `vit-export calibration` from photographs that are distributed with scikit-image",
        "(https://scikit-image.org/docs/stable/api/skimage.data.html), which states the licences below.",
        "Each photograph serves one side only; the two motorcycle views show one scene.",
    ]
    for side in (REPRESENTATIVE, HELD_OUT):
        of_side = [photograph for photograph in PHOTOGRAPHS if photograph.side == side]
        lines += ["", f"## {side} ({sum(p.count for p in of_side)} images)", ""]
        lines += ["| images | photograph | shows | licence |", "|---|---|---|---|"]
        lines += [f"| {p.count} | {p.file} | {p.title} | {p.licence} |" for p in of_side]
    return "\n".join(lines) + "\n"


def _between(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)
