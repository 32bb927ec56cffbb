"""What each part of a model costs the answer when it is quantized: noise at the output, one component at a time.

A component is what can be chosen on its own: the patch embedding, an encoder layer's attention, its MLP, the head. Each
is put into each of its options with everything else in float, and what that changes in the logits or features is its
noise. Noises of components add, so that the sum predicts any mix (`Sensitivity.predicted`).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from vit_export.deployment.graph import TFLITE, Graph
from vit_export.deployment.rewrites import folded_parameters
from vit_export.int8.arithmetic import Mode
from vit_export.int8.equalize import EqualizedParameters
from vit_export.int8.layer_choices import SIGNIFICANT
from vit_export.int8.modes import LayerModes, Modes, Products, full_float
from vit_export.int8.simulate import Simulation, rounded
from vit_export.int8.tune import Tuning
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec

MOST_IMAGES, FEWEST_IMAGES, MACS = 64, 2, 1e12
"""Images to measure by: as many as `MACS` multiply-accumulates pay for, within these bounds.

Mostly more than `vit_export.int8.tune` looks at, whose clips and corrections flatter the images that they were chosen
by: of a model trained on digits and tuned on 16, those promise 40.5 dB, 64 promise 39.1; the file has 38.4 on others.
"""

STREAM_BYTES = 2**29
"""Tokens kept at a time, about; more layers than fit are measured in another pass over the model."""

Progress = Callable[[int, int], None]


Options = Callable[["Component"], "Iterable[Option]"]
"""What each component is put into."""


class Option(NamedTuple):
    """What a component computes in; `products` is attention's alone."""

    dense: Mode
    products: Products = "float"


@dataclass(frozen=True, order=True)
class Component:
    """A part of the model that is chosen on its own; `layer` counts from 0, -1 outside the encoder."""

    layer: int
    part: Literal["patch", "attention", "mlp", "head"]

    @property
    def options(self) -> tuple[Option, ...]:
        """What the component can compute in. A float Dense has float weights, and then float products too."""
        if self.part == "attention":
            ways: tuple[Products, ...] = ("int8", "scores", "float")
            modes: tuple[Mode, Mode] = ("static", "dynamic")
            return (*(Option(mode, products) for mode in modes for products in ways), Option("float"))
        if self.part == "mlp":
            return (Option("static"), Option("dynamic"), Option("float"))
        return (Option("dynamic"), Option("float"))

    def of(self, modes: Modes) -> Option:
        """What the component computes in by `modes`."""
        if self.part in ("patch", "head"):
            return Option(getattr(modes, self.part))
        layer = modes.layers[self.layer]
        return Option(layer.attention, layer.products) if self.part == "attention" else Option(layer.mlp)

    def put(self, modes: Modes, option: Option) -> Modes:
        """`modes` with this component in `option`."""
        if self.part == "patch":
            return replace(modes, patch=option.dense)
        if self.part == "head":
            return replace(modes, head=option.dense)
        layers: list[LayerModes] = list(modes.layers)
        if self.part == "attention":
            layers[self.layer] = replace(layers[self.layer], attention=option.dense, products=option.products)
        else:
            layers[self.layer] = replace(layers[self.layer], mlp=option.dense)
        return replace(modes, layers=tuple(layers))


def components(spec: ViTSpec) -> tuple[Component, ...]:
    """Every component of `spec`; there is no head without classifier, pre-logits and attention pooling."""
    found = [Component(-1, "patch")]
    for index in range(spec.num_layers):
        found += [Component(index, "attention"), Component(index, "mlp")]
    if spec.num_classes is not None or spec.pre_logits_size is not None or spec.attention_pooling:
        found.append(Component(-1, "head"))
    return tuple(found)


