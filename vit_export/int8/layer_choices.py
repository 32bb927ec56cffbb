"""What is chosen for one encoder layer, each choice on top of those before (see `tune`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_export.deployment.graph import Graph
from vit_export.int8.equalize import EqualizedParameters, Factors, geometric, norm_groups
from vit_export.int8.modes import Modes
from vit_export.int8.reads import Reads, RoundedReads
from vit_export.int8.rounding import Levels, round_together
from vit_export.int8.simulate import Clips, Extremes, Grams, Simulation
from vit_export.model.parameters import ParameterSource, layer_name

STRENGTHS = (0.5, 0.75, 1.0, 0.25)
"""Strengths of a rewrite, tried in this order, and none after a first one that is no use at all."""
CLIPS = (0.9, 0.8, 0.65, 0.5, 0.35)

ENOUGH = 0.98
"""A rewrite that costs nothing, or a clip, has to leave at most this part of the error."""
ENOUGH_FOR_OPERATORS = 0.9
"""The part of the error that a rewrite may leave which keeps operators that are folded away otherwise.

They are a LayerNorm's two, or the one that undoes the factors of an output. The former take about 1 % of DINOv2-S/14's
time, if that can be measured at all, and save 2 dB of it.
"""

SIGNIFICANT = 3.0
"""Standard errors by which a mean must differ from 0 to be corrected: few images say little about few tokens."""

APART = (1 / 24, 1 / 12)
"""The parts of an MLP's hidden channels, the largest, that are tried as a group of their own; in multiples of `LANES`.

Two Dense layers more and a sum take about 1.5 % of DINOv2-S/14's time. Its largest channels differ from token to token,
so that larger groups help no more.
"""
LANES = 16
"""Channels that kernels compute together."""

FEWEST_ROWS = 8
"""Rows without which not even the spread of a mean is known."""

FEWEST_TO_CLIP = 8
"""Images without which nothing is clipped but scores and softmax: of what is rare, few images have none.

