"""The encoders of transformers that are built: a row each, read in the sources of transformers 5.24.

`models/NAME/modeling_NAME.py` says what is computed, `configuration_NAME.py` what a config leaves out,
`image_processing_NAME.py` how pixels are made, and `conversion_mapping.py` how the names in files, those of
transformers 4, differ from the attributes of transformers 5; files may have either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vit_export.model.record import Rule
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.processors import HALVES, IMAGENET, OPENAI
from vit_export.weights.layouts.torch_layouts import Parts, PoolingNames, TorchNames

MASK = {"embeddings.mask_token": "used in pre-training alone"}
TEXT = {
    name: "the text tower, which takes no images"
    for name in ("text_model.", "text_projection.", "logit_scale", "logit_bias")
}


@dataclass(frozen=True)
class Family:
    """One architecture: where its parts are, what its config says of them, and what it does by default.

    `model_types` are its names in a config. `anchor` is the key of the patch embedding, by which the backbone is found;
    `base` is the attribute under which a model with a classifier, or of images and text, keeps the backbone. `forms`
    are the names of its parts, the usual ones first. `gelu`, `epsilon` and `num_heads` are what a config that leaves
    them out means; `head_size` is the width of a head in every published model. `arithmetic` are fields of `ViTSpec`,
    and `parts` what is or is not there in every model. `expected` are values of config fields with another of which it
    is another model, and what that has. `excused` are beginnings of keys in the backbone that are left out, `beside`
    of those next to it. `positions` is its rule for another image size. `pixels` are fields of `Preprocessing` where
    no file says them.
    """

    title: str
    model_types: tuple[str, ...]
    anchor: str
    base: str
    forms: tuple[TorchNames, ...]
    pixels: Mapping[str, Any]
    gelu: str = "gelu"
    epsilon: float = 1e-12
    num_heads: int = 12
    head_size: int | None = None
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)
    expected: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    excused: Mapping[str, str] = field(default_factory=lambda: MASK)
    beside: Mapping[str, str] = field(default_factory=dict)
    positions: Rule = "bicubic"


def _vit(layer: str, attention: tuple[str, str, str, str], mlp: tuple[str, str]) -> TorchNames:
    query, key, value, output = attention
    return TorchNames(
        patch_embedding="embeddings.patch_embeddings.projection",
        class_token="embeddings.cls_token",
        position_embedding="embeddings.position_embeddings",
        attention_norm=f"{layer}.layernorm_before",
        query=f"{layer}.{query}",
        key=f"{layer}.{key}",
        value=f"{layer}.{value}",
        output=f"{layer}.{output}",
        mlp_norm=f"{layer}.layernorm_after",
        dense_1=f"{layer}.{mlp[0]}",
        dense_2=f"{layer}.{mlp[1]}",
        norm="layernorm",
        layers=layer.removesuffix("{}"),
        pre_logits="pooler.dense",
    )


_LONG = ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense")
_SHORT = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")

VIT_FORMS = (
    _vit("encoder.layer.{}", _LONG, ("intermediate.dense", "output.dense")),
    _vit("layers.{}", _SHORT, ("mlp.fc1", "mlp.fc2")),
)


def _dinov2(attention: tuple[str, str, str, str]) -> TorchNames:
    layer = "encoder.layer.{}"
    return replace(
        _vit(layer, attention, ("mlp.fc1", "mlp.fc2")),
        attention_norm=f"{layer}.norm1",
        mlp_norm=f"{layer}.norm2",
        layer_scale=(f"{layer}.layer_scale1.lambda1", f"{layer}.layer_scale2.lambda1"),
        register_tokens="embeddings.register_tokens",
        pre_logits="",
    )


def _dinov3(layer: str) -> TorchNames:
    return replace(
        _dinov2(_SHORT),
        patch_embedding="embeddings.patch_embeddings",
        position_embedding="",
        attention_norm=f"{layer}.norm1",
        query=f"{layer}.attention.q_proj",
        key=f"{layer}.attention.k_proj",
        value=f"{layer}.attention.v_proj",
        output=f"{layer}.attention.o_proj",
        mlp_norm=f"{layer}.norm2",
        dense_1=f"{layer}.mlp.up_proj",
        dense_2=f"{layer}.mlp.down_proj",
        layer_scale=(f"{layer}.layer_scale1.lambda1", f"{layer}.layer_scale2.lambda1"),
        norm="norm",
        layers=layer.removesuffix("{}"),
    )


_LAYER = "encoder.layers.{}"
CLIP_NAMES = TorchNames(
    patch_embedding="embeddings.patch_embedding",
    class_token="embeddings.class_embedding",
    position_embedding="embeddings.position_embedding.weight",
    embedding_norm="pre_layrnorm",
    attention_norm=f"{_LAYER}.layer_norm1",
    query=f"{_LAYER}.self_attn.q_proj",
    key=f"{_LAYER}.self_attn.k_proj",
    value=f"{_LAYER}.self_attn.v_proj",
    output=f"{_LAYER}.self_attn.out_proj",
    mlp_norm=f"{_LAYER}.layer_norm2",
    dense_1=f"{_LAYER}.mlp.fc1",
    dense_2=f"{_LAYER}.mlp.fc2",
    norm="post_layernorm",
    layers="encoder.layers.",
    pooling=PoolingNames(
        probe="head.probe",
        fused_weight="head.attention.in_proj_weight",
        fused_bias="head.attention.in_proj_bias",
        output="head.attention.out_proj",
        norm="head.layernorm",
        dense_1="head.mlp.fc1",
        dense_2="head.mlp.fc2",
    ),
)
"""Also SigLIP's, which has the pooling but neither class token nor `pre_layrnorm` (sic)."""

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_SQUASH = {"resize": "squash", "crop_fraction": 1.0, "interpolation": "bilinear"}
_CROP = {"resize": "shortest", "crop_fraction": 0.875, "interpolation": "bicubic"}
_SWIGLU = "a gated MLP (SwiGLU)"

