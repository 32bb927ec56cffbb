"""A fine-tuned Keras model as a VisionTransformer: itself, or the backbone and Dense head of a functional model."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.signal import softmax
from vit_export.model.keras_model import VisionTransformer, reference_model
from vit_export.model.saved_model import ModelParameters, require_finite

TOLERANCE = 1e-4
"""Largest difference, of the range of the outputs, at which the rebuilt model is the functional one."""

_EXPECTED = (
    "expected a VisionTransformer of vit_export, or one (include_top=False) whose class token goes into one Dense layer"
)


def as_vision_transformer(model: Any) -> tuple[VisionTransformer, str | None]:
    """`model` as a VisionTransformer that returns logits, and a note where something was left out.

    A functional model of a backbone, its class token and one Dense head is rebuilt as one VisionTransformer; on random
    images the two must agree, so that whatever else the model does to its input or output is noticed. A final softmax
    is left out: the files return logits.

    Raises:
        InputError: another model.
    """
    if isinstance(model, VisionTransformer):
        return model, None
    if not isinstance(model, keras.Model):
        raise InputError(f"A model of the class {type(model).__name__} cannot be exported: {_EXPECTED}.")
    layers = model.layers
    backbones = [layer for layer in layers if isinstance(layer, VisionTransformer)]
    heads = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    others = [layer.name for layer in layers if layer.weights and layer not in (*backbones, *heads)]
    if len(backbones) != 1 or len(heads) != 1 or others or backbones[0].include_top:
        weighty = [layer.name for layer in layers if layer.weights]
        raise InputError(f"The model {model.name} has the layers {', '.join(weighty)}: {_EXPECTED}.")
    (backbone,), (head,) = backbones, heads
    rebuilt = _rebuilt(backbone, head)
    images = np.random.default_rng(0).uniform(-1, 1, (4, *rebuilt.spec.image_sides, 3)).astype(np.float32)
    exact = all(layer.dtype_policy.name == "float32" for layer in layers) and backbone.is_float32
    wanted = np.asarray((model if exact else _in_float32(model)).predict_on_batch(images), np.float32)
    logits = rebuilt.predict_output(images)
    if _agree(logits, wanted):
        return rebuilt, None
    if _agree(softmax(logits), wanted):
        return rebuilt, "The softmax at the end of the model is left out: the files return logits."
    raise InputError(
        f"The model {model.name} does more than its backbone, class token and Dense head (outputs differ): {_EXPECTED}."
    )


def _rebuilt(backbone: VisionTransformer, head: Any) -> VisionTransformer:
    spec = backbone.spec.with_(num_classes=int(head.units), pre_logits_size=None, returns=())
    if head.kernel.shape[0] != spec.hidden_size:
        raise InputError(f"The Dense layer {head.name} reads {head.kernel.shape[0]} features: {_EXPECTED}.")
    source = ModelParameters(backbone)
    bias = np.zeros(spec.num_classes or 0, np.float32) if head.bias is None else np.asarray(head.bias.numpy())
    own = {"head/kernel": np.asarray(head.kernel.numpy()), "head/bias": bias}
    for name, values in own.items():
        require_finite(f"{name} of the model", values)
    # The pixels are those of the backbone; its classes are not, and the head is untrained until the model is fitted.
    known = backbone.current_record
    record = replace(known, spec=spec, labels=None).saying(trained=False)
    rebuilt = reference_model(spec, record=record)
    for name, variable in rebuilt.parameters().items():
        variable.assign(own[name] if name in own else source.read(name))
    return rebuilt


def _in_float32(model: keras.Model) -> keras.Model:
    """A copy of `model` that computes in float32: in mixed precision, rounding would hide what else the model does."""

    def exact(step: Any) -> Any:
        if not isinstance(step, keras.layers.Layer):  # an operation, such as slicing, computes in what it is given
            return step
        return type(step).from_config({**step.get_config(), "dtype": "float32"})

    try:
        copy = keras.models.clone_model(model, clone_function=exact)
        copy.set_weights(model.get_weights())
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"The model {model.name} computes in mixed precision, and a copy in float32 to compare with cannot be made "
            f"({' '.join(str(error).split())[:120]}): build it in float32."
        ) from error
    return copy


def _agree(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    return bool(np.abs(found - wanted).max() <= TOLERANCE * max(float(np.ptp(wanted)), 1e-6))
