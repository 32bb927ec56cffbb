"""ViTSpec: everything that fixes one model's shapes and arithmetic, and what follows from it by formula."""

import math
import re
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from vit_export.base.checks import is_number, is_whole, whole_number
from vit_export.base.errors import InputError
from vit_export.model import head as heads
from vit_export.model import outputs
from vit_export.model.variants import Variant, get_variant

ImageSize = int | tuple[int, int]
"""The side of square images in pixels, or the (height, width) of others."""

Gelu = Literal["erf", "tanh", "quick"]
"""GELU exactly, by tanh (Hendrycks and Gimpel, 2016, section 2), or as x·sigmoid(1.702 x) (the same; CLIP's)."""

QUICK_GELU = 1.702
"""The factor of the last."""

Positions = Literal["learned", "rotary"]
"""An embedding that is added to the tokens, or rotations of queries and keys (`model.rotary`; DINOv3)."""

Pooling = Literal["class", "mean", "mean_all", "mean_norm", "class_and_mean", "class_and_distillation", "attention"]
"""What of the tokens a classifier reads: the class token; the mean of the patches after the final LayerNorm, or of all
tokens, or the LayerNorm of the patches' mean (MAE, timm's fc_norm); class token and mean (DINOv2) or class and
distillation token (DeiT) one after the other; or what attention with a learned query makes of them (SigLIP's head)."""

MAX_IMAGE_SIZE = 4096
MAX_CLASSES = 1_000_000
MAX_LAYERS, MAX_WIDTH, MAX_MLP_WIDTH = 256, 16_384, 65_536
"""Larger than any Vision Transformer so far; what claims to be more is no model."""

MAX_REGISTERS = 64

_SIDES = ("height", "width")
UNIT_EPSILON = 1e-12
"""Added to the square of an embedding's length before it is divided by that: no number is divided by 0."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "gelu": get_args(Gelu),
    "positions": get_args(Positions),
    "pooling": get_args(Pooling),
    "pre_logits_activation": ("tanh", "linear"),
}

LONGEST_NAME = 100
# Exported files are called by it; what comes before the first dot of a name is a device under Windows, if it is one.
_NAME = re.compile(rf"(?!(?i:con|prn|aux|nul|com[0-9]|lpt[0-9])\.)[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")


def is_name(text: object) -> bool:
    """Whether a model can be called `text`."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def require_name(what: str, text: object) -> None:
    """Raise InputError unless a model can be called `text`, which messages call `what`."""
    if not is_name(text):
        given = ascii(text)
        given = given if len(given) <= 60 else f"{given[:60]}…"
        raise InputError(
            f"{what} is {given}, expected 1 to {LONGEST_NAME} letters, digits, '.', '_' or '-', the first a letter or "
            "digit, and no device of Windows ('con.1'): files are called by it."
        )


