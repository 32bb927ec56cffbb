"""Weights rounded by the error of the output: GPTQ (Frantar et al., 2022), with the scales of plain rounding.

Rounding each weight to its nearest level ignores that inputs go together: what one weight loses, its neighbours can
make up for. With G = XᵀX of the inputs X that a Dense sees, the error of an output channel is (w - ŵ)G(w - ŵ)ᵀ. Inputs
are rounded in turn, the loudest first, and those still to come make up for what each has lost.

On DINOv2-S/14 it takes 2 to 3 dB off the noise of int8 weights (docs/quantization.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_export.int8.arithmetic import LARGEST

DAMPING = 0.1
"""Part of the mean of G's diagonal that is added to it: ten times the paper's, by what DINOv2-S/14 keeps of pictures
that it was not rounded by (docs/quantization.md)."""

PAIR = 128
"""The largest sum of two levels of one sign that 16 bits hold after multiplying with 255 (see `onnx.pairs`)."""

_BLOCK = 64


@dataclass(frozen=True)
class Levels:
    """A kernel as an int8 file holds it: `levels` int8 [out, in], `scale` float32 [out], zero point 0."""

    levels: np.ndarray
    scale: np.ndarray

    def values(self) -> np.ndarray:
        """The kernel in float32, [out, in]."""
        return self.levels.astype(np.float32) * self.scale[:, np.newaxis]


def round_by_error(kernel: np.ndarray, gram: np.ndarray, pair_scale: np.ndarray | None = None) -> Levels:
    """`kernel` [out, in] in levels of each output channel.

    `gram` [in, in] is XᵀX over rows X [rows, in] of the Dense's input. The largest weight of an output channel stays
    what it is, so that whoever quantizes the result by its largest weight finds these very levels. With `pair_scale`,
    float32 [out], that is the scale, and the levels of one sign of inputs 2i and 2i + 1 never exceed `PAIR` together.
    """
    # TensorFlow's products: those of numpy stand still when another process has a core.
    import tensorflow as tf

    scale = (np.abs(kernel).max(axis=1) / LARGEST).astype(np.float32) if pair_scale is None else pair_scale.copy()
    scale[scale == 0] = 1.0
    order = np.argsort(-np.diag(gram), kind="stable")
    # In levels, [in, out], the loudest input first.
    wanted = np.ascontiguousarray((kernel / scale[:, np.newaxis]).T[order])
    fixed = np.abs(wanted) >= LARGEST * (1 - 1e-6) if pair_scale is None else np.zeros(wanted.shape, bool)
    places, owed = np.argsort(order), _owed(gram, order)
    if owed is None:  # nothing that was seen says how
        return Levels(np.rint(wanted).clip(-LARGEST, LARGEST)[places].astype(np.int8).T.copy(), scale)
    left, levels = wanted.copy(), np.zeros_like(wanted)
    for start in range(0, len(order), _BLOCK):
        end = min(start + _BLOCK, len(order))
        error = np.empty((end - start, wanted.shape[1]), np.float32)
        for i in range(start, end):
            low, high = (-LARGEST, LARGEST) if pair_scale is None else _room(levels, places, int(order[i]), i)
            levels[i] = np.where(fixed[i], np.rint(wanted[i]), np.rint(left[i]).clip(low, high))
            error[i - start] = wanted[i] - levels[i]
            left[i + 1 : end] += owed[i, i + 1 : end, np.newaxis] * error[i - start]
        if end < len(order):
            left[end:] += tf.matmul(owed[start:end, end:], error, transpose_a=True).numpy()
    rounded = np.empty(levels.shape, np.int8)
    rounded[order] = levels
    return Levels(np.ascontiguousarray(rounded.T), scale)


def round_together(
    kernels: Mapping[str, np.ndarray], gram: np.ndarray, pair_scales: Mapping[str, np.ndarray] | None = None
) -> dict[str, Levels]:
    """`round_by_error` of each of `kernels` [out, in], which read one input, at the price of one."""
    scale = None if pair_scales is None else np.concatenate([pair_scales[name] for name in kernels])
    found = round_by_error(np.concatenate(list(kernels.values())), gram, scale)
    ends = np.cumsum([len(kernel) for kernel in kernels.values()])[:-1]
    parts = zip(kernels, np.split(found.levels, ends), np.split(found.scale, ends), strict=True)
    return {name: Levels(levels, scale) for name, levels, scale in parts}


def _owed(gram: np.ndarray, order: np.ndarray) -> np.ndarray | None:
    """What the error of an input asks of those behind it in `order`, float32 [in, in]; None where `gram` cannot say.

    With G = UUᵀ, U upper triangular, the error is the sum of |Uᵀ(w - ŵ)|², whose part j depends on the inputs up to j
    alone, and is nothing where those before are made up for: Babai's nearest plane, the same levels as GPTQ's without
    an inverse (Chen et al., 2025, "The Geometry of LLM Quantization").
    """
    import tensorflow as tf

    turned = order[::-1]
    covariance = gram[np.ix_(turned, turned)].astype(np.float32)
    covariance[np.diag_indices(len(gram))] += max(DAMPING * float(np.trace(gram)) / len(gram), 1e-12)
    try:
        upper = tf.linalg.cholesky(covariance).numpy()[::-1, ::-1]
    except tf.errors.InvalidArgumentError:
        return None
    return np.ascontiguousarray(upper / np.diag(upper)) if np.isfinite(upper).all() else None


def _room(levels: np.ndarray, places: np.ndarray, channel: int, place: int) -> tuple[Any, Any]:
    """The lowest and highest levels of the input `channel` beside those of its neighbour, if that has its levels."""
    neighbour = channel ^ 1
    if neighbour >= len(places) or places[neighbour] > place:
        return -LARGEST, LARGEST
    beside = levels[places[neighbour]]
    return np.maximum(-LARGEST, -PAIR - np.minimum(beside, 0)), np.minimum(LARGEST, PAIR - np.maximum(beside, 0))
