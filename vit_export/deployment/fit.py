"""How a model is brought into the range of 16-bit floats (`half_range`): it is run, and its values are looked at."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vit_export.base.lazy import Tensors
from vit_export.deployment.graph import ONNX, Graph
from vit_export.deployment.half_range import EXPONENTS, Fit
from vit_export.deployment.rewrites import plain_parameters
from vit_export.model.parameters import ParameterSource, layer_name

MOST, LEAST = 2.0**15, 2.0**-10
"""The largest magnitude on a few images that is left as it is (float16 ends at 65504), and the smallest."""
_LARGE, _SMALL = 12, 0
"""The powers of two that what is beyond is brought to."""


def fit_of(source: ParameterSource, images: np.ndarray) -> Fit:
    """What brings the model of `source` into the range of 16-bit floats on `images`, normalized [n, s, s, 3].

    The model is run, a layer's parameters in memory at a time. Where attention pooling has a LayerNorm beside the
    stream, of the same epsilon, the stream stays as it is.
    """
    import tensorflow as tf

    spec = source.spec
    # All images at once, and nothing folded: the parameters are read once, and as they are.
    graph = _Watching(spec, _Read(plain_parameters(source)), ONNX, batch=len(images))
    tokens = graph.noted(graph.embed(tf.constant(images)))
    for index in range(spec.num_layers):
        tokens = graph.encoder_layer(tokens, layer_name(index), last=False)
    values = {layer: n for layer, size in graph.values.items() if (n := _exponent(size)) > 0}
    return Fit(_exponent(graph.stream) if spec.pooling != "attention" else 0, values)


def _exponent(size: float) -> int:
    """By which power of two what reaches `size` is divided; 0 where it fits as it is, or is no number."""
    if not 0 < size < math.inf or LEAST <= size <= MOST:
        return 0
    wanted = math.ceil(math.log2(size)) - (_LARGE if size > MOST else _SMALL)
    return wanted if wanted in EXPONENTS else 0


class _Read(Mapping[str, Any]):
    """Tensors that are read when they are asked for, and not kept."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Any:
        import tensorflow as tf

        return tf.constant(self._tensors[name].read())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class _Watching(Graph):
    """A graph that notes the largest magnitude of the residual stream, and of each layer's values."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream, self.values = 0.0, dict[int, float]()

    def noted(self, tokens: Any) -> Any:
        """`tokens`, a residual stream, once their magnitude is noted."""
        self.stream = max(self.stream, self._largest(tokens))
        return tokens

    def visit(self, site: str, x: Any) -> Any:
        """See `Graph.visit`."""
        for part in ("/attention/value", "/attention/output", "/mlp/dense_2"):
            if site.endswith(part):
                if part == "/attention/value":
                    layer = int(site.removesuffix(part).rpartition("_")[2])
                    self.values[layer] = max(self.values.get(layer, 0.0), self._largest(x))
                else:
                    self.noted(x)
        return x

    def encoder_layer(self, tokens: Any, prefix: str, *, last: bool) -> Any:
        """See `Graph.encoder_layer`."""
        return self.noted(super().encoder_layer(tokens, prefix, last=last))

    def _largest(self, x: Any) -> float:
        return float(self.tf.reduce_max(self.tf.abs(x)))
