"""Layouts of PyTorch packages as tables: timm, torchvision and Hugging Face name the same parts differently.

All store Dense kernels as [out, in] and the patch embedding as [out, channel, height, width].
"""

from collections.abc import Mapping, Sequence
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
    head: "Head | None" = None
    """Where the classifier is."""


@dataclass(frozen=True)
class Head:
    """The one Dense of a classifier: `key` is what comes before `.weight`."""

    key: str
    num_classes: int
    bias: bool


def torch_layout(
    spec: ViTSpec, names: TorchNames, prefix: str, parts: Parts, excused: Mapping[str, str], assumed: Mapping[str, str]
) -> Layout:
    """Where every canonical parameter of `spec` is; `prefix` comes before every key but the classifier's."""
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
    if parts.head is not None:
        key, classes = parts.head.key, parts.head.num_classes
        pieces["head/kernel"] = torch_dense(f"{key}.weight", (spec.representation_size, classes))
        pieces["head/bias"] = same(f"{key}.bias", (classes,)) if parts.head.bias else zeros((classes,))
    return Layout(spec, pieces, excused, assumed)


def prefix_before(file: TensorFile, anchor: str) -> str:
    """What comes before `anchor` in the only key that ends with it (`module.`, `model.`, …).

    Raises:
        InputError: there are several such keys, so the file holds several models.
    """
    found = [key.removesuffix(anchor) for key in file.tensors if key == anchor or key.endswith(f".{anchor}")]
    if len(found) > 1:
        listed = ", ".join(repr(prefix) for prefix in sorted(found)[:4]) + ", …" * (len(found) > 4)
        raise InputError(
            f"{file.path} holds {len(found)} models, whose keys start with {listed}: save the tensors of the one that "
            "is meant in a file of their own (of a model and its average in training, usually the average)."
        )
    return found[0]


def find_head(
    file: TensorFile, stem: str, usual: str = "", beside: Sequence[str] = ()
) -> tuple[Head | None, dict[str, str]]:
    """The one Dense below `stem` (`heads.weight`, `heads.0.weight`, …), and what is assumed of it; None without one.

    `usual` is what the package itself calls it below `stem`; `beside` are names below `stem` that are something else.
    People replace a classifier by a Linear or a Sequential with one, whose parts without tensors leave no trace.

    Raises:
        InputError: there is more than one Dense below `stem`.
    """
    below = [
        key
        for key in file.tensors
        if key.startswith(f"{stem}.") and not any(key.startswith(f"{stem}.{name}.") for name in beside)
    ]
    if not below:
        return None, {}
    kernels = [key for key in below if key.endswith(".weight") and len(file.tensors[key].shape) == 2]
    key = kernels[0].removesuffix(".weight") if kernels else stem
    if not kernels or not set(below) <= {f"{key}.weight", f"{key}.bias"}:
        listed = ", ".join(sorted(below)[:4]) + ", …" * (len(below) > 4)
        raise InputError(
            f"{file.path} has a classifier that is more than one Dense ({listed}): vit-export builds one; export the "
            f"model without it (save the tensors but those of {stem}) and run the classifier on its features."
        )
    head = Head(key, file.tensors[f"{key}.weight"].shape[0], f"{key}.bias" in file.tensors)
    if key == stem + (usual and f".{usual}"):
        return head, {}
    return head, {"classifier": f"nothing but the Dense {key} in the classifier"}


def refuse(file: TensorFile, prefix: str, unsupported: dict[str, str]) -> None:
    """Raise InputError for the first key that contains one of `unsupported`, naming the part of a model it is."""
    for key in file.tensors:
        for part, what in unsupported.items():
            if part in key.removeprefix(prefix):
                raise InputError(
                    f"{file.path} has {what} ({key}), expected a plain Vision Transformer with a class token: "
                    "vit-export does not build that part."
                )
