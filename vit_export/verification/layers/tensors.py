"""What the interior tensors of a file are asked for, whatever its format."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

import numpy as np


class Interior(ABC):
    """A file run so that the tensors between its operators can be read, for one image at a time.

    An image is [s, s, 3] in the file's own numbers. Tensors come as float32 and flat, of one image where a fixed batch
    was filled with copies of it.
    """

    @property
    @abstractmethod
    def output(self) -> str:
        """Name of the file's output that is read."""

    @abstractmethod
    def candidates(self, image: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[str, np.ndarray]]:
        """Name and values of every tensor with one of `sizes` elements per image, in the order they are computed in."""

    @abstractmethod
    def read(self, image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The tensors called `names`, as `candidates` names them, and the `output`."""


def of_one(values: np.ndarray, batch: int) -> np.ndarray:
    """The part of a tensor that belongs to the first of `batch` equal images, float32 and flat.

    The batch leads, alone or together with the tokens, or comes second, behind the tokens.
    """
    if batch > 1 and values.ndim > 2 and values.shape[1] == batch != values.shape[0]:
        values = values[:, 0]
    else:
        values = values.reshape(batch, -1)[0]
    return values.astype(np.float32).reshape(-1)
