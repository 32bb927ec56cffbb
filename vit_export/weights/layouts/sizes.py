"""From the shapes in a checkpoint to a spec: what tensors say, what a config adds, what the table of variants knows.

What none of them says is asked for, or assumed: then the assumption goes with the spec, in words.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.model.spec import MAX_IMAGE_SIZE, MAX_LAYERS, MAX_MLP_WIDTH, MAX_WIDTH, ViTSpec
from vit_export.model.variants import VARIANTS, Variant
from vit_export.weights.containers.tensors import StoredTensor, TensorFile

USUAL_HEAD_SIZE = 64
"""Width of an attention head in every variant of the paper below H."""

OTHER_HEADS = {384: "12 in MoCo v3's ViT-S"}
"""By width: published models of a variant's sizes with other heads than the variant (facebookresearch/moco-v3)."""


@dataclass(frozen=True)
class Hints:
    """What is known beside the tensors: what a user named, and the config files of the checkpoint.

    `pixels` are fields of `Preprocessing` that the user gave, which need not be read; `image_size` is the user's too.
    """

    variant: Variant | None = None
    num_heads: int | None = None
    image_size: int | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    preprocessor: Mapping[str, Any] | None = None
    config_path: Path | None = None
    described_as: str = ""
    """File or repository name, in which publishers say what a checkpoint was trained on."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that shapes tell. `num_heads` is None where they do not.

    `image_sizes` are the sides of the images that config files state, by the files' names; `square` says that the
    package knows no other images.
    """

    patch_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_patches: int
    num_classes: int | None = None
    num_heads: int | None = None
    pre_logits_size: int | None = None
    image_sizes: Mapping[str, int] = field(default_factory=dict)
    square: bool = False
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    """`layer_norm_epsilon` and `gelu`."""


def shape_of(file: TensorFile, key: str, rank: int) -> tuple[int, ...]:
    """Shape of the tensor `key`, of `rank` axes.

    Raises:
        InputError: there is none, or it has another number of axes.
    """
    tensor: StoredTensor | None = file.tensors.get(key)
    if tensor is None:
        raise InputError(
            f"{file.path} has no tensor {key}, by which the model's sizes would be known: it is incomplete."
        )
    if len(tensor.shape) != rank or 0 in tensor.shape:
        raise InputError(f"{key} in {file.path} has shape {list(tensor.shape)}, expected {rank} axes.")
    return tensor.shape


def layer_count(keys: Iterable[str], before: str, after: str = ".") -> int:
    """How many layers the keys `before`N`after`… number, counted from 0.

    A missing one in between is found when every key is accounted for.
    """
    numbers = set()
    for key in keys:
        if key.startswith(before):
            number = key[len(before) :].partition(after)[0]
            if number.isdecimal() and len(number) <= 4:
                numbers.add(int(number))
    return max(numbers) + 1 if numbers else 0


def spec_of(file: TensorFile, sizes: Sizes, hints: Hints) -> tuple[ViTSpec, dict[str, str]]:
    """The spec of a checkpoint of `sizes`, and what had to be assumed of it (see `ModelRecord.assumed`).

    It has a variant's name where the table has those sizes, else a name made of them.

    Raises:
        InputError: sizes that no Vision Transformer has, a variant named that the checkpoint is not, or a number of
            heads that nothing tells.
    """
    grid = math.isqrt(sizes.num_patches)
    if not sizes.num_patches or grid * grid != sizes.num_patches:
        raise InputError(
            f"The position embedding in {file.path} is for {sizes.num_patches} patches, expected a square number: "
            "only square images are supported."
        )
    limits = {
        "encoder layers": (sizes.num_layers, MAX_LAYERS),
        "a width of": (sizes.hidden_size, MAX_WIDTH),
        "an MLP width of": (sizes.mlp_size, MAX_MLP_WIDTH),
        "pixels along one side": (grid * sizes.patch_size, MAX_IMAGE_SIZE),
    }
    for what, (size, most) in limits.items():
        if not 1 <= size <= most:
            raise InputError(f"{file.path} has {what} {size}, expected 1 to {most}: it is no Vision Transformer.")
    heads, assumed = _heads(file, sizes, hints)
    row = next((v for v in VARIANTS.values() if _numbers(v) == (*_of(sizes), heads)), None)
    found = row or Variant(
        f"vit_l{sizes.num_layers}_d{sizes.hidden_size}_p{sizes.patch_size}", *_of(sizes), heads, use="own sizes"
    )
    spec = ViTSpec.of(
        found,
        image_size=grid * sizes.patch_size,
        num_classes=sizes.num_classes,
        pre_logits_size=sizes.pre_logits_size,
        **sizes.arithmetic,
    )
    require_variant(spec, hints, file.path)
    others = {name: side for name, side in sizes.image_sizes.items() if side != spec.image_size}
    if hints.image_size not in (spec.image_size, *others.values()):
        images = f"images of {spec.image_size} pixels"
        if others:
            file_name, other = next(iter(others.items()))
            assumed["image size"] = f"{images}, where {file_name} says {other} (--image-size {other})"
        elif not sizes.image_sizes and not sizes.square:
            assumed["image size"] = f"square {images} ({grid} x {grid} patches)"
    return spec, assumed


