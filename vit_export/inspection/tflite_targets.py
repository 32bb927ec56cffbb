"""What TFLite's delegates take, as their sources say it. Nothing here was run on a device.

The paths are those of the repository google-ai-edge/LiteRT, read on 2026-11-23.
"""

from vit_export.inspection.conditions import (
    Condition,
    all_of,
    changing,
    constant,
    dtype,
    equals,
    inputs,
    max_rank,
    rank,
    running_dtypes,
    unset,
    version_up_to,
)
from vit_export.inspection.delegates import Target
from vit_export.inspection.operators import Node

_READ = "google-ai-edge/LiteRT, read 2026-11-23"
_FLOATS = ("float32", "float16")
_ANY: Condition = all_of()


def _same_rank_in_and_out(node: Node) -> str:
    if not node.attributes.get("keepNumDims") or not node.inputs or node.inputs[0] is None:
        return ""
    return "" if node.inputs[0].rank == node.outputs[0].rank else "keep_num_dims with another rank"


def _broadcasts(node: Node) -> str:
    """The shapes that ADD and MUL of the GPU delegate combine: of one rank, or a few cases of two."""
    shapes = [tensor.shape or () for tensor in node.given]
    if len(shapes) != 2:
        return f"{len(shapes)} inputs, 2 are taken"
    short, long = sorted(shapes, key=len)
    if len(short) == len(long) or len(short) < 2:
        return ""
    of_one = len(long) == 4 and long[0] == 1 and (len(short) == 3 or short == (1, 1))
    of_channels = len(long) == 4 and len(short) == 2 and (long[0], long[3]) == short
    return "" if of_one or of_channels else f"cannot combine shapes {list(long)} and {list(short)}"


def _product(node: Node) -> str:
    """BATCH_MATMUL of two running operands, or with a constant of two dimensions; the flags are not read."""
    if node.attributes.get("adjX") or node.attributes.get("adjY"):
        return "taken, but adj_x and adj_y are not read: wrong results"
    second = node.inputs[1] if len(node.inputs) == 2 else None
    if len(node.changing) == 2 or (second is not None and second.constant and second.rank == 2):
        return ""
    return "a constant operand that is not the second one of two dimensions"


def _cast(node: Node) -> str:
    pair = (node.given[0].dtype, node.outputs[0].dtype) if node.given and node.outputs else ("", "")
    numbers = set(pair) <= {"float32", "int32"}
    truth = "bool" in pair and set(pair) <= {"bool", *_FLOATS}
    return "" if numbers or truth else f"from {pair[0]} to {pair[1]}, between float32, int32 and bool is taken"


_REDUCTION = all_of(inputs((1, 1)), constant(1), dtype(1, ("int32",)))
_ONE = all_of(version_up_to(2), inputs((1, 0)))
_TWO = all_of(version_up_to(2), inputs((2, 0), (1, 1)))
_GPU_FLOATS = (*_FLOATS, "int8", "uint8")  # quantized operators are on by default
_GPU_TYPES = {
    "CAST": (*_GPU_FLOATS, "int32", "bool"),
    "SELECT": (*_GPU_FLOATS, "bool"),
    "SELECT_V2": (*_GPU_FLOATS, "bool"),
}


def _gpu_types(node: Node) -> str:
    kinds = (*_GPU_FLOATS, "bool") if node.op in _COMPARISONS else _GPU_TYPES.get(node.op, _GPU_FLOATS)
    return running_dtypes((*kinds, "int32") if node.op in ("GATHER", "ONE_HOT") else kinds)(node)


