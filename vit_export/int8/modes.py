"""What each part of a model computes in: the vocabulary of int8 schemes, for the simulation and for the converters."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from vit_export.int8.arithmetic import Mode
from vit_export.model.parameters import layer_name
from vit_export.model.spec import ViTSpec

Products = Literal["float", "scores", "int8"]
"""The two matrix products of attention, QKᵀ and softmax·V: in float, the first with both sides in int8, or both."""


@dataclass(frozen=True)
class LayerModes:
    """One encoder layer: its four attention Dense, its attention products, its two MLP Dense."""

    attention: Mode = "static"
    products: Products = "int8"
    mlp: Mode = "static"


@dataclass(frozen=True)
class Modes:
    """A whole model: patch embedding, encoder layers, and what follows them (pre-logits and head).

    `whole`: every operator is int8 but those of residual stream and LayerNorm, and a product that is float here; so is
    the softmax in front of an int8 product then, and the answer.
    """

    patch: Mode
    layers: tuple[LayerModes, ...]
    head: Mode
    whole: bool = False

    def dense(self, name: str) -> Mode:
        """The mode of the Dense whose parameters are called `<name>/kernel`."""
        if name == "patch_embedding":
            return self.patch
        layer = self._layer(name)
        if layer is None:
            return self.head
        return layer.mlp if "/mlp/" in name else layer.attention

    def products(self, name: str) -> Products:
        """The mode of the products of the attention whose parameters begin with `name`."""
        layer = self._layer(name)
        return "float" if layer is None else layer.products

    @property
    def need_ranges(self) -> bool:
        """Whether anything is quantized by a range that has to be known beforehand."""
        layers = any("static" in (layer.attention, layer.mlp) or layer.products != "float" for layer in self.layers)
        return layers or "static" in (self.patch, self.head)

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dict; layers that are alike are told once."""
        alike = {(layer.attention, layer.products, layer.mlp): list[int]() for layer in self.layers}
        for index, layer in enumerate(self.layers):
            alike[layer.attention, layer.products, layer.mlp].append(index)
        layers = [
            {"layers": found, "attention": attention, "products": products, "mlp": mlp}
            for (attention, products, mlp), found in alike.items()
        ]
        return {"patch_embedding": self.patch, "encoder_layers": layers, "head": self.head}

    def _layer(self, name: str) -> LayerModes | None:
        prefix = layer_name(0)[:-1]
        if not name.startswith(prefix):
            return None
        return self.layers[int(name.removeprefix(prefix).partition("/")[0])]


def uniform(spec: ViTSpec, layer: LayerModes, *, patch: Mode, head: Mode) -> Modes:
    """The modes `layer` in every encoder layer of `spec`."""
    return Modes(patch, (layer,) * spec.num_layers, head)


def static(spec: ViTSpec) -> Modes:
    """Dense layers and attention products in int8 with known ranges, but for the two ends of the model.

    The patch embedding's input are pixels, which the levels of a known range fall between as often as not; the head's
    output is the answer. Dynamic, neither loses that, and both are small.
    """
    return uniform(spec, LayerModes(), patch="dynamic", head="dynamic")


def full(spec: ViTSpec) -> Modes:
    """Every operator in int8 but residual stream and LayerNorm, for accelerators that compute in nothing else."""
    return replace(uniform(spec, LayerModes(), patch="static", head="static"), whole=True)


def dynamic(spec: ViTSpec) -> Modes:
    """Every Dense with the range of each token found while running; attention products in float."""
    return uniform(spec, LayerModes("dynamic", "float", "dynamic"), patch="dynamic", head="dynamic")


def mixed(spec: ViTSpec) -> Modes:
    """What mixes are tuned for: every Dense with the range of each token found while running, int8 scores.

    A model that cannot be static all over mostly has a softmax that int8 does not carry. Tuned for int8 products, mixes
    of DINOv2-S/14 kept as much in the median of other photographs, and 2 dB less at the worst, at a higher price.
    """
    return uniform(spec, LayerModes("dynamic", "scores", "dynamic"), patch="dynamic", head="dynamic")


def full_float(spec: ViTSpec) -> Modes:
    """Every component in float: nothing is rounded but, where they are, weights."""
    return uniform(spec, LayerModes("float", "float", "float"), patch="float", head="float")


SCHEMES: dict[str, Callable[[ViTSpec], Modes]] = {"static": static, "dynamic": dynamic, "full": full}
"""Modes by the name of their scheme."""

TUNED_FOR: dict[str, Callable[[ViTSpec], Modes]] = {**SCHEMES, "w8a16": full_float}
"""The modes that a file of each scheme is tuned for.

With activations of 16 bits the noise is that of the rounded weights: what is tuned for is float with these.
"""
