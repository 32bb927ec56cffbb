"""A model object of keras_hub's as a checkpoint, recognised without that package."""

import json
from typing import Any

import numpy as np

from vit_export.base.adapters.keras import layers_of
from vit_export.base.errors import InputError, first_line
from vit_export.base.files import scratch_errors, scratch_folder
from vit_export.base.signal import softmax
from vit_export.model.spec import ViTSpec
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.containers.hdf5 import open_weights_h5
from vit_export.weights.layouts import keras_hub
from vit_export.weights.layouts.sizes import Hints

TOLERANCE, MIXED_TOLERANCE = 1e-4, 0.1
"""Largest difference, of the range of the outputs, at which the rebuilt model is the one that was given; in mixed
precision models compute with 8 or 11 bits."""


def is_keras_hub_model(model: Any) -> bool:
    """Whether `model` is of a class of keras_hub itself; what derives from one may do anything."""
    return type(model).__module__.partition(".")[0] == keras_hub.PACKAGE


def checkpoint_of_keras_hub(model: Any) -> Checkpoint:
    """The checkpoint of a ViTBackbone or ViTImageClassifier, rebuilt as the reference model.

    Its weights are saved and read as those of a file are; on random images the two models must agree.

    Raises:
        InputError: another model of that package, one with a switch that this package does not build, or one that
            computes something else.
        OutputError: the disk of the temporary folder has too little space.
    """
    from vit_export.model.in_memory import ModelParameters, assign_parameters
    from vit_export.model.keras_model import reference_model, was_fitted

    kind = type(model).__name__
    try:
        config = json.loads(json.dumps(model.get_config(), default=_plain))
    except (TypeError, ValueError) as error:
        raise InputError(f"The config of the {kind} cannot be read ({first_line(error)}): build it anew.") from error
    described = {"registered_name": f"{keras_hub.PACKAGE}>{kind}", "class_name": kind, "config": config}
    need = 1.05 * sum(variable.shape.num_elements() * 4 for variable in model.variables)
    with scratch_folder("vit-export-keras-hub-", need, f"Reading the {kind}", "save it and give the file") as folder:
        path = folder / f"{kind}.weights.h5"
        with scratch_errors():
            model.save_weights(path)
        weights = {"source": "keras_hub", "trained": True}
        found = keras_hub.open_model(open_weights_h5(path), described, Hints(), weights, f"The {kind}")
        transformer = reference_model(found.spec, record=found.stated)
        assign_parameters(transformer, found.read)
    _require_equal(model, transformer, found.spec, keras_hub.activation_of(described))
    record = found.stated.saying(fitted_in="python") if was_fitted(model) else found.stated
    return Checkpoint(ModelParameters(transformer), record, found.notes, model=transformer)


def _require_equal(model: Any, transformer: Any, spec: ViTSpec, activation: Any) -> None:
    """Raise InputError where the two models compute different things of random images."""
    images = np.random.default_rng(0).uniform(-1, 1, (4, *spec.image_sides, 3)).astype(np.float32)
    wanted = np.asarray(model(images, training=False), np.float32)
    if spec.num_classes is None:
        own = np.asarray(transformer.tokens(images), np.float32)
    else:
        ends = {"softmax": softmax, "sigmoid": lambda logits: 1 / (1 + np.exp(-logits))}
        own = ends.get(str(activation), lambda logits: logits)(transformer.predict_output(images))
    exact = all(layer.dtype_policy.compute_dtype == "float32" for layer in layers_of(model))
    most = TOLERANCE if exact else MIXED_TOLERANCE
    if own.shape != wanted.shape or not np.abs(own - wanted).max() <= most * max(float(np.ptp(wanted)), 1e-6):
        raise InputError(
            f"The {type(model).__name__} computes something else than its config says (outputs differ): copy its "
            "weights into a model that create_vit makes, and export that."
        )


def _plain(value: Any) -> Any:
    """What JSON has for a part of a config that is an object: its name, where a function is meant."""
    return getattr(value, "__name__", str(value))