_COMPARISONS = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL", "LOGICAL_AND")
_UNARY = (
    *("ABS", "COS", "ELU", "EXP", "FLOOR", "GELU", "LOG", "LOGISTIC", "NEG", "RSQRT", "SIGN", "SIN", "SQRT"),
    *("SQUARE", "TANH"),
)
_BINARY = (
    *("DIV", "FLOOR_DIV", "FLOOR_MOD", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE", "SUB"),
    *_COMPARISONS,
)
_MASKS = ("newAxisMask", "shrinkAxisMask", "ellipsisMask")

GPU = Target(
    name="GPU delegate",
    basis="source, not run",
    source="tflite/delegates/gpu/common/model_builder.cc and tflite/tools/versioning/gpu_compatibility.cc of " + _READ,
    folds=True,
    every=all_of(max_rank(4), _gpu_types),
    operators={
        **dict.fromkeys(_UNARY, _ONE),
        **dict.fromkeys(_BINARY, _TWO),
        **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "SUM", "MEAN"), _REDUCTION),
        **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "PACK", "UNPACK"), _ANY),
        **dict.fromkeys(("SPLIT", "SPLIT_V", "CUMSUM"), _ANY),
        **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), all_of(changing(1, 1), rank(0, (3, 4)))),
        **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "TILE", "HARD_SWISH"), changing(1, 1)),
        **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), changing(1, 1)),
        **dict.fromkeys(("SELECT", "SELECT_V2", "ONE_HOT", "PRELU"), version_up_to(1)),
        "ADD": all_of(version_up_to(2), _broadcasts),
        "ADD_N": _TWO,
        "BATCH_MATMUL": _product,
        "CAST": _cast,
        "CONCATENATION": version_up_to(2),
        "CONV_2D": all_of(version_up_to(6), changing(2)),
        "DEPTHWISE_CONV_2D": all_of(changing(2), rank(0, (4,))),
        "DEQUANTIZE": all_of(version_up_to(3), dtype(0, ("int8", "uint8", *_FLOATS))),
        "FULLY_CONNECTED": all_of(version_up_to(9), changing(2), unset("weightsFormat"), _same_rank_in_and_out),
        "GATHER": all_of(version_up_to(1), rank(1, (1,)), dtype(1, ("int32",))),
        "MUL": all_of(version_up_to(3), _broadcasts),
        "QUANTIZE": changing(1, 1),
        "RESHAPE": changing(1, 1),
        "SLICE": all_of(version_up_to(2), rank(0, (3, 4))),
        "SOFTMAX": all_of(version_up_to(2), equals("beta", 1)),
        "STRIDED_SLICE": all_of(version_up_to(4), unset(*_MASKS), rank(0, (3, 4))),
        "TRANSPOSE": all_of(version_up_to(4), changing(1, 1)),
        "TRANSPOSE_CONV": all_of(version_up_to(3), changing(2)),
    },
    advice={
        "STRIDED_SLICE": "slice a tensor of rank 3 or 4 and keep its axes, then reshape",
        "CAST": "take float images instead of pixels (--input normalized or 0..1); the cast runs on the CPU",
        "BATCH_MATMUL": "transpose the operand explicitly",
        "FULLY_CONNECTED": "int8 is for the CPU: give the GPU a float16 file (--float16), it computes in float16",
        "": "keep to the operators of this table, or run the file on the CPU",
    },
    notes=(
        "by default only the largest piece runs there",
        "an open size counts as 1: resizing the input later means building the delegate again",
    ),
)


def _matching_products(node: Node) -> str:
    shapes = [tensor.shape for tensor in node.given]
    if len(shapes) != 2 or None in shapes:
        return ""
    first, second = (shape or () for shape in shapes)
    if node.given[0].dtype != node.given[1].dtype:
        return "operands of two types"
    return "" if first[:-2] == second[:-2] else "broadcasts the batch"


_NN = ("float32", "int8", "uint8")
_NN_FLOAT = all_of(version_up_to(1), dtype(0, ("float32",)))

