"""timm's Vision Transformers: a safetensors file, and the `config.json` that timm publishes beside it.

Tensors tell the parts of the model, the config (`timm_config`) its arithmetic. What is built is timm's
VisionTransformer, VisionTransformerDistilled (DeiT), and of its Eva what differs from them by names alone, and DINOv3.
"""

import math
from dataclasses import replace
from typing import Any

from vit_export.base.checks import is_whole
from vit_export.base.errors import InputError
from vit_export.model.record import Rule
from vit_export.model.spec import ImageSize, sides_of
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of
from vit_export.weights.layouts.timm_config import (
    EPSILON,
    GELU,
    ROTARY,
    Described,
    described,
    pretrained,
    require_told_numbers,
    require_told_parts,
)
from vit_export.weights.layouts.torch_layouts import (
    Distillation,
    Head,
    Parts,
    PoolingNames,
    TorchNames,
    find_head,
    prefix_before,
    refuse,
    torch_layout,
)

ANCHOR = "patch_embed.proj.weight"

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
    register_tokens="reg_token",
    embedding_norm="norm_pre",
    pooling=PoolingNames(
        probe="attn_pool.latent",
        query="attn_pool.q",
        fused_weight="attn_pool.kv.weight",
        fused_bias="attn_pool.kv.bias",
        output="attn_pool.proj",
        norm="attn_pool.norm",
        dense_1="attn_pool.mlp.fc1",
        dense_2="attn_pool.mlp.fc2",
    ),
)

UNSUPPORTED = {
    "q_norm": "LayerNorm on queries and keys",
    "attn.q_proj": "queries, keys and values apart (EVA-02)",
    "attn.gate": "gated attention",
    "attn.norm": "a LayerNorm within attention (EVA-02, BEiT-3)",
    "mlp.norm": "a LayerNorm within the MLP (EVA-02, BEiT-3)",
    "lambda_q1": "differential attention",
    "mlp.w12": "a SwiGLU MLP",
    "mlp.fc1_g": "a SwiGLU MLP",
    "rel_pos": "relative positions (BEiT, SAM)",
    "relative_position": "relative positions (BEiT)",
    "rope.freqs": "learned rotary positions (RoPE-ViT)",
    "register_tokens": "register tokens as DINOv2's authors store them (timm and transformers do otherwise)",
    "storage_tokens": "register tokens as DINOv3's authors store them (timm and transformers do otherwise)",
    "patch_embed.backbone": "a convolutional network in front of the Transformer (a hybrid)",
    "patch_embed.norm": "a LayerNorm in the patch embedding",
}

EXCUSED = {"mask_token": "used in pre-training alone"}

OPEN_CLIP = "visual.trunk."
"""Before the keys of an image tower of timm's in a file of open_clip's."""

CLIP_WIDTHS = {512, 640, 768, 1024, 1280}
"""Of the embeddings that images and texts share in every published CLIP."""

