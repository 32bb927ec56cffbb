"""Google's JAX checkpoints (.npz): google-research/vision_transformer with AugReg and SAM, and big_vision.

Keys `Transformer/encoderblock_i/…` with attention kernels per head, [width, heads, head size]. Sub-layers are numbered
in one of two ways (`LayerNorm_0/_2` of 2020, `LayerNorm_0/_1` later), the whole may sit below `params/` or
`opt/target/`, and big_vision may stack all layers in
`Transformer/encoderblock/…`. GELU is flax's default, the tanh form.
"""

from dataclasses import dataclass

from vit_export.base.errors import InputError
from vit_export.model.parameters import layer_name
from vit_export.model.spec import ViTSpec
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout, Piece, reshaped, same, stacked, with_class_row
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of

PREFIXES = ("", "params/", "opt/target/", "opt/target/params/", "optimizer/target/", "target/")
ARITHMETIC = {"layer_norm_epsilon": 1e-6, "gelu": "tanh"}

UNSUPPORTED = {
    "MAPHead_0": "attention pooling (a MAP head)",
    "conv_root": "a ResNet in front of the Transformer (a hybrid)",
    "conv_init": "a ResNet in front of the Transformer (a hybrid)",
    "Transformer/encoderblock_0/Moe": "a mixture of experts",
}


@dataclass(frozen=True)
class _Names:
    """What the sub-layers of one encoder layer are called."""

    attention_norm: str
    attention: str
    mlp_norm: str
    mlp: str


_OLD = _Names("LayerNorm_0", "MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3")
_NEW = _Names("LayerNorm_0", "MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")


