"""The parameters that a file holds, by their canonical names and in one orientation for both formats."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit_export.artifacts.constants import Constant, read_constants

_HALF, _SINGLE = 2.0**-10, 2.0**-22
_SUBNORMAL = 2.0**-24


@dataclass(frozen=True)
class Held:
    """One parameter: `values` float64, a Dense kernel [in, out]; `step` between two levels, 0 where it is a float.

    `grain` is how far a float is from what it stands for by its type alone, in parts of it.
    """

    values: np.ndarray
    step: np.ndarray
    grain: float

    @property
    def rounding(self) -> np.ndarray:
        """How far each of `values` may be from what it stands for."""
        floats = self.grain * np.abs(self.values) + (_SUBNORMAL if self.grain == _HALF else 0.0)
        return np.where(self.step > 0, 0.5 * self.step + _SINGLE * np.abs(self.values), floats)


class HeldParameters:
    """The constants of the file at `path`, of `format`, by parameter.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, path: Path, format: str) -> None:
        self._transposed = format == "tflite"
        self._constants: dict[str, Constant] = {}
        for name, constant in read_constants(path, format).items():
            self._constants.setdefault(name.removesuffix("/float16").removesuffix("_quantized"), constant)

    def __contains__(self, name: str) -> bool:
        return name in self._constants

    def size(self, name: str) -> int:
        """How many numbers the parameter called `name`, which is there, has."""
        return math.prod(self._constants[name].shape)

    def read(self, name: str) -> Held:
        """The parameter called `name`, which is there."""
        constant = self._constants[name]
        values = constant.values()
        step = np.zeros((1,) * values.ndim) if constant.scale is None else np.abs(constant.scale)
        if self._transposed and name.endswith("/kernel"):
            values, step = values.T, step.T
        grain = _HALF if constant.dtype == "float16" else _SINGLE
        return Held(values, step, grain)
