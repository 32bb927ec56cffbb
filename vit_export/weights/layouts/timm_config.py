"""timm's `config.json`: the architecture it names, the arguments of the model, and how pixels are made.

An architecture stands for the arguments that its function in timm passes to the model's class (`_FUNCTIONS` has them,
as `timm/models/vision_transformer.py`, `deit.py` and `eva.py` of timm 1.0 do); `model_args` replace some of them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_export.base.checks import is_whole
from vit_export.base.errors import InputError
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.sizes import Hints

EPSILON = 1e-6
"""Of timm's own LayerNorm."""

_SIZES = {
    "tiny": (192, 3),
    "xsmall": (256, 4),
    "wee": (256, 4),
    "little": (320, 5),
    "small": (384, 6),
    "medium": (512, 8),
    "mediumd": (512, 8),
    "betwixt": (640, 10),
    "base": (768, 12),
    "so150m2": (832, 13),
    "so150m": (896, 14),
    "plus": (896, 14),
    "large": (1024, 16),
    "so400m": (1152, 16),
    "huge": (1280, 16),
    "giant": (1408, 16),
    "giantopt": (1536, 16),
    "gigantic": (1664, 16),
    "test_vit": (64, 2),
    "test_vit2": (64, 2),
    "test_vit3": (96, 3),
}
"""Width and attention heads by the size in an architecture's name."""

_MEAN = {"class_token": False, "global_pool": "avg"}
_MEAN_AFTER_NORM = {**_MEAN, "fc_norm": False}
_PATCHES_ALONE = {"no_embed_class": True}
_ATTENTION = {"class_token": False, "global_pool": "map"}
_TANH = {"act_layer": "gelu_tanh"}
_CLIP = {"pre_norm": True, "epsilon": 1e-5}
_EVA = {"global_pool": "avg"}
ROTARY = {"use_rot_pos_emb": True, "rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True}
"""What makes rotary positions those of `model.rotary`."""

_DINOV3 = {
    **ROTARY,
    "num_reg_tokens": 4,
    "global_pool": "avg",
    "use_fc_norm": False,
    "use_abs_pos_emb": False,
    "epsilon": 1e-5,
}

_FUNCTIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (r"vit_SIZE_patch\d+_(\d+(_miil)?|36x1_224)|vit_base_patch\d+_(plus)_\d+|(test_vit)", {}),
    (r"(test_vit2)", {**_MEAN, "reg_tokens": 1}),
    (r"(test_vit3)", {**_ATTENTION, "reg_tokens": 1, "pool_include_prefix": True}),
    (r"vit_(base)_patch16_gap_224", {**_MEAN_AFTER_NORM, "num_heads": 16}),
    (r"vit_SIZE_patch\d+_gap_\d+", _MEAN_AFTER_NORM),
    (r"vit_SIZE_patch\d+_clip_\d+|vit_base_patch\d+_(plus)_clip_\d+", _CLIP),
    (r"vit_SIZE_patch\d+_clip_quickgelu_\d+", {**_CLIP, "act_layer": "quick_gelu"}),
    (r"vit_(small|base|large)_patch14_dinov2", {}),
    (r"vit_(small|base|large|so400m)_patch14_reg\d_(dinov2|tipsv2)", _PATCHES_ALONE),
    (r"vit_SIZE_patch32_siglip_256|vit_(large)_patch16_siglip_512", {**_ATTENTION, **_TANH}),
    (r"vit_(so400m|giantopt)_patch16_siglip_\d+", {**_ATTENTION, **_TANH}),
    (r"vit_SIZE_patch\d+_siglip_\d+", _ATTENTION),
    (r"vit_SIZE_patch32_siglip_gap_256|vit_(large)_patch16_siglip_gap_512", {**_MEAN_AFTER_NORM, **_TANH}),
    (r"vit_(so400m|giantopt)_patch16_siglip_gap_\d+", {**_MEAN_AFTER_NORM, **_TANH}),
    (r"vit_SIZE_patch\d+_siglip_gap_\d+", _MEAN_AFTER_NORM),
    (r"vit_(so150m)_patch16_reg4_gap_\d+", _MEAN_AFTER_NORM),
    (r"vit_(so150m2)_patch16_reg1_gap_\d+", _MEAN),
    (r"vit_SIZE_patch16_reg\d_gap_\d+", {**_MEAN, **_PATCHES_ALONE}),
    (r"eva_(large)_patch14_\d+|eva_(giant)_patch14_\d+", _EVA),
    (r"eva_(giant)_patch14_clip_224", {}),
    (r"deit_SIZE_patch16_\d+", {}),
    (r"deit_SIZE_distilled_patch16_\d+", {"distilled": True}),
    (r"deit3_SIZE_patch\d+_\d+|flexivit_SIZE", _PATCHES_ALONE),
    (r"vit_(tiny|small|base|large)_patch16_dinov3(_qkvb)?", _DINOV3),
    (r"vit_(small|base|large)_patch16_lingbot", {**_DINOV3, "global_pool": "token"}),
)
"""By names: what they pass to the model's class that changes its arithmetic. `epsilon` is their norm_layer's."""

