"""Models with channels that int8 cannot hold beside the others, as trained Vision Transformers have them.

`Outliers` is the same function as its source: a LayerNorm's scale and shift are multiplied and the rows of the Dense
layers behind it divided; so are the value projection's outputs and the rows of attention's output projection.
`StreamOutliers` is another function, whose residual stream has them.
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


class StreamOutliers:
    """A model whose tokens have channels 100 and 1000 times the rest, LayerNorms having learnt to undo it.

    The two are nearly the same in every token, as attention's sinks and the like are in trained models.
    """

    channels = ((3, 100.0), (20, 1000.0))

    def __init__(self, source):
        self.spec, self._source = source.spec, source
        self._gain = np.sqrt(sum(size**2 for _, size in self.channels) / self.spec.hidden_size)

    def read(self, name):
        values = self._source.read(name).copy()
        owner, _, part = name.rpartition("/")
        if name == "position_embedding":
            for channel, size in self.channels:
                values[..., channel] += size
        if owner.endswith("norm"):
            values *= self._gain if part == "scale" else 1
        if part == "kernel" and owner.endswith(("/query", "/key", "/value", "/dense_1", "head")):
            values[[channel for channel, _ in self.channels]] /= 10
        return values
