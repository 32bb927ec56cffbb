"""A tiny model for every switch of the architecture, none of whose parameters is zero or alike."""

import numpy as np

from vit_export.model.spec import ViTSpec

PLAIN = ViTSpec(
    name="toy", patch_size=4, num_layers=2, hidden_size=32, mlp_size=48, num_heads=2, image_size=16, num_classes=7
)

SWITCHES = {
    "plain": {},
    "registers": {"num_registers": 4, "pooling": "class_and_mean"},
    "registers, features": {"num_registers": 4, "pooling": "class_and_mean", "num_classes": None},
    "rotary": {"positions": "rotary", "num_registers": 4, "layer_norm_epsilon": 1e-5},
    "rotary, features": {"positions": "rotary", "num_registers": 4, "num_classes": None},
    "clip": {
        "embedding_norm": True,
        "gelu": "quick",
        "num_classes": None,
        "pre_logits_size": 20,
        "pre_logits_activation": "linear",
    },
    "clip, features": {"embedding_norm": True, "gelu": "quick", "num_classes": None},
    "siglip": {"class_token": False, "pooling": "attention", "gelu": "tanh", "num_classes": None},
    "siglip, classifier": {"class_token": False, "pooling": "attention", "gelu": "tanh"},
    "border": {"class_token": False, "pooling": "attention", "image_size": 18, "ignores_border": True},
    "wide": {"image_size": (12, 20)},
    "rotary, wide": {"positions": "rotary", "num_registers": 4, "image_size": (20, 12)},
    "border, wide": {"class_token": False, "pooling": "attention", "image_size": (14, 22), "ignores_border": True},
    "distilled": {"num_registers": 1, "pooling": "class_and_distillation"},
    "mean": {"pooling": "mean"},
    "mean, features": {"pooling": "mean", "num_classes": None},
    "mean_norm": {"pooling": "mean_norm"},
    "mean_norm, features": {"pooling": "mean_norm", "num_classes": None},
    "head": {"head": (("dense", 24), ("relu", None))},
    "head of norms": {
        "pooling": "mean_all",
        "head": (("norm", 1e-3), ("dense", 20), ("gelu", None), ("norm", 1e-5), ("tanh", None)),
    },
    "head, sharp": {
        "pooling": "class_and_mean",
        "head": tuple(
            step
            for activation in (("relu6", None), ("leaky_relu", 0.2), ("elu", 1.0), ("elu", 0.7), ("selu", None))
            for step in (("dense", 24), activation)
        ),
    },
    "head, smooth": {
        "head": tuple(
            step
            for kind in ("gelu_tanh", "sigmoid", "silu", "softplus", "softsign", "hard_silu", "mish")
            for step in (("dense", 24), (kind, None))
        ),
    },
    "head, bent first": {"gelu": "quick", "head": (("relu", None), ("norm", 1e-4), ("norm", 1e-6))},
    "mean_norm, registers alone": {"class_token": False, "num_registers": 2, "pooling": "mean_norm"},
}
"""Switches by what they make together, as the families have them."""


def spec_of(name, **more):
    return PLAIN.with_(**{**SWITCHES[name], **more})


def model_of(name, **more):
    """The reference model of one row, with weights of which every one matters."""
    from vit_export.model.keras_model import reference_model

    model = reference_model(spec_of(name, **more), seed=1)
    random = np.random.default_rng(0)
    for variable in model.parameters().values():
        scale = 0.3 if variable.ndim == 1 else 0.1
        variable.assign(variable.numpy() + random.normal(0, scale, variable.shape).astype(np.float32))
    return model


def images_for(spec, count=2):
    """Noise, normalized: float32 [count, height, width, 3]."""
    return np.random.default_rng(2).uniform(-1, 1, (count, *spec.image_sides, 3)).astype(np.float32)
