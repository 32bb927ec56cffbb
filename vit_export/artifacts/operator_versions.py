"""The version of each TFLite operator that its types need, which tells a runtime whether it has what a file needs.

A runtime refuses a version that it does not know, and computes one that it takes for its own as it always did: an int8
Dense per channel that is called version 1 gives wrong answers in TensorFlow Lite 2.12 and 2.14, without a word. AI Edge
Quantizer leaves the versions of the float file, so a file's own word is not enough.

Source of the rules: tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operand:
    """What the version of an operator depends on in one of its tensors; `dtype` as numpy has it ("int8")."""

    dtype: str
    shape: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()


Operands = Sequence[Operand | None]
"""None where an input is left out."""

_Rule = Callable[[Mapping[str, Any], Operands, Operands], int]


def needed_version(kind: str, options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int | None:
    """The lowest version of the operator `kind` that computes this; None where there is no rule for it.

    `options` are the flags of its options in the schema's names (`keepNumDims`, `asymmetricQuantizeInputs`).
    """
    rule = RULES.get(kind)
    if rule is None or not inputs or inputs[0] is None or not outputs:
        return None
    return rule(options, inputs, outputs)


def _dtype(tensor: Operand | None) -> str:
    return "" if tensor is None else tensor.dtype


def _any(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    del options, inputs, outputs
    return 1


def _by_input(int8: int, int16: int) -> _Rule:
    """The rule of an operator with these versions for int8 and int16, and version 1 for all others."""

    def version(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
        del options, outputs
        return {"int8": int8, "int16": int16}.get(_dtype(inputs[0]), 1)

    return version


def _fully_connected(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    kernel = inputs[1] if len(inputs) > 1 else None
    types = _dtype(inputs[0]), _dtype(kernel), _dtype(outputs[0])
    hybrid = types == ("float32", "int8", "float32")
    if hybrid and kernel is not None and kernel.shape and len(kernel.scales) == kernel.shape[0]:
        return 12
    if len(inputs) == 2:
        return 6
    if options.get("keepNumDims"):
        return 5
    if hybrid:
        return 9 if options.get("asymmetricQuantizeInputs") else 3
    return 4 if types == ("int8", "int8", "int8") else 1


def _batch_matmul(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    types = _dtype(inputs[0]), _dtype(inputs[1] if len(inputs) > 1 else None), _dtype(outputs[0])
    if types == ("float32", "int8", "float32") and options.get("asymmetricQuantizeInputs"):
        return 4
    return {"int8": 2, "int16": 3}.get(types[0], 1)


def _mul(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    if _dtype(inputs[0]) == "int16":
        return 4
    scales = [tensor.scales if tensor else () for tensor in (*inputs, outputs[0])]
    if all(scales) and scales[0][0] * scales[1][0] / scales[2][0] >= 1:
        return 3
    return 2 if _dtype(inputs[0]) == "int8" else 1


def _dequantize(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    del options, outputs
    if _dtype(inputs[0]) in ("float16", "int16"):
        return 3
    several = inputs[0] is not None and len(inputs[0].scales) > 1
    return (5 if several else 2) if _dtype(inputs[0]) == "int8" else 1


def _quantize(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    del options, inputs  # only per tensor
    return 2 if _dtype(outputs[0]) == "int16" else 1


def _cast(options: Mapping[str, Any], inputs: Operands, outputs: Operands) -> int:
    del options
    return 3 if "int8" in (_dtype(inputs[0]), _dtype(outputs[0])) else 1


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
"""The version that an operator needs, by its options, inputs and outputs."""
