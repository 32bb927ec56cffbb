"""A tensor that is read when its turn comes: what stages hand to each other instead of gigabytes."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

from vit_export.base.errors import StructureError
from vit_export.base.interrupts import heed


@dataclass(frozen=True)
class LazyTensor:
    """A name, what is announced of the values, and the function that gives them: `dtype`, in `shape`.

    Nothing is kept: every call of `read` makes the array anew.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "LazyTensor":
        """A tensor whose values are in memory, or mapped into it, already."""
        return cls(name, array.shape, array.dtype, lambda: array)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.dtype.itemsize * math.prod(self.shape)

    def elements(self) -> memoryview:
        """The elements as little-endian bytes, in C order.

        Raises:
            StructureError: `read` gave another shape or type than was announced.
        """
        heed()
        array = self.read()
        if array.shape != self.shape or array.dtype != self.dtype:
            raise StructureError(
                f"Reading {self.name} gave {array.dtype} {array.shape}, announced as {self.dtype} {self.shape}."
            )
        little = np.ascontiguousarray(array, dtype=self.dtype.newbyteorder("<"))
        return little.reshape(-1).view(np.uint8).data


Tensors = Mapping[str, LazyTensor]
"""Tensors by name, in their order."""


def computed_together(
    announced: Sequence[tuple[str, tuple[int, ...], npt.DTypeLike]], compute: Callable[[], Sequence[np.ndarray]]
) -> list[LazyTensor]:
    """Tensors that `compute` gives at once, each `announced` as (name, shape, dtype).

    Read in their order they share one computation, which the last of them lets go.
    """
    shared = lru_cache(maxsize=1)(compute)

    def part(index: int) -> np.ndarray:
        array = shared()[index]
        if index == len(announced) - 1:
            shared.cache_clear()
        return array

    return [
        LazyTensor(name, shape, np.dtype(dtype), partial(part, index))
        for index, (name, shape, dtype) in enumerate(announced)
    ]
