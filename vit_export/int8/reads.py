"""The weights of the TFLite dialect as simulations of an int8 file read them: when asked for, and made once."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vit_export.deployment.rewrites import folded_parameters
from vit_export.int8.equalize import EqualizedParameters, Factors
from vit_export.int8.rounding import Levels
from vit_export.int8.simulate import rounded
from vit_export.model.parameters import ParameterSource


class Reads(Mapping[str, Any]):
    """The weights of the TFLite dialect, read when asked for and kept."""

    def __init__(self, source: ParameterSource, factors: Factors) -> None:
        self.factors, self._equalized = factors, EqualizedParameters(source, factors)
        self._parameters, self._kept = folded_parameters(self._equalized, extras=factors.extras), dict[str, Any]()

    def __getitem__(self, name: str) -> Any:
        if name not in self._kept:
            self._kept[name] = self._read(name)
        return self._kept[name]

    def _read(self, name: str) -> Any:
        return self._parameters[name].read()

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


class RoundedReads(Reads):
    """`Reads` as an int8 file holds them, rounded to the nearest levels where `levels` has none for them.

    Those of `before` that the same factors make of the same `source`, with the same levels, are taken from there.
    """

    def __init__(
        self,
        source: ParameterSource,
        factors: Factors,
        levels: Mapping[str, Levels],
        before: "RoundedReads | None" = None,
    ) -> None:
        super().__init__(source, factors)
        self.levels = dict(levels)
        if before is not None:
            self._kept.update((name, kept) for name, kept in before._kept.items() if self._alike(name, before))

    def _read(self, name: str) -> Any:
        import tensorflow as tf

        # Read by many a simulation: as a tensor, it is copied once.
        return tf.constant(self.levels[name].values() if name in self.levels else rounded(name, super()._read(name)))

    def _alike(self, name: str, other: "RoundedReads") -> bool:
        """Whether `name` is what it is in `other`, if it is the kernel or bias of a Dense; False for all else."""
        dense, _, part = name.rpartition("/")
        if name in self.levels or name in other.levels:
            return self.levels.get(name) is other.levels.get(name)
        if part == "kernel":
            own, others = (reads._equalized.on_kernel(dense) for reads in (self, other))
        elif part == "bias" and f"{dense}/kernel" in self:
            own, others = (reads._equalized.on_bias(dense) for reads in (self, other))
        else:
            return False
        return all(
            a is b or (a is not None and b is not None and np.array_equal(a, b))
            for a, b in zip(own, others, strict=True)
        )
