"""From the shapes in a checkpoint to a spec: what tensors say, what a config adds, what the table of variants knows.

What none of them says is asked for, or assumed: then the assumption goes with the spec, in words.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.model.spec import (
    MAX_IMAGE_SIZE,
    MAX_LAYERS,
    MAX_MLP_WIDTH,
    MAX_WIDTH,
    ImageSize,
    ViTSpec,
    shown_size,
    sides_of,
)
from vit_export.model.variants import VARIANTS, Variant
from vit_export.weights.containers.tensors import StoredTensor, TensorFile

USUAL_HEAD_SIZE = 64
"""Width of an attention head in every variant of the paper below H."""

OTHER_HEADS = {384: "12 in MoCo v3's ViT-S", 1152: "16 in SigLIP's so400m"}
"""By width: published models with other heads than a variant of the same sizes, or than is usual."""


@dataclass(frozen=True)
class Hints:
    """What is known beside the tensors: what a user named, and the config files of the checkpoint.

    `pixels` are fields of `Preprocessing` that the user gave, which need not be read; `image_size` is the user's too.
    """

    variant: Variant | None = None
    num_heads: int | None = None
    image_size: ImageSize | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] | None = None
    preprocessor: Mapping[str, Any] | None = None
    config_path: Path | None = None
    described_as: str = ""
    """File or repository name, in which publishers say what a checkpoint was trained on."""


@dataclass(frozen=True)
class Sizes:
    """The sizes that shapes tell. `num_heads` is None where they do not.

    `image_sizes` are the sizes of the images that config files state, by the files' names; `square` says that the
    package knows no other images. `num_patches` is None for a model whose tensors do not tell (rotary positions), and
    `image_sizes` or the user then must.
    """

    patch_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_patches: int | None
    num_classes: int | None = None
    num_heads: int | None = None
    pre_logits_size: int | None = None
    image_sizes: Mapping[str, ImageSize] = field(default_factory=dict)
    square: bool = False
    arithmetic: Mapping[str, Any] = field(default_factory=dict)
    """What else differs from the paper's model, as fields of `ViTSpec`: `layer_norm_epsilon`, `gelu`, `pooling`, …"""


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
    image_size, said = _image_size(file, sizes, hints)
    limits = {
        "encoder layers": (sizes.num_layers, MAX_LAYERS),
        "a width of": (sizes.hidden_size, MAX_WIDTH),
        "an MLP width of": (sizes.mlp_size, MAX_MLP_WIDTH),
        "pixels along one side": (max(sides_of(image_size)), MAX_IMAGE_SIZE),
    }
    for what, (size, most) in limits.items():
        if not 1 <= size <= most:
            raise InputError(f"{file.path} has {what} {size}, expected 1 to {most}: it is no Vision Transformer.")
    heads, assumed = _heads(file, sizes, hints)
    found = _row((*_of(sizes), heads))
    arithmetic = dict(sizes.arithmetic)
    if any(side % sizes.patch_size for side in sides_of(image_size)):
        arithmetic["ignores_border"] = True
    spec = ViTSpec.of(
        found,
        image_size=image_size,
        num_classes=sizes.num_classes,
        pre_logits_size=sizes.pre_logits_size,
        **arithmetic,
    )
    require_variant(spec, hints, file.path)
    return spec, said | assumed


def name_of_sizes(spec: ViTSpec) -> str:
    """What models of the sizes of `spec` are called that have no name of their own."""
    return _row(_numbers(spec)).name


def _row(numbers: tuple[int, int, int, int, int]) -> Variant:
    """The variant of these sizes (as `_numbers` gives them), or a row for them that is called like them."""
    row = next((v for v in VARIANTS.values() if _numbers(v) == numbers), None)
    patch, layers, width, *_ = numbers
    return row or Variant(f"vit_l{layers}_d{width}_p{patch}", *numbers, "own sizes")


def _image_size(file: TensorFile, sizes: Sizes, hints: Hints) -> tuple[ImageSize, dict[str, str]]:
    """The size of images whose patches the position embedding has rows for, and what is assumed of it.

    That of the config files where it has as many patches, else a square, else what the user says: patches that make a
    square are hardly ever of other images, so that --image-size then asks for positions resampled to it. A size that
    does not fit is said, and so is one that nobody stated.

    Raises:
        InputError: the patches make no square, and nobody stated a size of so many; or nothing tells of any size.
    """
    patch, patches = sizes.patch_size, sizes.num_patches
    grid, given = math.isqrt(patches or 0), hints.image_size
    fitting = [size for size in sizes.image_sizes.values() if patches in (None, _patches(size, patch))]
    # Images whose border fills no patch are SigLIP's alone; of others such a size is a slip.
    borders = (
        sizes.arithmetic.get("pooling") == "attention" and given is not None and _grid(given, patch) == (grid, grid)
    )
    if not fitting and given is not None and (patches is None or grid * grid != patches or borders):
        fitting = [given] if patches in (None, _patches(given, patch)) else []
    size = next(iter(fitting), None)
    if size is None and patches is None:
        raise InputError(
            f"{file.path} does not say for images of which size it is: give --image-size, a multiple of {patch}, or "
            "put the model's config.json beside it."
        )
    if size is None and grid * grid != patches:
        raise InputError(
            f"The position embedding in {file.path} is for {patches} patches, which make no square: give the size of "
            "its images (--image-size HEIGHTxWIDTH), or put the model's config.json beside it."
        )
    found = grid * patch if size is None else size
    others = {name: other for name, other in sizes.image_sizes.items() if other != found}
    if hints.image_size in (found, *others.values()):
        return found, {}
    images = f"images of {shown_size(found)} pixels"
    if others:
        name, other = next(iter(others.items()))
        return found, {
            "image size": f"{images}, where {name} says {shown_size(other)} (--image-size {shown_size(other)})"
        }
    if size is not None or sizes.square:
        return found, {}
    return found, {"image size": f"square {images} ({grid} x {grid} patches)"}


def _grid(size: ImageSize, patch: int) -> tuple[int, int]:
    height, width = sides_of(size)
    return height // patch, width // patch


def _patches(size: ImageSize, patch: int) -> int:
    return math.prod(_grid(size, patch))


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


def _numbers(model: Variant | ViTSpec) -> tuple[int, int, int, int, int]:
    return (model.patch_size, model.num_layers, model.hidden_size, model.mlp_size, model.num_heads)


def _described(model: Variant | ViTSpec) -> str:
    patch, layers, width, mlp, heads = _numbers(model)
    return f"patch {patch}, {layers} layers, width {width}, MLP {mlp}, {heads} heads"
