"""Which encoders are taken, in which layouts, and which are not: what `vit-export list --families` says.

The layouts themselves decide by their own tables; `tests/weights/test_families_listed.py` holds this one to those.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Encoders of one kind: what makes them differ from the paper's, who stores them, and what files can return.

    `huggingface` are values of `model_type`, `timm` an architecture for each kind of names, `others` further layouts;
    `returns` says of which outputs there can be and what they are.
    """

    name: str
    differs: str
    returns: str
    huggingface: tuple[str, ...] = ()
    timm: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """Encoders that are not built, and why; names as in `Family`."""

    name: str
    why: str
    huggingface: tuple[str, ...] = ()
    timm: tuple[str, ...] = ()


_CLASS = "logits; features: the class token; tokens"
_MEAN = "logits; features: the mean of the patches; tokens"

FAMILIES = (
    Family(
        "ViT",
        "class token, learned positions",
        f"{_CLASS}; pooled: behind the pooler or pre-logits layer",
        ("vit",),
        ("vit_base_patch16_224",),
        ("Google's .npz", "torchvision", "keras_hub", "vit-export"),
    ),
    Family("MSN", "as ViT, epsilon 1e-6", _CLASS, ("vit_msn",)),
    Family(
        "MAE",
        "positions from sines and cosines, stored; fine-tuned ones average the patches",
        _CLASS,
        ("vit_mae",),
        ("vit_base_patch16_224",),
    ),
    Family(
        "ViT with mean pooling",
        "the mean of the patches, the LayerNorm before or after it; with or without class token, registers",
        _MEAN,
        (),
        ("vit_medium_patch16_gap_256", "vit_medium_patch16_reg4_gap_256"),
        ("keras_hub (without class token)",),
    ),
    Family(
        "DeiT",
        "distilled: a second token with its own classifier, the mean of both; DeiT III: positions of patches alone",
        _CLASS,
        ("deit",),
        ("deit_base_patch16_224", "deit_base_distilled_patch16_224", "deit3_base_patch16_224"),
    ),
    Family("FlexiViT", "positions of patches alone", _CLASS, (), ("flexivit_base",)),
    Family(
        "EVA, first version",
        "keys without bias, mean of the patches",
        _MEAN,
        (),
        ("eva_large_patch14_196",),
    ),
    Family(
        "DINOv2",
        "LayerScale; the classifier reads class token and mean of the patches",
        _CLASS,
        ("dinov2",),
        ("vit_small_patch14_dinov2",),
    ),
    Family(
        "DINOv2 with registers",
        "and tokens without position between class token and patches",
        _CLASS,
        ("dinov2_with_registers",),
        ("vit_small_patch14_reg4_dinov2",),
    ),
    Family(
        "DINOv3",
        "rotary positions, registers, LayerScale, keys without bias",
        _CLASS,
        ("dinov3_vit",),
        ("vit_small_patch16_dinov3",),
    ),
    Family(
        "CLIP",
        "a LayerNorm before the layers, QuickGELU or GELU, a projection without bias",
        f"{_CLASS}; pooled: the projected embedding",
        ("clip", "clip_vision_model"),
        ("vit_base_patch32_clip_224", "vit_base_patch32_clip_quickgelu_224"),
    ),
    Family(
        "SigLIP, SigLIP 2",
        "no class token, tanh GELU, attention with a learned query pools; 384 pixels with patches of 14",
        "logits; features: what attention pools; tokens",
        ("siglip", "siglip_vision_model"),
        ("vit_base_patch16_siglip_224", "vit_so400m_patch14_siglip_384"),
    ),
)
"""What is taken. A checkpoint of such a model may have any sizes."""

REFUSED = (
    Refused(
        "BEiT",
        "relative positions in its layers",
        ("beit", "data2vec-vision"),
        ("beit_base_patch16_224", "beitv2_base_patch16_224", "beit3_base_patch16_224"),
    ),
    Refused(
        "EVA-02, EVA-CLIP",
        "a gated MLP (SwiGLU), rotary positions of its own",
        ("eva02",),
        ("eva02_base_patch14_224",),
    ),
    Refused(
        "DINOv2 giant, DINOv3 S+, H+ and 7B",
        "a gated MLP (SwiGLU)",
        (),
        ("vit_giant_patch14_dinov2", "vit_small_plus_patch16_dinov3", "vit_7b_patch16_dinov3"),
    ),
    Refused(
        "SigLIP 2 NaFlex",
        "images of any shape, as many tokens as they need",
        ("siglip2", "siglip2_vision_model"),
        ("naflexvit_base_patch16_siglip",),
    ),
    Refused("Swin", "attention in shifted windows", ("swin", "swinv2"), ("swin_base_patch4_window7_224",)),
    Refused("SAM, Hiera", "attention in windows", ("sam", "sam2", "hiera"), ("samvit_base_patch16", "hiera_base_224")),
    Refused(
        "MobileCLIP, FastViT, MobileViT",
        "convolutions with a few Transformer layers",
        ("mobilevit", "mobileclip"),
        ("fastvit_t8", "mobileclip_s0"),
    ),
    Refused("AIMv2", "RMSNorm and a gated MLP (SwiGLU)", ("aimv2",), ("aimv2_large_patch14_224",)),
    Refused("I-JEPA", "neither class token nor pooling", ("ijepa",)),
    Refused("hybrids", "a convolutional network before the layers", ("vit_hybrid",), ("vit_base_r50_s16_224",)),
)
"""What people ask for and is not taken, with why."""


def families() -> dict[str, list[dict[str, Any]]]:
    """Both tables, JSON-ready: rows of `families` and of `refused`."""
    return {"families": [_row(row) for row in FAMILIES], "refused": [_row(row) for row in REFUSED]}


def _row(row: Family | Refused) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}
