"""Faults that 32 bits on a CPU do not show: what a file computes leaves the 16-bit floats of GPUs, or stays off them.

Each range has a reference of its own, which the files equal; LayerNorms have a small epsilon, so that they divide any
stream by its own size.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from conftest import RandomParameters

from helpers.faults_bench import BENCHES, Bench, Changed, toy_bench
from helpers.faults_table import FIGURES, LAYER, SPEC, Fault, only
from vit_export.model.parameters import ParameterSource


def scaled(source: ParameterSource, factor: float) -> Changed:
    """The whole residual stream `factor` times as large."""
    names = ["patch_embedding/kernel", "patch_embedding/bias", "class_token", "position_embedding"]
    for layer in range(source.spec.num_layers):
        for dense in ("attention/output", "mlp/dense_2"):
            names += [f"{LAYER}{layer}/{dense}/{part}" for part in ("kernel", "bias")]
    return Changed(source, {name: source.read(name) * np.float32(factor) for name in names})


def large_unit(source: ParameterSource, size: float) -> Changed:
    """One unit inside the MLP of layer 2 is `size`, and its row of the next kernel as much smaller."""
    prefix = f"{LAYER}2/mlp"
    bias, kernel = source.read(f"{prefix}/dense_1/bias").copy(), source.read(f"{prefix}/dense_2/kernel").copy()
    bias[3], kernel[3] = size, kernel[3] / size
    return Changed(source, {f"{prefix}/dense_1/bias": bias, f"{prefix}/dense_2/kernel": kernel})


def _large_by_half_weights(source: ParameterSource) -> Changed:
    """One unit inside the MLP of layer 2 is beyond 65504, and its weights are not: a file of 16-bit floats has them."""
    prefix = f"{LAYER}2/mlp"
    kernel, bias = source.read(f"{prefix}/dense_1/kernel").copy(), source.read(f"{prefix}/dense_1/bias").copy()
    kernel[:, 3], bias[3] = 5e4, 5e4
    return Changed(source, {f"{prefix}/dense_1/kernel": kernel, f"{prefix}/dense_1/bias": bias})


def large_values(source: ParameterSource, factor: float) -> Changed:
    """The values of layer 1's attention are `factor` times as large, its output kernel as much smaller."""
    prefix = f"{LAYER}1/attention"
    change = {f"{prefix}/value/{part}": source.read(f"{prefix}/value/{part}") * factor for part in ("kernel", "bias")}
    return Changed(source, {**change, f"{prefix}/output/kernel": source.read(f"{prefix}/output/kernel") / factor})


def large_channel(source: ParameterSource, size: float) -> Changed:
    """One channel of the residual stream is `size` from layer 1 on."""
    name = f"{LAYER}1/mlp/dense_2/bias"
    bias = source.read(name).copy()
    bias[5] = size
    return Changed(source, {name: bias})


def half_bench(folder: Path, change: Callable = lambda source: source, **options) -> Bench:
    """A reference whose stream may have any size, `change` of it made."""
    spec = SPEC.with_(layer_norm_epsilon=1e-12)
    return toy_bench(folder, spec, source=change(RandomParameters(spec)), count=2, **options)


RANGES: dict[str, tuple[Callable, str]] = {
    "a branch beyond 65504": (lambda s: large_unit(s, 1e6), "encoder layer 2's MLP reaches 1000"),
    "values beyond 65504": (lambda s: large_values(s, 1e6), "encoder layer 1's attention reaches"),
    "one channel of 1e5": (lambda s: large_channel(s, 1e5), "encoder layer 1's MLP reaches 1000"),
    "a residual stream of 1e5": (lambda s: scaled(s, 1e5), "the patch embedding reaches"),
    "a residual stream of 4e-6": (lambda s: scaled(s, 1e-6), "the patch embedding is no larger than"),
}
"""What is made of the reference, and what is said of its files."""

_HALF_WEIGHTS: dict[str, tuple[Callable, str, frozenset[str]]] = {
    "a branch beyond 65504, weights below": (_large_by_half_weights, "encoder layer 2's MLP reaches", only()),
    "a residual stream of 4e5, weights below": (
        lambda s: scaled(s, 3e4),
        "the patch embedding reaches",
        only("finite"),
    ),
    "a stream of 4e-6 in float16": (lambda s: scaled(s, 1e-6), "the patch embedding is no larger than", FIGURES),
}
"""The same for float16 .onnx files, which refuse a weight beyond 65504; and what fails of them on a CPU as well."""

_SHOWN = FIGURES | only("class_order", "agreement", "constants")
"""What may show a range besides."""

BENCHES |= {
    name: lambda folder, change=change: half_bench(folder, change)
    for name, (change, *_) in (RANGES | _HALF_WEIGHTS).items()
}


def _good(kind: str) -> Callable[[Bench, Path], object]:
    return lambda bench, path: bench.export(kind, path)


HALF = (
    *(
        Fault(f"{name} (tflite)", _good("tflite float32"), only(), warns=f"tflite float32: {says}", bench=name)
        for name, (_, says) in RANGES.items()
    ),
    *(
        Fault(
            f"{name} (onnx)",
            _good("onnx float16"),
            fails,
            cause="half_range" if fails else None,
            warns=f"onnx float16: {says}",
            may=_SHOWN,
            bench=name,
        )
        for name, (_, says, fails) in _HALF_WEIGHTS.items()
    ),
    *(
        Fault(
            f"{name} (tflite, on a GPU)",
            _good("tflite float32"),
            only() if "4e-6" in name else only("finite"),
            cause="half_range",
            may=_SHOWN,
            bench=name,
            place="gpu",
        )
        for name in RANGES
    ),
    Fault(
        "operators that stay on the CPU (tflite, on a GPU)",
        _good("tflite int8 w8a16"),
        only("accelerated"),
        says="operators stay on the CPU",
        place="gpu",
    ),
)
