"""int8: every Dense multiplies 8-bit integers, everything between stays float32.

"dynamic": weights per output channel, activations with one scale and zero point per tensor that the runtime computes
from the tensor itself (DynamicQuantizeLinear), so that nothing has to be calibrated. Written in standard operators
(MatMulInteger and what surrounds it), which ONNX Runtime fuses into DynamicQuantizeMatMul and MatMulIntegerToFloat.

Weights are int8 with zero point 0, with scales by pairs (`onnx.pairs`): exact on every processor, and for the kernels
that multiply uint8 by int8, which are the fast ones where VNNI exists. The patch embedding's weights are uint8 with
zero point 128: neighbouring inputs are colours of one pixel, whose weights have one sign, so that pairs cost nearly
twice the scale there (1.69 times on DINOv2-S/14). uint8 is exact everywhere, slower with VNNI, and this kernel is 1 %
of the products.

DINOv2-S/14 on 32 photographs: signal to noise of the class token's features in dB, and latency on one thread of an
x86 processor with AVX-512 VNNI and without AMX, as a part of float32's (interleaved, medians of 20 on a busy machine):

    weights                                  median  worst  latency
    uint8 with zero point 128                  26.8   16.9     0.76
    int8                                       26.8   16.9     0.40
    int8 with 7 bits                           23.4   18.6     0.41
    int8 by pairs                              26.1   20.3     0.41
    int8 by pairs, reordered, patches uint8    26.7   20.3     0.41

With AVX2 and without VNNI (Zen 3) uint8 weights were 1.5 and 1.3 times as fast as float32 (S/32, S/16), int8 with 7
bits 1.9 and 1.7 times; plain int8 saturates there: 12.4 dB where uint8 has 39.5, on a model trained on digits.

The structure is quantized, tens of KB of it; each tensor becomes integers when its turn to be written comes.
"""

from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import StructureError
from vit_export.base.lazy import LazyTensor, computed_together
from vit_export.int8.rounding import Levels
from vit_export.model.parameters import ParameterSource
from vit_export.onnx.editing import count
from vit_export.onnx.fusion import dense_layers
from vit_export.onnx.pairs import quantize_by_pairs
from vit_export.onnx.qdq import Ranges
from vit_export.onnx.smoothing import int8_parameters, levels_of
from vit_export.onnx.stream import declare_inputs

if TYPE_CHECKING:
    import onnx

_ZERO_POINT = 128
_LEVELS = 127
_ZERO_POINT_NAME = "patch_embedding/kernel_zero_point"
_PATCHES = "patch_embedding/kernel"
"""The kernel whose weights are uint8."""


def dynamic_int8(model: "onnx.ModelProto", source: ParameterSource, ranges: Ranges) -> list[LazyTensor]:
    """Quantize the Dense layers of `model` (weights as graph inputs) in place; the weights it then wants.

    No `ranges` are looked at: the runtime finds its own.

    Input `x/kernel` float32 [in, out] becomes `x/kernel_quantized` int8 [in, out] (uint8 for the patch embedding) and
    `x/kernel_scale` float32 [out].

    Raises:
        StructureError: the number of Dense layers found is not the spec's.
    """
    del ranges
    graph = model.graph
    kernels = {value.name for value in graph.input if value.name.endswith("/kernel")}
    _replace_dense(graph, kernels)
    found, expected = count(graph, "MatMulInteger"), dense_layers(source.spec)
    if found != expected or count(graph, "Gemm"):
        raise StructureError(f"ONNX quantization: {found} Dense layers became integer, expected {expected}.")
    weights, levels = [], levels_of(source)
    for name, weight in int8_parameters(source).items():
        weights.extend(_quantized(weight, levels.get(name)) if name in kernels else [weight])
    declare_inputs(graph, weights)
    return weights


def quantize_kernel(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`kernel` [in, out] as uint8 [in, out] with zero point 128, and the float32 scale [out] of each output channel."""
    scale = (np.abs(kernel).max(axis=0) / _LEVELS).astype(np.float32)
    # An output channel without weights: any scale will do, but for 0, which would make NaN of 0 / 0.
    scale[scale == 0] = 1.0
    levels = kernel / scale
    np.rint(levels, out=levels)
    levels += _ZERO_POINT
    return levels.astype(np.uint8), scale


def through_int8(kernel: np.ndarray) -> np.ndarray:
    """`kernel` [in, out] as `quantize_kernel` stores it, in float32 again (a `rewrites.Rounding`)."""
    values, scale = quantize_kernel(kernel)
    return (values.astype(np.float32) - _ZERO_POINT) * scale


def _replace_dense(graph: "onnx.GraphProto", kernels: set[str]) -> None:
    from onnx import helper, numpy_helper

    quantized_inputs: dict[str, list[str]] = {}
    nodes = []
    for node in graph.node:
        if node.op_type != "Gemm" or node.input[1] not in kernels:
            nodes.append(node)
            continue
        x, kernel, bias = node.input
        y = node.output[0]
        if x not in quantized_inputs:
            # Query, key and value read the same tokens: one quantization serves all three.
            quantized_inputs[x] = [f"{x}:{part}" for part in ("quantized", "scale", "zero_point")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [x], quantized_inputs[x]))
        values, scale, offset = quantized_inputs[x]
        zero_points = [offset, _ZERO_POINT_NAME] if kernel == _PATCHES else [offset]
        # In this order of operations ONNX Runtime recognises the whole as one operator.
        nodes += [
            helper.make_node("MatMulInteger", [values, f"{kernel}_quantized", *zero_points], [f"{y}:sum"]),
            helper.make_node("Cast", [f"{y}:sum"], [f"{y}:float"], to=1),
            helper.make_node("Mul", [scale, f"{kernel}_scale"], [f"{y}:scale"]),
            helper.make_node("Mul", [f"{y}:float", f"{y}:scale"], [f"{y}:product"]),
            helper.make_node("Add", [f"{y}:product", bias], [y]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.array(_ZERO_POINT, np.uint8), _ZERO_POINT_NAME))


def _quantized(weight: LazyTensor, levels: Levels | None) -> list[LazyTensor]:
    """The integer kernel and its scale: `levels`, where there are any."""
    dtype, quantize = (np.uint8, quantize_kernel) if weight.name == _PATCHES else (np.int8, quantize_by_pairs)
    return computed_together(
        [(f"{weight.name}_quantized", weight.shape, dtype), (f"{weight.name}_scale", weight.shape[1:], np.float32)],
        lambda: quantize(weight.read()) if levels is None else (levels.levels.T, levels.scale),
    )