@dataclass(frozen=True)
class ViTSpec:
    """A Vision Transformer to be built: a variant's sizes, an image size, a head (or none) and its arithmetic.

    `image_size` is the side of square images in pixels, or their (height, width). `num_classes` is None for a model
    without classifier. `pre_logits_size` is the width of a Dense between what is pooled and what follows (Google's
    representation layer, Hugging Face's pooler, CLIP's projection), None where there is none; `pre_logits_activation`
    is what it ends in. `head` are the steps between that and the classifier's own Dense (`model.head`), no part of a
    model without classifier. `name` is what files are called: at most 100 ASCII letters, digits, '.', '_' and '-'.

    The defaults of the rest are those of the paper's model. `num_registers` tokens without position follow the class
    token (Darcet et al., 2024; a distillation token with its position added is one, too). `embedding_norm` is a
    LayerNorm before the first layer (CLIP). With `ignores_border` the pixels at the right and lower edge that fill no
    patch are left out (SigLIP's so400m: 384 pixels, patches of 14).

    `returns` are the outputs of files, of `RETURNS` and in that order; empty for the usual one (`outputs`). What none
    of them needs is no part of the model. With `l2_normalize` features and pooled embeddings are divided by their
    length.

    Raises:
        InputError: on construction, when no model can be built of these values.
    """

    name: str
    patch_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    image_size: ImageSize = 224
    num_classes: int | None = 1000
    layer_norm_epsilon: float = 1e-6
    gelu: Gelu = "erf"
    pre_logits_size: int | None = None
    pre_logits_activation: Literal["tanh", "linear"] = "tanh"
    class_token: bool = True
    num_registers: int = 0
    positions: Positions = "learned"
    embedding_norm: bool = False
    pooling: Pooling = "class"
    ignores_border: bool = False
    head: tuple[heads.Step, ...] = ()
    returns: tuple[str, ...] = ()
    l2_normalize: bool = False

    def __post_init__(self) -> None:
        require_name("A model's name", self.name)
        whole_number("patch_size", self.patch_size, 1, MAX_IMAGE_SIZE)
        whole_number("num_layers", self.num_layers, 1, MAX_LAYERS)
        whole_number("hidden_size", self.hidden_size, 1, MAX_WIDTH)
        whole_number("mlp_size", self.mlp_size, 1, MAX_MLP_WIDTH)
        whole_number("num_heads", self.num_heads, 1, MAX_WIDTH)
        if self.pre_logits_size is not None:
            whole_number(
                "pre_logits_size",
                self.pre_logits_size,
                1,
                MAX_MLP_WIDTH,
                advice="; None for a model without that layer",
            )
        self._check_image_size()
        if self.num_classes is not None:
            advice = "; for a model without classifier ask for features instead (--features, include_top=False)"
            whole_number("num_classes", self.num_classes, 1, MAX_CLASSES, advice=advice)
        if not is_number(self.layer_norm_epsilon) or not 0 < self.layer_norm_epsilon < 1:
            raise InputError(
                f"layer_norm_epsilon is {self.layer_norm_epsilon!r}, expected a small positive number (1e-6)."
            )
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                listed = " or ".join(repr(choice) for choice in choices)
                raise InputError(f"{field} is {getattr(self, field)!r:.60}, expected {listed}.")
        whole_number("num_registers", self.num_registers, 0, MAX_REGISTERS)
        for field in ("class_token", "embedding_norm", "ignores_border", "l2_normalize"):
            if not isinstance(getattr(self, field), bool):
                raise InputError(f"{field} is {getattr(self, field)!r:.60}, expected true or false.")
        if self.hidden_size % self.num_heads:
            raise InputError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}.")
        if self.positions == "rotary" and self.head_size % 4:
            raise InputError(f"Heads of {self.head_size} channels cannot be rotated: expected a multiple of 4.")
        if not self.class_token and self.pooling.startswith("class"):
            raise InputError(f"A model without class token cannot have pooling {self.pooling!r}.")
        if self.pooling == "class_and_distillation" and self.num_registers != 1:
            raise InputError(f"A model with a distillation token has {self.num_registers} registers, expected 1.")
        object.__setattr__(self, "head", () if self.num_classes is None else heads.checked(self.head))
        # The usual output is not named, so that a model is the same whether or not it was asked for.
        object.__setattr__(self, "returns", outputs.checked(self))

    @classmethod
    def of(cls, variant: str | Variant, **overrides: Any) -> Self:
        """The spec of `variant` with `image_size`, `num_classes` or other fields that are not in the table overridden.

        Raises:
            InputError: unknown variant, an image size the patch does not divide, a class count below 1.
        """
        row = get_variant(variant) if isinstance(variant, str) else variant
        sizes = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "use"}
        return cls(**sizes, **overrides)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; unknown keys are refused, and missing ones that have no default."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(
                f"Unknown fields in a model spec: {', '.join(unknown)}; expected {', '.join(sorted(known))}."
            )
        needed = {f.name for f in fields(cls) if f.default is MISSING}
        if missing := sorted(needed - set(values)):
            raise InputError(f"Fields missing in a model spec: {', '.join(missing)}; add them.")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        own = {"head": [list(step) for step in self.head], "returns": list(self.returns)}
        return {**asdict(self), "image_size": json_size(self.image_size), **own}

    def with_(self, **changes: Any) -> Self:
        """A copy with `changes`, which are checked."""
        return replace(self, **changes)

    def is_same_model(self, other: "ViTSpec") -> bool:
        """Whether both are one model, whatever each is called."""
        return replace(self, name=other.name) == other

    def returning(self, names: Sequence[str], *, l2_normalize: bool = False) -> Self:
        """The part of the model that returns `names` alone: without classifier and pre-logits layer where none asks.

        Raises:
            InputError: there is no such output.
        """
        read = "logits" in names
        return self.with_(
            returns=tuple(names),
            l2_normalize=l2_normalize,
            num_classes=self.num_classes if read else None,
            pre_logits_size=self.pre_logits_size if read or "pooled" in names else None,
        )

    def _check_image_size(self) -> None:
        size, patch = self.image_size, self.patch_size
        sides = _two_sides("Image size", size)
        square = not isinstance(size, list | tuple) or sides[0] == sides[1]
        for place, side in enumerate(sides):
            # Of a square the size is wrong, of another shape one of its sides.
            which = "Image size" if square else f"Image size {sides[0]!r:.30}x{sides[1]!r:.30}: its {_SIDES[place]}"
            if not is_whole(side, patch) or side > MAX_IMAGE_SIZE:
                raise InputError(
                    f"{which} {side!r:.60} is out of range for {self.name}: "
                    f"expected a multiple of {patch} from {patch} to {MAX_IMAGE_SIZE // patch * patch}."
                )
            if side % patch and not self.ignores_border:
                near = (n for n in (side // patch * patch, (side // patch + 1) * patch) if patch <= n <= MAX_IMAGE_SIZE)
                choices = [shown_size(n if square else (*sides[:place], n, *sides[place + 1 :])) for n in near]
                raise InputError(
                    f"{which} {side} is not a multiple of {self.name}'s patch size {patch}: use {' or '.join(choices)}."
                )
        object.__setattr__(self, "image_size", sides[0] if square else sides)

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """The outputs of files by name, first that which an app reads: the shape of each for one image.

        The usual one is logits [classes] with a classifier, else pooled [R] with a pre-logits layer, else features [D];
        tokens are [T, D].
        """
        return outputs.shapes_of(self)

    @property
    def embeds(self) -> bool:
        """Whether something is pooled of the tokens: what does it is no part of a model that returns tokens alone."""
        return self.returns != ("tokens",)

    @property
    def final_norm(self) -> bool:
        """Whether there is a final LayerNorm: one that follows the mean is no part of a model that makes none."""
        return self.embeds or self.pooling != "mean_norm"

    @property
    def returns_normed(self) -> bool:
        """Whether an output is what the final LayerNorm gives, so that nothing of it may be left to what follows."""
        if "tokens" in self.outputs and self.pooling != "mean_norm":
            return True
        return "features" in self.outputs and self.pooling != "attention"

    @property
    def attention_pooling(self) -> bool:
        """Whether attention pools the tokens."""
        return self.embeds and self.pooling == "attention"

    @property
    def image_sides(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return sides_of(self.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches from top to bottom and from left to right."""
        height, width = self.image_sides
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches per image, N."""
        return self.grid[0] * self.grid[1]

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches: class token and registers."""
        return self.class_token + self.num_registers

    @property
    def num_tokens(self) -> int:
        """Tokens per image, T: class token, registers, patches."""
        return self.num_prefix_tokens + self.num_patches

    @property
    def num_positions(self) -> int:
        """Rows of the position embedding: class token and patches; 0 where there is none."""
        return self.class_token + self.num_patches if self.positions == "learned" else 0

    @property
    def joins(self) -> bool:
        """Whether a classifier reads the class token and something else of the tokens behind it."""
        return self.pooling in ("class_and_mean", "class_and_distillation")

    @property
    def pooled_by(self) -> Pooling:
        """`pooling`, but that without classifier nothing is joined to the class token."""
        return "class" if self.joins and self.num_classes is None else self.pooling

    @property
    def kept_tokens(self) -> int:
        """How many of the first tokens are read after the last layer, which need not compute the others."""
        if "tokens" in self.returns:
            return self.num_tokens
        return {"class": 1, "class_and_distillation": 2}.get(self.pooled_by, self.num_tokens)

    @property
    def head_size(self) -> int:
        """Width of one attention head, d = D / heads."""
        return self.hidden_size // self.num_heads

    @property
    def output_name(self) -> str:
        """The first of `outputs`, which apps read and int8 is tuned for."""
        return next(iter(self.outputs))

    @property
    def output_size(self) -> int:
        """Numbers in the first output of one image."""
        return math.prod(self.outputs[self.output_name])

    @property
    def pooled_size(self) -> int:
        """Length of what is pooled from the tokens."""
        return self.hidden_size * (2 if self.joins and self.num_classes is not None else 1)

    @property
    def representation_size(self) -> int:
        """Length of what leaves the pre-logits layer: what is pooled where there is none."""
        return self.pooled_size if self.pre_logits_size is None else self.pre_logits_size

    @property
    def head_steps(self) -> tuple[heads.Placed, ...]:
        """`head` with names and widths."""
        return tuple(heads.placed(self.head, self.representation_size))

    @property
    def classifier_inputs(self) -> int:
        """Length of what the classifier's own Dense reads."""
        return heads.width_behind(self.head, self.representation_size)

    @property
    def num_parameters(self) -> int:
        """Exact parameter count: 3P²D + D + (1 + T)D + L(4D² + 2DM + 9D + M) + 2D, plus DC + C with a classifier.

        A pre-logits layer of width R adds DR + R, and the classifier is then RC + C; attention pooling adds
        4D² + 2DM + 8D + M, a Dense or LayerNorm of the head its own.
        """
        p, d, m = self.patch_size, self.hidden_size, self.mlp_size
        count = 3 * p * p * d + d + (self.num_prefix_tokens + self.num_positions) * d
        count += self.num_layers * (4 * d * d + 2 * d * m + 9 * d + m) + 2 * d * (self.final_norm + self.embedding_norm)
        if self.attention_pooling:
            count += 4 * d * d + 2 * d * m + 8 * d + m
        if self.pre_logits_size is not None:
            count += (self.pooled_size + 1) * self.pre_logits_size
        if self.num_classes is not None:
            count += (self.classifier_inputs + 1) * self.num_classes
        for step in self.head_steps:
            count += {heads.DENSE: (step.inputs + 1) * step.outputs, heads.NORM: 2 * step.inputs}.get(step.step.kind, 0)
        return count

    @property
    def num_macs(self) -> int:
        """Multiply-accumulates of one image: 3P²DN + L(4TD² + 2TDM + 2T²D) + DC (matrix products only).

        With a pre-logits layer of width R the last term is DR + RC; attention pooling adds TD(D + heads + 1) + D² +
        2DM, a Dense of the head its own.
        """
        p, d, m, t = self.patch_size, self.hidden_size, self.mlp_size, self.num_tokens
        macs = 3 * p * p * d * self.num_patches + self.num_layers * (4 * t * d * d + 2 * t * d * m + 2 * t * t * d)
        if self.attention_pooling:
            macs += t * d * (d + self.num_heads + 1) + d * d + 2 * d * m
        macs += self.pooled_size * (self.pre_logits_size or 0) + self.classifier_inputs * (self.num_classes or 0)
        return macs + sum(s.inputs * s.outputs for s in self.head_steps if s.step.kind == heads.DENSE)


def sides_of(size: ImageSize) -> tuple[int, int]:
    """Height and width in pixels of images of `size`."""
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return height, width


def checked_size(size: Any) -> ImageSize:
    """`size`, a number or two, as an image size: equal sides become one number, a list (JSON has no tuples) a tuple.

    Raises:
        InputError: a side is no whole number of pixels from 1 to MAX_IMAGE_SIZE, or there are more than two.
    """
    sides = _two_sides("image_size", size)
    for side in sides:
        whole_number("image_size", side, 1, MAX_IMAGE_SIZE, of="pixels")
    return sides[0] if sides[0] == sides[1] else sides


def json_size(size: ImageSize) -> int | list[int]:
    """`size` as JSON has it, whose lists `checked_size` takes back."""
    return list(size) if isinstance(size, tuple) else size


def shown_size(size: ImageSize) -> str:
    """`size` for people, and as options take it: 224, or 224x384 (height and width)."""
    return f"{size[0]}x{size[1]}" if isinstance(size, list | tuple) else str(size)


def shown_sides(size: ImageSize, times: str = "x") -> str:
    """Both sides of `size` for people: '224x224', or '224x384 (height x width)'."""
    height, width = sides_of(size)
    return f"{height}{times}{width}" + ("" if height == width else " (height x width)")


def _two_sides(name: str, size: Any) -> tuple[Any, Any]:
    """The sides of `size`, which need not be numbers."""
    if not isinstance(size, list | tuple):
        return size, size
    if len(size) != 2:
        raise InputError(f"{name} is {list(size)!s:.60}, expected one number of pixels, or height and width.")
    return size[0], size[1]
