"""What is chosen for each encoder layer before it is quantized, by the error of its output on images.

Layer by layer on the float model's own tokens, so that one layer's weights are in memory at a time (steps 1, 2 and 4
are in Nagel et al., 2021, "A White Paper on Neural Network Quantization"):

1. the mean key is taken off all keys and the mean value off all values; how strongly value and query projections and
   LayerNorms are equalized (`vit_export.int8.equalize`);
2. how far the range of an activation is clipped: what is rare is cut off where finer levels for the rest are worth it;
3. weights are rounded by the error of the output (`vit_export.int8.rounding`);
4. bias correction: the mean of what rounding changed is taken off the bias at the end of the branch.

A choice is made when what attention or MLP adds to the residual stream, in simulated integer arithmetic, comes closer
to what it adds in float. The last layer computes the class token's row alone, one for each image: too few to choose by,
so that all rows are computed here, and what only fits the class token's values (clips) is left alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vit_export.deployment.graph import TFLITE, Graph
from vit_export.deployment.rewrites import Extras
from vit_export.int8.equalize import EqualizedParameters, Factors
from vit_export.int8.layer_choices import ENOUGH_FOR_OPERATORS, Layer, LayerChoice, even
from vit_export.int8.modes import Modes
from vit_export.int8.reads import Reads, RoundedReads
from vit_export.int8.rounding import Levels
from vit_export.int8.simulate import Clips, Extremes, Simulation
from vit_export.model.parameters import ParameterSource
from vit_export.model.spec import ViTSpec

MOST_IMAGES, FEWEST_IMAGES, MACS = 64, 2, 2e10
"""Images to choose by: as many as `MACS` pay for, within these bounds."""

MOST_SEEN, MACS_SEEN = 128, 8e11
"""Images to round weights by: more, for they are run once; as many as `MACS_SEEN` pay for, within `MOST_SEEN`."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tuning:
    """The outcome for a whole model; `apply` gives the parameters to quantize."""

    factors: Factors = field(default_factory=Factors)
    clips: Clips = field(default_factory=dict)
    layers: tuple[LayerChoice, ...] = ()
    images: int = 0
    kernels: Mapping[str, Levels] = field(default_factory=dict)
    """Kernels of the TFLite dialect that are rounded by the error of the output, by their names."""

    def apply(self, source: ParameterSource) -> ParameterSource:
        """`source` equalized and corrected."""
        return EqualizedParameters(source, self.factors)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "images": self.images,
            "layers": [layer.to_dict() for layer in self.layers],
            "clips": {site: list(ends) for site, ends in self.clips.items()},
            "corrected_biases": sorted(self.factors.corrections),
            "kernels_rounded_by_error": len(self.kernels),
        }

    @property
    def extras(self) -> Extras:
        """What the graph has for these factors (see `rewrites.folded_parameters`)."""
        return self.factors.extras


def images_wanted(spec: ViTSpec) -> int:
    """How many images `tune` should be given."""
    return max(_images_to_choose_by(spec), min(MOST_SEEN, int(MACS_SEEN / spec.num_macs)))


def _images_to_choose_by(spec: ViTSpec) -> int:
    return int(np.clip(MACS / spec.num_macs, FEWEST_IMAGES, MOST_IMAGES))


def tune(source: ParameterSource, images: np.ndarray, modes: Modes, progress: Progress | None = None) -> Tuning:
    """Choose for every layer of `source`; `images` are float32 [n, height, width, 3], normalized."""
    spec = source.spec
    cache = _Cache(source)
    factors, clips, choices, kernels = Factors(), dict[str, tuple[float, float]](), [], dict[str, Levels]()
    # What is chosen by a few images is chosen by some from all over the set.
    count = min(_images_to_choose_by(spec), len(images))
    first = np.arange(count) * len(images) // count
    images = images[np.concatenate([first, np.setdiff1d(np.arange(len(images)), first)])]
    if not modes.whole:
        tokens = Graph(spec, Reads(cache, Factors()), TFLITE, len(images)).embed(images)
    else:
        seen = Extremes(spec, Reads(cache, Factors()), len(images))
        tokens = seen.embed(images)
        factors = _even_patches(cache, seen, images[:count], tokens[: count * spec.num_tokens], modes)
    for index in range(spec.num_layers):
        if progress:
            progress(index, spec.num_layers)
        cache.clear()
        layer = Layer(cache, tokens, len(images), count, index, modes)
        layer.choose()
        factors = factors.also(**vars(layer.factors))
        clips.update(layer.clips)
        kernels.update(layer.kernels)
        choices.append(layer.choice())
        tokens = layer.output()
    if progress:
        progress(spec.num_layers, spec.num_layers)
    return Tuning(factors, clips, tuple(choices), count, kernels)


def _even_patches(source: ParameterSource, seen: Extremes, images: np.ndarray, tokens: Any, modes: Modes) -> Factors:
    """Factors that give every channel of the patch embedding's output the same range, where they are worth it."""
    changed = Factors(outputs={"patch_embedding": even(seen.largest("patch_embedding"))})

    def error(factors: Factors) -> float:
        weights = RoundedReads(source, factors, {})
        found = Simulation(source.spec, weights, len(images), modes).embed(images)
        return float(np.square(found - tokens).sum())

    return changed if error(changed) < ENOUGH_FOR_OPERATORS * error(Factors()) else Factors()


class _Cache:
    """A `ParameterSource` that keeps what was read until it is told to forget."""

    def __init__(self, source: ParameterSource) -> None:
        self._source, self._kept = source, dict[str, np.ndarray]()

    @property
    def spec(self) -> ViTSpec:
        return self._source.spec

    def read(self, name: str) -> np.ndarray:
        if name not in self._kept:
            self._kept[name] = self._source.read(name)
        return self._kept[name]

    def clear(self) -> None:
        self._kept.clear()
