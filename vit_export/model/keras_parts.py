"""What single layers of Keras are to a head, read off their configs: the table of all that can be taken apart."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.base.text import visible
from vit_export.model.head import ACTIVATIONS, DENSE, NORM
from vit_export.model.spec import MAX_CLASSES

EXPECTED = (
    "expected a VisionTransformer of vit_export whose class token, or mean of tokens, goes through Dense, "
    "LayerNormalization, BatchNormalization, activations and Dropout (docs/python.md)"
)

AFFINE, BATCH_NORM, SOFTMAX = "affine", "batch_norm", "softmax"
"""Kinds of parts beside those of `model.head`."""

Numbers = float | tuple[float, ...]


class Part(NamedTuple):
    """One layer of a head, or of what is before the backbone.

    `kind` is one of `model.head` or of the above, `value` the number that goes with it: a Dense's width, an epsilon, a
    slope, or of an affine layer its factor and what it adds. `path` are the names of the models that the layer is in,
    and its own; `has` says which of its two optional weights it has.
    """

    kind: str
    path: tuple[str, ...]
    value: Any = None
    has: tuple[bool, bool] = (True, True)

    @property
    def layer(self) -> str:
        """The layer's name, for messages."""
        return shown(self.path[-1])


def shown(name: Any) -> str:
    """`name` of a layer or class, which may come from a file, for a message."""
    return visible(str(name))[:60]


def refused(entry: Mapping[str, Any], why: str = "") -> InputError:
    """The error that says that the layer of this config cannot be taken apart, and `why`; else what is expected."""
    name = entry.get("name") or (entry.get("config") or {}).get("name")
    layer = f"The layer {shown(name)} ({shown(entry.get('class_name'))})"
    return InputError(f"{layer} {why}." if why else f"{layer} cannot be taken apart: {EXPECTED}.")


# What changes nothing in a prediction, and what training alone knows of.
_INERT = {
    "Dropout",
    "SpatialDropout1D",
    "GaussianNoise",
    "GaussianDropout",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
}
_UNREAD = {
    *("name", "trainable", "dtype", "batch_shape", "batch_input_shape", "input_shape", "autocast"),
    *("momentum", "synchronized", "renorm", "renorm_clipping", "renorm_momentum", "supports_masking"),
}
_UNREAD_ENDS = ("_initializer", "_regularizer", "_constraint")

_ALIASES = {"swish": "silu", "hard_swish": "hard_silu"}
_DEFAULTS = {"leaky_relu": 0.2, "elu": 1.0}
"""The numbers of activations that are given by name."""

_ACTIVATION_LAYERS = {"LeakyReLU": "leaky_relu", "LeakyRelu": "leaky_relu", "ELU": "elu", "Elu": "elu"}
_OPERATIONS = {
    **{"Relu": "relu", "Relu6": "relu6", "Selu": "selu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Silu": "silu"},
    **{"Softplus": "softplus", "Softsign": "softsign", "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid"},
}
"""Functions of keras.ops that stand in a model as layers do."""


def is_of_keras(entry: Mapping[str, Any]) -> bool:
    """Whether the class is Keras' own, and not another's of the same name."""
    return str(entry.get("module")).partition(".")[0] == "keras"


def is_inert(entry: Mapping[str, Any]) -> bool:
    """Whether the layer changes nothing in a prediction, whatever its settings."""
    return is_of_keras(entry) and entry.get("class_name") in _INERT


def is_augmentation(entry: Mapping[str, Any]) -> bool:
    """Whether the layer changes images in training alone, which all that are random do but RandomCrop."""
    name = str(entry.get("class_name"))
    of_training = name.startswith("Random") or name in ("RandAugment", "AugMix")
    return is_of_keras(entry) and of_training and name != "RandomCrop"


def settings(entry: Mapping[str, Any], **defaults: Any) -> list[Any]:
    """The settings called as `defaults`, which hold where there are none; any other that says something is refused."""
    config = entry.get("config")
    if not isinstance(config, Mapping):
        raise refused(entry, "has no config that can be read")
    dtype = config.get("dtype")
    if isinstance(dtype, Mapping) and "uantiz" in str(dtype.get("class_name")):
        raise refused(entry, "was quantized in Keras, expected floating-point numbers: give the model as it was before")
    for name, value in config.items():
        known = name in defaults or name in _UNREAD or name.endswith(_UNREAD_ENDS)
        if not known and value not in (None, False):
            raise refused(entry, f"has {shown(name)}={shown(value)}, which is not read: {EXPECTED}")
    return [config.get(name, default) for name, default in defaults.items()]


def parts_of(entry: Mapping[str, Any], path: tuple[str, ...], rank: int) -> list[Part]:
    """What the layer of the config `entry` does to a tensor of `rank` axes, the last of which are channels.

    Raises:
        InputError: it is none that a head is made of.
    """
    name = entry.get("class_name")
    if not is_of_keras(entry):
        raise refused(entry)
    if name == "Dense":
        units, activation, bias = settings(entry, units=None, activation=None, use_bias=True)
        if not is_whole(units, 1) or units > MAX_CLASSES:
            raise refused(entry, f"has {shown(units)} units, expected a whole number from 1 to {MAX_CLASSES}")
        return [Part(DENSE, path, units, (True, bool(bias))), *_activation(entry, path, activation)]
    if name in ("LayerNormalization", "BatchNormalization"):
        axis, epsilon, center, scale = settings(entry, axis=-1, epsilon=1e-3, center=True, scale=True)
        _require_last(entry, axis, rank)
        kind = NORM if name == "LayerNormalization" else BATCH_NORM
        return [Part(kind, path, _number(entry, "epsilon", epsilon), (bool(scale), bool(center)))]
    if name in ("Rescaling", "Normalization"):
        return [Part(AFFINE, path, _rescaling(entry) if name == "Rescaling" else _normalization(entry, rank))]
    return _of_activation(entry, path, rank)


