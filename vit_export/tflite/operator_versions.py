"""The version of each operator, which tells a runtime whether it has what a file needs.

A runtime refuses a version that it does not know, and computes one that it takes for its own as it always did: an int8
Dense per channel that is called version 1 gives wrong answers in TensorFlow Lite 2.12 and 2.14, without a word. AI Edge
Quantizer leaves the versions of the float file, so they are set here, to the lowest that TensorFlow's converter would
(tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import operator_kinds
from vit_export.artifacts.runtime_versions import MIN_RUNTIME, WIDE_GELU, runtime_of
from vit_export.base.adapters.litert import names_of
from vit_export.tflite.structure import metadata_buffer

_RUNTIME_BYTES = 16  # as TensorFlow writes it, padded with zeros


def set_versions(model: Any, *, inline: bool = True) -> None:
    """Set the version of every operator code of `model`, and the metadata `min_runtime_version` that follows from them.

    A code has the highest version that one of its operators needs; that of an operator without a rule here stays.
    `inline` says whether every buffer will be in the flatbuffer.
    """
    kinds = operator_kinds(model)
    needed: dict[int, int] = {}
    unversioned = set()
    for graph in model.subgraphs:
        for operator in graph.operators:
            index = operator.opcodeIndex
            if (rule := RULES.get(kinds[index])) is not None:
                inputs = [graph.tensors[i] if i >= 0 else None for i in operator.inputs]
                outputs = [graph.tensors[i] for i in operator.outputs]
                if kinds[index] == "GELU" and _type(inputs[0]) == "INT16":
                    unversioned.add(WIDE_GELU)
                needed[index] = max(needed.get(index, 1), rule(operator.builtinOptions, inputs, outputs))
    for index, version in needed.items():
        model.operatorCodes[index].version = version
    codes = [(kind, code.version) for kind, code in zip(kinds, model.operatorCodes, strict=True)]
    if runtime := runtime_of((*codes, *unversioned), inline=inline):
        text = runtime.encode().ljust(_RUNTIME_BYTES, b"\0")
        model.buffers[metadata_buffer(model, MIN_RUNTIME)].data = np.frombuffer(text, np.uint8)


_Rule = Callable[[Any, list[Any], list[Any]], int]


def _type(tensor: Any) -> str:
    """The name of a tensor's type, as "INT8"."""
    return names_of("TensorType")[tensor.type]


def _scales(tensor: Any) -> list[float]:
    quantization = tensor.quantization
    return [] if quantization is None or quantization.scale is None else list(quantization.scale)


def _any(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    del options, inputs, outputs
    return 1


def _by_input(int8: int, int16: int) -> _Rule:
    """The rule of an operator with these versions for int8 and int16, and version 1 for all others."""

    def version(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
        del options, outputs
        return {"INT8": int8, "INT16": int16}.get(_type(inputs[0]), 1)

    return version


def _fully_connected(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    image, kernel = inputs[:2]
    types = _type(image), _type(kernel), _type(outputs[0])
    hybrid = types == ("FLOAT32", "INT8", "FLOAT32")
    if hybrid and len(_scales(kernel)) == kernel.shape[0]:
        return 12
    if len(inputs) == 2:
        return 6
    if options.keepNumDims:
        return 5
    if hybrid:
        return 9 if options.asymmetricQuantizeInputs else 3
    return 4 if types == ("INT8", "INT8", "INT8") else 1


def _batch_matmul(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    types = _type(inputs[0]), _type(inputs[1]), _type(outputs[0])
    if types == ("FLOAT32", "INT8", "FLOAT32") and options.asymmetricQuantizeInputs:
        return 4
    return {"INT8": 2, "INT16": 3}.get(types[0], 1)


def _mul(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    if _type(inputs[0]) == "INT16":
        return 4
    scales = [_scales(tensor) for tensor in (*inputs, outputs[0])]
    if all(scales) and scales[0][0] * scales[1][0] / scales[2][0] >= 1:
        return 3
    return 2 if _type(inputs[0]) == "INT8" else 1


def _dequantize(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    del options, outputs
    if _type(inputs[0]) in ("FLOAT16", "INT16"):
        return 3
    return (5 if len(_scales(inputs[0])) > 1 else 2) if _type(inputs[0]) == "INT8" else 1


def _quantize(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    del options, inputs  # only per tensor
    return 2 if _type(outputs[0]) == "INT16" else 1


def _cast(options: Any, inputs: list[Any], outputs: list[Any]) -> int:
    del options
    return 3 if "INT8" in (_type(inputs[0]), _type(outputs[0])) else 1


RULES: dict[str, _Rule] = {
    **dict.fromkeys(("CONCATENATION", "MEAN", "RSQRT", "SOFTMAX", "TANH"), _by_input(2, 3)),
    # ADD and SUB of int16 have general scales, not powers of two (`potScaleInt16`).
    **{"ADD": _by_input(2, 3), "SUB": _by_input(2, 5)},
    # Of rank 4 at most, without bool and text, and no slice adds an axis (`Structure.check`).
    **{"TRANSPOSE": _by_input(2, 5), "STRIDED_SLICE": _by_input(2, 1), "SLICE": _by_input(2, 4)},
    "GELU": _by_input(2, 1),
    "RESHAPE": _any,
    "QUANTIZE": _quantize,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "MUL": _mul,
    "DEQUANTIZE": _dequantize,
    "CAST": _cast,
}
"""The version that an operator needs, by its options, its inputs (None where one is left out) and its outputs."""