_GELU_SHOWN = {"erf": "exact GELU", "tanh": "tanh GELU", "quick": "QuickGELU"}
_POOLING_SHOWN = {
    "class": "class token",
    "mean": "mean of the patches",
    "mean_norm": "mean of the patches before the last LayerNorm",
    "attention": "attention pooling",
    "class_and_distillation": "mean of the two classifiers",
}


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: a part this package does not build, or shapes that no Vision Transformer has.
    """
    prefix, tensors, config = prefix_before(file, ANCHOR), file.tensors, hints.config or {}
    width, _, patch, _ = shape_of(file, f"{prefix}{ANCHOR}", 4)
    model = described(file.path, config, width)
    refuse(file, prefix, UNSUPPORTED)
    require_told_parts(file, prefix, model)

    def has(end: str) -> bool:
        return any(key.startswith(prefix) and key.endswith(end) for key in tensors)

    mlp = _mlp_size(file, prefix)
    distilled, rotary = f"{prefix}dist_token" in tensors, _is_rotary(file, prefix, model)
    class_token, registers = f"{prefix}cls_token" in tensors, int(distilled)
    if f"{prefix}{NAMES.register_tokens}" in tensors:
        registers = shape_of(file, f"{prefix}{NAMES.register_tokens}", 3)[1]
    sides = _sides(hints.config, model)
    patches, prefix_positions = None, True
    if not rotary:
        patches, prefix_positions = _positions(file, prefix, model, class_token + registers, hints, sides)
    head, assumed = find_head(file, f"{prefix}head")
    pooling = _pooling(file, prefix, model, class_token + registers, rotary)
    arithmetic = {
        "layer_norm_epsilon": model.arguments.get("epsilon", 1e-5 if rotary or has("norm_pre.weight") else EPSILON),
        "gelu": GELU[model.arguments.get("act_layer") or "gelu"],
        "class_token": class_token,
        "num_registers": registers,
        "positions": "rotary" if rotary else "learned",
        "embedding_norm": has("norm_pre.weight"),
        "pooling": pooling,
    }
    if model.architecture is None:
        assumed["arithmetic"] = (
            f"timm's {_GELU_SHOWN[arithmetic['gelu']]}, epsilon {arithmetic['layer_norm_epsilon']:g} and "
            f"{_POOLING_SHOWN[pooling]}"
        )
    elif not model.arguments.get("global_pool"):
        assumed["pooling"] = f"{_POOLING_SHOWN[pooling]}, where timm returns all tokens (global_pool '')"
    if distilled and head is None:
        assumed["features"] = "the class token, where timm takes the mean of class and distillation token"
    layers = layer_count(tensors, f"{prefix}{NAMES.layers}")
    require_told_numbers(file, model, patch_size=patch, embed_dim=width, depth=layers, reg_tokens=registers - distilled)
    pre = f"{prefix}{NAMES.pre_logits}.weight"
    heads = model.arguments.get("num_heads")
    sizes = Sizes(
        patch_size=patch,
        num_layers=layers,
        hidden_size=width,
        mlp_size=mlp,
        num_patches=patches,
        num_classes=head.num_classes if head else None,
        num_heads=int(heads) if heads is not None and is_whole(heads, 1) else None,
        pre_logits_size=shape_of(file, pre, 2)[0] if pre in tensors else None,
        image_sizes=sides,
        arithmetic=arithmetic,
    )
    apart = has(".attn.q_bias")
    parts = Parts(
        qkv_bias=apart or has(".attn.qkv.bias"),
        key_bias=not apart,
        layer_scale=has(".ls1.gamma") or has(".gamma_1"),
        class_position=prefix_positions,
        register_positions=prefix_positions and not rotary,
        patch_bias=not has("norm_pre.weight") or has("patch_embed.proj.bias"),
        head=head,
        distillation=_distillation(file, prefix, head) if distilled else None,
    )
    names = NAMES
    if apart:
        names = replace(names, query_bias="blocks.{}.attn.q_bias", value_bias="blocks.{}.attn.v_bias")
    if has(".gamma_1"):  # the names of DeiT III's authors, and of timm's Eva
        names = replace(names, layer_scale=("blocks.{}.gamma_1", "blocks.{}.gamma_2"))
    if f"{prefix}norm.weight" not in tensors and f"{prefix}fc_norm.weight" in tensors:
        names = replace(names, norm="fc_norm")
    spec, found = spec_of(file, sizes, hints)
    excused = _excused(file, prefix, model, pooling)
    rule: Rule | None = "bilinear" if (model.architecture or "").startswith("flexivit") else None
    made = torch_layout(file, spec, names, prefix, parts, excused, found | assumed, rule)
    return replace(made, notes=_notes(model, head))


def _excused(file: TensorFile, prefix: str, model: Described, pooling: str) -> dict[str, str]:
    excused = {f"{prefix}{key}": why for key, why in EXCUSED.items() if f"{prefix}{key}" in file.tensors}
    if prefix.endswith(OPEN_CLIP):
        text = tuple(prefix.removesuffix(OPEN_CLIP) + name for name in ("text.", "logit_scale", "logit_bias"))
        excused |= {key: "open_clip's text tower" for key in file.tensors if key.startswith(text)}
    if "_siglip_" in (model.architecture or "") and pooling != "attention":
        unused = [key for key in file.tensors if key.startswith(f"{prefix}attn_pool.")]
        excused |= dict.fromkeys(unused, "left out by timm where SigLIP takes the mean")
    return excused


def _notes(model: Described, head: Head | None) -> tuple[str, ...]:
    if not model.projection_of or head is None or head.num_classes not in CLIP_WIDTHS:
        return ()
    return (
        f"The head of CLIP's weights ({model.projection_of}) makes no classes, unless it was trained anew: its "
        f"{head.num_classes} numbers are an embedding, to be compared with those of texts.",
    )


def _mlp_size(file: TensorFile, prefix: str) -> int:
    """Width of the MLP.

    Raises:
        InputError: the first Dense makes twice what the second takes, so that one half gates the other.
    """
    made, width = shape_of(file, f"{prefix}blocks.0.mlp.fc1.weight", 2)
    if shape_of(file, f"{prefix}blocks.0.mlp.fc2.weight", 2) == (width, made / 2):
        raise InputError(f"{file.path} has a SwiGLU MLP ({prefix}blocks.0.mlp): vit-export does not build that part.")
    return made


def _is_rotary(file: TensorFile, prefix: str, model: Described) -> bool:
    """Whether positions are DINOv3's: the config says so, or there are none, but DINOv3's registers and LayerScale.

    Raises:
        InputError: the config says rotary positions of another kind, or beside learned ones.
    """
    learned, told = f"{prefix}pos_embed" in file.tensors, model.arguments
    if told.get("use_rot_pos_emb"):
        if learned or any(told.get(name) != value for name, value in ROTARY.items()):
            raise InputError(
                f"{file.path} has rotary positions that are not DINOv3's, by its config.json: vit-export does not "
                "build that part."
            )
        return True
    if model.architecture is not None or f"{prefix}blocks.0.gamma_1" not in file.tensors:
        return False
    if learned:
        raise InputError(
            f"{file.path} has LayerScale by the name of timm's Eva models ({prefix}blocks.0.gamma_1), whose positions "
            "may be rotary as well: put timm's config.json beside it."
        )
    return f"{prefix}reg_token" in file.tensors


def _positions(
    file: TensorFile, prefix: str, model: Described, before: int, hints: Hints, sides: dict[str, ImageSize]
) -> tuple[int, bool]:
    """How many patches have a position, and whether the tokens `before` them have one, too.

    Timm's `no_embed_class` leaves those without. The number that an image of a stated size has is right, else the one
    that makes a square, which both do for few numbers of tokens only.
    """
    _, rows, _ = shape_of(file, f"{prefix}pos_embed", 3)
    stated = [sides_of(size) for size in (hints.image_size, *sides.values()) if size is not None]
    patch = shape_of(file, f"{prefix}{ANCHOR}", 4)[2]
    fitting = {(height // patch) * (width // patch) for height, width in stated}
    told = not model.arguments.get("no_embed_class")

    def likelihood(with_prefix: bool) -> tuple[bool, bool, bool]:
        patches = rows - before * with_prefix
        return patches in fitting, math.isqrt(patches) ** 2 == patches, with_prefix == told

    with_prefix = rows > before and max((True, False), key=likelihood)
    return rows - before * with_prefix, with_prefix


def _pooling(file: TensorFile, prefix: str, model: Described, before: int, rotary: bool) -> str:
    """What is pooled, as `model.spec.Pooling`; `before` is the number of tokens before the patches.

    Raises:
        InputError: the config and the tensors contradict each other, or together make what this package does not build.
    """
    told, tensors = model.arguments, file.tensors
    attention, norm_after = (f"{prefix}{key}" in tensors for key in ("attn_pool.latent", "fc_norm.weight"))
    class_token = f"{prefix}cls_token" in tensors
    pool = told.get("global_pool")
    if not pool:
        pool = "map" if attention else "avg" if norm_after or rotary or not class_token else "token"
    if f"{prefix}dist_token" in tensors:
        pool = "distilled" if pool == "token" else pool
    wrong = None
    if pool == "token" and not class_token:
        wrong = f"has no class token ({prefix}cls_token), by which its config.json says that it classifies"
    elif pool != "distilled" and f"{prefix}dist_token" in tensors:
        wrong = "has DeiT's distillation token, but does not classify by it"
    elif pool == "map" and norm_after:
        wrong = f"has a LayerNorm ({prefix}fc_norm) after attention pooling"
    elif pool == "map" and before and not rotary and not told.get("pool_include_prefix"):
        wrong = f"has attention pooling that leaves out the first {before} of the tokens"
    elif pool == "avg" and before and told.get("pool_include_prefix"):
        wrong = "takes the mean of all tokens (pool_include_prefix)"
    if wrong is not None:
        raise InputError(f"{file.path} {wrong}: vit-export does not build that.")
    mean = "mean_norm" if norm_after and f"{prefix}norm.weight" not in tensors else "mean"
    return {"token": "class", "map": "attention", "avg": mean, "distilled": "class_and_distillation"}[pool]


def _distillation(file: TensorFile, prefix: str, head: Head | None) -> Distillation:
    """The second classifier; one that is missing beside a first is found missing when keys are accounted for."""
    if head is None:
        return Distillation("dist_token", None)
    second, _ = find_head(file, f"{prefix}head_dist")
    return Distillation(
        "dist_token", replace(second or replace(head, key=f"{prefix}head_dist"), num_classes=head.num_classes)
    )


def _sides(config: Any, model: Described) -> dict[str, ImageSize]:
    """The size of the images that the config states, by what states it."""
    stated = pretrained(config).get("input_size")
    size = model.arguments.get("img_size", stated[1:] if isinstance(stated, list) and len(stated) == 3 else None)
    both = size if isinstance(size, list) and len(size) == 2 else [size, size]
    if not all(is_whole(side, 1) for side in both):
        return {}
    height, width = (int(side) for side in both)
    return {"config.json": height if height == width else (height, width)}
