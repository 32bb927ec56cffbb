"""int8 weights whose products are exact on every processor, and an order of channels in which that costs little.

x86 processors with AVX2 but without VNNI multiply uint8 activations with int8 weights by vpmaddubsw, which adds two
products of neighbouring inputs in 16 bits and saturates: 255·w₀ + 255·w₁ must stay within ±32,768. So an output
channel's scale is made for its largest pair of weights, not only for its largest weight: no sum of a pair exceeds 128
levels. Where large weights stand side by side, the levels get coarser by up to a factor of 2.

Which inputs stand side by side is free at two of six kernels of a layer: the MLP's hidden channels, and a head's
channels of V, can take any order without changing the function. There, large weights are paired with small ones, or
with weights of the other sign. Measured on DINOv2-S/14, the root mean square of an output channel's scale over what
its largest weight alone asks for: 1.20 in the order of the checkpoint and 1.02 reordered (second MLP kernel), 1.32 and
1.23 (attention's output).
"""

from itertools import islice

import numpy as np

from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec

_LARGEST = 127
_TINY = 1e-30
_CANDIDATES = 64
"""Partners that are looked at for each channel, the smallest left: all of them gain another 1 % of scale at most."""
_CROWDED = 0.8
"""A pair that makes no more than this part of an output channel's largest weight cannot set the scale."""


def quantize_by_pairs(kernel: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """`kernel` [in, out] as int8 [in, out] with zero point 0, and the float32 scale [out] of each output channel.

    No scale is below `least`. Inputs 2i and 2i + 1 make a pair; the levels of one sign in a pair never exceed 128,
    for 255·128 is what 16 bits hold.
    """
    pairs = np.zeros((2, -(-kernel.shape[0] // 2), kernel.shape[1]), np.float32)
    largest = np.zeros(kernel.shape[1], np.float32)
    for sign in (1, -1):
        for member in (0, 1):
            part = kernel[member::2]
            np.maximum(sign * part, 0, out=pairs[member, : len(part)])
        largest = np.maximum(largest, np.maximum(pairs.sum(0).max(0) / _LARGEST, pairs.max((0, 1)) / _LARGEST))
    return in_steps(kernel, np.maximum(largest, least))


def in_steps(kernel: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`kernel` [in, out] rounded to steps of `scale` [out], int8, and `scale` as it is stored, float32."""
    scale = scale.astype(np.float32)
    # An output channel without weights: any scale will do, but for 0, which would make NaN of 0 / 0.
    scale[scale == 0] = 1.0
    levels = kernel / scale
    np.rint(levels, out=levels)
    return levels.astype(np.int8), scale


def order_of_pairs(kernel: np.ndarray, group: int) -> np.ndarray:
    """An order of the inputs of `kernel` [in, out], int [in], whose neighbours share no large weights of one sign.

    Every `group` inputs stay together. In each, the channel with the largest weight left, in parts of its output
    channel's largest, takes the partner that crowds it least; and so on.
    """
    parts = kernel / np.maximum(np.abs(kernel).max(axis=0), _TINY)
    return np.concatenate([start + _order(parts[start : start + group]) for start in range(0, len(parts), group)])


def _order(parts: np.ndarray) -> np.ndarray:
    largest_first = np.argsort(-np.abs(parts).max(axis=1), kind="stable").tolist()
    left = dict.fromkeys(reversed(largest_first))
    order = []
    for channel in largest_first:
        if channel not in left:
            continue
        del left[channel]
        order.append(channel)
        if candidates := list(islice(left, _CANDIDATES)):
            others = parts[candidates]
            together = np.where(parts[channel] * others > 0, np.abs(parts[channel] + others), 0)
            crowding = np.square(np.square(np.maximum(together - _CROWDED, 0))).sum(axis=1)
            partner = candidates[int(crowding.argmin())]
            del left[partner]
            order.append(partner)
    return np.array(order)


class PairedParameters:
    """A `ParameterSource` equal to `source`, with the MLPs' hidden channels and the heads' channels of V in new orders.

    The order of a layer is found when the first of its kernels is read, from the kernel that reads the channels.
    """

    def __init__(self, source: ParameterSource) -> None:
        self._source, self._orders = source, dict[str, np.ndarray]()
        self._reader_of = dict[str, str]()
        for index in range(source.spec.num_layers):
            prefix = layer_name(index)
            for writer in ("dense_1", "hidden"):  # hidden/scale: see `smoothing`
                self._reader_of[f"{prefix}/mlp/{writer}"] = f"{prefix}/mlp/dense_2"
            self._reader_of[f"{prefix}/attention/value"] = f"{prefix}/attention/output"
        self._readers = frozenset(self._reader_of.values())

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self._source.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        owner, _, part = name.rpartition("/")
        if owner in self._reader_of:
            return self._source.read(name)[..., self._order(self._reader_of[owner])]
        if owner in self._readers and part == "kernel":
            return self._source.read(name)[self._order(owner)]
        return self._source.read(name)

    def order(self, reader: str) -> np.ndarray | None:
        """The order of the channels that the Dense `reader` reads, int [in]; None where it is the checkpoint's."""
        return self._order(reader) if reader in self._readers else None

    def _order(self, reader: str) -> np.ndarray:
        if reader not in self._orders:
            kernel = self._source.read(f"{reader}/kernel")
            # Channels of V stay in their head.
            group = self.spec.head_size if reader.endswith("/attention/output") else len(kernel)
            self._orders[reader] = order_of_pairs(kernel, group)
        return self._orders[reader]