def _of_activation(entry: Mapping[str, Any], path: tuple[str, ...], rank: int) -> list[Part]:
    """`parts_of` a layer or function that is an activation."""
    name = str(entry.get("class_name"))
    if name == "Activation":
        return _activation(entry, path, settings(entry, activation=None)[0])
    if name == "Softmax":
        _require_last(entry, settings(entry, axis=-1)[0], rank)
        return [Part(SOFTMAX, path)]
    if name in ("ReLU", "Relu") and len(entry.get("config") or {}) > 1:
        return [_relu(entry, path)]
    if name in _ACTIVATION_LAYERS:
        kind = _ACTIVATION_LAYERS[name]
        old, new = settings(entry, alpha=None, negative_slope=None)
        given = next((number for number in (new, old) if number is not None), None)
        return [Part(kind, path, _DEFAULTS[kind] if given is None else _number(entry, "slope", given))]
    if name == "Gelu":
        return [Part("gelu_tanh" if settings(entry, approximate=True)[0] else "gelu", path)]
    if name in _OPERATIONS:
        settings(entry)
        return _activation(entry, path, _OPERATIONS[name])
    raise refused(entry)


def _relu(entry: Mapping[str, Any], path: tuple[str, ...]) -> Part:
    most, slope, threshold = settings(entry, max_value=None, negative_slope=0.0, threshold=0.0)
    if threshold or (most is not None and (most != 6 or slope)):
        raise refused(entry, "is neither relu, relu6 nor leaky_relu: take one of these")
    if slope:
        return Part("leaky_relu", path, _number(entry, "negative_slope", slope))
    return Part("relu" if most is None else "relu6", path)


def _activation(entry: Mapping[str, Any], path: tuple[str, ...], given: Any) -> list[Part]:
    """The parts of an activation that a config names."""
    if given in (None, "linear"):
        return []
    name = _ALIASES.get(given, given) if isinstance(given, str) else None
    if name == SOFTMAX:
        return [Part(SOFTMAX, path)]
    if name == "hard_sigmoid":  # relu6(x + 3) / 6
        return [Part(AFFINE, path, (1.0, 3.0)), Part("relu6", path), Part(AFFINE, path, (1 / 6, 0.0))]
    if name not in ACTIVATIONS or name == "gelu_tanh":
        named = "a function of its own" if name is None else f"the activation {shown(name)}"
        known = ", ".join(sorted({*ACTIVATIONS, "hard_sigmoid", SOFTMAX} - {"gelu_tanh"}))
        raise refused(entry, f"ends in {named}, expected linear or one of {known}")
    return [Part(name, path, _DEFAULTS.get(name))]


def _rescaling(entry: Mapping[str, Any]) -> tuple[Numbers, Numbers]:
    scale, offset, _ = settings(entry, scale=1.0, offset=0.0, data_format=None)
    return _numbers(entry, "scale", scale), _numbers(entry, "offset", offset)


def _normalization(entry: Mapping[str, Any], rank: int) -> tuple[Numbers, Numbers]:
    axis, mean, variance, invert = settings(entry, axis=-1, mean=None, variance=None, invert=False)
    if mean is None or variance is None:
        raise refused(entry, "was adapted to data: give its mean and variance as arguments, so that they can be read")
    _require_last(entry, axis, rank)
    if invert:
        raise refused(entry)
    means, variances = (_flat(entry, name, value) for name, value in (("mean", mean), ("variance", variance)))
    factors = [1 / max(value, 1e-14) ** 0.5 for value in variances]
    means = means * len(factors) if len(means) == 1 else means
    factors = factors * len(means) if len(factors) == 1 else factors
    if len(means) != len(factors):
        raise refused(entry, "has not as many means as variances")
    return tuple(factors), tuple(-mean * factor for mean, factor in zip(means, factors, strict=True))


def _flat(entry: Mapping[str, Any], name: str, values: Any) -> list[float]:
    while isinstance(values, Sequence) and len(values) == 1 and isinstance(values[0], Sequence):
        values = values[0]  # Keras keeps the axes that they are broadcast over
    numbers = _numbers(entry, name, values)
    return list(numbers) if isinstance(numbers, tuple) else [numbers]


def _number(entry: Mapping[str, Any], name: str, value: Any) -> float:
    if not is_number(value) or not -1e30 < value < 1e30:
        raise refused(entry, f"has the {name} {shown(value)}, expected a number")
    return float(value)


def _numbers(entry: Mapping[str, Any], name: str, values: Any) -> Numbers:
    if isinstance(values, Mapping) and values.get("class_name") in ("__numpy__", "__tensor__"):
        values = (values.get("config") or {}).get("value")
    if isinstance(values, list | tuple):
        return tuple(_number(entry, name, value) for value in values)
    return _number(entry, name, values)


def _require_last(entry: Mapping[str, Any], axis: Any, rank: int) -> None:
    axes = list(axis) if isinstance(axis, list | tuple) else [axis]
    if axes not in ([-1], [rank - 1]):
        raise refused(entry, f"works over axis {shown(axis)}, expected the last")


def last_names(names: Iterable[Any]) -> str:
    """Names of layers for a message, the first few of them."""
    listed = [shown(name) for name in names]
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")
