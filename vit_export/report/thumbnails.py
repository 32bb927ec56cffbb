"""Thumbnails of the images that a page shows, small enough to be carried inside it."""

import io
from collections.abc import Sequence

from PIL import Image

from vit_export.images.pictures import Pictures

SIDE = 160
"""Pixels of a thumbnail's side: 80 on the page, sharp on screens of twice the density."""
QUALITY = 72


def thumbnails(pictures: Pictures, names: Sequence[str], side: int = SIDE) -> dict[str, bytes]:
    """JPEG files of those of `pictures` that `names` tells, by name, as the model sees them, `side` the longer side.

    Names of other images are left out: the page then shows them alone.
    """
    found, places = {}, {name: index for index, name in enumerate(pictures.names)}
    for name in dict.fromkeys(name for name in names if name in places):
        picture = Image.fromarray(pictures.pixels([places[name]])[0])
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=QUALITY, optimize=True)
        found[name] = data.getvalue()
    return found