Clips chosen by 4 images cut off what single tokens have elsewhere: 6 dB of DINOv2-S/14's features at the input of one
MLP's second Dense.
"""


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen for one encoder layer, and its error before and after, of the branch's own power."""

    value_strength: float | None
    query_strength: float | None
    norm_strengths: tuple[float | None, float | None]
    attention_error: tuple[float, float]
    mlp_error: tuple[float, float]
    outliers: int = 0
    """Hidden channels of the MLP that have Dense layers of their own."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "value_strength": self.value_strength,
            "query_strength": self.query_strength,
            "norm_strengths": list(self.norm_strengths),
            "attention_error": list(self.attention_error),
            "mlp_error": list(self.mlp_error),
            "outliers": self.outliers,
        }


class Layer:
    """The choices for one encoder layer, made in turn, each on top of those before."""

    def __init__(self, source: ParameterSource, tokens: Any, seen: int, batch: int, index: int, modes: Modes) -> None:
        self.source, self.spec, self.modes = source, source.spec, modes
        # All images round weights, the first `batch` choose the rest.
        self.batch = batch
        self.prefix = layer_name(index)
        last = index == source.spec.num_layers - 1
        self.reads_few = last and source.spec.kept_tokens < source.spec.num_tokens
        self.factors, self.clips = Factors(), dict[str, tuple[float, float]]()
        self.strengths: dict[str, float] = {}
        self.kernels: dict[str, Levels] = {}
        self._last = self._chosen = RoundedReads(source, self.factors, self.kernels)
        self.seen = Extremes(self.spec, Reads(source, Factors()), seen)
        attention = self.seen.attention_branch(tokens, self.prefix, last=False)
        middle = tokens + attention
        mlp = self.seen.mlp_branch(middle, self.prefix)
        self.after = middle + mlp
        rows = batch * self.spec.num_tokens
        self.tokens, self.attention, self.middle, self.mlp = (x[:rows] for x in (tokens, attention, middle, mlp))
        self.errors: dict[str, tuple[float, float]] = {}

    def output(self) -> Any:
        """The float model's tokens after this layer."""
        return self.after

    def choose(self) -> None:
        """Choose every rewrite, clip and corrected bias of the layer."""
        attention, mlp = f"{self.prefix}/attention", f"{self.prefix}/mlp"
        layer = self.modes.layers[int(self.prefix.rpartition("_")[2])]
        before = error = self._error(self._attention_branch)
        error = self._equalize_norm(f"{attention}_norm", self._attention_branch, error)
        turned = self.spec.positions == "rotary"
        means = {
            f"{name}_means": {attention: self.seen.means[f"{attention}/{name}"]}
            for name in (("value",) if turned else ("key", "value"))
        }
        self.factors = self.factors.also(**means)
        error = self._error(self._attention_branch)
        error = self._equalize("values", f"{attention}/value", None, self._attention_branch, error)
        if layer.products != "float" and not turned:
            error = self._equalize("queries", f"{attention}/query", f"{attention}/key", self._attention_branch, error)
        if layer.products == "int8":
            error = self._clip(f"{attention}/scores/softmax", "high", self._attention_branch, error)
        if layer.products != "float":
            error = self._clip(f"{attention}/scores", "low", self._attention_branch, error)
        if layer.products == "int8":
            error = self._clip(f"{attention}/mixed", "both", self._attention_branch, error)
        if layer.attention == "static":
            error = self._equalize_output(f"{attention}/output", self._attention_branch, error)
            error = self._clip(f"{attention}/output", "both", self._attention_branch, error)
        self._round(attention)
        self._correct(f"{attention}/output", self._attention_branch)
        self.errors["attention"] = before, self._error(self._attention_branch)
        before = error = self._error(self._mlp_branch)
        error = self._equalize_norm(f"{mlp}_norm", self._mlp_branch, error)
        if layer.mlp != "float" and not self.modes.whole:
            error = self._set_apart(mlp, error)
        if layer.mlp == "static":
            error = self._clip(f"{mlp}/dense_1", "low", self._mlp_branch, error)
            error = self._clip(f"{mlp}/dense_2:input", "high", self._mlp_branch, error)
            error = self._equalize_output(f"{mlp}/dense_2", self._mlp_branch, error)
            error = self._clip(f"{mlp}/dense_2", "both", self._mlp_branch, error)
        self._round(mlp)
        self._correct(f"{mlp}/dense_2", self._mlp_branch)
        self.errors["mlp"] = before, self._error(self._mlp_branch)

    def choice(self) -> LayerChoice:
        """What `choose` chose for the layer."""
        found = self.strengths.get
        return LayerChoice(
            found("values"),
            found("queries"),
            (found(f"{self.prefix}/attention_norm"), found(f"{self.prefix}/mlp_norm")),
            self.errors["attention"],
            self.errors["mlp"],
            len(self.factors.outliers.get(f"{self.prefix}/mlp", ())),
        )

    def _round(self, part: str) -> None:
        """Round the kernels of attention or MLP by the error of their outputs."""
        reads = Reads(self.source, self.factors)
        for dense in self.seen.found:
            if dense.startswith(f"{part}/"):
                for readers, gram in self._groups(dense, self._gram(dense)):
                    names = [f"{reader}/kernel" for reader in readers]
                    self.kernels |= round_together({name: reads[name] for name in names}, gram)

    def _groups(self, dense: str, gram: np.ndarray) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        """The Dense layers that read what `dense` reads, each with its part of `gram`."""
        mlp, _, last = dense.rpartition("/")
        outliers = self.factors.outliers.get(mlp)
        if outliers is None:
            yield Grams.readers(dense), gram
        elif last == "dense_1":
            yield (dense, f"{mlp}/outliers/dense_1"), gram
        else:
            others = np.setdiff1d(np.arange(len(gram)), outliers)
            yield (dense,), gram[np.ix_(others, others)]
            yield (f"{mlp}/outliers/dense_2",), gram[np.ix_(outliers, outliers)]

    def _gram(self, dense: str) -> np.ndarray:
        """XᵀX of what `dense` reads after the rewrites that were chosen, which move and scale its channels."""
        part, factors = dense.rpartition("/")[0], self.factors
        if dense.endswith("/output"):
            mean = factors.value_means[part]
            divided = 1 / factors.values.get(part, np.ones_like(mean))
            return self.seen.moved(dense, divided, -mean * divided)
        if (norm := f"{part}_norm") in factors.norms and not dense.endswith("/dense_2"):
            parameters = EqualizedParameters(self.source, factors)
            return self.seen.moved(dense, parameters.read(f"{norm}/scale"), parameters.read(f"{norm}/bias"))
        return self.seen.found[dense]

    def _attention_branch(self, simulation: Graph) -> tuple[Any, Any]:
        return simulation.attention_branch(self.tokens, self.prefix, last=False), self.attention

    def _mlp_branch(self, simulation: Graph) -> tuple[Any, Any]:
        return simulation.mlp_branch(self.middle, self.prefix), self.mlp

    def _simulated(self, branch: Callable[[Graph], tuple[Any, Any]], factors: Factors, clips: Clips) -> np.ndarray:
        """What rounding changes in a branch, float32 [rows, width]."""
        found, wanted = branch(Simulation(self.spec, self._weights(factors), self.batch, self.modes, clips))
        return (found - wanted).numpy()

    def _weights(self, factors: Factors) -> RoundedReads:
        """The weights as an int8 file holds them; those of the factors that are chosen so far, and the last, are kept.

        What is rounded changes with the factors, and with the kernels rounded by error.
        """
        if self._last.factors is self.factors:
            self._chosen = self._last
        for reads in (self._chosen, self._last):
            if reads.factors is factors and reads.levels.keys() == self.kernels.keys():
                return reads
        self._last = RoundedReads(self.source, factors, self.kernels, self._chosen)
        return self._last

    def _error(
        self,
        branch: Callable[[Graph], tuple[Any, Any]],
        factors: Factors | None = None,
        clips: Clips | None = None,
    ) -> float:
        """Power of what rounding changes in a branch, of the branch's own."""
        noise = self._simulated(branch, self.factors if factors is None else factors, clips or self.clips)
        wanted = self.attention if branch == self._attention_branch else self.mlp
        return float(np.square(noise).sum() / max(np.square(wanted.numpy()).sum(), 1e-30))

    def _equalize(self, kind: str, first: str, second: str | None, branch: Any, error: float) -> float:
        """Try `kind` of factors at every strength, from the sizes of the channels at one or two sites."""
        attention = first.rpartition("/")[0]
        size = self.seen.largest(first, self.factors.value_means[attention] if second is None else None)
        other = np.ones_like(size) if second is None else self.seen.largest(second, self.factors.key_means[attention])
        for strength in STRENGTHS:
            factors = self.factors.also(**{kind: {attention: geometric(size, other, strength)}})
            error = self._keep_if_better(factors, kind, strength, branch, error, ENOUGH)
            if kind not in self.strengths:
                break
        return error

    def _equalize_norm(self, norm: str, branch: Any, error: float) -> float:
        group = norm_groups(self.spec)[norm]
        low, high = self.seen.channels[f"{group[0]}:input"]
        scale, shift = self.source.read(f"{norm}/scale"), self.source.read(f"{norm}/bias")
        ends = np.stack([low * scale + shift, high * scale + shift])
        centre = ends.mean(0)
        weight = np.max([np.abs(self.source.read(f"{dense}/kernel")).max(axis=1) for dense in group], axis=0)
        for strength in STRENGTHS:
            factor = geometric(np.abs(ends - centre).max(0), weight, strength)
            factors = self.factors.also(norms={norm: factor}, centres={norm: centre})
            error = self._keep_if_better(factors, norm, strength, branch, error, ENOUGH_FOR_OPERATORS)
            if norm not in self.strengths:
                break
        return error

    def _set_apart(self, mlp: str, error: float) -> float:
        """Give the largest hidden channels of `mlp` Dense layers of their own, where that leaves little of the error.

        Not in `whole` files, for accelerators want few operators, nor where activations are not rounded to 8 bits.
        """
        size = self.seen.largest(f"{mlp}/dense_2:input")
        for part in APART:
            count = max(round(part * len(size) / LANES), 1) * LANES
            if count > len(size) / 2:
                break
            factors = self.factors.also(outliers={mlp: np.sort(np.argsort(-size, kind="stable")[:count])})
            error = self._keep_if_better(factors, f"{mlp}/outliers", 1.0, self._mlp_branch, error, ENOUGH_FOR_OPERATORS)
        return error

    def _equalize_output(self, dense: str, branch: Any, error: float) -> float:
        """Give every channel of a branch's output the same range, where that leaves little of the error.

        In `whole` files alone: where the rest is fast, an operator more for each branch is not worth it.
        """
        if not self.modes.whole:
            return error
        factors = self.factors.also(outputs={dense: even(self.seen.largest(dense))})
        return self._keep_if_better(factors, dense, 1.0, branch, error, ENOUGH_FOR_OPERATORS)

    def _keep_if_better(
        self, factors: Factors, kind: str, strength: float, branch: Any, error: float, enough: float
    ) -> float:
        found = self._error(branch, factors)
        # What was chosen of this kind already has paid its price.
        if found >= error * (ENOUGH if kind in self.strengths else enough):
            return error
        self.factors, self.strengths[kind] = factors, strength
        return found

    def _clip(self, site: str, end: str, branch: Any, error: float) -> float:
        """Draw the range of `site` in, step by step, while the error falls."""
        if self.reads_few or (self.batch < FEWEST_TO_CLIP and "/scores" not in site):
            return error
        for part in CLIPS:
            ends = {"low": (part, 1.0), "high": (1.0, part), "both": (part, part)}[end]
            found = self._error(branch, clips={**self.clips, site: ends})
            if found >= error * (1.0 if site in self.clips else ENOUGH):
                break
            self.clips[site], error = ends, found
        return error

    def _correct(self, dense: str, branch: Any) -> None:
        """Take the mean error of each channel off the bias of `dense`, where it is more than chance."""
        noise = self._simulated(branch, self.factors, self.clips)
        if self.reads_few:
            noise = noise[:: self.spec.num_tokens]
        if len(noise) < FEWEST_ROWS:
            return
        mean = noise.mean(0)
        chance = noise.std(0) / np.sqrt(len(noise))
        correction = np.where(np.abs(mean) > SIGNIFICANT * chance, -mean, 0).astype(np.float32)
        if correction.any():
            self.factors = self.factors.also(corrections={dense: correction})


def even(size: np.ndarray) -> np.ndarray:
    """Factors by which channels of `size` become alike."""
    return geometric(size, np.ones_like(size), 1.0)
