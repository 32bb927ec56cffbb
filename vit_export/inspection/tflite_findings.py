"""The faults of a .tflite file."""

from collections.abc import Sequence

from vit_export.artifacts.runtime_versions import Needs
from vit_export.inspection.findings import MAX_RANK, Fault, Finding
from vit_export.inspection.operators import Graph, Node

DYNAMIC_SHAPE = Fault(
    "dynamic shape",
    "problem",
    "the GPU delegate and NPUs want every size when the model is loaded; they take 1 for an open one, and resizing the "
    "input later means building the graph again or running on the CPU",
    "convert with a static batch and image size (vit-export: --batch, --image-size)",
)
SLICE_MASK = Fault(
    "strided slice with a mask",
    "problem",
    "the GPU delegate and XNNPACK take no STRIDED_SLICE that adds or drops an axis (new_axis_mask, shrink_axis_mask, "
    "ellipsis_mask), so the graph falls apart there",
    "slice with the axis kept (x[:, :1]), then reshape",
)
FLEX = Fault(
    "Flex operator",
    "problem",
    "it is TensorFlow's own and needs the Flex delegate, most of TensorFlow, which LiteRT's runtimes do not contain; "
    "without it the file does not load",
    "write the model with operators that TFLite has, and convert without SELECT_TF_OPS",
)
CUSTOM = Fault(
    "custom operator",
    "problem",
    "only an app that registers this operator's code can load the file",
    "write the model with built-in operators",
)
RANK = Fault(
    f"rank above {MAX_RANK}",
    "problem",
    f"GPU delegates and NNAPI take tensors of at most {MAX_RANK} dimensions and leave the operator to the CPU",
    "reshape so that no tensor has more, for instance heads and tokens as two products instead of one",
)
ADJOINT = Fault(
    "BATCH_MATMUL with adj_x or adj_y",
    "problem",
    "the GPU delegate, by its source, takes the operator and does not read the flag: wrong results",
    "transpose the operand explicitly",
)
INT64 = Fault(
    "int64 tensors",
    "remark",
    "no accelerator computes in int64, and CPUs have no fast kernels for it",
    "use int32 for indices and answers",
)
FLOAT64 = Fault(
    "float64 tensors",
    "problem",
    "hardly any TFLite kernel and no delegate takes float64",
    "convert the model in float32",
)
OUTSIDE = Fault(
    "buffers outside the flatbuffer",
    "remark",
    "weights are addressed by offset and size, which older TensorFlow Lite runtimes read as empty",
    "write files below 2 GB with inline buffers, or require a recent LiteRT",
)

VERSION = Fault(
    "operator version too low",
    "problem",
    "a runtime that knows the version it says, and not the one its types need, opens the file and may answer wrongly "
    "without a word",
    "write the file with a tool that sets versions, or require the runtime that `inspect` names",
)

_MASKS = ("newAxisMask", "shrinkAxisMask", "ellipsisMask")


def findings_in(graphs: Sequence[Graph], needs: Needs) -> list[Finding]:
    """The faults of the file with these `graphs`, which `needs` that of its runtime."""
    nodes = [node for graph in graphs for node in graph.nodes]
    tensors = [tensor for graph in graphs for tensor in graph.tensors()]
    running = [tensor for tensor in tensors if not tensor.constant]
    custom = [node for node in nodes if node.custom]
    return [
        *DYNAMIC_SHAPE.at(t.place for t in running if not t.static),
        *SLICE_MASK.at(n.place for n in nodes if n.op == "STRIDED_SLICE" and any(map(n.attributes.get, _MASKS))),
        *FLEX.at(node.place for node in custom if node.op.startswith("Flex")),
        *CUSTOM.at(node.place for node in custom if not node.op.startswith("Flex")),
        *RANK.at(t.place for t in tensors if (t.rank or 0) > MAX_RANK),
        *ADJOINT.at(n.place for n in nodes if n.op == "BATCH_MATMUL" and _adjoint(n)),
        *INT64.at(t.place for t in running if t.dtype == "int64"),
        *FLOAT64.at(t.place for t in tensors if t.dtype == "float64"),
        *([OUTSIDE.found([f"{needs.outside} buffers"])] if needs.outside else []),
        *VERSION.at(f"{name}, version {said}, needs {needed}" for name, said, needed in needs.understated),
    ]


def _adjoint(node: Node) -> bool:
    return bool(node.attributes.get("adjX") or node.attributes.get("adjY"))