@dataclass(frozen=True)
class Sensitivity:
    """The noise of every component in every option, of the power of the reference's output.

    `tuned` is what it was measured with; `corrections` are the bias corrections that go with each option, by the Dense.
    """

    noise: Mapping[tuple[Component, Option], float]
    corrections: Mapping[tuple[Component, Option], Mapping[str, np.ndarray]]
    tuned: Tuning
    images: int

    def of(self, component: Component, option: Option) -> float:
        """The noise of one component; 0 in float."""
        return self.noise.get((component, option), 0.0)

    def predicted(self, modes: Modes) -> float:
        """Noise of the output of a model in `modes`, of the output's power."""
        return sum(noise for (component, option), noise in self.noise.items() if component.of(modes) == option)

    def tuning(self, modes: Modes) -> Tuning:
        """`tuned` with the bias corrections of the components as they are in `modes`."""
        found: dict[str, np.ndarray] = {}
        for (component, option), corrections in self.corrections.items():
            if component.of(modes) == option:
                found.update(corrections)
        return replace(self.tuned, factors=replace(self.tuned.factors, corrections=found))


def images_wanted(spec: ViTSpec) -> int:
    """How many images `measure_sensitivity` looks at: tens of a small model, 2 of the largest.

    Each of eight options of each of L layers runs through the layers behind it: 4 L passes over the model per image.
    """
    return int(np.clip(MACS / (4 * spec.num_layers * spec.num_macs), FEWEST_IMAGES, MOST_IMAGES))


def measure_sensitivity(
    source: ParameterSource,
    images: np.ndarray,
    tuning: Tuning,
    progress: Progress | None = None,
    options: Options | None = None,
    exact: Modes | None = None,
) -> Sensitivity:
    """The sensitivity of `source`, equalized and clipped by `tuning` but with bias corrections of its own.

    `images` are float32 [n, height, width, 3], normalized; the first `images_wanted` are used. `options` of a component
    are those that it is put into, all that are not float by default, with everything else as in `exact` (float).
    """
    shown = images[: images_wanted(source.spec)]
    return _Measurement(source, shown, tuning, options or _quantized, exact or full_float(source.spec)).run(progress)


class _Stream(NamedTuple):
    """Tokens of the float model but for one component that was in `option`."""

    component: Component
    option: Option
    tokens: Any


