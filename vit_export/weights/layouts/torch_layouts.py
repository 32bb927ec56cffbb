"""Layouts of PyTorch packages as tables: timm, torchvision and Hugging Face name the same parts differently.

All store Dense kernels as [out, in] and the patch embedding as [out, channel, height, width].
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vit_export.base.errors import InputError
from vit_export.model.parameters import layer_name
from vit_export.model.record import Rule
from vit_export.model.spec import ViTSpec
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import (
    Layout,
    Piece,
    Shape,
    grey_patches,
    reshaped,
    same,
    scaled_by,
    sum_of,
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
    query_bias: str = ""
    value_bias: str = ""
    """Whole keys of what a package stores apart, beside a fused weight."""
    layer_scale: tuple[str, str] | None = None
    """Vectors that scale the outputs of attention and MLP, where a checkpoint has them."""
    pre_logits: str = ""
    register_tokens: str = ""
    embedding_norm: str = ""
    pooling: "PoolingNames | None" = None


@dataclass(frozen=True)
class PoolingNames:
    """What one package calls the parts of attention pooling (SigLIP's head), as in `TorchNames`.

    `fused_weight` and `fused_bias` hold query, key and value (torch's MultiheadAttention) or, with a `query` of its
    own, key and value (timm).
    """

    probe: str
    fused_weight: str
    fused_bias: str
    output: str
    norm: str
    dense_1: str
    dense_2: str
    query: str = ""


@dataclass(frozen=True)
class Parts:
    """What of the optional parts a checkpoint has."""

    qkv_bias: bool = True
    layer_scale: bool = False
    class_position: bool = True
    """The position embedding has a row for the class token."""
    head: "Head | None" = None
    """Where the classifier is."""
    patch_bias: bool = True
    key_bias: bool = True
    """False where queries and values have a bias and keys none (DINOv3)."""
    pre_logits: str = ""
    """Key of the pre-logits layer without `.weight`, where it is beside the backbone and not in it."""
    pre_logits_bias: bool = True
    register_positions: bool = False
    """The position embedding has rows for the registers, which are added to them."""
    distillation: "Distillation | None" = None


@dataclass(frozen=True)
class Distillation:
    """DeiT's second token and classifier: key of the token, and the classifier that reads it, where one does.

    The answer is the mean of both classifiers' logits. The token is a register that has a position.
    """

    token: str
    head: "Head | None"


@dataclass(frozen=True)
class Head:
    """The one Dense of a classifier: `key` is what comes before `.weight`."""

    key: str
    num_classes: int
    bias: bool


def torch_layout(
    file: TensorFile,
    spec: ViTSpec,
    names: TorchNames,
    prefix: str,
    parts: Parts,
    excused: Mapping[str, str],
    assumed: Mapping[str, str],
    positions: Rule | None = None,
) -> Layout:
    """Where every canonical parameter of `spec` is; `prefix` comes before every key but the classifier's.

    Raises:
        InputError: images of another number of channels than 3 or 1.
    """
    patches = f"{prefix}{names.patch_embedding}.weight"
    grey = _channels(file, patches) == 1
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

    bias = f"{prefix}{names.patch_embedding}.bias"
    cut = grey_patches if grey else torch_patches
    pieces["patch_embedding/kernel"] = cut(patches, (spec.patch_size, spec.patch_size, 3, width))
    pieces["patch_embedding/bias"] = same(bias, (width,)) if parts.patch_bias else zeros((width,))
    pieces |= _tokens(file, spec, names, prefix, parts)
    if spec.embedding_norm:
        norm("embedding_norm", names.embedding_norm)
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
                apart = {"query": names.query_bias, "value": names.value_bias}.get(part, "")
                pieces[bias] = (
                    same(f"{prefix}{apart.format(index)}", (width,))
                    if apart
                    else torch_third(f"{prefix}{names.fused_bias.format(index)}", third, (width,))
                )
            else:
                own = getattr(names, part).format(index)
                dense(f"{name}/attention/{part}", own, width, width)
            if not parts.qkv_bias or (part == "key" and not parts.key_bias):
                pieces[bias] = zeros((width,))
        dense(f"{name}/attention/output", names.output.format(index), width, width, scales[0])
        norm(f"{name}/mlp_norm", names.mlp_norm.format(index))
        dense(f"{name}/mlp/dense_1", names.dense_1.format(index), width, mlp)
        dense(f"{name}/mlp/dense_2", names.dense_2.format(index), mlp, width, scales[1])
    norm("encoder/norm", names.norm)
    if spec.pooling == "attention" and names.pooling is not None:
        pieces |= _pooling(file, spec, names.pooling, prefix)
    if spec.pre_logits_size is not None:
        own, shape = parts.pre_logits or f"{prefix}{names.pre_logits}", (spec.pooled_size, spec.pre_logits_size)
        pieces["pre_logits/kernel"] = torch_dense(f"{own}.weight", shape)
        pieces["pre_logits/bias"] = same(f"{own}.bias", shape[1:]) if parts.pre_logits_bias else zeros(shape[1:])
    if parts.head is not None:
        pieces |= _classifier(spec, parts.head, parts.distillation)
    return Layout(spec, pieces, excused, assumed, positions, grey=grey)


def _channels(file: TensorFile, key: str) -> int:
    """The channels of the images that a patch embedding takes, 3 or 1.

    Raises:
        InputError: another number.
    """
    stored = file.tensors.get(key)
    channels = stored.shape[1] if stored is not None and len(stored.shape) == 4 else 3
    if channels not in (1, 3):
        raise InputError(
            f"{file.path} is for images of {channels} channels, expected 3 (red, green and blue) or 1 (grey): "
            "vit-export builds models of pictures alone."
        )
    return channels


def _tokens(file: TensorFile, spec: ViTSpec, names: TorchNames, prefix: str, parts: Parts) -> dict[str, Piece]:
    """Class token, registers and position embedding; some packages store tokens without their axes of length 1."""
    width, pieces = spec.hidden_size, dict[str, Piece]()

    def stored(key: str, shape: Shape) -> Piece:
        found = file.tensors.get(key)
        plain = found is not None and found.shape != shape and found.shape == tuple(n for n in shape if n != 1)
        return reshaped(key, found.shape, shape) if found is not None and plain else same(key, shape)

    if spec.class_token:
        pieces["class_token"] = stored(f"{prefix}{names.class_token}", (1, 1, width))
    positions, registers = f"{prefix}{names.position_embedding}", spec.num_registers
    shape = (1, spec.num_positions, width)
    if registers:
        token = names.register_tokens if parts.distillation is None else parts.distillation.token
        pieces["register_tokens"] = stored(f"{prefix}{token}", (1, registers, width))
    if registers and (parts.register_positions or parts.distillation is not None):
        rows = slice(int(spec.class_token), spec.class_token + registers)
        whole = (1, spec.num_positions + registers, width)
        own = Piece((positions,), (whole,), lambda values: values[:, rows])
        pieces["register_tokens"] = sum_of(pieces["register_tokens"], own)
        pieces["position_embedding"] = Piece((positions,), (whole,), lambda values: np.delete(values, rows, axis=1))
    elif spec.positions == "learned":
        without_class = spec.class_token and not parts.class_position
        pieces["position_embedding"] = with_class_row(positions, shape) if without_class else stored(positions, shape)
    return pieces


def _pooling(file: TensorFile, spec: ViTSpec, names: PoolingNames, prefix: str) -> dict[str, Piece]:
    """The parts of attention pooling."""
    width, mlp, pieces = spec.hidden_size, spec.mlp_size, dict[str, Piece]()
    pieces["pooling/probe"] = same(f"{prefix}{names.probe}", (1, 1, width))
    fused = ("query", "key", "value")[bool(names.query) :]
    weight, bias = f"{prefix}{names.fused_weight}", f"{prefix}{names.fused_bias}"
    stored = len(fused) * width
    for number, part in enumerate(fused):
        rows = (number * width, (number + 1) * width)
        pieces[f"pooling/{part}/kernel"] = Piece(
            (weight,), ((stored, width),), lambda values, rows=rows: values[slice(*rows)].T
        )
        pieces[f"pooling/{part}/bias"] = Piece((bias,), ((stored,),), lambda values, rows=rows: values[slice(*rows)])
    dense = {"output": (names.output, width, width), "mlp/dense_1": (names.dense_1, width, mlp)}
    dense |= {"mlp/dense_2": (names.dense_2, mlp, width)}
    if names.query:
        dense["query"] = (names.query, width, width)
    for part, (key, inputs, outputs) in dense.items():
        pieces[f"pooling/{part}/kernel"] = torch_dense(f"{prefix}{key}.weight", (inputs, outputs))
        pieces[f"pooling/{part}/bias"] = same(f"{prefix}{key}.bias", (outputs,))
    pieces["pooling/norm/scale"] = same(f"{prefix}{names.norm}.weight", (width,))
    pieces["pooling/norm/bias"] = same(f"{prefix}{names.norm}.bias", (width,))
    return pieces


def _classifier(spec: ViTSpec, head: Head, distillation: Distillation | None) -> dict[str, Piece]:
    """The classifier; of two whose logits are averaged, one that reads both tokens side by side."""

    def of(one: Head, inputs: int) -> tuple[Piece, Piece]:
        bias = same(f"{one.key}.bias", (one.num_classes,)) if one.bias else zeros((one.num_classes,))
        return torch_dense(f"{one.key}.weight", (inputs, one.num_classes)), bias

    if distillation is None or distillation.head is None:
        kernel, bias = of(head, spec.representation_size)
    else:
        (first, first_bias), (second, second_bias) = of(head, spec.hidden_size), of(distillation.head, spec.hidden_size)
        kernel = Piece(
            (*first.keys, *second.keys),
            (*first.shapes, *second.shapes),
            lambda one, other: np.concatenate([one.T, other.T]) / 2,
        )
        both = sum_of(first_bias, second_bias)
        bias = Piece(both.keys, both.shapes, lambda *tensors: both.make(*tensors) / 2)
    return {"head/kernel": kernel, "head/bias": bias}


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


def refuse(file: TensorFile, prefix: str, unsupported: Mapping[str, str], excused: Collection[str] = ()) -> None:
    """Raise InputError for the first key that contains one of `unsupported`, naming the part of a model it is.

    Keys of `excused` are passed by.
    """
    for key in (key for key in file.tensors if key not in excused):
        for part, what in unsupported.items():
            if part in key.removeprefix(prefix):
                raise InputError(f"{file.path} has {what} ({key}): vit-export does not build that part.")
