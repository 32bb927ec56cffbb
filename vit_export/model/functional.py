"""A fine-tuned Keras model as a VisionTransformer: itself, or a backbone and the head that a model has around it."""

from typing import Any

import keras
import numpy as np

from vit_export.base.adapters.keras import layers_of
from vit_export.base.errors import InputError, first_line
from vit_export.base.signal import softmax
from vit_export.model.assembled import Assembled, assemble
from vit_export.model.in_memory import ModelParameters, require_finite
from vit_export.model.keras_model import VisionTransformer, reference_model
from vit_export.model.keras_parts import EXPECTED, last_names, shown
from vit_export.model.spec import Pooling, ViTSpec
from vit_export.model.taken_apart import backbones, take_apart

TOLERANCE = 1e-4
"""Largest difference, of the range of the outputs, at which the rebuilt model is the functional one."""


def as_vision_transformer(model: Any) -> tuple[VisionTransformer, tuple[str, ...]]:
    """`model` as a VisionTransformer that returns logits, and notes on what was left out.

    A functional or sequential model of a backbone and a head is rebuilt as one VisionTransformer; on random images the
    two must agree, so that whatever else the model does is noticed. A final softmax or sigmoid is left out, for files
    return logits, and so is the scaling of pixels at the beginning, which becomes preprocessing.

    Raises:
        InputError: another model, by the name of the layer that cannot be taken apart.
    """
    if isinstance(model, VisionTransformer):
        return model, ()
    if not isinstance(model, keras.Model):
        raise InputError(f"A model of the class {type(model).__name__} cannot be exported: {EXPECTED}.")
    try:
        config = keras.saving.serialize_keras_object(model)
    except Exception as error:  # whatever a layer of somebody else's raises
        raise InputError(
            f"The model {shown(model.name)} has a layer without a config ({first_line(error)}): {EXPECTED}."
        ) from error
    if not backbones(config):
        raise InputError(f"The model {shown(model.name)} has the layers {last_names(_weighty(model))}: {EXPECTED}.")
    apart = take_apart(config, lambda path, spec: _pooling_of(_layer(model, path), spec))
    made = assemble(apart)
    rebuilt = _rebuilt(model, made, _layer(model, apart.path))
    _require_alike(model, rebuilt, made)
    return rebuilt, made.notes


def _weighty(model: keras.Model) -> list[str]:
    return [layer.name for layer in model.layers if layer.weights]


def _layer(model: keras.Model, path: tuple[str, ...]) -> Any:
    for name in path:
        model = model.get_layer(name)
    return model


def _pooling_of(layer: Any, spec: ViTSpec) -> Pooling | None:
    """What `layer` pools of all tokens, found by trying; None where that is no pooling, or the layer has weights."""
    if not isinstance(layer, keras.layers.Layer) or layer.weights:
        return None
    values = np.random.default_rng(0).normal(size=(2, spec.num_tokens, spec.hidden_size)).astype(np.float32)
    found = np.asarray(keras.ops.convert_to_numpy(layer(values)))
    ways: dict[Pooling, np.ndarray] = {"mean": values[:, spec.num_prefix_tokens :].mean(1), "mean_all": values.mean(1)}
    if spec.class_token:
        ways = {"class": values[:, 0], **ways}
    return next((name for name, wanted in ways.items() if _agree(found, wanted)), None)


def _rebuilt(model: keras.Model, made: Assembled, backbone: VisionTransformer) -> VisionTransformer:
    rebuilt = reference_model(made.record.spec, record=made.record)
    source = ModelParameters(backbone)

    def read(weight: Any) -> np.ndarray:
        if not weight.path:
            return source.read(weight.place)
        layer = _layer(model, weight.path)
        arrays = layer.weights
        values = np.asarray(arrays[weight.place].numpy()) if weight.place < len(arrays) else np.zeros(0, np.float32)
        if values.shape != weight.shape or not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"The layer {shown(layer.name)} has weights of the shape {values.shape} ({values.dtype}), expected "
                f"{weight.shape}: {EXPECTED}."
            )
        require_finite(f"A weight of the layer {shown(layer.name)}", values)
        return values

    for name, variable in rebuilt.parameters().items():
        own = made.parameters.get(name)
        variable.assign(source.read(name) if own is None else own.make(*map(read, own.weights)).astype(np.float32))
    rebuilt.record = made.record_of(ModelParameters(rebuilt).read)
    rebuilt.keep_as_recorded()
    return rebuilt


def _require_alike(model: keras.Model, rebuilt: VisionTransformer, made: Assembled) -> None:
    """Raise InputError unless `rebuilt` does what `model` does."""
    images = np.random.default_rng(0).uniform(-1, 1, (4, *rebuilt.spec.image_sides, 3)).astype(np.float32)
    exact = all(layer.dtype_policy.name == "float32" for layer in layers_of(model))
    given = ((images - made.shift) / made.factor).astype(np.float32)
    wanted = np.asarray((model if exact else _in_float32(model)).predict_on_batch(given), np.float32)
    logits = rebuilt.predict_output(images)
    found = {"softmax": softmax, "sigmoid": _sigmoid}[made.left_out](logits) if made.left_out else logits
    if not _agree(found, wanted):
        raise InputError(
            f"The model {shown(model.name)} does more than its backbone and head (outputs differ): {EXPECTED}."
        )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))), np.float32)


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
            f"The model {shown(model.name)} computes in mixed precision, and a copy in float32 to compare with cannot "
            f"be made ({' '.join(str(error).split())[:120]}): build it in float32."
        ) from error
    return copy


def _agree(found: np.ndarray, wanted: np.ndarray) -> bool:
    if found.shape != wanted.shape:
        return False
    return bool(np.abs(found - wanted).max() <= TOLERANCE * max(float(np.ptp(wanted)), 1e-6))