NNAPI = Target(
    name="NNAPI delegate",
    basis="source, not run",
    source="tflite/delegates/nnapi/nnapi_delegate.cc (Validate, Android 12 and later) of " + _READ,
    folds=True,
    every=max_rank(4),
    operators={
        **dict.fromkeys(("ABS", "EXP", "LOG", "POW", "COS", "SIN", "SQRT", "DIV", "ELU", "LOG_SOFTMAX"), _NN_FLOAT),
        **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH"), all_of(version_up_to(2), dtype(0, _NN))),
        **dict.fromkeys(("ADD", "MUL"), all_of(version_up_to(2), dtype(0, (*_NN, "int32")))),
        **dict.fromkeys(("MAXIMUM", "MINIMUM", "SUB"), all_of(version_up_to(3), dtype(0, (*_NN, "int32")))),
        **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), all_of(version_up_to(2), dtype(0, _NN))),
        **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN"), all_of(version_up_to(2), dtype(0, _NN))),
        **dict.fromkeys(("PAD", "PADV2"), all_of(version_up_to(2), dtype(0, _NN))),
        **dict.fromkeys(("SUM", "REDUCE_PROD"), _NN_FLOAT),
        "ARG_MAX": all_of(version_up_to(2), equals("outputType", 2)),  # int32
        "BATCH_MATMUL": all_of(
            version_up_to(2), dtype(0, ("float32", "int32", "int8")), rank(0, (2, 3, 4)), _matching_products
        ),
        "CAST": all_of(version_up_to(1), running_dtypes(("float32", "int32", "uint8", "int8"))),
        "CONCATENATION": all_of(version_up_to(2), unset("fusedActivationFunction"), dtype(0, (*_NN, "float16"))),
        "CONV_2D": all_of(version_up_to(5), inputs((1, 2))),
        "DEPTHWISE_CONV_2D": version_up_to(3),
        "DEQUANTIZE": all_of(version_up_to(2), dtype(0, ("int8", "uint8"))),
        "EXPAND_DIMS": all_of(version_up_to(1), constant(1)),
        "FULLY_CONNECTED": version_up_to(5),
        "GATHER": all_of(version_up_to(2), dtype(1, ("int32",))),
        "HARD_SWISH": dtype(0, _NN),
        "MEAN": all_of(version_up_to(2), dtype(0, _NN)),
        "NEG": all_of(version_up_to(2), dtype(0, ("float32", "int32"))),
        "PACK": all_of(version_up_to(2), dtype(0, (*_NN, "int32"))),
        "PRELU": all_of(version_up_to(1), dtype(0, _NN)),
        "QUANTIZE": all_of(version_up_to(2), dtype(0, _NN)),
        "RESHAPE": all_of(version_up_to(1), dtype(0, (*_NN, "int32")), constant(1)),
        "RESIZE_BILINEAR": all_of(version_up_to(3), rank(0, (4,)), constant(1)),
        "RSQRT": all_of(version_up_to(2), dtype(0, _NN)),
        "SLICE": all_of(version_up_to(2), dtype(0, (*_NN, "int32")), dtype(1, ("int32",)), dtype(2, ("int32",))),
        "SOFTMAX": all_of(version_up_to(2), dtype(0, _NN)),
        "SPLIT": all_of(version_up_to(3), constant(0)),
        "SQUARED_DIFFERENCE": all_of(version_up_to(2), dtype(0, (*_NN, "int32"))),
        "SQUEEZE": version_up_to(1),
        "STRIDED_SLICE": all_of(version_up_to(2), dtype(0, _NN)),
        "TILE": all_of(version_up_to(1), dtype(1, ("int32",))),
        "TRANSPOSE": all_of(version_up_to(2), constant(1)),
        "TRANSPOSE_CONV": all_of(version_up_to(4), constant(0), constant(1)),
    },
    advice={"": "use the GPU delegate or the NPU's own instead: NNAPI is deprecated since Android 15"},
    notes=("deprecated since Android 15", "what a driver takes of this differs from phone to phone"),
)


def _one_row(node: Node) -> str:
    shape = node.inputs[0].shape if node.inputs and node.inputs[0] is not None else None
    return "" if not shape or all(n == 1 for n in shape[:-1]) else "takes one row of numbers, not one for each token"


def _core_ml_broadcast(node: Node) -> str:
    if len(node.given) != 2 or any(not t.static for t in node.given):
        return ""
    first, second = ((1,) * (4 - len(t.shape or ())) + (t.shape or ()) for t in node.given)
    whole = any(tensor.constant and tensor.nbytes <= 4 for tensor in node.given)
    planes = first[1:3] == second[1:3] or (1, 1) in (first[1:3], second[1:3])
    channels = first[3] == second[3] or 1 in (first[3], second[3])
    return "" if (first[0] == second[0] or whole) and planes and channels else "a broadcast that it does not have"


