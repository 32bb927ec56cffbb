"""The roundings of int8, in float: what a tensor is after it was quantized and dequantized.

Jacob et al., 2018, equation 1: real = scale · (quantized - zero point). Everything works on TensorFlow tensors.
"""

from typing import Any, Literal

import numpy as np

LEVELS, LARGEST = 255, 127
_TINY = 1e-12

HEADROOM = 2.0
"""How much further than what images showed the ranges of 16-bit activations reach: one bit, which they can spare.

An image that leaves the ranges loses more: of toys with random weights the worst went from 19 to 31 dB (1.25 to 2).
"""

GELU_FLOOR = -5.0
"""Where the range of what GELU reads begins at the earliest: below, every form of it is 0 to a thousandth."""

Mode = Literal["float", "static", "dynamic"]
"""How a Dense computes. static: ranges known beforehand, input and output rounded; dynamic: the range of each row of
the input found while running, output float; float: not quantized, but for the weights if they are."""


def asymmetric(x: Any, low: float, high: float) -> Any:
    """`x` in 256 levels that cover low..high and hold 0 exactly; what lies outside is clipped."""
    import tensorflow as tf

    return tf.quantization.fake_quant_with_min_max_vars(x, min(low, 0.0), max(high, _TINY))


def symmetric(x: Any, largest: float) -> Any:
    """`x` in the 255 levels of -largest..largest, zero point 0; what lies outside is clipped."""
    import tensorflow as tf

    largest = max(largest, _TINY)
    return tf.quantization.fake_quant_with_min_max_vars(x, -largest, largest, narrow_range=True)


def per_row(x: Any) -> Any:
    """`x` [rows, channels] with 256 levels for each row's own range, as dynamic Dense layers round their input."""
    import tensorflow as tf

    low = tf.minimum(tf.reduce_min(x, axis=-1, keepdims=True), 0.0)
    high = tf.maximum(tf.reduce_max(x, axis=-1, keepdims=True), 0.0)
    scale = tf.maximum(high - low, _TINY) / LEVELS
    zero = tf.round(-128 - low / scale)
    return (tf.clip_by_value(tf.round(x / scale) + zero, -128, 127) - zero) * scale


def weights(kernel: np.ndarray, axis: int) -> np.ndarray:
    """`kernel` in 255 levels for each output channel, zero point 0; `axis` is that of its inputs."""
    largest = np.maximum(kernel.max(axis=axis, keepdims=True), -kernel.min(axis=axis, keepdims=True))
    scale = np.maximum(largest, _TINY) / LARGEST
    found = kernel / scale
    np.rint(found, out=found)
    found *= scale
    return found.astype(np.float32, copy=False)
