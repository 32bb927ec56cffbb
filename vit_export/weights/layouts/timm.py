"""timm's Vision Transformers: a safetensors file, and the `config.json` that timm publishes beside it.

The config names an architecture, whose arguments timm knows, and in `model_args` what differs from them.
"""

import re
from collections.abc import Mapping
from typing import Any

from vit_export.base.checks import is_whole
from vit_export.base.errors import InputError
from vit_export.weights.containers.tensors import TensorFile
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

ANCHOR = "patch_embed.proj.weight"
EPSILON = 1e-6

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

SIZES = {
    "tiny": (192, 3),
    "small": (384, 6),
    "medium": (512, 8),
    "betwixt": (640, 10),
    "base": (768, 12),
    "large": (1024, 16),
    "huge": (1280, 16),
    "giant": (1408, 16),
    "gigantic": (1664, 16),
}
"""Width and attention heads by the size in an architecture's name (timm 1.0, models/vision_transformer.py, deit.py)."""

OTHERS = {
    "test_vit": (64, 2),
    "vit_base_patch16_plus_240": (896, 14),
    "vit_base_patch32_plus_256": (896, 14),
    "vit_intern300m_patch14_448": (1024, 16),
}

_ARCHITECTURE = re.compile(
    rf"(?:vit|deit3?|flexivit)_({'|'.join(SIZES)})(?:_distilled)?"
    r"(?:_patch\d+_\d+(?:_miil)?|_patch14_dinov2|_patch16_36x1_224)?"
)
"""Architectures of this package's arithmetic; others, and people's own, have arguments that only timm knows."""

GELU = {"gelu": "erf", "gelu_tanh": "tanh"}
"""`act_layer` by timm's name."""