def _core_ml_mean(node: Node) -> str:
    axes = node.inputs[1].values if len(node.inputs) > 1 and node.inputs[1] is not None else None
    good = node.attributes.get("keepDims") and node.given[0].rank == 4 and axes and {a % 4 for a in axes} <= {1, 2}
    return "" if good else "only over height and width of four dimensions"


def _joins_channels(node: Node) -> str:
    first = node.given[0].rank if node.given else None
    axis = node.attributes.get("axis")
    good = first in (3, 4) and axis in (-1, first - 1) and not node.attributes.get("fusedActivationFunction")
    return "" if good else "only along the last of three or four dimensions"


def _never(node: Node) -> str:
    return "refused for Core ML 3 and later"


_FIRST = all_of(version_up_to(1), dtype(0, ("float32",)))

CORE_ML = Target(
    name="Core ML delegate",
    basis="source, not run",
    source="tflite/delegates/coreml/coreml_delegate.mm and its builders/ of " + _READ,
    folds=True,
    every=max_rank(4),
    operators={
        **dict.fromkeys(("HARD_SWISH", "LOGISTIC", "RELU", "RELU6", "RELU_N1_TO_1", "TANH"), _FIRST),
        **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), all_of(_FIRST, unset("fusedActivationFunction"))),
        **dict.fromkeys(("CONV_2D", "TRANSPOSE_CONV", "PAD", "PADV2", "MIRROR_PAD", "RESIZE_BILINEAR"), _FIRST),
        **dict.fromkeys(("ADD", "MUL"), all_of(_FIRST, _core_ml_broadcast)),
        "CONCATENATION": all_of(_FIRST, _joins_channels),
        "DEPTHWISE_CONV_2D": all_of(version_up_to(2), dtype(0, ("float32",))),
        "FULLY_CONNECTED": all_of(version_up_to(6), dtype(0, ("float32",)), dtype(1, _FLOATS), constant(1), _one_row),
        "MEAN": all_of(_FIRST, _core_ml_mean),
        "RESHAPE": _never,
        "SOFTMAX": all_of(_FIRST, equals("beta", 1)),
    },
    advice={"": "use the GPU (Metal) delegate, or the .onnx file with ONNX Runtime's Core ML provider"},
    notes=("made for convolutional networks",),
    smallest=2,
)

_QNN = (
    *("ABS", "ADD", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_MATMUL", "BROADCAST_TO", "CAST", "CEIL"),
    *("CONCATENATION", "CONV_2D", "CONV_3D", "COS", "CUMSUM", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE"),
    *("DIV", "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "FLOOR", "FLOOR_DIV"),
    *("FULLY_CONNECTED", "GATHER", "GATHER_ND", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH"),
    *("L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_NOT"),
    *("LOGICAL_OR", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL"),
    *("NEG", "NOT_EQUAL", "PACK", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE", "REDUCE_ALL", "REDUCE_ANY"),
    *("REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR"),
    *("RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "ROUND", "RSQRT", "SCATTER_ND", "SELECT", "SELECT_V2", "SIGN", "SIN"),
    *("SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB"),
    *("SUM", "TANH", "TILE", "TOPK_V2", "TRANSPOSE", "TRANSPOSE_CONV", "UNPACK"),
)

QNN = Target(
    name="Qualcomm QNN",
    basis="source, not run",
    source="litert/vendors/qualcomm/compiler/qnn_compose_graph.cc (LiteRT's own Qualcomm compiler) of " + _READ,
    folds=True,
    every=max_rank(5),
    operators=dict.fromkeys(_QNN, _ANY),
    advice={"": "keep to the operators of this table; the rest runs on the CPU"},
    notes=(
        "Qualcomm's SDK checks types and sizes for each chip on top of this list",
        "float files run in float16 on the HTP, where the chip has it",
    ),
)

TARGETS = (GPU, NNAPI, CORE_ML, QNN)
