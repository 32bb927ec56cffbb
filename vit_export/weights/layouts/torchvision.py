"""torchvision's Vision Transformers, their state dict saved as safetensors (torchvision itself publishes pickles).

There is no config: sizes and names of files tell which of its weights they are.
"""

import re
from typing import Any

from vit_export.model.spec import ImageSize
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of
from vit_export.weights.layouts.torch_layouts import Parts, TorchNames, find_head, prefix_before, refuse, torch_layout

ANCHOR = "conv_proj.weight"
ARITHMETIC = {"layer_norm_epsilon": 1e-6, "gelu": "erf"}

_LAYER = "encoder.layers.encoder_layer_"


def _names(dense_1: str, dense_2: str) -> TorchNames:
    layer = _LAYER + "{}"
    return TorchNames(
        patch_embedding="conv_proj",
        class_token="class_token",
        position_embedding="encoder.pos_embedding",
        attention_norm=f"{layer}.ln_1",
        fused_weight=f"{layer}.self_attention.in_proj_weight",
        fused_bias=f"{layer}.self_attention.in_proj_bias",
        output=f"{layer}.self_attention.out_proj",
        mlp_norm=f"{layer}.ln_2",
        dense_1=f"{layer}.mlp.{dense_1}",
        dense_2=f"{layer}.mlp.{dense_2}",
        norm="encoder.ln",
        layers=_LAYER,
        pre_logits="heads.pre_logits",
    )


# torchvision renamed the two when its MLP became a block of its own (0.13).
NEW, OLD = _names("0", "3"), _names("linear_1", "linear_2")

UNSUPPORTED = {"conv_stem": "a convolutional stem", "conv_proj.conv_bn_relu": "a convolutional stem"}


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: a part this package does not build, or shapes that no Vision Transformer has.
    """
    prefix = prefix_before(file, ANCHOR)
    refuse(file, prefix, UNSUPPORTED)
    tensors = file.tensors
    names = OLD if f"{prefix}{OLD.dense_1.format(0)}.weight" in tensors else NEW
    width, _, patch, _ = shape_of(file, f"{prefix}{ANCHOR}", 4)
    _, tokens, _ = shape_of(file, f"{prefix}{names.position_embedding}", 3)
    mlp, _ = shape_of(file, f"{prefix}{names.dense_1.format(0)}.weight", 2)
    head, assumed = find_head(file, f"{prefix}heads", "head", ("pre_logits",))
    pre = f"{prefix}{names.pre_logits}.weight"
    sizes = Sizes(
        patch_size=patch,
        num_layers=layer_count(tensors, f"{prefix}{_LAYER}"),
        hidden_size=width,
        mlp_size=mlp,
        num_patches=tokens - 1,
        num_classes=head.num_classes if head else None,
        pre_logits_size=shape_of(file, pre, 2)[0] if pre in tensors else None,
        square=True,
        arithmetic=ARITHMETIC,
    )
    spec, found = spec_of(file, sizes, hints)
    return torch_layout(file, spec, names, prefix, Parts(head=head), {}, found | assumed)


def resizing(hints: Hints, image_size: ImageSize, num_layers: int, patch_size: int) -> dict[str, Any]:
    """The resizing of `transforms()` of the weights that these are by their sizes, as fields of `Preprocessing`.

    Source: torchvision/models/vision_transformer.py, classes ViT_*_Weights. Those for 384, 512 and 518 pixels, and all
    that are called swag, resize to the very size bicubically; L/16 from ImageNet-1k resizes to 242, the others to 256.
    """
    if image_size in (384, 512, 518) or re.search(r"(?:^|[^a-z])swag(?:[^a-z]|$)", hints.described_as.lower()):
        return {"resize": "shortest", "crop_fraction": 1.0, "interpolation": "bicubic"}
    is_l16 = num_layers == 24 and patch_size == 16 and image_size == 224
    return {"resize": "shortest", "crop_fraction": 224 / 242 if is_l16 else 0.875, "interpolation": "bilinear"}
