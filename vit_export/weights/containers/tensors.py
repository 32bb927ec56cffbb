"""What every container of named tensors looks like from outside: headers at once, values one tensor at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

LOADABLE = ("float16", "bfloat16", "float32", "float64")
"""Types a weight may be stored in; `read` turns each into float32."""


@dataclass(frozen=True)
class StoredTensor:
    """Shape and type of one tensor in a file, as its header says; `dtype` is numpy's name, or 'bfloat16'."""

    shape: tuple[int, ...]
    dtype: str


class TensorFile(Protocol):
    """Named tensors in a file (or several): `tensors` is known when it is open, values are read when asked for."""

    @property
    def path(self) -> Path:
        """What messages call it: the file, or the index file of several."""
        ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by its key."""
        ...

    def read(self, key: str, index: int | None = None) -> np.ndarray:
        """The tensor called `key` as float32 (read-only or not), or entry `index` of its leading axis alone.

        Raises:
            InputError: the bytes are missing or damaged, or of a type not in `LOADABLE`.
        """
        ...
