"""The deployment graph with the roundings of int8, run in TensorFlow: what a .tflite file would lose, a part at a time.

Measured on a trained model, the signal to noise of the logits is that of the finished file to 0.1 dB.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_export.deployment.graph import TFLITE, Dialect, Graph
from vit_export.int8 import arithmetic
from vit_export.int8.modes import Modes
from vit_export.model.spec import ViTSpec

Clips = Mapping[str, tuple[float, float]]
"""Site of the graph -> which part of a tensor's smallest and of its largest value its range reaches, 1 without clip."""

ROWS = 0.5
"""Rows that a Dense has to be seen with to be rounded by them, for each of its inputs."""

_SYMMETRIC = ("query", "key", "value", "mixed", "output")
"""Tensors of an attention that have zero point 0 (see `vit_export.tflite.quantize`)."""


SOFTMAX_END = 255 / 256
"""Where the range of an int8 SOFTMAX ends, by TFLite's definition of it: its levels are 1/256 whatever it holds."""

_PRODUCTS = {"scores": ("scores", "int8"), "scores/softmax": ("int8",), "mixed": ("int8",)}
_OPERANDS = {"query": _PRODUCTS["scores"], "key": _PRODUCTS["scores"], "value": _PRODUCTS["mixed"]}
"""What is int8 in which modes of an attention's products."""


class Simulation(Graph):
    """A deployment graph whose tensors are rounded as `modes` say, each range taken from the tensor itself and `clips`.

    `weights` are those of the TFLite dialect; the caller rounds the kernels (`rounded`).
    """

    def __init__(
        self, spec: ViTSpec, weights: Mapping[str, Any], batch: int, modes: Modes, clips: Clips | None = None
    ) -> None:
        super().__init__(spec, weights, TFLITE, batch)
        self.modes, self.clips = modes, clips or {}

    def visit(self, site: str, x: Any) -> Any:
        """`x` after the roundings that it gets at `site`."""
        name, _, side = site.partition(":")
        part = name.partition("/attention/")[2]
        if part in _PRODUCTS:
            if part == "scores/softmax" and self.modes.whole and self.modes.products(name) == "int8":
                return arithmetic.asymmetric(x, 0.0, SOFTMAX_END)
            return self._static(site, x) if self.modes.products(name) in _PRODUCTS[part] else x
        mode = self.modes.dense(name)
        if side == "input" and mode == "dynamic":
            return arithmetic.per_row(x)
        # Q, K and V go into int8 products whatever made them.
        wanted = side == "" and self.modes.products(name) in _OPERANDS.get(part, ())
        return self._static(site, x) if mode == "static" or wanted else x

    def _static(self, site: str, x: Any) -> Any:
        lowest, highest = self.clips.get(site, (1.0, 1.0))
        low = float(self.tf.reduce_min(x)) * lowest
        high = float(self.tf.reduce_max(x)) * highest
        if site.endswith("/dense_1"):
            low = max(low, arithmetic.GELU_FLOOR)
        name = site.partition(":")[0]
        if "/attention/" in name and name.rpartition("/")[2] in _SYMMETRIC and not _is_normed(site):
            return arithmetic.symmetric(x, max(-low, high))
        return arithmetic.asymmetric(x, low, high)


class Grams(Graph):
    """A deployment graph in float that keeps XᵀX of the inputs X [rows, channels] of Dense layers, by the Dense's name.

    Where there are `ROWS` for each channel, that is: fewer say too little of it. That of an attention's query stands
    for its key and value too. Where the class token's row is the one that is read in the end, it looks like no other:
    it counts as much as all others together, but for them, of which it reads every row's.
    """

    def __init__(self, spec: ViTSpec, weights: Mapping[str, Any], batch: int, dialect: Dialect = TFLITE) -> None:
        super().__init__(spec, weights, dialect, batch)
        self.found: dict[str, np.ndarray] = {}
        self._sums: dict[str, tuple[np.ndarray, int]] = {}

    def visit(self, site: str, x: Any) -> Any:
        """`x` as it is, all rows of it."""
        name, _, side = site.partition(":")
        # Query, key and value read one tensor.
        if side == "input" and not name.endswith(("/key", "/value")) and x.shape[0] >= ROWS * x.shape[1]:
            gram, total, rows = self.tf.matmul(x, x, transpose_a=True), self.tf.reduce_sum(x, axis=0), x.shape[0]
            if not name.endswith("/query") and self.spec.kept_tokens < self.spec.num_tokens:
                alone, times = x[:: self.spec.num_tokens], self.spec.num_tokens
                gram += times * self.tf.matmul(alone, alone, transpose_a=True)
                total, rows = total + times * self.tf.reduce_sum(alone, axis=0), 2 * rows
            self.found[name], self._sums[name] = gram.numpy(), (total.numpy(), rows)
        return x

    def moved(self, name: str, factor: np.ndarray, shift: np.ndarray) -> np.ndarray:
        """What `found` would hold of `name`, if its input X were X·factor + shift, each [channels]."""
        total, rows = self._sums[name]
        own, cross = self.found[name] * np.outer(factor, factor), np.outer(factor * total, shift).astype(np.float64)
        return (own + cross + cross.T + rows * np.outer(shift, shift)).astype(np.float32)

    @staticmethod
    def readers(name: str) -> tuple[str, ...]:
        """The Dense layers that read what `name` reads."""
        attention, _, last = name.rpartition("/")
        return tuple(f"{attention}/{part}" for part in ("query", "key", "value")) if last == "query" else (name,)


class Extremes(Grams):
    """`Grams` that keep each channel's smallest, largest and mean value, too, at Dense layers' ends."""

    def __init__(self, spec: ViTSpec, weights: Mapping[str, Any], batch: int) -> None:
        super().__init__(spec, weights, batch)
        self.channels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.means: dict[str, np.ndarray] = {}

    def visit(self, site: str, x: Any) -> Any:
        """`x` as it is, what is kept of it remembered."""
        if len(x.shape) == 2:  # a Dense's input or output, [rows, channels]
            low, high = self.tf.reduce_min(x, axis=0), self.tf.reduce_max(x, axis=0)
            self.channels[site] = (low.numpy(), high.numpy())
            self.means[site] = self.tf.reduce_mean(x, axis=0).numpy()
        return super().visit(site, x)

    def largest(self, site: str, centre: np.ndarray | None = None) -> np.ndarray:
        """The largest magnitude of each channel at `site`, less `centre`, float32 [channels]."""
        low, high = self.channels[site]
        if centre is not None:
            low, high = low - centre, high - centre
        return np.maximum(-low, high)


def rounded(name: str, values: np.ndarray) -> np.ndarray:
    """A weight [out, in] or bias of the TFLite dialect as an int8 file holds it, in float again."""
    return arithmetic.weights(values, axis=1) if name.endswith("/kernel") else values


def _is_normed(site: str) -> bool:
    """Whether `site` is a normalized input that query, key and value share, rather than their output."""
    return site.endswith(("/query:input", "/key:input", "/value:input"))