def prefix_of(file: TensorFile) -> str | None:
    """What comes before `embedding/kernel` in every key, or None when this is no such checkpoint."""
    for prefix in PREFIXES:
        if f"{prefix}embedding/kernel" in file.tensors and any(
            key.startswith(f"{prefix}Transformer/encoderblock") for key in file.tensors
        ):
            return prefix
    return None


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: a part this package does not build, or shapes that no Vision Transformer has.
    """
    prefix = prefix_of(file) or ""
    _refuse(file, prefix)
    block = f"{prefix}Transformer/encoderblock"
    is_stacked = any(key.startswith(f"{block}/") for key in file.tensors)
    first = f"{block}/" if is_stacked else f"{block}_0/"
    names = _NEW if f"{first}{_NEW.attention}/query/kernel" in file.tensors else _OLD
    position, with_class = _positions(file, prefix)
    patch, _, _, width = shape_of(file, f"{prefix}embedding/kernel", 4)
    *_, heads, head_size = query = shape_of(file, f"{first}{names.attention}/query/kernel", 4 if is_stacked else 3)
    if heads * head_size != width:
        raise InputError(
            f"{first}{names.attention}/query/kernel in {file.path} has {heads} heads of {head_size}, "
            f"expected heads that make up the width {width}."
        )
    head, pre = f"{prefix}head/kernel", f"{prefix}pre_logits/kernel"
    sizes = Sizes(
        patch_size=patch,
        num_layers=query[0] if is_stacked else layer_count(file.tensors, f"{block}_", "/"),
        hidden_size=width,
        mlp_size=shape_of(file, f"{first}{names.mlp}/Dense_0/kernel", 3 if is_stacked else 2)[-1],
        num_patches=shape_of(file, position, 3)[1] - with_class,
        num_heads=heads,
        num_classes=shape_of(file, head, 2)[1] if head in file.tensors else None,
        pre_logits_size=shape_of(file, pre, 2)[1] if pre in file.tensors else None,
        arithmetic=ARITHMETIC,
    )
    spec, assumed = spec_of(file, sizes, hints)
    shape = (1, spec.num_tokens, width)
    pieces = {
        "patch_embedding/kernel": same(f"{prefix}embedding/kernel", (patch, patch, 3, width)),
        "patch_embedding/bias": same(f"{prefix}embedding/bias", (width,)),
        "class_token": same(f"{prefix}cls", (1, 1, width)),
        "position_embedding": same(position, shape) if with_class else with_class_row(position, shape),
    }
    for index in range(spec.num_layers):
        name = layer_name(index)
        layer = _encoder_layer(name, first if is_stacked else f"{block}_{index}/", names, spec)
        if is_stacked:
            layer = {own: stacked(piece, index, spec.num_layers) for own, piece in layer.items()}
        pieces |= layer
    pieces |= _norm("encoder/norm", f"{prefix}Transformer/encoder_norm", width)
    if spec.pre_logits_size is not None:
        pieces |= _dense("pre_logits", f"{prefix}pre_logits", width, spec.pre_logits_size)
    if spec.num_classes is not None:
        pieces |= _dense("head", f"{prefix}head", spec.representation_size, spec.num_classes)
    beside = [key for key in file.tensors if "target/" in prefix and not key.startswith(prefix)]
    return Layout(spec, pieces, dict.fromkeys(beside, "state of the optimizer"), assumed)


def _encoder_layer(name: str, key: str, names: _Names, spec: ViTSpec) -> dict[str, Piece]:
    """The pieces of the encoder layer `name`, whose keys start with `key`."""
    width, mlp, heads = spec.hidden_size, spec.mlp_size, (spec.num_heads, spec.head_size)
    pieces = _norm(f"{name}/attention_norm", f"{key}{names.attention_norm}", width)
    for part in ("query", "key", "value"):
        there, own = f"{key}{names.attention}/{part}", f"{name}/attention/{part}"
        pieces[f"{own}/kernel"] = reshaped(f"{there}/kernel", (width, *heads), (width, width))
        pieces[f"{own}/bias"] = reshaped(f"{there}/bias", heads, (width,))
    there, own = f"{key}{names.attention}/out", f"{name}/attention/output"
    pieces[f"{own}/kernel"] = reshaped(f"{there}/kernel", (*heads, width), (width, width))
    pieces[f"{own}/bias"] = same(f"{there}/bias", (width,))
    pieces |= _norm(f"{name}/mlp_norm", f"{key}{names.mlp_norm}", width)
    pieces |= _dense(f"{name}/mlp/dense_1", f"{key}{names.mlp}/Dense_0", width, mlp)
    return pieces | _dense(f"{name}/mlp/dense_2", f"{key}{names.mlp}/Dense_1", mlp, width)


def _dense(name: str, key: str, inputs: int, outputs: int) -> dict[str, Piece]:
    return {f"{name}/kernel": same(f"{key}/kernel", (inputs, outputs)), f"{name}/bias": same(f"{key}/bias", (outputs,))}


def _norm(name: str, key: str, width: int) -> dict[str, Piece]:
    return {f"{name}/{part}": same(f"{key}/{part}", (width,)) for part in ("scale", "bias")}


def _positions(file: TensorFile, prefix: str) -> tuple[str, bool]:
    """The position embedding's key, and whether it has a row for the class token: big_vision adds it before that."""
    for key in ("Transformer/posembed_input/pos_embedding", "Transformer/pos_embedding"):
        if prefix + key in file.tensors:
            return prefix + key, True
    if f"{prefix}pos_embedding" in file.tensors:
        return f"{prefix}pos_embedding", False
    raise InputError(
        f"{file.path} has no learnt position embedding ({prefix}Transformer/posembed_input/pos_embedding), "
        "expected one: computed ones (sincos2d) are not supported."
    )


def _refuse(file: TensorFile, prefix: str) -> None:
    for key in file.tensors:
        for part, what in UNSUPPORTED.items():
            if key.startswith(f"{prefix}{part}"):
                raise InputError(
                    f"{file.path} has {what} ({key}), expected a plain Vision Transformer with a class token: "
                    "vit-export does not build that part."
                )
    if f"{prefix}cls" not in file.tensors:
        raise InputError(
            f"{file.path} has no class token ({prefix}cls), so it pools over all tokens (global average pooling): "
            "expected a Vision Transformer that classifies by its class token."
        )