_OTHERS = (
    (r"beit(v2)?_.*", "BEiT (relative positions in every layer)"),
    (r"beit3_.*", "BEiT-3 (LayerNorms within attention and MLP)"),
    (r"eva02_.*", "EVA-02 (SwiGLU, and rotary positions of its own)"),
    (
        r"vit_(giant_.*_(dinov2|tipsv2|lingbot)|(small_plus|huge_plus|7b)_.*dinov3.*)",
        "a Vision Transformer with SwiGLU MLPs",
    ),
    (r"vit_\w+_rope_.*", "RoPE-ViT (rotary positions of its own)"),
    (r"vit_pe_.*", "the Perception Encoder (rotary positions of its own)"),
    (r"naflexvit_.*", "NaFlexViT (as many tokens as an image needs)"),
    (r"swin.*", "Swin (attention within windows)"),
    (r"samvit_.*|sam2_.*|hiera.*", "the image encoder of SAM, or Hiera (attention within windows)"),
    (r"fastvit_.*|mobileclip.*|vit_\w+_mci_.*", "MobileCLIP or FastViT (with convolutions)"),
    (r"vit_\w+_(r\d*_s\d+|resnet\d+d?).*", "a hybrid (a convolutional network in front of the Transformer)"),
    (r"vit_s?relpos_.*", "a Vision Transformer with relative positions"),
    (r"vit_\w+_rpn_.*", "a Vision Transformer with LayerNorms behind its blocks"),
    (r"vit_\w+_(18x2|xp)_.*|vit_d?p(wee|little)_.*", "a Vision Transformer with parallel blocks"),
    (r"vit_d(wee|little)_.*", "a Vision Transformer with differential attention"),
    (r"vit_so150m_patch16_reg4_map_.*", "a Vision Transformer whose attention pooling leaves out its registers"),
    (r"vit_intern300m_.*|vit_\w+_radio_.*", "InternViT or RADIO (no LayerNorm behind the last block)"),
    (r"aimv2_.*|vit_\w+_sapiens2|test_vit4", "a Vision Transformer with RMSNorm"),
    (r"vitamin_.*", "ViTamin (with convolutions)"),
    (
        r"(cait|coat|gemma4|convit|crossvit|davit|gcvit|levit|maxx?vit|mobilevit|mvitv2|nest|nextvit|pit|pvt|shvit|tiny_vit|tnt"
        r"|twins|visformer|volo|xcit)(v\d|net)?_.*",
        "another kind of Transformer",
    ),
)
"""Architectures that could be taken for one of these, by names, and what they are."""

