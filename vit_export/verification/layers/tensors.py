"""What the interior tensors of a file are asked for, whatever its format."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from vit_export.model.artifact import TensorSpec


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


def native(image: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The image as input `spec` takes it: its layout, type and quantization, repeated to fill a fixed batch.

    Copies of the image, not zeros: those would widen the range of what is quantized per tensor.
    """
    dtype = np.dtype(spec.dtype)
    if spec.layout == "NCHW":
        image = image.transpose(2, 0, 1)
    if dtype.kind in "iu" and image.dtype.kind == "f":
        limits = np.iinfo(dtype)
        image = np.clip(np.rint(image / (spec.scale or 1)) + (spec.zero_point or 0), limits.min, limits.max)
    return np.ascontiguousarray(np.repeat(image[np.newaxis], spec.shape[0] or 1, axis=0), dtype)


def of_one(values: np.ndarray, batch: int) -> np.ndarray:
    """The part of a tensor that belongs to the first of `batch` equal images, float32 and flat.

    The batch leads, alone or together with the tokens, or comes second, behind the tokens.
    """
    if batch > 1 and values.ndim > 2 and values.shape[1] == batch != values.shape[0]:
        values = values[:, 0]
    else:
        values = values.reshape(batch, -1)[0]
    return values.astype(np.float32).reshape(-1)
