"""timm's Vision Transformers: a safetensors file, and the `config.json` that timm publishes beside it."""

import re
from collections.abc import Mapping
from typing import Any

from vit_export.base.checks import is_whole
from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Preprocessing
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of
from vit_export.weights.layouts.torch_layouts import Parts, TorchNames, prefix_before, refuse, torch_layout

ANCHOR = "patch_embed.proj.weight"
ARITHMETIC = {"layer_norm_epsilon": 1e-6, "gelu": "erf"}

NAMES = TorchNames(
    patch_embedding="patch_embed.proj",
    class_token="cls_token",
    position_embedding="pos_embed",
    attention_norm="blocks.{}.norm1",
    fused_weight="blocks.{}.attn.qkv.weight",
    fused_bias="blocks.{}.attn.qkv.bias",
    output="blocks.{}.attn.proj",
    mlp_norm="blocks.{}.norm2",
    dense_1="blocks.{}.mlp.fc1",
    dense_2="blocks.{}.mlp.fc2",
    layer_scale=("blocks.{}.ls1.gamma", "blocks.{}.ls2.gamma"),
    norm="norm",
    head="head",
    layers="blocks.",
    pre_logits="pre_logits.fc",
)

UNSUPPORTED = {
    "dist_token": "DeiT's distillation token",
    "head_dist": "DeiT's distillation head",
    "reg_token": "register tokens",
    "register_tokens": "register tokens",
    "fc_norm": "global average pooling",
    "attn_pool": "attention pooling",
    "norm_pre": "a LayerNorm before the encoder (CLIP)",
    "q_norm": "LayerNorm on queries and keys",
    "mlp.w12": "a SwiGLU MLP",
    "mlp.fc1_g": "a SwiGLU MLP",
    "rel_pos": "relative positions",
    "relative_position": "relative positions",
    "gamma_1": "BEiT's layer scale and relative positions",
    "patch_embed.backbone": "a convolutional network in front of the Transformer (a hybrid)",
    "patch_embed.norm": "a LayerNorm in the patch embedding",
}

EXCUSED = {"mask_token": "used in pre-training alone"}


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: a part this package does not build, or shapes that no Vision Transformer has.
    """
    prefix = prefix_before(file, ANCHOR) or ""
    refuse(file, prefix, UNSUPPORTED)
    _refuse_config(file, hints.config)
    tensors = file.tensors
    width, _, patch, _ = shape_of(file, f"{prefix}{ANCHOR}", 4)
    if f"{prefix}cls_token" not in tensors:
        raise InputError(
            f"{file.path} has no class token ({prefix}cls_token), so it pools over all tokens: "
            "expected a Vision Transformer that classifies by its class token."
        )
    _, positions, _ = shape_of(file, f"{prefix}pos_embed", 3)
    # timm's no_embed_class leaves the class token without a position. N and N + 1 are never both squares.
    with_class = positions == 1 or round((positions - 1) ** 0.5) ** 2 == positions - 1
    mlp, _ = shape_of(file, f"{prefix}blocks.0.mlp.fc1.weight", 2)
    head, pre = f"{prefix}head.weight", f"{prefix}pre_logits.fc.weight"
    sizes = Sizes(
        patch_size=patch,
        num_layers=layer_count(tensors, f"{prefix}blocks."),
        hidden_size=width,
        mlp_size=mlp,
        num_patches=positions - with_class,
        num_classes=shape_of(file, head, 2)[0] if head in tensors else None,
        num_heads=_heads(hints.config),
        pre_logits_size=shape_of(file, pre, 2)[0] if pre in tensors else None,
        arithmetic=ARITHMETIC,
    )
    parts = Parts(
        qkv_bias=any(key.endswith(".attn.qkv.bias") for key in tensors),
        layer_scale=any(key.endswith(".ls1.gamma") for key in tensors),
        class_position=with_class,
    )
    excused = {f"{prefix}{key}": why for key, why in EXCUSED.items() if f"{prefix}{key}" in tensors}
    return torch_layout(spec_of(file, sizes, hints), NAMES, prefix, parts, excused)


def preprocessing(config: Mapping[str, Any] | None, image_size: int) -> Preprocessing | None:
    """What `pretrained_cfg` in timm's config.json says, or None without it.

    Raises:
        InputError: it says something that `Preprocessing` cannot express.
    """
    known = (config or {}).get("pretrained_cfg")
    if not isinstance(known, Mapping) or "mean" not in known or "std" not in known:
        return None
    mode = known.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise InputError(
            f"timm's crop_mode is {mode!r}, expected 'center' or 'squash': correct its config.json, or take it away "
            "and give --mean, --std, --resize, --crop-fraction and --interpolation."
        )
    squash = mode == "squash"
    return Preprocessing(
        image_size,
        mean=known["mean"],
        std=known["std"],
        resize="squash" if squash else "shortest",
        crop_fraction=1.0 if squash else known.get("crop_pct") or 0.875,
        interpolation=known.get("interpolation") or "bicubic",
    )


def says_imagenet_1k(config: Mapping[str, Any] | None) -> bool:
    """Whether timm's config says that the classifier was trained on ImageNet-1k."""
    known = (config or {}).get("pretrained_cfg")
    tag = str(known.get("tag") or "") if isinstance(known, Mapping) else ""
    return bool(re.search(r"(^|_)in1k$", tag))


def label_names(config: Mapping[str, Any] | None) -> list[Any] | None:
    """Labels in timm's config, in the order of the classes, unchecked."""
    names = (config or {}).get("label_names")
    return names if isinstance(names, list) else None


def _heads(config: Mapping[str, Any] | None) -> int | None:
    """Heads where `model_args` name them; timm itself otherwise knows them by the architecture's name."""
    arguments = (config or {}).get("model_args")
    heads = arguments.get("num_heads") if isinstance(arguments, Mapping) else None
    return heads if is_whole(heads, 1) else None


def _refuse_config(file: TensorFile, config: Mapping[str, Any] | None) -> None:
    pool = (config or {}).get("global_pool", "token")
    if pool not in ("token", ""):
        raise InputError(
            f"The config.json beside {file.path} says global_pool {pool!r}, expected 'token': "
            "vit-export builds models that classify by their class token."
        )
