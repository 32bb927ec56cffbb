"""Layouts of PyTorch packages as tables: timm, torchvision and Hugging Face name the same parts differently.

All store Dense kernels as [out, in] and the patch embedding as [out, channel, height, width].
"""

from dataclasses import dataclass

from vit_export.base.errors import InputError
from vit_export.model.parameters import layer_name
from vit_export.model.spec import ViTSpec
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import (
    Layout,
    Piece,
    same,
    scaled_by,
    torch_dense,
    torch_patches,
    torch_third,
    with_class_row,
    zeros,
)


@dataclass(frozen=True)
class TorchNames:
    """What one package calls the parts, without `.weight` and `.bias`; `{}` is the number of an encoder layer.

    `fused` is query, key and value concatenated on the output axis (then `query`, `key`, `value` are not used); its
    `fused_weight` and `fused_bias` are whole keys, because torchvision's have no dot.
    """

    patch_embedding: str
    class_token: str
    position_embedding: str
    attention_norm: str
    output: str
    mlp_norm: str
    dense_1: str
    dense_2: str
    norm: str
    head: str
    layers: str
    """What comes before the number of a layer."""
    query: str = ""
    key: str = ""
    value: str = ""
    fused_weight: str = ""
    fused_bias: str = ""
    layer_scale: tuple[str, str] | None = None
    """Vectors that scale the outputs of attention and MLP, where a checkpoint has them."""
    pre_logits: str = ""


@dataclass(frozen=True)
class Parts:
    """What of the optional parts a checkpoint has."""

    qkv_bias: bool = True
    layer_scale: bool = False
    class_position: bool = True
    """The position embedding has a row for the class token."""


def torch_layout(spec: ViTSpec, names: TorchNames, prefix: str, parts: Parts, excused: dict[str, str]) -> Layout:
    """Where every canonical parameter of `spec` is; `prefix` comes before every key."""
    pieces: dict[str, Piece] = {}
    width, mlp = spec.hidden_size, spec.mlp_size

    def dense(name: str, key: str, inputs: int, outputs: int, scale: str | None = None) -> None:
        kernel = torch_dense(f"{prefix}{key}.weight", (inputs, outputs))
        bias = same(f"{prefix}{key}.bias", (outputs,))
        pieces[f"{name}/kernel"] = kernel if scale is None else scaled_by(kernel, scale, outputs)
        pieces[f"{name}/bias"] = bias if scale is None else scaled_by(bias, scale, outputs)

    def norm(name: str, key: str) -> None:
        pieces[f"{name}/scale"] = same(f"{prefix}{key}.weight", (width,))
        pieces[f"{name}/bias"] = same(f"{prefix}{key}.bias", (width,))

    patches = (spec.patch_size, spec.patch_size, 3, width)
    pieces["patch_embedding/kernel"] = torch_patches(f"{prefix}{names.patch_embedding}.weight", patches)
    pieces["patch_embedding/bias"] = same(f"{prefix}{names.patch_embedding}.bias", (width,))
    pieces["class_token"] = same(f"{prefix}{names.class_token}", (1, 1, width))
    place = with_class_row if not parts.class_position else same
    pieces["position_embedding"] = place(f"{prefix}{names.position_embedding}", (1, spec.num_tokens, width))
    for index in range(spec.num_layers):
        name = layer_name(index)
        scales: tuple[str | None, str | None] = (None, None)
        if parts.layer_scale and names.layer_scale is not None:
            first, second = names.layer_scale
            scales = (f"{prefix}{first.format(index)}", f"{prefix}{second.format(index)}")
        norm(f"{name}/attention_norm", names.attention_norm.format(index))
        for third, part in enumerate(("query", "key", "value")):
            kernel, bias = f"{name}/attention/{part}/kernel", f"{name}/attention/{part}/bias"
            if names.fused_weight:
                pieces[kernel] = torch_third(f"{prefix}{names.fused_weight.format(index)}", third, (width, width))
                pieces[bias] = torch_third(f"{prefix}{names.fused_bias.format(index)}", third, (width,))
            else:
                own = getattr(names, part).format(index)
                dense(f"{name}/attention/{part}", own, width, width)
            if not parts.qkv_bias:
                pieces[bias] = zeros((width,))
        dense(f"{name}/attention/output", names.output.format(index), width, width, scales[0])
        norm(f"{name}/mlp_norm", names.mlp_norm.format(index))
        dense(f"{name}/mlp/dense_1", names.dense_1.format(index), width, mlp)
        dense(f"{name}/mlp/dense_2", names.dense_2.format(index), mlp, width, scales[1])
    norm("encoder/norm", names.norm)
    if spec.pre_logits_size is not None:
        dense("pre_logits", names.pre_logits, width, spec.pre_logits_size)
    if spec.num_classes is not None:
        dense("head", names.head, spec.representation_size, spec.num_classes)
    return Layout(spec, pieces, excused)


def prefix_before(file: TensorFile, anchor: str) -> str | None:
    """What comes before `anchor` in the only key that ends with it (`module.`, `model.`, …), None without one."""
    found = [key.removesuffix(anchor) for key in file.tensors if key == anchor or key.endswith(f".{anchor}")]
    return found[0] if len(found) == 1 else None


def refuse(file: TensorFile, prefix: str, unsupported: dict[str, str]) -> None:
    """Raise InputError for the first key that contains one of `unsupported`, naming the part of a model it is."""
    for key in file.tensors:
        for part, what in unsupported.items():
            if part in key.removeprefix(prefix):
                raise InputError(
                    f"{file.path} has {what} ({key}), expected a plain Vision Transformer with a class token: "
                    "vit-export does not build that part."
                )
