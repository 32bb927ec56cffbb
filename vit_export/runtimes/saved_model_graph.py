"""A SavedModel is a program: before TensorFlow loads one, every operator in it has to be arithmetic.

TensorFlow's operators include some that read, write, delete and send files, call Python, or reach other machines, and a
graph may run them when it is loaded (initializers of tables, custom restoring) as well as when it is called. So what is
allowed is listed, and everything else is refused; what `tf.saved_model.load` itself runs is kept to the variables.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.base.files import shortened

# Numbers in, numbers out: no file, no network, no Python, no state but the variables of the model itself.
_ELEMENTWISE = """
Abs Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BesselI0e BesselI1e BiasAdd Bitcast BitwiseAnd BitwiseOr
BitwiseXor Cast Ceil CheckNumerics ClipByValue Complex ComplexAbs Conj Cos Cosh Digamma Div DivNoNan Elu Equal Erf Erfc
Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual Imag Inv Invert IsFinite IsInf IsNan LeakyRelu LeftShift
Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter
NotEqual Pow Real RealDiv Reciprocal Relu Relu6 RightShift Rint Round Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Sinh
Softplus Softsign Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta
"""
_LAYERS = """
AvgPool AvgPool3D BatchMatMul BatchMatMulV2 BatchMatMulV3 Conv2D Conv3D Conv2DBackpropInput Conv3DBackpropInputV2
DepthwiseConv2dNative Dilation2D Einsum FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 L2Loss LRN LogSoftmax MatMul
MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Softmax
"""
_REDUCTIONS = """
All Any ArgMax ArgMin Bincount Bucketize Cumprod Cumsum DenseBincount EuclideanNorm InTopKV2 Max Mean Min Prod
SegmentSum Sum TopK TopKV2 UnsortedSegmentSum
"""
_SHAPES = """
BatchToSpace BatchToSpaceND BroadcastArgs BroadcastTo BroadcastGradientArgs Concat ConcatOffset ConcatV2 DepthToSpace
Diag DiagPart EnsureShape ExpandDims ExtractImagePatches Fill Gather GatherNd GatherV2 InvertPermutation LinSpace
MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV3 MatrixDiagV3 MirrorPad OneHot OnesLike Pack Pad PadV2
ParallelConcat Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Shape ShapeN Size Slice SpaceToBatch
SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice TensorScatterAdd TensorScatterUpdate Tile Transpose Unique
UniqueV2 Unpack Where ZerosLike
"""
_IMAGES = """
AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize HSVToRGB ImageProjectiveTransformV2 ImageProjectiveTransformV3
NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 RGBToHSV ResizeArea ResizeBicubic ResizeBilinear
ResizeNearestNeighbor ScaleAndTranslate
"""
_QUANTIZATION = """
Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantize
QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2
"""
_RANDOM = """
Multinomial RandomStandardNormal RandomUniform RandomUniformInt StatelessMultinomial StatelessRandomGetAlg
StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2
StatelessRandomUniform StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
StatelessTruncatedNormal StatelessTruncatedNormalV2 TruncatedNormal
"""  # of dropout, in the functions that Keras saves for training
_STRUCTURE = """
Case Const GuaranteeConst Identity IdentityN If NoOp PartitionedCall Placeholder PlaceholderWithDefault PreventGradient
StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile StopGradient While
"""  # what these call are functions in the same file, which are looked through as well
_VARIABLES = """
AssignAddVariableOp AssignSubVariableOp AssignVariableOp DisableCopyOnRead ReadVariableOp ResourceGather
ResourceGatherNd VarHandleOp VarIsInitializedOp VariableShape
"""
NUMERIC = frozenset(
    " ".join(
        (_ELEMENTWISE, _LAYERS, _REDUCTIONS, _SHAPES, _IMAGES, _QUANTIZATION, _RANDOM, _STRUCTURE, _VARIABLES)
    ).split()
)
"""The operators that a SavedModel may be made of."""

SAVING = frozenset(
    ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin")
)
"""What else is in the two functions that save and restore; loading in TensorFlow 2 runs neither."""

_OBJECTS = ("bare_concrete_function", "captured_tensor", "constant", "function", "user_object", "variable")
"""Kinds of objects that TensorFlow restores without running anything of the file: no tables, assets or iterators."""
_REGISTERED = ("", "tf.TrackableConstant")
"""Names of TensorFlow's own classes that restore an object; another is a table's, whatever kind the object is of."""


def require_numeric(path: Path) -> None:
    """Raise InputError unless loading and running the SavedModel at `path` computes, and does nothing else.

    TensorFlow has to be imported already, or is imported.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    file = path / "saved_model.pb"
    try:
        model.ParseFromString(file.read_bytes())
    except DecodeError as error:
        raise InputError(f"{shortened(file)} is damaged or cut off: fetch or export the SavedModel again.") from error
    # Anything else TensorFlow loads as one of TensorFlow 1, whose initializers and saver it runs.
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise InputError(
            f"{shortened(path)} is a SavedModel of TensorFlow 1, or holds several graphs, which is not loaded: "
            "save it again with TensorFlow 2's tf.saved_model.save."
        )
    (meta,) = model.meta_graphs
    exempt = _saver_functions(meta)
    for function in meta.graph_def.library.function:
        allowed = NUMERIC | SAVING if function.signature.name in exempt else NUMERIC
        _require_operators(path, function.node_def, allowed)
    _require_operators(path, meta.graph_def.node, NUMERIC)
    _require_plain_objects(path, meta)