GELU = {"gelu": "erf", "gelu_tanh": "tanh", "quick_gelu": "quick"}
"""`act_layer` by timm's name."""

_TOLD_BY_TENSORS = {
    *("patch_size", "in_chans", "num_classes", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "qk_norm", "proj_bias"),
    *("init_values", "no_embed_class", "reg_tokens", "pre_norm", "final_norm", "scale_attn_norm", "scale_mlp_norm"),
    *("fc_norm", "class_token", "num_reg_tokens", "use_fc_norm", "qkv_fused", "swiglu_mlp", "scale_mlp"),
    *("scale_attn_inner", "use_abs_pos_emb", "use_pre_transformer_norm", "use_post_transformer_norm"),
}
"""Arguments that show in the names and shapes of tensors, which are held to the layout."""

_READ_OR_HARMLESS = {
    *("num_heads", "img_size", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"),
    *("drop_path_rate", "weight_init", "fix_init", "dynamic_img_size", "strict_img_size", "head_init_scale"),
    *("ref_feat_shape", "rope_grid_offset"),
}
"""Arguments that are read elsewhere, and those without effect on the answer for an image of the model's size."""

_BUILT: Mapping[str, tuple[Any, ...]] = {
    "act_layer": (None, *GELU),
    "norm_layer": (None, "layernorm"),
    "embed_norm_layer": (None,),
    "global_pool": ("token", "avg", "map", "", None),
    "pos_embed": ("learn",),
    "pool_include_prefix": (False, True),
    "attn_layer": ("", "attn", None),
    "dynamic_img_pad": (False,),
    "use_rot_pos_emb": (False, True),
    "rope_type": ("dinov3",),
    "rope_temperature": (100, 100.0),
    "rope_rotate_half": (True,),
    "rope_grid_indexing": ("ij",),
    "use_post_norm": (False,),
    "attn_type": ("eva",),
}
"""The values of arguments that change the arithmetic and leave the tensors alone."""


@dataclass(frozen=True)
class Described:
    """A model as its config describes it: `arguments` of its class, its `architecture` where `_FUNCTIONS` has it."""

    arguments: Mapping[str, Any]
    architecture: str | None = None
    projection_of: str = ""
    """CLIP's weights, by timm's tag, whose head projects to what is compared with texts, and does not classify."""


def described(path: Path, config: Mapping[str, Any], width: int) -> Described:
    """What `config`, of the checkpoint at `path` with tokens of `width`, says of the model.

    A name with another width than the tensors', and no `embed_dim` that says so, stands for a model that was built with
    arguments that nobody wrote down.

    Raises:
        InputError: an architecture or an argument that makes another model than this package builds.
    """
    refuse_others(path, config)
    given = config.get("model_args") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"The config.json of {path} says model_args {given!r:.60}, expected an object.")
    pool = config.get("global_pool")
    given = {**({} if pool is None else {"global_pool": pool}), **given}
    for name, value in given.items():
        if name in _TOLD_BY_TENSORS or name in _READ_OR_HARMLESS:
            continue
        expected = _BUILT.get(name)
        if expected is None or not any(value == one and type(value) is type(one) for one in expected):
            shown = " or ".join(repr(one) for one in expected if one is not None) if expected else "none of that name"
            raise InputError(
                f"The config.json of {path} says {name} {value!r:.60}, expected {shown}: that is another model, which "
                "vit-export does not build."
            )
    function = _function(config.get("architecture"))
    if function is None or width not in (function["embed_dim"], given.get("embed_dim")):
        return Described(given)
    if given.get("norm_layer") == "layernorm":
        given = {**given, "epsilon": EPSILON}
    name, tag = config["architecture"], str(pretrained(config).get("tag") or "")
    tuned = label_names(config) is not None or {"ft", "in1k"} & {*tag.split("_")}
    return Described({**function, **given}, name, tag if "_clip_" in name and not tuned else "")


