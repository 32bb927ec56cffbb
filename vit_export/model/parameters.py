"""Canonical parameter names and shapes: the one vocabulary between weights, the reference model and the converters.

Dense kernels are [in, out], the patch embedding's kernel is [height, width, channel, out], as Keras keeps them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vit_export.model.head import DENSE, NORM
from vit_export.model.spec import ViTSpec


@dataclass(frozen=True)
class ParameterSpec:
    """Name and shape of one float32 parameter."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))


class ParameterSource(Protocol):
    """Where parameters come from, one tensor at a time, so that no stage needs the whole model in memory."""

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        ...


def layer_name(index: int) -> str:
    """Prefix of the parameters of encoder layer `index` (from 0)."""
    return f"encoder/layer_{index}"


def parameter_specs(spec: ViTSpec) -> tuple[ParameterSpec, ...]:
    """Every parameter of `spec`, in the order in which the model uses them."""
    return tuple(ParameterSpec(name, shape) for name, shape in _rows(spec))


def fingerprint_of(source: ParameterSource) -> str:
    """sha256, in hex, over the name and the float32 little-endian values of every parameter, in the model's order.

    Two models that share it are the same to the last bit, whatever file they came from.
    """
    digest = hashlib.sha256()
    for parameter in parameter_specs(source.spec):
        digest.update(f"{parameter.name}\0".encode())
        digest.update(np.ascontiguousarray(source.read(parameter.name), "<f4").data)
    return digest.hexdigest()


def _rows(spec: ViTSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    p, d, m = spec.patch_size, spec.hidden_size, spec.mlp_size

    def dense(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}/kernel", (inputs, outputs)
        yield f"{name}/bias", (outputs,)

    def norm(name: str, width: int = d) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}/scale", (width,)
        yield f"{name}/bias", (width,)

    yield "patch_embedding/kernel", (p, p, 3, d)
    yield "patch_embedding/bias", (d,)
    if spec.class_token:
        yield "class_token", (1, 1, d)
    if spec.num_registers:
        yield "register_tokens", (1, spec.num_registers, d)
    if spec.positions == "learned":
        yield "position_embedding", (1, spec.num_positions, d)
    if spec.embedding_norm:
        yield from norm("embedding_norm")
    for index in range(spec.num_layers):
        prefix = layer_name(index)
        yield from norm(f"{prefix}/attention_norm")
        for projection in ("query", "key", "value", "output"):
            yield from dense(f"{prefix}/attention/{projection}", d, d)
        yield from norm(f"{prefix}/mlp_norm")
        yield from dense(f"{prefix}/mlp/dense_1", d, m)
        yield from dense(f"{prefix}/mlp/dense_2", m, d)
    if spec.final_norm:
        yield from norm("encoder/norm")
    if spec.attention_pooling:
        yield "pooling/probe", (1, 1, d)
        for projection in ("query", "key", "value", "output"):
            yield from dense(f"pooling/{projection}", d, d)
        yield from norm("pooling/norm")
        yield from dense("pooling/mlp/dense_1", d, m)
        yield from dense("pooling/mlp/dense_2", m, d)
    if spec.pre_logits_size is not None:
        yield from dense("pre_logits", spec.pooled_size, spec.pre_logits_size)
    for name, step, inputs, outputs in spec.head_steps:
        yield from {DENSE: dense(name, inputs, outputs), NORM: norm(name, inputs)}.get(step.kind, ())
    if spec.num_classes is not None:
        yield from dense("head", spec.classifier_inputs, spec.num_classes)
