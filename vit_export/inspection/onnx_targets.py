"""What ONNX Runtime's execution providers take. Nothing here was run on a device.

Core ML and NNAPI: the tables that are installed with onnxruntime, whose own usability checker reads them, and what the
providers' sources add. XNNPACK and QNN: the sources of microsoft/onnxruntime, read on 2026-11-23.
"""

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from vit_export.base.versions import versions
from vit_export.inspection.conditions import (
    Condition,
    all_of,
    constant,
    dtype,
    equals,
    max_rank,
    rank,
    running_dtypes,
    static,
    stored,
)
from vit_export.inspection.delegates import Basis, Target
from vit_export.inspection.operators import Node

_READ = "microsoft/onnxruntime, read 2026-11-23"
_ANY: Condition = all_of()
_LOW_OPSET = "export with --opset 22 or lower, which writes attention as MatMul and Softmax"
_NO_INT8 = "give the NPU or GPU the float16 or float32 file"

_EIGHT = ("int8", "uint8")


@cache
def table(name: str) -> Mapping[str, str]:
    """The installed table `name`: what it says of each operator, by domain:Op; empty where there is none."""
    found = find_spec("onnxruntime")
    if found is None or not found.submodule_search_locations:
        return {}
    path = Path(found.submodule_search_locations[0]) / "tools" / "mobile_helpers" / name
    if not path.is_file():
        return {}
    rows = (line.strip().split("|") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    return {row[1]: row[2].replace("<br/>", " ") for row in rows if len(row) == 4 and ":" in row[1]}


def _operators(name: str, added: Mapping[str, Condition]) -> dict[str, Condition]:
    known = (key.removeprefix("ai.onnx:") for key in table(name))
    return {operator: added.get(operator, _ANY) for operator in known}


def _caveats(name: str, added: Mapping[str, Condition]) -> dict[str, str]:
    """What the table says of operators without a condition here."""
    found = ((key.removeprefix("ai.onnx:"), text) for key, text in table(name).items())
    return {operator: text.rstrip(".") for operator, text in found if text and operator not in added}


def _source(name: str) -> str:
    return f"{name}, installed with onnxruntime {versions('onnxruntime')['onnxruntime']}, and the sources of {_READ}"


def _last_axis(node: Node) -> str:
    axis, shape = node.attributes.get("axis", -1), node.given[0].shape if node.given else None
    return "" if axis == -1 or (shape is not None and axis == len(shape) - 1) else f"along axis {axis}, not the last"


def _no_mask_products(node: Node) -> str:
    given = {name: node.attributes.get(name, default) for name, default in (("alpha", 1.0), ("beta", 1.0))}
    wrong = [name for name, value in given.items() if value != 1]
    return f"{wrong[0]} is not 1" if wrong else ""


_FLOAT32 = dtype(0, ("float32",))
_DOCUMENTED: Basis = "documentation, not run"
_PRODUCT = all_of(stored(1), _no_mask_products)


def _core_ml(form: str, name: str, added: Mapping[str, Condition], floats: tuple[str, ...]) -> Target:
    return Target(
        name=f"Core ML ({form})",
        basis=_DOCUMENTED,
        source=_source(name),
        operators=_operators(name, added),
        caveats=_caveats(name, added),
        every=all_of(max_rank(5), running_dtypes((*floats, "int64", "int32", "bool"))),
        advice={
            "Attention": _LOW_OPSET,
            "QuantizeLinear": _NO_INT8,
            "DequantizeLinear": _NO_INT8,
            "DynamicQuantizeLinear": _NO_INT8,
            "MatMulInteger": _NO_INT8,
            "LayerNormalization": "choose the ML Program form (ModelFormat=MLProgram)",
            "Gelu": "choose the ML Program form (ModelFormat=MLProgram)",
            "": "keep to the operators of this table; the rest runs on the CPU",
        },
        notes=("open sizes are taken, and slow",),
    )


def targets() -> tuple[Target, ...]:
    """The tables of all execution providers; a function because two of them are read from what is installed."""
    nnapi = "nnapi_supported_ops.md"
    return (
        Target(
            name="XNNPACK",
            basis="source, not run",
            source="onnxruntime/core/providers/xnnpack/ (math/, nn/) of " + _READ,
            operators={
                "AveragePool": rank(0, (4,)),
                "Conv": all_of(dtype(0, ("float32", *_EIGHT)), rank(0, (3, 4)), stored(1), stored(2)),
                "ConvTranspose": all_of(dtype(0, ("float32", *_EIGHT)), rank(0, (4,)), stored(1), stored(2)),
                "Gemm": all_of(_FLOAT32, rank(0, (1, 2)), _PRODUCT, stored(2)),
                "MatMul": all_of(_FLOAT32, rank(0, (1, 2)), rank(1, (1, 2)), stored(1)),
                "MaxPool": rank(0, (4,)),
                "Resize": rank(0, (2, 4)),
                "Softmax": all_of(dtype(0, ("float32", "uint8")), _last_axis),
            },
            every=_ANY,
            advice={
                "": "leave it out: ONNX Runtime's own CPU kernels take every operator and need no copies between pieces"
            },
        ),
        Target(
            name="NNAPI",
            basis=_DOCUMENTED,
            source=_source(nnapi),
            operators=_operators(nnapi, {"Gemm": _b_or_transposed}),
            caveats=_caveats(nnapi, {"Gemm": _b_or_transposed}),
            every=all_of(static, max_rank(4), running_dtypes(("float32", "int32", *_EIGHT))),
            advice={
                "Attention": _LOW_OPSET,
                "Gelu": "use the .tflite file with the GPU delegate instead: NNAPI is deprecated since Android 15",
                "": "use the .tflite file with the GPU delegate instead: NNAPI is deprecated since Android 15",
            },
            notes=("deprecated since Android 15",),
        ),
        _core_ml("NeuralNetwork", "coreml_supported_neuralnetwork_ops.md", _NN_FORM, ("float32",)),
        _core_ml("ML Program", "coreml_supported_mlprogram_ops.md", _PROGRAM_FORM, ("float32", "float16")),
        Target(
            name="QNN",
            basis="source, not run",
            source="onnxruntime/core/providers/qnn/builder/op_builder_factory.cc of " + _READ,
            operators=dict.fromkeys(_QNN, _ANY),
            every=all_of(static, max_rank(5)),
            advice={
                "Attention": _LOW_OPSET,
                "DynamicQuantizeLinear": "export with --int8 --int8-scheme qdq, whose ranges are in the graph",
                "MatMulInteger": "export with --int8 --int8-scheme qdq, whose ranges are in the graph",
                "": "keep to the operators of this table; the rest runs on the CPU",
            },
            notes=(
                "Qualcomm's SDK checks types and sizes for each chip on top of this list",
                "the HTP computes quantized files (qdq), and float32 ones in float16",
            ),
        ),
    )


def _b_or_transposed(node: Node) -> str:
    return "" if not constant(1)(node) or node.attributes.get("transB") else "B is neither constant nor transposed"


_NN_FORM = {"Gemm": _PRODUCT, "MatMul": stored(1)}
_PROGRAM_FORM = {"Gemm": stored(1), "MatMul": equals("transA", 0)}

_QNN = (
    *("Abs", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool", "BatchNormalization", "Cast", "Ceil"),
    *("Clip", "Concat", "Conv", "ConvTranspose", "Cos", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Einsum"),
    *("Elu", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm"),
    *("GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "HardSigmoid", "HardSwish"),
    *("InstanceNormalization", "Inverse", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual"),
    *("Log", "LogSoftmax", "LpNormalization", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mod", "Mul", "Neg", "Not"),
    *("Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "RMSNormalization", "RandomUniformLike", "Reciprocal"),
    *("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "Resize"),
    *("Round", "STFT", "ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "SpaceToDepth"),
    *("Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Unsqueeze"),
    *("Upsample", "Where", "com.microsoft:DequantizeLinear", "com.microsoft:Gelu", "com.microsoft:QuantizeLinear"),
    "com.microsoft:FusedMatMul",
)
