"""Exact rewrites that bring a model into the range of 16-bit floats, in which GPUs compute.

A residual stream that is a power of two smaller is the same stream: what is added to it is made smaller alike, and the
LayerNorms that read it divide the factor out again (with an epsilon that is smaller by its square). The values of
attention take a factor that its output layer gives back. Powers of two round nothing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_export.model.artifact import Format, Precision
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec

KEY = "half_range"
"""Where the record of a file tells, among its weights, how they were fitted."""

EXPONENTS = range(-40, 41)


def meets_half(format: Format, precision: Precision) -> bool:
    """Whether 16-bit floats compute such a file somewhere: any .tflite on a GPU, of .onnx what is float16 itself."""
    return format == "tflite" or (format == "onnx" and precision == "float16")


@dataclass(frozen=True)
class Fit:
    """The residual stream is divided by 2^`stream`, the values of the attention of a layer by 2^`values[layer]`."""

    stream: int = 0
    values: Mapping[int, int] | None = None

    def __bool__(self) -> bool:
        return bool(self.stream or self.values)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {"stream": self.stream, "values": {str(layer): n for layer, n in (self.values or {}).items()}}

    @classmethod
    def from_dict(cls, told: object) -> "Fit":
        """The inverse of `to_dict`; of what is none, a fit that does nothing."""
        stream, values = (told.get("stream"), told.get("values")) if isinstance(told, dict) else (0, {})
        found = {int(k): v for k, v in values.items() if str(k).isdecimal()} if isinstance(values, dict) else {}
        known = all(isinstance(n, int) and n in EXPONENTS for n in (stream, *found.values()))
        return cls(stream, found) if known and isinstance(stream, int) else cls()

    @property
    def note(self) -> str:
        """What was done, in a sentence's part."""
        done = [f"the residual stream is divided by 2^{self.stream}"] if self.stream else []
        done += [f"the values of layer {layer}'s attention by 2^{n}" for layer, n in (self.values or {}).items()]
        shown = ", ".join(done[:3]) + (f" and {len(done) - 3} more" if len(done) > 3 else "")
        return f"to fit 16-bit floats, {shown}: the same function in float32"


class FittedParameters:
    """A `ParameterSource` equal to `source` as a function, its tensors in another range: see `Fit`."""

    def __init__(self, source: ParameterSource, fit: Fit) -> None:
        self._source, self._fit = source, fit
        spec = source.spec
        epsilon = math.ldexp(spec.layer_norm_epsilon, -2 * fit.stream)
        self._spec = spec.with_(layer_norm_epsilon=epsilon) if fit.stream else spec
        self._exponents = dict(_exponents(spec, fit))

    @property
    def spec(self) -> ViTSpec:
        """The model, with the epsilon that its smaller or larger stream needs."""
        return self._spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        value = self._source.read(name)
        exponent = self._exponents.get(name, 0)
        return np.ldexp(value, -exponent).astype(np.float32) if exponent else value


def _exponents(spec: ViTSpec, fit: Fit) -> Iterator[tuple[str, int]]:
    """By name the power of two that each parameter is divided by."""
    start = ("patch_embedding/kernel", "patch_embedding/bias", "class_token", "register_tokens", "position_embedding")
    for name in (*start, "embedding_norm/scale", "embedding_norm/bias"):
        yield name, fit.stream
    for layer in range(spec.num_layers):
        own, prefix = (fit.values or {}).get(layer, 0), layer_name(layer)
        yield f"{prefix}/attention/value/kernel", own
        yield f"{prefix}/attention/value/bias", own
        yield f"{prefix}/attention/output/kernel", fit.stream - own
        for name in ("attention/output/bias", "mlp/dense_2/kernel", "mlp/dense_2/bias"):
            yield f"{prefix}/{name}", fit.stream
