"""Hugging Face's ViT: `model.safetensors` with `config.json` and `preprocessor_config.json`.

The names on disk are those of transformers 4 (`encoder.layer.N.attention.attention.query`); transformers 5 also has
shorter ones (`layers.N.attention.q_proj`). Sizes, epsilon and activation are in the config, and the shapes must agree;
what a config of a ViT leaves out is ViTConfig's default.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.model.record import ProblemType
from vit_export.model.spec import ImageSize
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts import processors
from vit_export.weights.layouts.mapping import Layout
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of
from vit_export.weights.layouts.torch_layouts import (
    Parts,
    TorchNames,
    find_head,
    prefix_before,
    refuse,
    torch_layout,
)

ANCHOR = "embeddings.patch_embeddings.projection.weight"
EPSILON = 1e-12
HEADS = 12
"""`layer_norm_eps` and `num_attention_heads` of transformers' ViTConfig where a config does not say."""

GELU = {"gelu": "erf", "gelu_python": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh"}
"""`hidden_act` by transformers' name; gelu_python and gelu_fast are the same functions written out."""


def _names(
    layer: str, attention: tuple[str, str, str, str], norms: tuple[str, str], mlp: tuple[str, str], layers: str
) -> TorchNames:
    query, key, value, output = attention
    return TorchNames(
        patch_embedding="embeddings.patch_embeddings.projection",
        class_token="embeddings.cls_token",
        position_embedding="embeddings.position_embeddings",
        attention_norm=f"{layer}.{norms[0]}",
        query=f"{layer}.{query}",
        key=f"{layer}.{key}",
        value=f"{layer}.{value}",
        output=f"{layer}.{output}",
        mlp_norm=f"{layer}.{norms[1]}",
        dense_1=f"{layer}.{mlp[0]}",
        dense_2=f"{layer}.{mlp[1]}",
        norm="layernorm",
        layers=layers,
        pre_logits="pooler.dense",
    )


LONG = _names(
    "encoder.layer.{}",
    ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    ("layernorm_before", "layernorm_after"),
    ("intermediate.dense", "output.dense"),
    "encoder.layer.",
)
SHORT = _names(
    "layers.{}",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    ("layernorm_before", "layernorm_after"),
    ("mlp.fc1", "mlp.fc2"),
    "layers.",
)

UNSUPPORTED = {
    "distillation_token": "DeiT's distillation token",
    "register_tokens": "register tokens",
    "layer_scale": "DINOv2's own layer names and layer scale",
    "relative_position": "relative positions",
    "decoder": "a decoder (masked image modelling)",
}


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: another architecture, a part this package does not build, or a config that contradicts the shapes.
    """
    prefix = prefix_before(file, ANCHOR)
    config, said = hints.config or {}, is_config(hints.config)
    kind = config.get("model_type", "vit")
    if kind != "vit" and said:
        raise InputError(
            f"The config.json beside {file.path} says model_type {kind!r:.60}, expected 'vit': "
            "that is another architecture, which vit-export does not build."
        )
    config = config if said else {}
    refuse(file, prefix, UNSUPPORTED)
    tensors = file.tensors
    names = SHORT if any(key.startswith(f"{prefix}{SHORT.layers}") for key in tensors) else LONG
    width, _, patch, _ = shape_of(file, f"{prefix}{ANCHOR}", 4)
    _, tokens, _ = shape_of(file, f"{prefix}{names.position_embedding}", 3)
    mlp, _ = shape_of(file, f"{prefix}{names.dense_1.format(0)}.weight", 2)
    # The classifier is beside the backbone, not in it, and what wraps the one wraps the other.
    head, assumed = find_head(file, f"{prefix.removesuffix('vit.')}classifier")
    if head is None and prefix:
        head, assumed = find_head(file, "classifier")
    pre = f"{prefix}{names.pre_logits}.weight"
    pools = pre in tensors and head is None
    layers = layer_count(tensors, f"{prefix}{names.layers}")
    _agree(
        file, config, {"hidden_size": width, "patch_size": patch, "intermediate_size": mlp, "num_hidden_layers": layers}
    )
    if not said:
        assumed["arithmetic"] = f"transformers' exact GELU and epsilon {EPSILON:g}"
    sizes = Sizes(
        patch_size=patch,
        num_layers=layers,
        hidden_size=width,
        mlp_size=mlp,
        num_patches=tokens - 1,
        num_classes=head.num_classes if head else None,
        num_heads=_whole(file, config, "num_attention_heads") or (HEADS if said else None),
        pre_logits_size=shape_of(file, pre, 2)[0] if pools and _pooler(config) else None,
        image_sizes=_sides(file, config, hints),
        arithmetic={"layer_norm_epsilon": _epsilon(file, config), "gelu": _gelu(file, config)},
    )
    parts = Parts(qkv_bias=bool(config.get("qkv_bias", True)), head=head)
    if not said and f"{prefix}{names.query.format(0)}.bias" not in tensors:
        parts = replace(parts, qkv_bias=False)
    mask = f"{prefix}embeddings.mask_token"
    excused = {mask: "used in pre-training alone"} if mask in tensors else {}
    if sizes.pre_logits_size is None:
        unread = [key for key in tensors if key.startswith(f"{prefix}pooler.")]
        excused |= dict.fromkeys(unread, "nothing that is built reads it")
        if unread and head is not None:
            assumed["classifier"] = "the classifier reads the class token, not the pooler that is stored beside it"
    spec, found = spec_of(file, sizes, hints)
    _agree(file, config, {"image_size": spec.image_size})
    return torch_layout(file, spec, names, prefix, parts, excused, found | assumed)


def is_config(config: Mapping[str, Any] | None) -> bool:
    """Whether `config` is one of transformers'."""
    return bool(config) and not {"model_type", "hidden_size", "num_attention_heads"}.isdisjoint(config or {})


def problem_type(config: Mapping[str, Any] | None) -> ProblemType | None:
    """What transformers' config says that the classifier's outputs are, None where it does not.

    Raises:
        InputError: it says something else than transformers knows.
    """
    if config is None or not is_config(config):
        return None
    said = config.get("problem_type")
    if said not in (None, *get_args(ProblemType)):
        raise InputError(
            f"config.json says problem_type {said!r:.60}, expected one of {', '.join(get_args(ProblemType))}: "
            "correct it."
        )
    known: ProblemType | None = said
    return known


def pooler_problem(config: Mapping[str, Any] | None) -> str | None:
    """Why there are no pooled features although there is a pooler; None where there are."""
    if not is_config(config) or _pooler(config or {}):
        return None
    return (
        f"its config.json says pooler_act {(config or {})['pooler_act']!r:.60}, expected 'tanh', the one that is built"
    )


def _pooler(config: Mapping[str, Any]) -> bool:
    return bool(config.get("pooler_act", "tanh") == "tanh")


def _sides(file: TensorFile, config: Mapping[str, Any], hints: Hints) -> dict[str, int]:
    """The sides of the images that config and processor state.

    Raises:
        InputError: the images are not square, whatever the number of patches looks like.
    """
    size = config.get("image_size")
    if isinstance(size, list) and len(size) == 2:
        if size[0] != size[1]:
            raise InputError(
                f"The config.json beside {file.path} says images of {size[0]!r:.20} x {size[1]!r:.20} pixels: only "
                "square images are supported."
            )
        size = size[0]
    found = {"config.json": size, "preprocessor_config.json": processors.side(hints.preprocessor)}
    return {name: side for name, side in found.items() if side is not None and is_whole(side, 1)}


def _whole(file: TensorFile, config: Mapping[str, Any], field: str) -> int | None:
    value = config.get(field)
    if value is not None and not is_whole(value, 1):
        raise InputError(
            f"The config.json beside {file.path} says {field} {value!r}, expected a whole number from 1: correct it."
        )
    return value


def _agree(file: TensorFile, config: Mapping[str, Any], found: Mapping[str, ImageSize]) -> None:
    for field, size in found.items():
        value = config.get(field, size)
        if value not in (size, [size, size]):
            raise InputError(
                f"The config.json beside {file.path} says {field} {value!r}, but the tensors have {size}: "
                "the two files do not belong together."
            )


def _epsilon(file: TensorFile, config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_eps", EPSILON)
    if not is_number(value) or not 0 < value < 1:
        raise InputError(
            f"The config.json beside {file.path} says layer_norm_eps {value!r}, expected a small positive number."
        )
    return float(value)


def _gelu(file: TensorFile, config: Mapping[str, Any]) -> str:
    name = config.get("hidden_act", "gelu")
    if not isinstance(name, str) or name not in GELU:
        raise InputError(
            f"The config.json beside {file.path} says hidden_act {name!r}, expected one of {', '.join(GELU)}: "
            "vit-export builds Vision Transformers with GELU alone."
        )
    return GELU[name]
