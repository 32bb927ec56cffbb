"""Architectures that people ask for and that are not built, by the name in a config and by the keys of a file."""

from collections.abc import Iterable
from typing import Any

_BEIT = "BEiT has relative positions in its layers, which are not built"
_EVA = "EVA has rotary positions of its own and a gated MLP (SwiGLU), which are not built"
NAFLEX = "SigLIP 2 for images of any shape (NaFlex)"
_NAFLEX = f"{NAFLEX} is not built; the models of a fixed size are"
_SWIN = "Swin attends in shifted windows, which are not built"
_MOBILE = "it is a convolutional network with a few Transformer layers, which is not built"
_SAM = "SAM attends in windows with relative positions, which are not built"
_CONVOLUTIONS = "it is a convolutional network, no Vision Transformer"
_STAGES = "its stages shrink the image step by step, which are not built"
_TEXT = "it takes text, no images"
_OTHER = "that is another architecture, which vit-export does not build"

TYPES = {
    "beit": _BEIT,
    "data2vec-vision": _BEIT,
    "eva": _EVA,
    "eva02": _EVA,
    "eva_clip": _EVA,
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin", "swin2sr"), _SWIN),
    **dict.fromkeys(("mobilevit", "mobilevitv2", "mobileclip", "levit", "cvt", "efficientformer"), _MOBILE),
    **dict.fromkeys(("sam", "sam_vision_model", "sam2", "sam2_vision_model", "sam_hq", "sam3", "edgetam"), _SAM),
    **dict.fromkeys(("convnext", "convnextv2", "dinov3_convnext", "resnet", "regnet", "bit"), _CONVOLUTIONS),
    **dict.fromkeys(("efficientnet", "mobilenet_v1", "mobilenet_v2", "focalnet", "poolformer"), _CONVOLUTIONS),
    **dict.fromkeys(("pvt", "pvt_v2", "segformer", "hiera", "dinat", "swiftformer"), _STAGES),
    "vit_hybrid": "a convolutional network in front of the Transformer (a hybrid) is not built",
    "ijepa": "I-JEPA has neither class token nor pooling, and which features are meant it does not say",
    "aimv2": "AIMv2 has RMSNorm and a gated MLP (SwiGLU), which are not built",
    "clip_text_model": _TEXT,
    "siglip_text_model": _TEXT,
}
"""Why a model of a `model_type` is not taken."""

_KEYS = {
    "visual.class_embedding": (
        "CLIP as OpenAI and open_clip store it, expected as transformers does: take its model.safetensors with "
        "config.json (hf:openai/clip-vit-base-patch32, hf:laion/CLIP-…)"
    ),
    "visual.conv1.weight": "CLIP as OpenAI and open_clip store it, expected as transformers or timm do",
    "rel_pos_h": "SAM or ViTDet, with attention in windows and relative positions, which are not built",
    "relative_position_bias_table": "BEiT or Swin, with relative positions, which are not built",
    "token_mixer": "MobileCLIP or FastViT, a convolutional network, which is not built",
    "conv_stem.": "a convolutional network (MobileViT, EfficientNet or the like), which is not built",
    "dwconv": "ConvNeXt or another convolutional network, which is not built",
    "downsample_layers.": "ConvNeXt or another convolutional network, which is not built",
}
"""What a file of no known layout holds, by a part of a key."""


def of_type(model_type: Any) -> str:
    """Why a model of `model_type` is not taken, to follow a colon."""
    return TYPES.get(model_type, _OTHER) if isinstance(model_type, str) else _OTHER


def of_keys(keys: Iterable[str]) -> str | None:
    """What a file with such keys holds; None where they do not tell."""
    names = list(keys)
    return next((what for part, what in _KEYS.items() if any(part in name for name in names)), None)
