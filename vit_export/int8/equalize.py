"""Exact rewrites that make a model easier to quantize: the same function in float, with channels of like size.

An int8 tensor has one scale for all its channels, so that one channel 30 times the others' leaves those 5 bits fewer. A
weight has a scale per output channel and does not mind. Wherever a channel passes from one weight to the next without
anything nonlinear between, its factor can move:

* from a LayerNorm into the rows of the Dense layers it feeds, with its centre into their biases (SmoothQuant, Xiao et
  al., 2023, equation 4; the shift is that of Outlier Suppression+, Wei et al., 2023);
* from the value projection into the rows of attention's output projection: softmax(QKᵀ)(V/c)·diag(c)W;
* from query to key: (Q/c)(K·c)ᵀ = QKᵀ, unless rotary positions mix channels between;
* from what a branch adds to the residual stream into an operator of its own: xW + b = (xW/c + b/c)·c.

Through GELU no factor moves. There hidden channels far larger than the others (outliers) get Dense layers of their own,
and so ranges: the same sum in two parts, of which LLM.int8() (Dettmers et al., 2022) computes one in float16.

And a vector can be taken off every key, and off every value, at no cost: Q(K - c)ᵀ lowers all scores of a row alike,
which the softmax does not see; the rows of a softmax sum to 1, so that softmax(QKᵀ)(V - c) = softmax(QKᵀ)V - c, and cW
goes into the bias of the output projection. (Keys that rotary positions turn keep theirs: c would turn, too.) What
rounding does to a softmax of small values, whose rows sum to 1 no longer, then meets values without a mean.

`vit_export.int8.tune` and `vit_export.onnx.smoothing` choose the factors by images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vit_export.deployment.rewrites import Extras
from vit_export.model.head import DENSE
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec

_FLOOR = 1e-4
"""A channel is never scaled as if it were smaller than this part of the largest: dead channels stay dead."""

Vectors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Factors:
    """What moves where, by the prefix of the parameters concerned; each vector is float32 [width].

    `norms` and `centres`: a LayerNorm's output y becomes (y - centre) / factor. `values`: the value projection of an
    attention (`…/attention`) is divided by it. `queries`: so is the query projection. `outputs`: so is the Dense of
    that name, whose output is multiplied with it again (`<Dense>/scale`). `key_means` are taken off the key projection,
    `value_means` off the value projection, before it is divided. `corrections` are added to the bias of a Dense; they
    alone change the function, by what quantization would (`vit_export.int8.tune`). `outliers` are the hidden channels
    of an MLP (`…/mlp`), int64 and in order, that are computed by `…/mlp/outliers/dense_1` and `dense_2`; such an MLP
    has no `outputs`.
    """

    norms: Vectors = field(default_factory=dict)
    centres: Vectors = field(default_factory=dict)
    values: Vectors = field(default_factory=dict)
    queries: Vectors = field(default_factory=dict)
    outputs: Vectors = field(default_factory=dict)
    key_means: Vectors = field(default_factory=dict)
    value_means: Vectors = field(default_factory=dict)
    corrections: Vectors = field(default_factory=dict)
    outliers: Vectors = field(default_factory=dict)

    @property
    def extras(self) -> Extras:
        """What the graph of a .tflite file has for these factors."""
        return Extras(frozenset((*self.norms, *self.outputs)), {mlp: len(x) for mlp, x in self.outliers.items()})

    def also(self, **more: Vectors) -> "Factors":
        """A copy with the vectors of `more`, by field, beside or instead of its own."""
        return replace(self, **{name: {**getattr(self, name), **vectors} for name, vectors in more.items()})


class EqualizedParameters:
    """A `ParameterSource` equal to `source` in float but for `factors.corrections`.

    With `factors.outputs` that is so in a graph that reads each one's `<Dense>/scale`, as `Factors.extras` tells;
    likewise with `factors.outliers`.
    """

    def __init__(self, source: ParameterSource, factors: Factors) -> None:
        self._source, self.factors = source, factors
        self._norm_of = {dense: norm for norm, group in norm_groups(source.spec).items() for dense in group}

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self._source.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape but for an MLP's in two groups of channels."""
        layer, _, rest = name.partition("/mlp/")
        outliers = self.factors.outliers.get(f"{layer}/mlp")
        if outliers is None:
            return self._moved(name)
        dense, apart = rest.removeprefix("outliers/"), rest.startswith("outliers/")
        values = self._moved(f"{layer}/mlp/{dense}")
        if dense == "dense_2/bias":
            return np.zeros_like(values) if apart else values
        axis = 1 if dense == "dense_1/kernel" else 0
        others = np.setdiff1d(np.arange(values.shape[axis]), outliers)
        return np.take(values, outliers if apart else others, axis)

    def _moved(self, name: str) -> np.ndarray:
        """The parameter called `name` of the model with all channels together."""
        owner, _, part = name.rpartition("/")
        factors = self.factors
        if owner in factors.outputs and part == "scale":
            return factors.outputs[owner]
        values = self._source.read(name)
        if owner in factors.norms:
            if part == "bias" and owner in factors.centres:
                values = values - factors.centres[owner]
            return values / factors.norms[owner]
        projection = owner.rpartition("/")[2]
        if part == "kernel":
            rows, columns, divisor, _ = self.on_kernel(owner)
            values = values if rows is None else values * rows[:, np.newaxis]
            values = values if columns is None else values * columns
            return values if divisor is None else values / divisor
        if part == "bias":
            _, columns, divisor, _, centre, mean, correction = self.on_bias(owner)
            if centre is not None:
                values = self._behind(owner, centre, values)
            if mean is not None:
                values = self._behind(owner, mean, values) if projection == "output" else values - mean
            values = values if columns is None else values * columns
            values = values if correction is None else values + correction
            return values if divisor is None else values / divisor
        return values

    def on_kernel(self, dense: str) -> tuple[np.ndarray | None, ...]:
        """All that makes of the kernel of `dense` another one than the source's: None where there is nothing.

        What its rows are multiplied with, its columns, what those are divided by at last, and which are set apart.
        """
        mlp = dense.rpartition("/")[0].removesuffix("/outliers")
        dense = dense.replace("/mlp/outliers/", "/mlp/")
        attention, _, projection = dense.rpartition("/")
        rows = self._rows(attention, projection, self._norm_of.get(dense))
        divisor, outliers = self.factors.outputs.get(dense), self.factors.outliers.get(mlp)
        return rows, self._columns(attention, projection), divisor, outliers

    def on_bias(self, dense: str) -> tuple[np.ndarray | None, ...]:
        """All that makes of the bias of `dense` another one than the source's: None where there is nothing."""
        plain = dense.replace("/mlp/outliers/", "/mlp/")
        factors, (attention, _, projection) = self.factors, plain.rpartition("/")
        means = {"key": factors.key_means, "value": factors.value_means, "output": factors.value_means}
        centre = factors.centres.get(self._norm_of.get(plain, ""))
        mean = means.get(projection, {}).get(attention)
        return (*self.on_kernel(dense), centre, mean, factors.corrections.get(plain))

    def _behind(self, dense: str, shift: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """`bias` of `dense`, with what `shift` [inputs], taken off its input, adds to its output."""
        return (bias + shift.astype(np.float64) @ self._source.read(f"{dense}/kernel")).astype(np.float32)

    def _rows(self, attention: str, projection: str, norm: str | None) -> np.ndarray | None:
        """What the rows (inputs) of a kernel are multiplied with."""
        if norm is not None and norm in self.factors.norms:
            return self.factors.norms[norm]
        return self.factors.values.get(attention) if projection == "output" else None

    def _columns(self, attention: str, projection: str) -> np.ndarray | None:
        """What the columns (outputs) of a kernel and the bias are multiplied with."""
        factors = self.factors
        if projection == "value" and attention in factors.values:
            return 1 / factors.values[attention]
        if projection == "query" and attention in factors.queries:
            return 1 / factors.queries[attention]
        return factors.queries.get(attention) if projection == "key" else None


def folding(source: ParameterSource, factors: Factors) -> Factors:
    """`factors` and those that fold every other LayerNorm's scale and shift into the Dense layers behind it.

    That is what a .tflite file holds of them, so that what was tuned by its weights holds for others too.
    """
    left = [norm for norm in norm_groups(source.spec) if norm not in factors.norms]
    scales = {norm: source.read(f"{norm}/scale") for norm in left}
    # Nothing can be divided by a scale of 0: such a channel stays 0.
    norms = {norm: np.where(scale == 0, np.float32(1), scale) for norm, scale in scales.items()}
    return factors.also(norms=norms, centres={norm: source.read(f"{norm}/bias") for norm in left})


def norm_groups(spec: ViTSpec) -> dict[str, tuple[str, ...]]:
    """Each LayerNorm of `spec` that feeds Dense layers alone, of its own width, and those."""
    groups = {}
    for index in range(spec.num_layers):
        prefix = layer_name(index)
        attention = tuple(f"{prefix}/attention/{name}" for name in ("query", "key", "value"))
        groups[f"{prefix}/attention_norm"] = attention
        groups[f"{prefix}/mlp_norm"] = (f"{prefix}/mlp/dense_1",)
    if spec.pooled_by not in ("class", "mean", "mean_all", "mean_norm") or spec.returns_normed:
        return groups
    if spec.pre_logits_size is not None:
        groups["encoder/norm"] = ("pre_logits",)
    elif spec.head_steps and spec.head_steps[0].step.kind == DENSE:
        groups["encoder/norm"] = (spec.head_steps[0].name,)
    elif spec.num_classes is not None and not spec.head:
        groups["encoder/norm"] = ("head",)
    return groups


def geometric(activation: np.ndarray, weight: np.ndarray, strength: float) -> np.ndarray:
    """SmoothQuant's equation 4, activation^strength / weight^(1 - strength), with geometric mean 1; float32 [n]."""
    logarithm = strength * np.log(_floored(activation)) - (1 - strength) * np.log(_floored(weight))
    return np.exp(logarithm - logarithm.mean()).astype(np.float32)


def _floored(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    largest = values.max()
    return np.maximum(values, _FLOOR * largest) if largest > 0 else np.ones_like(values)
