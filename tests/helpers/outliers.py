"""The same model with channels that int8 cannot hold beside the others, as trained Vision Transformers have them.

Function-preserving: a LayerNorm's scale and shift are multiplied and the rows of the Dense layers behind it divided; so
are the value projection's outputs and the rows of attention's output projection.
"""

import numpy as np

from vit_export.int8.equalize import norm_groups
from vit_export.model.parameters import layer_name

CHANNELS = 4


class Outliers:
    """The parameters of `source` with `CHANNELS` channels of every LayerNorm and of every V `factor` times as large."""

    def __init__(self, source, factor, seed=0):
        self._source, random = source, np.random.default_rng(seed)
        width = source.spec.hidden_size

        def channels():
            vector = np.ones(width, np.float32)
            vector[random.permutation(width)[:CHANNELS]] = factor
            return vector

        self._columns, self._rows = {}, {}
        for norm, group in norm_groups(source.spec).items():
            self._columns[norm] = vector = channels()
            self._rows |= dict.fromkeys(group, vector)
        for index in range(source.spec.num_layers):
            attention = f"{layer_name(index)}/attention"
            self._columns[f"{attention}/value"] = self._rows[f"{attention}/output"] = channels()

    @property
    def spec(self):
        return self._source.spec

    def read(self, name):
        values = self._source.read(name)
        owner, _, part = name.rpartition("/")
        if part == "kernel" and owner in self._rows:
            values = values / self._rows[owner][:, np.newaxis]
        return values * self._columns[owner] if owner in self._columns else values