TOLD_BY_TENSORS = {
    *("patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "qk_norm", "proj_bias"),
    *("init_values", "no_embed_class", "reg_tokens", "pre_norm", "final_norm", "scale_attn_norm", "scale_mlp_norm"),
}
"""Arguments of timm's VisionTransformer that show in the names and shapes of tensors, which are held to the layout."""

READ_OR_HARMLESS = {
    *("num_heads", "img_size", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "weight_init", "fix_init", "dynamic_img_size", "strict_img_size", "dynamic_img_pad"),
}
"""Arguments that are read below, and those without effect on the answer for an image of the model's size."""

BUILT = {
    "act_layer": (None, *GELU),
    "norm_layer": (None, "layernorm"),
    "embed_norm_layer": (None,),
    "global_pool": ("token", "", None),
    "class_token": (True,),
    "pos_embed": ("learn",),
    "fc_norm": (False, None),
    "pool_include_prefix": (False,),
    "attn_layer": ("", "attn", None),
}
"""The values of arguments that change the arithmetic and leave the tensors alone."""


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: a part this package does not build, or shapes that no Vision Transformer has.
    """
    prefix = prefix_before(file, ANCHOR)
    refuse(file, prefix, UNSUPPORTED)
    config = hints.config or {}
    arguments = _arguments(file, config)
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
    head, assumed = find_head(file, f"{prefix}head")
    pre = f"{prefix}pre_logits.fc.weight"
    known = _architecture(config, arguments, width)
    if known is None:
        assumed["arithmetic"] = f"timm's exact GELU, epsilon {EPSILON:g} and class token"
    sizes = Sizes(
        patch_size=patch,
        num_layers=layer_count(tensors, f"{prefix}blocks."),
        hidden_size=width,
        mlp_size=mlp,
        num_patches=positions - with_class,
        num_classes=head.num_classes if head else None,
        num_heads=_heads(arguments, known),
        pre_logits_size=shape_of(file, pre, 2)[0] if pre in tensors else None,
        image_sizes=_sides(file, config, arguments),
        arithmetic={"layer_norm_epsilon": EPSILON, "gelu": GELU[arguments.get("act_layer") or "gelu"]},
    )
    parts = Parts(
        qkv_bias=any(key.endswith(".attn.qkv.bias") for key in tensors),
        layer_scale=any(key.endswith(".ls1.gamma") for key in tensors),
        class_position=with_class,
        head=head,
    )
    excused = {f"{prefix}{key}": why for key, why in EXCUSED.items() if f"{prefix}{key}" in tensors}
    spec, found = spec_of(file, sizes, hints)
    return torch_layout(file, spec, NAMES, prefix, parts, excused, found | assumed)


def scaling(hints: Hints) -> dict[str, Any] | None:
    """`mean` and `std` of `pretrained_cfg` in timm's config.json, None without them."""
    known = _pretrained(hints.config)
    return {"mean": known["mean"], "std": known["std"]} if "mean" in known and "std" in known else None


def resizing(hints: Hints) -> dict[str, Any] | None:
    """What `pretrained_cfg` says of resizing, as fields of `Preprocessing`; None without it.

    Raises:
        InputError: it says something that `Preprocessing` cannot express.
    """
    known = _pretrained(hints.config)
    if not known.keys() & {"crop_pct", "crop_mode", "interpolation"}:
        return None
    mode = known.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise InputError(
            f"timm's crop_mode is {mode!r}, expected 'center' or 'squash': correct its config.json, or give --resize, "
            "--crop-fraction and --interpolation."
        )
    squash = mode == "squash"
    return {
        "resize": "squash" if squash else "shortest",
        "crop_fraction": 1.0 if squash else known.get("crop_pct") or 0.875,
        "interpolation": known.get("interpolation") or "bicubic",
    }


def says_imagenet_1k(config: Mapping[str, Any] | None) -> bool:
    """Whether timm's config says that the classifier was trained on ImageNet-1k."""
    return bool(re.search(r"(^|_)in1k$", str(_pretrained(config).get("tag") or "")))


def label_names(config: Mapping[str, Any] | None) -> list[Any] | None:
    """Labels in timm's config, in the order of the classes, unchecked."""
    names = (config or {}).get("label_names")
    return names if isinstance(names, list) else None


def _pretrained(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`pretrained_cfg`, which older configs have in one with the rest."""
    found = (config or {}).get("pretrained_cfg", config)
    return found if isinstance(found, Mapping) else {}


def _arguments(file: TensorFile, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`model_args`, of which every one is known and none changes what this package builds.

    Raises:
        InputError: an argument, or a `global_pool`, that makes another model.
    """
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"The config.json of {file.path} says model_args {arguments!r:.60}, expected an object.")
    said = {"global_pool": config.get("global_pool", "token"), **arguments}
    for name, value in said.items():
        if name in TOLD_BY_TENSORS or name in READ_OR_HARMLESS:
            continue
        expected = BUILT.get(name)
        if expected is None or not any(value == one and type(value) is type(one) for one in expected):
            shown = " or ".join(repr(one) for one in expected if one is not None) if expected else "none of that name"
            raise InputError(
                f"The config.json of {file.path} says {name} {value!r:.60}, expected {shown}: that is another model, "
                "which vit-export does not build."
            )
    return arguments


def _architecture(config: Mapping[str, Any], arguments: Mapping[str, Any], width: int) -> tuple[int, int] | None:
    """Width and heads of the architecture that the config names; None for one that is not known, or another width.

    A name with another width than the tensors', and no `embed_dim` that says so, stands for a model that was built with
    arguments that nobody wrote down.
    """
    name = config.get("architecture")
    if not isinstance(name, str):
        return None
    found = _ARCHITECTURE.fullmatch(name)
    sizes = OTHERS.get(name) or (SIZES[found.group(1)] if found else None)
    return sizes if sizes is not None and width in (sizes[0], arguments.get("embed_dim")) else None


def _heads(arguments: Mapping[str, Any], known: tuple[int, int] | None) -> int | None:
    """Heads that `model_args` name, else those of the architecture; None for one that is not known."""
    heads = arguments.get("num_heads")
    if heads is not None and is_whole(heads, 1):
        return int(heads)
    return None if known is None else known[1]


def _sides(file: TensorFile, config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, int]:
    """The side of the images that the config states, by what states it.

    Raises:
        InputError: the images are not square, whatever the number of patches looks like.
    """
    pretrained = _pretrained(config).get("input_size")
    size = arguments.get("img_size", pretrained[1:] if isinstance(pretrained, list) and len(pretrained) == 3 else None)
    if isinstance(size, list) and len(size) == 2 and all(is_whole(side, 1) for side in size):
        if size[0] != size[1]:
            raise InputError(
                f"The config.json of {file.path} says images of {size[0]} x {size[1]} pixels: only square images are "
                "supported."
            )
        size = size[0]
    return {"config.json": size} if is_whole(size, 1) else {}
