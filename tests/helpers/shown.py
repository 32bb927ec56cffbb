"""Images of any numbers where verification expects Pictures."""

from dataclasses import dataclass

import numpy as np

from vit_export.images.pictures import ImageSet, Pictures


@dataclass
class Shown:
    """Images as they are, whatever numbers a file is said to take."""

    images: np.ndarray
    names: tuple[str, ...]
    classes = None

    def normalized(self):
        return self.images

    def fed(self, kind, count=None):
        return self.images[:count]

    def __len__(self):
        return len(self.images)


def pictures_of(pixels, names, preprocessing):
    """Pictures of uint8 `pixels` [n, s, s, 3] that come from no folder."""
    return Pictures(ImageSet("", tuple(names), ""), preprocessing, pixels, tuple(range(len(pixels))))
