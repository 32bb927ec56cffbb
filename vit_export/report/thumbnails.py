"""Thumbnails of the images that a page shows, small enough to be carried inside it."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vit_export.base.errors import InputError
from vit_export.images.read import load_image

SIDE = 160
"""Pixels of a thumbnail's longer side: 80 on the page, sharp on screens of twice the density."""
QUALITY = 72


def thumbnails(folder: Path, names: Sequence[str], side: int = SIDE) -> dict[str, bytes]:
    """JPEG files of the images `names` in `folder`, by name, upright, the longer side at most `side` pixels.

    Images that cannot be read any more are left out: the page then shows their names alone.
    """
    found = {}
    for name in dict.fromkeys(names):
        try:
            picture = Image.fromarray(load_image(folder / name))
        except (
            InputError,
            OSError,
            ValueError,
        ):  # a name that no file can have (too long, with a NUL) is unreadable too
            continue
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=QUALITY, optimize=True)
        found[name] = data.getvalue()
    return found
