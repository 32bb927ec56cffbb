"""Weights that mean nothing, for files whose size and speed are asked for and whose answers are not."""

import zlib

import numpy as np

from vit_export.model.parameters import parameter_specs
from vit_export.model.spec import ViTSpec


class RandomWeights:
    """A ParameterSource of random values, made when they are read: the model is never in memory.

    The same seed and name give the same values. Kernels keep the size of activations, LayerNorm scales are near 1.
    """

    def __init__(self, spec: ViTSpec, seed: int = 0) -> None:
        self.spec, self.seed = spec, seed
        self._shapes = {parameter.name: parameter.shape for parameter in parameter_specs(spec)}

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        shape = self._shapes[name]
        values = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random(shape, np.float32)
        # Uniform in ±spread; the variance of that is spread²/3. In place: a kernel of ViT-H takes 26 MB.
        spread = 0.1 if not name.endswith("kernel") else float(np.sqrt(3 / np.prod(shape[:-1])))
        values *= np.float32(2 * spread)
        values += np.float32((1.0 if name.endswith("scale") else 0.0) - spread)
        return values
