"""Channels of like size where ONNX's int8 rounds a tensor as a whole: an exact rewrite, chosen from what images showed.

One scale serves a whole tensor, so that its largest channel decides how fine all others are. Trained models have a few
that are 5 to 60 times the rest: in the input of a layer's Dense, because LayerNorm scales them up or because they are
nearly constant, and in GELU's output, where single hidden units write what attention sinks into. Each such channel is
divided by a factor, and the rows of the next kernel are multiplied with it (SmoothQuant, Xiao et al., 2023): LayerNorm
and the value projection take the division into their own weights, GELU's output gets a Mul, where it is worth one. A
LayerNorm's output is centred too, its centre moved into the next bias (Outlier Suppression+, Wei et al., 2023).

Only channels above the size that `_KEPT` of a tensor's channels stay below are touched. Making all channels equally
large would be finer still on the images seen, but lets any channel that is larger on another image set the range: on
DINOv2-S/14 that loses 9 dB at the input of attention's output projection, where this gains 3. The same images bound
ranges too low, by a factor that is told by leaving some of them out (`ranges`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.lazy import LazyTensor, Tensors
from vit_export.deployment.rewrites import plain_parameters
from vit_export.int8.equalize import EqualizedParameters, Factors, Vectors, norm_groups
from vit_export.int8.rounding import Levels
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec
from vit_export.onnx.editing import Editor
from vit_export.onnx.pairs import PairedParameters

if TYPE_CHECKING:
    import onnx

_KEPT = 0.8
"""The part of a tensor's channels that keep their size."""
_WORTH = 1.5
"""The largest factor from which on a Mul behind GELU is worth its time."""
_MOST = 2.0
"""A margin is never larger: one image that is like no other must not cost all others more than a bit."""


@dataclass(frozen=True)
class Extremes:
    """The smallest and largest value of each channel of a tensor, by part of the images: float32 [parts, channels]."""

    low: np.ndarray
    high: np.ndarray

    def rows(self, chosen: np.ndarray) -> "Extremes":
        """The extremes over the parts `chosen`, bool [parts]."""
        return Extremes(self.low[chosen], self.high[chosen])

    def moved(self, centre: np.ndarray, factor: np.ndarray) -> "Extremes":
        """The extremes of (values - centre) / factor."""
        return Extremes((self.low - centre) / factor, (self.high - centre) / factor)

    @property
    def parts(self) -> int:
        """How many parts of the images there are."""
        return len(self.low)

    @property
    def middle(self) -> np.ndarray:
        """The middle of each channel's values, float32 [channels]."""
        return ((self.low.min(0) + self.high.max(0)) / 2).astype(np.float32)

    @property
    def size(self) -> np.ndarray:
        """The largest magnitude of each channel, float32 [channels]."""
        return np.maximum(-self.low.min(0), self.high.max(0))


Observed = Mapping[str, Extremes]
"""The extremes of sites of `onnx.qdq.sites`: those of a Dense's input by channel, of all else as one channel."""


@dataclass(frozen=True)
class Smoothing:
    """`factors` of LayerNorms and value projections, and what GELU's output is divided by, where it is (`hidden`).

    `hidden` goes by the prefix of the MLP, float32 [mlp_size]. `kernels` are those of the smoothed model that images
    have rounded already (`onnx.rounding`), by name.
    """

    factors: Factors = field(default_factory=Factors)
    hidden: Vectors = field(default_factory=dict)
    kernels: Mapping[str, Levels] = field(default_factory=dict)

    def scale_hidden(self, graph: "onnx.GraphProto") -> None:
        """Put a Mul behind the GELUs of `graph`, in place; its constant is a graph input `…/mlp/hidden/scale`."""
        from onnx import helper

        for mlp in self.hidden:
            dense = Editor(graph).only_consumer(f"{mlp}/dense_2/kernel")
            scaled = f"{mlp}/hidden"
            position = list(graph.node).index(dense)
            graph.node.insert(position, helper.make_node("Mul", [dense.input[0], f"{scaled}/scale"], [scaled]))
            dense.input[0] = scaled