class _Measurement:
    """The float model once, and beside it one stream of tokens for each option of each component before."""

    def __init__(
        self, source: ParameterSource, images: np.ndarray, tuning: Tuning, options: Options, exact: Modes
    ) -> None:
        self.spec, self.images, self.tuning = source.spec, images, tuning
        self.options, self.exact = options, exact
        uncorrected = EqualizedParameters(source, replace(tuning.factors, corrections={}))
        self.parameters = folded_parameters(uncorrected, extras=tuning.extras)
        self.noise: dict[tuple[Component, Option], float] = {}
        self.corrections: dict[tuple[Component, Option], dict[str, np.ndarray]] = {}

    def run(self, progress: Progress | None) -> Sensitivity:
        spec, count = self.spec, len(self.images)
        passes = self._passes()
        done, total = 0, sum(spec.num_layers - first for first, _ in passes)
        tokens, streams = self._embed()
        for first, end in passes:
            start = tokens
            for index in range(first, spec.num_layers):
                if progress:
                    progress(done, total)
                done += 1
                start, streams = self._layer(index, start, streams, opens=index < end)
                if index == end - 1:
                    tokens = start
            self._answer(start, streams, head=first == 0)
            streams = []
        if progress:
            progress(total, total)
        return Sensitivity(self.noise, self.corrections, self.tuning, count)

    def _passes(self) -> list[tuple[int, int]]:
        """The layers whose options are followed together to the end, each as its first and the one behind its last."""
        spec = self.spec
        options = sum(len(list(self.options(Component(0, part)))) for part in ("attention", "mlp"))
        each = options * len(self.images) * spec.num_tokens * spec.hidden_size * 4
        step = max(1, STREAM_BYTES // each)
        return [(first, min(first + step, spec.num_layers)) for first in range(0, spec.num_layers, step)]

    def _graph(self, weights: Mapping[str, Any]) -> Graph:
        return Graph(self.spec, weights, TFLITE, len(self.images))

    def _simulation(self, weights: Mapping[str, Any], component: Component, option: Option) -> Simulation:
        modes = component.put(self.exact, option)
        return Simulation(self.spec, weights, len(self.images), modes, self.tuning.clips)

    def _weights(self, *prefixes: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The parameters that begin so, and the same as an int8 file holds them."""
        import tensorflow as tf

        exact = {name: p.read() for name, p in self.parameters.items() if name.startswith(prefixes)}
        levels = self.tuning.kernels
        integer = {
            name: tf.constant(levels[name].values() if name in levels else rounded(name, values))
            for name, values in exact.items()
        }
        return {name: tf.constant(values) for name, values in exact.items()}, integer

    def _embed(self) -> tuple[Any, list[_Stream]]:
        exact, integer = self._weights(
            "patch_embedding/", "class_token", "register_tokens", "position_embedding", "embedding_norm/"
        )
        patch = Component(-1, "patch")
        streams = [
            _Stream(patch, option, self._simulation(integer, patch, option).embed(self.images))
            for option in self.options(patch)
        ]
        return self._graph(exact).embed(self.images), streams

    def _layer(self, index: int, tokens: Any, streams: list[_Stream], *, opens: bool) -> tuple[Any, list[_Stream]]:
        """What leaves encoder layer `index`; `opens` adds streams that are quantized in it."""
        prefix, last = layer_name(index), index == self.spec.num_layers - 1
        exact, integer = self._weights(f"{prefix}/", "rotary/")
        graph = self._graph(exact)
        streams = [s._replace(tokens=graph.encoder_layer(s.tokens, prefix, last=last)) for s in streams]
        attention = graph.attention_branch(tokens, prefix, last=last)
        middle = (graph.kept_rows(tokens) if last else tokens) + attention
        mlp = graph.mlp_branch(middle, prefix)
        if opens:
            part = Component(index, "attention")
            for option in self.options(part):
                found = self._simulation(integer, part, option).attention_branch(tokens, prefix, last=last)
                changed = middle + self._corrected(part, option, f"{prefix}/attention/output", found - attention)
                streams.append(_Stream(part, option, changed + graph.mlp_branch(changed, prefix)))
            part = Component(index, "mlp")
            for option in self.options(part):
                found = self._simulation(integer, part, option).mlp_branch(middle, prefix)
                noise = self._corrected(part, option, f"{prefix}/mlp/dense_2", found - mlp)
                streams.append(_Stream(part, option, middle + mlp + noise))
        return middle + mlp, streams

    def _corrected(self, component: Component, option: Option, dense: str, noise: Any) -> Any:
        """`noise` [rows, width] of a branch less what its bias is corrected by, as `vit_export.int8.tune` does it."""
        values = noise.numpy()
        mean, chance = values.mean(0), values.std(0) / np.sqrt(len(values))
        correction = np.where(np.abs(mean) > SIGNIFICANT * chance, -mean, 0).astype(np.float32)
        if correction.any():
            self.corrections[component, option] = {dense: correction}
        return noise + correction

    def _answer(self, tokens: Any, streams: list[_Stream], *, head: bool) -> None:
        """Note the noise of each stream at the output, and with `head` that of the head."""
        exact, integer = self._weights("encoder/norm/", "pooling/", "pre_logits/", "head/")
        graph, part = self._graph(exact), Component(-1, "head")
        reference = _output(graph, tokens)
        power = max(float(np.square(reference).sum()), 1e-30)
        found = [(s.component, s.option, _output(graph, s.tokens)) for s in streams]
        if head and part in components(self.spec):
            for option in self.options(part):
                found.append((part, option, _output(self._simulation(integer, part, option), tokens)))
        for component, option, output in found:
            # The last digits differ between processors and thread counts; the choice shall not.
            self.noise[component, option] = float(f"{np.square(output - reference).sum() / power:.4g}")


def _output(graph: Graph, tokens: Any) -> np.ndarray:
    """Logits or features, float64 [n, k], of the kept tokens that leave the last layer."""
    return np.asarray(graph.answer(tokens), np.float64)


def _quantized(component: Component) -> Iterable[Option]:
    """The options of a component that are not float altogether, whose noise is 0."""
    return (option for option in component.options if option.dense != "float")