def refuse_others(path: Path, config: Mapping[str, Any] | None) -> None:
    """Raise InputError where `config` names an architecture of timm's that this package does not build."""
    name = (config or {}).get("architecture")
    for pattern, what in _OTHERS:
        if isinstance(name, str) and re.fullmatch(pattern, name):
            raise InputError(
                f"{path} is {what}: its config.json says architecture {name!r:.80}, which vit-export does not build."
            )


def require_told_parts(file: TensorFile, prefix: str, model: Described) -> None:
    """Raise InputError where a part that leaves no trace when it is missing is there or not, against the config."""
    for key, what, names in (
        ("cls_token", "class token", ("class_token",)),
        ("reg_token", "row of register tokens", ("reg_tokens", "num_reg_tokens")),
        ("dist_token", "distillation token", ("distilled",)),
        ("norm_pre.weight", "LayerNorm before the blocks", ("pre_norm", "use_pre_transformer_norm")),
    ):
        found = f"{prefix}{key}" in file.tensors
        told = {name: model.arguments[name] for name in names if name in model.arguments}
        if not told and model.architecture is not None:
            told = {names[0]: key == "cls_token"}  # the defaults of timm's classes
        for name, value in told.items():
            if bool(value) != found:
                raise InputError(
                    f"{file.path} has {'a' if found else 'no'} {what} ({prefix}{key}), but its config.json means "
                    f"{name} {value!r:.60}: it is incomplete, or the config is another model's."
                )


def require_told_numbers(file: TensorFile, model: Described, **found: int) -> None:
    """Raise InputError where the config says another number than is `found`, by the names of timm's arguments."""
    for name, number in found.items():
        told = model.arguments.get(name, model.arguments.get(f"num_{name}"))  # Eva's num_reg_tokens
        if is_whole(told, 0) and told != number:
            raise InputError(
                f"The config.json of {file.path} says {name} {told}, but the tensors have {number}: the file is "
                "incomplete, or the config is another model's."
            )


def _function(name: Any) -> dict[str, Any] | None:
    """What the function called `name` passes to the model's class, with width and heads; None for one not known."""
    for pattern, arguments in _FUNCTIONS:
        whole = pattern.replace("SIZE", f"({'|'.join(_SIZES)})")
        found = re.fullmatch(whole, name) if isinstance(name, str) else None
        if found:
            width, heads = next(_SIZES[group] for group in found.groups() if group in _SIZES)
            usual = {"embed_dim": width, "num_heads": heads, "epsilon": EPSILON, "global_pool": "token"}
            registers = re.search(r"_reg(\d)_", name)
            return {**usual, **({"reg_tokens": int(registers[1])} if registers else {}), **arguments}
    return None


def scaling(hints: Hints) -> dict[str, Any] | None:
    """`mean` and `std` of `pretrained_cfg` in timm's config.json, None without them."""
    known = pretrained(hints.config)
    if "mean" not in known or "std" not in known:
        return None
    # One number stands for all channels, as timm's own resolve_data_config takes it.
    return {n: list(v) * 3 if isinstance(v := known[n], list) and len(v) == 1 else v for n in ("mean", "std")}


def resizing(hints: Hints) -> dict[str, Any] | None:
    """What `pretrained_cfg` says of resizing, as fields of `Preprocessing`; None without it.

    Raises:
        InputError: it says something that `Preprocessing` cannot express.
    """
    known = pretrained(hints.config)
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
    return bool(re.search(r"(^|_)in1k$", str(pretrained(config).get("tag") or "")))


def label_names(config: Mapping[str, Any] | None) -> list[Any] | None:
    """Labels in timm's config, in the order of the classes, unchecked."""
    names = (config or {}).get("label_names")
    return names if isinstance(names, list) else None


def pretrained(config: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """`pretrained_cfg`, which older configs have in one with the rest."""
    found = (config or {}).get("pretrained_cfg", config)
    return found if isinstance(found, Mapping) else {}