def require_variant(spec: ViTSpec, hints: Hints, path: Path) -> None:
    """Raise InputError when `hints` name a variant or a number of heads that the `spec` at `path` does not have."""
    wanted = hints.variant
    if wanted is not None and _numbers(wanted) != _numbers(spec):
        if not any(_numbers(row) == _numbers(spec) for row in VARIANTS.values()):
            raise InputError(
                f"{path} holds a Vision Transformer of {_described(spec)}, which is no variant of the table: "
                f"leave {wanted.name} out."
            )
        raise InputError(
            f"{path} holds {spec.name} ({_described(spec)}), but {wanted.name} is {_described(wanted)}: "
            "name the variant that it holds, or none."
        )
    if hints.num_heads is not None and hints.num_heads != spec.num_heads:
        raise InputError(
            f"{path} has {spec.num_heads} attention heads, {hints.num_heads} were asked for: leave --num-heads out."
        )


def _heads(file: TensorFile, sizes: Sizes, hints: Hints) -> tuple[int, dict[str, str]]:
    """From the tensors or config, from the user, or from the table, which is an assumption unless the user named a row.

    Other widths are divided by rules that differ from package to package: nothing but asking is left.
    """
    heads, assumed = sizes.num_heads or hints.num_heads, {}
    if heads is None:
        rows = [v for v in VARIANTS.values() if _numbers(v)[1:4] == _of(sizes)[1:]]
        other = OTHER_HEADS.get(sizes.hidden_size) if hints.variant not in rows else None
        if len({v.num_heads for v in rows}) != 1 or other is not None:
            likely = sizes.hidden_size / USUAL_HEAD_SIZE
            usual = f" ({likely:g} is usual: heads of {USUAL_HEAD_SIZE})" if likely.is_integer() else ""
            usual = f" ({likely:g} is usual, {other})" if other else usual
            raise InputError(
                f"{file.path} does not say how many attention heads its width of {sizes.hidden_size} is divided into: "
                f"give --num-heads{usual}, or put the model's config.json beside it."
            )
        heads = rows[0].num_heads
        if hints.variant not in rows:
            assumed["heads"] = f"{heads} attention heads, as {rows[0].name} has"
    if heads < 1 or sizes.hidden_size % heads:
        raise InputError(
            f"{heads} attention heads do not divide the width {sizes.hidden_size} of {file.path}: "
            "expected a divisor of it."
        )
    return heads, assumed


def _of(sizes: Sizes) -> tuple[int, int, int, int]:
    return sizes.patch_size, sizes.num_layers, sizes.hidden_size, sizes.mlp_size


def _numbers(model: Variant | ViTSpec) -> tuple[int, ...]:
    return (model.patch_size, model.num_layers, model.hidden_size, model.mlp_size, model.num_heads)


def _described(model: Variant | ViTSpec) -> str:
    patch, layers, width, mlp, heads = _numbers(model)
    return f"patch {patch}, {layers} layers, width {width}, MLP {mlp}, {heads} heads"
