"""The activations of a head in operators that both converters know, none of which leaves the range of its result."""

from collections.abc import Callable
from typing import Any

from vit_export.model.head import SELU_ALPHA, SELU_SCALE, Step


def gelu(x: Any, form: str) -> Any:
    """GELU (Hendrycks and Gimpel, 2016), of the form "erf" or "tanh", as each converter recognises it as one operator.

    `tf.nn.gelu(approximate=False)` emits Erfc, which tf2onnx cannot convert and TFLite does not fuse.
    """
    import tensorflow as tf

    if form == "tanh":
        return tf.nn.gelu(x, approximate=True)
    return 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5))


def activation(step: Step, x: Any) -> Any:
    """`x` behind the activation that `step` names.

    No tensor is read by a relu and by something else: TFLite's converter would make what gives it twice, to fuse the
    relu into one of the two. ELU is the identity above 0, so that a leaky relu of its result gives any alpha.
    """
    import tensorflow as tf

    kind, number = step
    ways: dict[str, Callable[[Any], Any]] = {
        "relu": tf.nn.relu,
        "relu6": tf.nn.relu6,
        "leaky_relu": lambda x: tf.nn.leaky_relu(x, number),
        "elu": lambda x: tf.nn.elu(x) if number == 1 else tf.nn.leaky_relu(tf.nn.elu(x), number),
        "selu": lambda x: SELU_SCALE * tf.nn.leaky_relu(tf.nn.elu(x), SELU_ALPHA),
        "gelu": lambda x: gelu(x, "erf"),
        "gelu_tanh": lambda x: gelu(x, "tanh"),
        "tanh": tf.tanh,
        "sigmoid": tf.sigmoid,
        "silu": lambda x: x * tf.sigmoid(x),
        "softplus": _softplus,
        "softsign": lambda x: x / (1.0 + tf.abs(x)),
        "hard_silu": lambda x: x * (tf.nn.relu6(x + 3.0) / 6.0),
        "mish": lambda x: x * tf.tanh(_softplus(x)),
    }
    return ways[kind](x)


def _softplus(x: Any) -> Any:
    """log(1 + exp(x)), whose exponential overflows: max(x, 0) - log(sigmoid(|x|)) does not."""
    import tensorflow as tf

    size = tf.abs(x)
    return 0.5 * (x + size) - tf.math.log(tf.sigmoid(size))
