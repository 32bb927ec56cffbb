"""The faults of an .onnx file."""

from collections.abc import Sequence

from vit_export.inspection.findings import MAX_RANK, Fault, Finding
from vit_export.inspection.operators import Graph, Node

DYNAMIC_SHAPE = Fault(
    "dynamic shape",
    "problem",
    "NNAPI and QNN take no open sizes at all, Core ML is slower with them",
    "export with a static batch and image size (vit-export: --batch, --image-size), or fix them with python -m "
    "onnxruntime.tools.make_dynamic_shape_fixed",
)
OTHER_DOMAIN = Fault(
    "operator outside ai.onnx",
    "problem",
    "only the runtime that defines the domain loads the file (com.microsoft: ONNX Runtime), and accelerators take few "
    "of its operators",
    "export with the operators of ONNX alone",
)
FLOAT64 = Fault(
    "float64 tensors",
    "problem",
    "no execution provider for phones takes float64, and many CPU kernels lack it",
    "export the model in float32",
)
INT64 = Fault(
    "int64 tensors",
    "remark",
    "shapes and indices are computed while the model runs, in a type that accelerators do not have",
    "export with static shapes, so that they become constants; use int32 for answers",
)
RANK = Fault(
    f"rank above {MAX_RANK}",
    "problem",
    f"NNAPI takes tensors of at most {MAX_RANK} dimensions, and Core ML and QNN of at most 5",
    "reshape so that no tensor has more",
)
GELU = Fault(
    "GELU in pieces",
    "remark",
    "it is several operators, each of which reads and writes the widest tensor of a layer",
    "export with opset 20 or higher, which has Gelu",
)
LAYER_NORM = Fault(
    "LayerNorm in pieces",
    "remark",
    "it is some seven operators; float16 loses accuracy between them",
    "export with opset 17 or higher, which has LayerNormalization",
)

_STANDARD = ("ai.onnx.ml",)


def findings_in(graphs: Sequence[Graph]) -> list[Finding]:
    """The faults of the file with these `graphs`."""
    nodes = [node for graph in graphs for node in graph.nodes]
    tensors = [tensor for graph in graphs for tensor in graph.tensors()]
    running = [tensor for tensor in tensors if not tensor.constant]
    # An unknown rank follows from an open size or an operator that is not ONNX's, which have findings of their own.
    open_sizes = [t for t in running if t.shape is not None and not t.static]
    return [
        *DYNAMIC_SHAPE.at(t.place for t in open_sizes),
        *OTHER_DOMAIN.at(n.place for n in nodes if ":" in n.op and n.op.split(":")[0] not in _STANDARD),
        *FLOAT64.at(t.place for t in tensors if t.dtype == "float64"),
        *INT64.at(t.place for t in running if t.dtype == "int64"),
        *RANK.at(t.place for t in tensors if (t.rank or 0) > MAX_RANK),
        *GELU.at(node.place for graph in graphs for node in gelus(graph)),
        *LAYER_NORM.at(node.place for graph in graphs for node in layer_norms(graph)),
    ]


def gelus(graph: Graph) -> list[Node]:
    """The Erf or Tanh of every GELU that is written out: x · (1 + f(...)), where 1 is added and x multiplied."""
    return _chain(graph, ("Erf", "Tanh"), ("Add",), ("Mul",))


def layer_norms(graph: Graph) -> list[Node]:
    """The first ReduceMean of every LayerNorm that is written out: x - mean, squared, its mean."""
    return _chain(graph, ("ReduceMean",), ("Sub",), ("Mul", "Pow"), ("ReduceMean",))


def _chain(graph: Graph, *kinds: Sequence[str]) -> list[Node]:
    """The nodes of the first of `kinds` that one of the second reads, that one of the third reads, and so on.

    From the end to the beginning, once through the graph for each kind: a tensor may have thousands of readers.
    """
    found, read = list(graph.nodes), None
    for operators in reversed(kinds):
        found = [
            node
            for node in graph.nodes
            if node.op in operators and (read is None or any(tensor.key in read for tensor in node.outputs))
        ]
        read = {tensor.key for node in found for tensor in node.given}
    return found