class SmoothedParameters:
    """A `ParameterSource` equal to `source` in float, where GELU's output is multiplied with `…/mlp/hidden/scale`."""

    def __init__(self, source: ParameterSource, smoothing: Smoothing) -> None:
        self._equalized = EqualizedParameters(source, smoothing.factors)
        self.hidden, self.kernels = smoothing.hidden, smoothing.kernels

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self._equalized.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape, or the scale of a hidden layer [mlp_size]."""
        owner, _, part = name.rpartition("/")
        factor = self.hidden.get(owner.rpartition("/")[0])
        if factor is not None and owner.endswith("/mlp/hidden"):
            return (1 / factor).astype(np.float32)
        values = self._equalized.read(name)
        if factor is not None and owner.endswith("/mlp/dense_2") and part == "kernel":
            return values * factor[:, np.newaxis]
        return values


def smooth(observed: Observed, spec: ViTSpec) -> Smoothing:
    """The smoothing of a model of `spec` whose channels reached what `observed` says."""
    norms, centres, values, hidden = {}, {}, {}, {}
    for norm, group in norm_groups(spec).items():
        centres[norm], norms[norm] = _fit(_behind(group, observed), centred=True)
    for index in range(spec.num_layers):
        attention, mlp = f"{layer_name(index)}/attention", f"{layer_name(index)}/mlp"
        values[attention] = _fit(observed[f"{attention}/output:input"])[1]
        factor = _fit(observed[f"{mlp}/dense_2:input"])[1]
        if factor.max() >= _WORTH:
            hidden[mlp] = factor
    return Smoothing(Factors(norms=norms, centres=centres, values=values), hidden)


def ranges_of(observed: Observed, smoothing: Smoothing | None, spec: ViTSpec) -> dict[str, tuple[float, float]]:
    """The smallest and largest value at every site of `observed`; in the model smoothed by `smooth`, with a margin.

    The margin is what the images leave open: by how much a part of them goes beyond the range that all others give,
    smoothed by the others alone, at most.
    """
    if smoothing is None:
        return {site: (float(seen.low.min()), float(seen.high.max())) for site, seen in observed.items()}
    behind_norm = {f"{dense}:input": group for group in norm_groups(spec).values() for dense in group}
    found = {}
    for site, extremes in observed.items():
        name, _, _ = site.partition(":")
        fit: _Fit
        if site in behind_norm:
            fit, basis = partial(_fit, centred=True), _behind(behind_norm[site], observed)
        elif name.endswith("/attention/output") or name.removesuffix("/dense_2") in smoothing.hidden:
            fit, basis = _fit, extremes
        else:
            fit, basis = _as_it_is, extremes
        ends = extremes.moved(*fit(basis))
        margin = max((_excess(extremes, basis, part, fit) for part in range(extremes.parts)), default=1.0)
        margin = float(np.clip(margin, 1.0, _MOST))
        found[site] = float(ends.low.min()) * margin, float(ends.high.max()) * margin
    return found


def int8_parameters(source: ParameterSource, *, in_pairs: bool = True) -> Tensors:
    """The parameters of `source`, hidden layers' scales among them; `in_pairs` in the order of channels for those."""
    ordered = PairedParameters(source) if in_pairs else source
    hidden = source.hidden if isinstance(source, SmoothedParameters) else ()
    scales = {name: LazyTensor.of(name, ordered.read(name)) for name in (f"{mlp}/hidden/scale" for mlp in hidden)}
    return {**plain_parameters(ordered), **scales}


_Fit = Callable[[Extremes], tuple[np.ndarray, np.ndarray]]
"""Centre and factor of each channel, float32 [channels], from what the channels reach."""


def levels_of(source: ParameterSource) -> Mapping[str, Levels]:
    """The kernels of `source` that are rounded already, by name."""
    return source.kernels if isinstance(source, SmoothedParameters) else {}


def _fit(extremes: Extremes, *, centred: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Those with which the channels above most others become as large as they."""
    centre = extremes.middle if centred else np.zeros_like(extremes.low[0])
    size = extremes.moved(centre, np.ones_like(centre)).size
    usual = np.quantile(size, _KEPT)
    factor = np.maximum(size, usual) / usual if usual > 0 else np.ones_like(size)
    return centre, factor.astype(np.float32)


def _as_it_is(extremes: Extremes) -> tuple[np.ndarray, np.ndarray]:
    """Those that change nothing."""
    return np.zeros_like(extremes.low[0]), np.ones_like(extremes.low[0])


def _behind(group: Sequence[str], observed: Observed) -> Extremes:
    """What the Dense layers of `group` read of one LayerNorm: the last query, the class token's row alone."""
    inputs = [observed[f"{dense}:input"] for dense in group]
    return Extremes(np.min([i.low for i in inputs], 0), np.max([i.high for i in inputs], 0))


def _excess(extremes: Extremes, basis: Extremes, part: int, fit: _Fit) -> float:
    """How far `part` of `extremes` goes, in parts of how far the others go, moved as their `basis` asks for."""
    others = np.arange(extremes.parts) != part
    if not others.any():
        return 1.0
    moves = fit(basis.rows(others))
    reached, bound = (float(extremes.rows(rows).moved(*moves).size.max()) for rows in (~others, others))
    return reached / bound if bound > 0 else 1.0
