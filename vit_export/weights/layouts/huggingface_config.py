"""What `config.json` of transformers says: sizes that shapes must agree with, epsilon, activation, kind of answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.model.record import ProblemType
from vit_export.model.spec import ImageSize
from vit_export.weights.layouts import refusals

GELU = {
    "gelu": "erf",
    "gelu_python": "erf",
    "gelu_new": "tanh",
    "gelu_pytorch_tanh": "tanh",
    "gelu_fast": "tanh",
    "quick_gelu": "quick",
}
"""`hidden_act` by transformers' name; gelu_python and gelu_fast are the same functions written out."""

NOT_TOGETHER = "the two files do not belong together"

_WHOLE = ("clip", "siglip")
"""Models of images and text, whose configs have the image tower's in them."""


@dataclass(frozen=True)
class Config:
    """The part of a config that is the image tower's, beside the tensors at `path`; empty where there is none.

    Fields that are null are left out. `model_type` is that of the whole, None where the config does not say it.
    """

    path: Path
    values: Mapping[str, Any]
    model_type: Any = None

    @classmethod
    def of(cls, path: Path, config: Mapping[str, Any] | None) -> "Config":
        """The image tower's part of `config`, which may be none of transformers'.

        Raises:
            InputError: that part is no object, or of another architecture.
        """
        known = dict(config or {}) if is_config(config) else {}
        kind, inner = known.get("model_type"), known
        if kind in _WHOLE:
            # The older name of CLIP's, where it is there, replaces the other one as a whole (CLIPConfig).
            older = known.get("vision_config_dict") if kind == "clip" else None
            inner = older if older is not None else known.get("vision_config") or {}
            if not isinstance(inner, Mapping):
                raise cls(path, known).problem("vision_config", "an object")
            own, expected = inner.get("model_type"), f"{kind}_vision_model"
            if own not in (None, expected):
                name, why = "vision_config.model_type", refusals.of_type(own)
                raise cls(path, known).problem(name, repr(expected), own, why)
            inner = {**inner, "model_type": kind, "projection_dim": known.get("projection_dim")}
        return cls(path, {name: value for name, value in inner.items() if value is not None}, kind)

    def get(self, name: str, default: Any = None) -> Any:
        """The field `name`, or `default` where the config does not say it."""
        return self.values.get(name, default)

    def problem(self, name: str, expected: str, value: Any = None, why: str = "correct it") -> InputError:
        """That the field `name` is not as `expected`."""
        value = self.get(name) if value is None else value
        return InputError(f"The config.json beside {self.path} says {name} {value!r:.60}, expected {expected}: {why}.")

    def agree(self, found: Mapping[str, ImageSize]) -> None:
        """Raise InputError where the config says another size than was `found` in the tensors."""
        for name, size in found.items():
            value = self.get(name, size)
            if value != size and size_of(value) != size:
                raise InputError(
                    f"The config.json beside {self.path} says {name} {value!r:.60}, but the tensors have {size}: "
                    f"{NOT_TOGETHER}."
                )

    def whole(self, name: str) -> int | None:
        """The whole number `name`, None where the config does not say it.

        Raises:
            InputError: it is something else.
        """
        value = self.get(name)
        if value is not None and not is_whole(value, 1):
            raise self.problem(name, "a whole number from 1")
        return value

    def epsilon(self, default: float) -> float:
        """What LayerNorms add to the variance.

        Raises:
            InputError: it is no small positive number.
        """
        value = self.get("layer_norm_eps", default)
        if not is_number(value) or not 0 < value < 1:
            raise self.problem("layer_norm_eps", "a small positive number")
        return float(value)

    def gelu(self, default: str) -> str:
        """The activation, as `ViTSpec.gelu` calls it.

        Raises:
            InputError: it is no GELU.
        """
        name = self.get("hidden_act", default)
        if not isinstance(name, str) or name not in GELU:
            why = "vit-export builds Vision Transformers with GELU alone"
            raise self.problem("hidden_act", f"one of {', '.join(GELU)}", why=why)
        return GELU[name]

    @property
    def pools(self) -> bool:
        """Whether a pooler beside the model ends in tanh, which is the one that is built."""
        return bool(self.get("pooler_act", "tanh") == "tanh")


def size_of(value: Any) -> ImageSize | None:
    """One number, or height and width, of a config; None for anything else."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(is_whole(side, 1) for side in value):
        return value[0] if value[0] == value[1] else (value[0], value[1])
    return value if is_whole(value, 1) else None


def is_config(config: Mapping[str, Any] | None) -> bool:
    """Whether `config` is one of transformers'."""
    return bool(config) and not {"model_type", "hidden_size", "num_attention_heads"}.isdisjoint(config or {})


def problem_type(config: Mapping[str, Any] | None) -> ProblemType | None:
    """What transformers' config says that the classifier's outputs are, None where it does not.

    Raises:
        InputError: it says something else than transformers knows.
    """
    if config is None or not is_config(config):
        return None
    said = config.get("problem_type")
    if said not in (None, *get_args(ProblemType)):
        raise InputError(
            f"config.json says problem_type {said!r:.60}, expected one of {', '.join(get_args(ProblemType))}: "
            "correct it."
        )
    known: ProblemType | None = said
    return known


def pooler_problem(config: Mapping[str, Any] | None) -> str | None:
    """Why there are no pooled features although there is a pooler; None where there are."""
    act = (config or {}).get("pooler_act", "tanh")
    if not is_config(config) or act == "tanh":
        return None
    return f"its config.json says pooler_act {act!r:.60}, expected 'tanh', the one that is built"