def _require_operators(path: Path, nodes: Iterable[Any], allowed: frozenset[str]) -> None:
    for node in nodes:
        if node.op not in allowed:
            raise _refusal(path, f"the operator {node.op}")


def _require_plain_objects(path: Path, meta: Any) -> None:
    if meta.asset_file_def:
        raise _refusal(path, "files that it reads when it is loaded (assets)")
    for entry in meta.object_graph_def.nodes:
        kind = entry.WhichOneof("kind")
        if kind not in _OBJECTS:
            raise _refusal(path, f"a {kind or 'nameless object'}, such as a table, that is set up when it is loaded")
        if entry.registered_name not in _REGISTERED or entry.registered_saver or entry.saveable_objects:
            raise _refusal(path, "an object that is restored in a way of its own")


def _saver_functions(meta: Any) -> frozenset[str]:
    """The functions that save and restore the variables, if the two nodes that the saver names are all that calls them.

    They read and write files, so nothing that is run may lead to them: no other node, and no function that the loaded
    object offers.
    """
    saver = meta.saver_def
    nodes = {saver.save_tensor_name.partition(":")[0], saver.restore_op_name}
    called: set[str] = set()
    others = set(meta.object_graph_def.concrete_functions)
    for node in meta.graph_def.node:
        (called if node.name in nodes else others).update(_functions_in(node.attr))
        others.add(node.op)
    for function in meta.graph_def.library.function:
        others.update(_functions_in(function.attr))
        for node in function.node_def:
            others.update(_functions_in(node.attr))
            others.add(node.op)  # a function's name, called as an operator
        if any(name.startswith("api_") for name in function.attr):  # TensorFlow may swap it for another of its kind
            others.add(function.signature.name)
    for gradient in meta.graph_def.library.gradient:
        others.update((gradient.function_name, gradient.gradient_func))
    return frozenset(called - others)


def _functions_in(attributes: Any) -> Iterator[str]:
    """The names of the functions that attributes of a node name, at any depth."""
    for value in attributes.values():
        for named in (*([value.func] if value.HasField("func") else []), *value.list.func):
            yield named.name
            yield from _functions_in(named.attr)


def _refusal(path: Path, what: str) -> InputError:
    return InputError(
        f"{shortened(path)} holds {what}, expected a SavedModel of pure arithmetic: others can read and write files, "
        "so they are not loaded; export the model without it."
    )