VIT = Family("ViT", ("vit",), _PATCHES, "vit.", VIT_FORMS, {**HALVES, **_SQUASH})
MSN = replace(VIT, title="MSN", model_types=("vit_msn",), epsilon=1e-6, pixels={**IMAGENET, **_SQUASH})
MAE = replace(
    VIT,
    title="MAE",
    model_types=("vit_mae",),
    pixels={**IMAGENET, **_SQUASH},
    beside={"decoder.": "the decoder, which is used in pre-training alone"},
)
DEIT = replace(
    VIT,
    title="DeiT",
    model_types=("deit",),
    base="deit.",
    head_size=64,
    arithmetic={"num_registers": 1},
    pixels={**IMAGENET, **_CROP},
)
DINOV2 = Family(
    "DINOv2",
    ("dinov2",),
    _PATCHES,
    "dinov2.",
    (_dinov2(_LONG), _dinov2(_SHORT)),
    {**IMAGENET, **_CROP},
    epsilon=1e-6,
    head_size=64,
    arithmetic={"pooling": "class_and_mean"},
    parts=Parts(layer_scale=True),
    expected={"use_swiglu_ffn": (False, _SWIGLU)},
)
DINOV2_REGISTERS = replace(
    DINOV2,
    title="DINOv2 with registers",
    model_types=("dinov2_with_registers",),
    base="dinov2_with_registers.",
    positions="bicubic_antialiased",
)
DINOV3 = Family(
    "DINOv3",
    ("dinov3_vit",),
    "embeddings.patch_embeddings.weight",
    "",
    (_dinov3("layer.{}"), _dinov3("model.layer.{}")),
    {**IMAGENET, **_SQUASH},
    epsilon=1e-5,
    num_heads=6,
    head_size=64,
    arithmetic={"positions": "rotary"},
    parts=Parts(layer_scale=True, key_bias=False),
    expected={
        "use_gated_mlp": (False, _SWIGLU),
        "rope_theta": (100, "rotary positions of another base"),
        **{f"{part}_bias": (True, f"no bias in its {part} layers") for part in ("query", "value", "proj", "mlp")},
    },
)
CLIP = Family(
    "CLIP",
    ("clip_vision_model", "clip"),
    "embeddings.patch_embedding.weight",
    "vision_model.",
    (CLIP_NAMES,),
    {**OPENAI, **_CROP, "crop_fraction": 1.0},
    gelu="quick_gelu",
    epsilon=1e-5,
    arithmetic={"embedding_norm": True},
    parts=Parts(patch_bias=False),
    excused={"embeddings.position_ids": "the numbers of the positions"},
    beside=TEXT,
)
SIGLIP = replace(
    CLIP,
    title="SigLIP",
    model_types=("siglip_vision_model", "siglip"),
    pixels={**HALVES, **_SQUASH, "interpolation": "bicubic"},
    gelu="gelu_pytorch_tanh",
    epsilon=1e-6,
    arithmetic={"class_token": False, "pooling": "attention"},
    parts=Parts(),
)

FAMILIES = (VIT, MSN, MAE, DEIT, DINOV2, DINOV2_REGISTERS, DINOV3, CLIP, SIGLIP)

ANCHORS = tuple(dict.fromkeys(row.anchor for row in FAMILIES))


def family_of_type(model_type: Any) -> Family | None:
    """The family of a config's `model_type`; None for one that is not built."""
    return next((row for row in FAMILIES if model_type in row.model_types), None)


def family_of_keys(file: TensorFile) -> Family:
    """The family that the keys of `file`, which has one of `ANCHORS`, tell: those of one anchor differ in parts."""

    def has(part: str) -> bool:
        return any(part in key for key in file.tensors)

    anchor = next(row for row in ANCHORS if any(f".{key}".endswith(f".{row}") for key in file.tensors))
    if anchor == DINOV3.anchor:
        return DINOV3
    if anchor == CLIP.anchor:
        return CLIP if has("embeddings.class_embedding") else SIGLIP
    if has("layer_scale1."):
        return DINOV2_REGISTERS if has("register_tokens") else DINOV2
    if has("embeddings.distillation_token"):
        return DEIT
    return MAE if has("decoder.decoder_") else VIT
