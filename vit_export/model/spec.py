"""ViTSpec: everything that fixes one model's shapes and arithmetic, and what follows from it by formula."""

import re
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from vit_export.base.checks import is_number, is_whole, whole_number
from vit_export.base.errors import InputError
from vit_export.model.variants import Variant, get_variant

Gelu = Literal["erf", "tanh"]

MAX_IMAGE_SIZE = 4096
MAX_CLASSES = 1_000_000
MAX_LAYERS, MAX_WIDTH, MAX_MLP_WIDTH = 256, 16_384, 65_536
"""Larger than any Vision Transformer so far; what claims to be more is no model."""

# Exported files are called by it.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class ViTSpec:
    """A Vision Transformer to be built: a variant's sizes, an image size, a head (or none) and its arithmetic.

    `num_classes` is None for a model without classifier. `pre_logits_size` is the width of a Dense with tanh between
    the class token and what follows (Google's representation layer, Hugging Face's pooler), None where there is none.
    `name` is what files are called: at most 100 ASCII letters, digits, '.', '_' and '-'.

    Raises:
        InputError: on construction, when no model can be built of these values.
    """

    name: str
    patch_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    image_size: int = 224
    num_classes: int | None = 1000
    layer_norm_epsilon: float = 1e-6
    gelu: Gelu = "erf"
    pre_logits_size: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            given = ascii(self.name)
            given = given if len(given) <= 60 else f"{given[:60]}…"
            raise InputError(
                f"A model's name is {given}, expected 1 to 100 letters, digits, '.', '_' or '-', "
                "the first a letter or digit: files are called by it."
            )
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
        if self.gelu not in ("erf", "tanh"):
            raise InputError(f"gelu is {self.gelu!r}, expected 'erf' (exact) or 'tanh' (approximation).")
        if self.hidden_size % self.num_heads:
            raise InputError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}.")

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
        return asdict(self)

    def with_(self, **changes: Any) -> Self:
        """A copy with `changes`, which are checked."""
        return replace(self, **changes)

    def _check_image_size(self) -> None:
        size, patch = self.image_size, self.patch_size
        if not is_whole(size, patch) or size > MAX_IMAGE_SIZE:
            raise InputError(
                f"Image size {size!r} is out of range for {self.name}: "
                f"expected a multiple of {patch} from {patch} to {MAX_IMAGE_SIZE // patch * patch}."
            )
        if size % patch:
            below, above = size // patch * patch, (size // patch + 1) * patch
            choices = [str(n) for n in (below, above) if patch <= n <= MAX_IMAGE_SIZE]
            raise InputError(
                f"Image size {size} is not a multiple of {self.name}'s patch size {patch}: use {' or '.join(choices)}."
            )

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches per image, N."""
        return self.grid**2

    @property
    def num_tokens(self) -> int:
        """Tokens per image, T = N + 1 (the class token comes first)."""
        return self.num_patches + 1

    @property
    def head_size(self) -> int:
        """Width of one attention head, d = D / heads."""
        return self.hidden_size // self.num_heads

    @property
    def output_name(self) -> str:
        """'logits' with a classifier, 'features' (what it would have read) without."""
        return "features" if self.num_classes is None else "logits"

    @property
    def output_size(self) -> int:
        """Length of the output vector of one image."""
        return self.representation_size if self.num_classes is None else self.num_classes

    @property
    def representation_size(self) -> int:
        """Length of what a classifier reads: the class token, or what the pre-logits layer makes of it."""
        return self.hidden_size if self.pre_logits_size is None else self.pre_logits_size

    @property
    def num_parameters(self) -> int:
        """Exact parameter count: 3P²D + 2D + TD + L(4D² + 2DM + 9D + M) + 2D, plus DC + C with a classifier.

        A pre-logits layer of width R adds DR + R, and the classifier is then RC + C.
        """
        p, d, m, t = self.patch_size, self.hidden_size, self.mlp_size, self.num_tokens
        count = 3 * p * p * d + 2 * d + t * d + self.num_layers * (4 * d * d + 2 * d * m + 9 * d + m) + 2 * d
        if self.pre_logits_size is not None:
            count += (d + 1) * self.pre_logits_size
        if self.num_classes is not None:
            count += (self.representation_size + 1) * self.num_classes
        return count

    @property
    def num_macs(self) -> int:
        """Multiply-accumulates of one image: 3P²DN + L(4TD² + 2TDM + 2T²D) + DC (matrix products only).

        With a pre-logits layer of width R the last term is DR + RC.
        """
        p, d, m, t = self.patch_size, self.hidden_size, self.mlp_size, self.num_tokens
        macs = 3 * p * p * d * self.num_patches + self.num_layers * (4 * t * d * d + 2 * t * d * m + 2 * t * t * d)
        return macs + d * (self.pre_logits_size or 0) + self.representation_size * (self.num_classes or 0)
