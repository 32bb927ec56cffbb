"""Losses and metrics for logits: what `VisionTransformer.compile` makes of those that expect probabilities.

Keras' names mean probabilities ('sparse_categorical_crossentropy' is `from_logits=False`). The classifier of a
VisionTransformer returns logits, of which those make a loss that does not learn.
"""

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import keras

_EITHER = ("crossentropy", "ce")
_ACCURACY = ("accuracy", "acc")
_OF_THRESHOLDS = (
    *(keras.metrics.Precision, keras.metrics.Recall, keras.metrics.F1Score, keras.metrics.FBetaScore),
    *(keras.metrics.TruePositives, keras.metrics.FalsePositives),
    *(keras.metrics.TrueNegatives, keras.metrics.FalseNegatives),
)
"""Metrics that count an output above 0.5 as a yes, by default; they have no `from_logits`."""


@keras.saving.register_keras_serializable(package="vit_export")
def crossentropy_of_logits(y_true: Any, y_pred: Any) -> Any:
    """What Keras means by 'crossentropy', binary, sparse or categorical by the shape of the labels, of logits."""
    if y_pred.shape[-1] == 1:
        return keras.losses.binary_crossentropy(y_true, y_pred, from_logits=True)
    if len(y_true.shape) < len(y_pred.shape) or y_true.shape[-1] == 1:
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
    return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)


def loss_of_logits(loss: Any) -> Any:
    """`loss`, as Keras' `compile` takes it, alone or in a list or dict: named ones of logits, others as they are."""
    return _each(loss, _loss)


def metrics_of_logits(metrics: Any, num_classes: int) -> Any:
    """`metrics`, as Keras' `compile` takes them: those that are named of logits, others as they are."""
    return _each(metrics, lambda metric: _metric(metric, num_classes))


def _each(given: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(given, list | tuple):
        return [_each(one, change) for one in given]
    if isinstance(given, dict) and "class_name" not in given:
        return {name: _each(one, change) for name, one in given.items()}
    return change(given)


def _loss(loss: Any) -> Any:
    if isinstance(loss, str) and loss.lower() in _EITHER:
        _say(f"the loss '{loss}' is taken of logits, with from_logits=True")
        return crossentropy_of_logits
    if not (isinstance(loss, str) or any(loss is known for known in vars(keras.losses).values())):
        if getattr(loss, "from_logits", None) is False:
            _say(
                f"the loss {type(loss).__name__}(from_logits=False) takes them for probabilities and does not learn: "
                "give it from_logits=True"
            )
        return loss
    kind = _class_of(loss, keras.losses)
    if kind is None or not _takes_logits(kind):
        return loss
    name = loss if isinstance(loss, str) else loss.__name__
    _say(f"the loss '{name}' is taken of logits, with from_logits=True")
    return kind(from_logits=True, name=name)


def _metric(metric: Any, num_classes: int) -> Any:
    if isinstance(metric, str) and metric.lower() in _ACCURACY:
        # Of several classes Keras takes the largest, which is the same of logits and of probabilities.
        return keras.metrics.BinaryAccuracy(name=metric, threshold=0.0) if num_classes == 1 else metric
    kind = _class_of(metric, keras.metrics) if isinstance(metric, str) else type(metric)
    if kind is not None and issubclass(kind, _OF_THRESHOLDS):
        _say(f"the metric {kind.__name__} compares them with a threshold that is meant for probabilities")
        return metric
    if not isinstance(metric, str) or kind is None:
        if getattr(metric, "from_logits", getattr(metric, "_from_logits", None)) is False:
            _say(f"the metric {type(metric).__name__}(from_logits=False) takes them for probabilities")
        return metric
    if issubclass(kind, keras.metrics.BinaryAccuracy):
        return kind(name=metric, threshold=0.0)
    return kind(from_logits=True, name=metric) if _takes_logits(kind) else metric


def _class_of(named: Any, module: Any) -> type | None:
    """The class of `module` that a name, or a function of it, stands for; None where there is none."""
    try:
        found = module.get(named)
    except ValueError:  # no name of Keras', which says so itself
        return None
    if not callable(found) or isinstance(found, module.Loss if module is keras.losses else module.Metric):
        return type(found)
    pascal = "".join(part.capitalize() for part in found.__name__.split("_"))
    return getattr(module, pascal, None)


def _takes_logits(kind: type) -> bool:
    return "from_logits" in inspect.signature(kind).parameters


@cache
def _say(text: str) -> None:
    """Say `text` once, however many models are compiled."""
    warnings.warn(f"The model returns logits: {text}.", stacklevel=6)
