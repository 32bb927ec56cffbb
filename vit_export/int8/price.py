"""What an option costs in time, estimated: what the search weighs against noise.

Nothing is timed while searching, so that the same model and images lead to the same choice on every machine. What is
compared are four figures of one machine, scaled to the sizes at hand.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vit_export.int8.modes import Modes
from vit_export.int8.sensitivity import Component, Option, components
from vit_export.model.head import DENSE
from vit_export.model.spec import ViTSpec

INT8_MS, FLOAT_MS, DYNAMIC_MS, PRODUCTS_MS = 15.0, 69.0, 0.7, 4.9
"""S/16 on one core of an x86 processor with AVX-512 VNNI and without AMX, milliseconds for all its encoder layers: the
Dense in int8; in float; what dynamic Dense take more than static ones; what attention's products take more in float
than in int8. Scaled from files of DINOv2-S/14 that differ in one of them.

With AMX the Dense take less, so that the others weigh more; with AVX2 alone, all but float weights take the same to
about a tenth.
"""


_FLOAT_PRODUCTS = {"int8": 0, "scores": 1, "float": 2}
"""How many of attention's two products are in float; both are of a size."""


class _Dense(NamedTuple):
    rows: int
    inputs: int
    outputs: int


def price(spec: ViTSpec, component: Component, option: Option) -> float:
    """Time that `component` takes more in `option` than by `modes.static`, as a part of all int8 Dense of `spec`."""
    macs = sum(_macs(spec, c) for c in components(spec) if c.layer >= 0)
    more = _milliseconds(spec, component, option) - _milliseconds(spec, component, component.options[0])
    return more / (INT8_MS * macs / _MACS)


def total(spec: ViTSpec, modes: Modes) -> float:
    """The prices of all components of `spec` in `modes`."""
    return sum(price(spec, component, component.of(modes)) for component in components(spec))


def kernels(spec: ViTSpec, component: Component) -> list[tuple[int, int]]:
    """The shapes [inputs, outputs] of the kernels of `component`."""
    return [(dense.inputs, dense.outputs) for dense in _dense(spec, component)]


def _milliseconds(spec: ViTSpec, component: Component, option: Option) -> float:
    """Milliseconds that a component takes in `option` beyond those in static int8."""
    found = 0.0
    for dense in _dense(spec, component):
        if option.dense == "float":
            # Where only the class token's row is computed, the weights are read all the same.
            found += (FLOAT_MS - INT8_MS) * spec.num_tokens * dense.inputs * dense.outputs / _MACS
        elif option.dense == "dynamic":
            found += DYNAMIC_MS * dense.rows * (dense.inputs + dense.outputs) / _MOVED
    if component.part == "attention":
        found += _FLOAT_PRODUCTS[option.products] / 2 * PRODUCTS_MS * _products(spec, component.layer) / _PRODUCTS
    return found


def _macs(spec: ViTSpec, component: Component) -> int:
    return sum(dense.rows * dense.inputs * dense.outputs for dense in _dense(spec, component))


def _dense(spec: ViTSpec, component: Component) -> Iterator[_Dense]:
    """The Dense layers of a component."""
    tokens, width = spec.num_tokens, spec.hidden_size
    queries = _queries(spec, component.layer)
    if component.part == "patch":
        yield _Dense(spec.num_patches, 3 * spec.patch_size**2, width)
    elif component.part == "attention":
        for rows in (queries, tokens, tokens, queries):
            yield _Dense(rows, width, width)
    elif component.part == "mlp":
        yield _Dense(queries, width, spec.mlp_size)
        yield _Dense(queries, spec.mlp_size, width)
    else:
        if spec.attention_pooling:
            yield _Dense(tokens, width, width + spec.num_heads)
            yield _Dense(1, width, width + 2 * spec.mlp_size)
        if spec.pre_logits_size is not None:
            yield _Dense(1, spec.pooled_size, spec.pre_logits_size)
        for _, step, inputs, outputs in spec.head_steps:
            if step.kind == DENSE:
                yield _Dense(1, inputs, outputs)
        if spec.num_classes is not None:
            yield _Dense(1, spec.classifier_inputs, spec.num_classes)


def _products(spec: ViTSpec, layer: int) -> int:
    """Multiply-accumulates of QKᵀ and softmax·V in one layer."""
    return 2 * _queries(spec, layer) * spec.num_tokens * spec.hidden_size


def _queries(spec: ViTSpec, layer: int) -> int:
    """Rows that attend, and go through the MLP: the last layer computes those alone that are read after it."""
    return spec.kept_tokens if layer == spec.num_layers - 1 else spec.num_tokens


# All layers of S/16, as if its last computed every row too.
_MEASURED_AT = ViTSpec.of("vit_s16")
_MEASURED = [*_dense(_MEASURED_AT, Component(0, "attention")), *_dense(_MEASURED_AT, Component(0, "mlp"))]
_MACS = _MEASURED_AT.num_layers * sum(d.rows * d.inputs * d.outputs for d in _MEASURED)
_MOVED = _MEASURED_AT.num_layers * sum(d.rows * (d.inputs + d.outputs) for d in _MEASURED)
_PRODUCTS = _MEASURED_AT.num_layers * _products(_MEASURED_AT, 0)
