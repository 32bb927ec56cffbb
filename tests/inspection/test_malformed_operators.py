"""Every operator that delegates' tables know, in forms that no converter writes: the tables and findings stand them."""

import pytest
from onnx import helper

from vit_export.artifacts.runtime_versions import Needs
from vit_export.base.adapters.litert import names_of
from vit_export.inspection import onnx_findings, tflite_findings
from vit_export.inspection.delegates import assess, partitions, targets
from vit_export.inspection.onnx_graph import graphs_of
from vit_export.inspection.operators import Graph, Node, Tensor

# Inputs, outputs, and the shape of all of them (None: not even the rank is known).
FORMS = {
    "no inputs": (0, 1, (1, 4)),
    "no outputs": (1, 0, (1, 4)),
    "neither": (0, 0, ()),
    "scalars": (2, 1, ()),
    "a scalar and no more": (1, 1, ()),
    "one input": (1, 1, (1, 8)),
    "rank 1": (2, 1, (4,)),
    "rank 6": (3, 1, (1, 2, 3, 4, 5, 6)),
    "unknown": (2, 1, None),
    "empty": (2, 1, (0, 0)),
    "open": (2, 1, (None, None, None, None)),
    "many": (9, 9, (1, 2, 2, 1)),
}
ODD = ({}, {"axis": "no number", "keepDims": [], "alpha": b"\xff", "adjX": True, "transA": 1, "beta": None})


def operators(format):
    return sorted({op for target in targets(format) for op in target.operators})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", ["tflite", "onnx"])
def test_tables_and_findings_stand_every_form(format, form):
    given, made, shape = FORMS[form]
    known = [*operators(format), *(names_of("BuiltinOperator").values() if format == "tflite" else ())]
    nothing = Needs(None, (), 0)
    find = (
        onnx_findings.findings_in if format == "onnx" else lambda graphs: tflite_findings.findings_in(graphs, nothing)
    )
    every = targets(format)
    for op in dict.fromkeys(known):
        for attributes in ODD:
            tensors = [Tensor(key, f"t{key}", shape, "float32", constant=key == 1) for key in range(given + made)]
            node = Node(0, op, tuple(tensors[:given]), tuple(tensors[given:]), 1, attributes)
            graph = Graph(format, (node,), (0,))
            find([graph])
            for target in every:
                assert assess(target, graph).total == (op != "Constant")


@pytest.mark.parametrize("form", FORMS)
def test_onnx_graphs_of_every_form_are_read(form):
    given, made, shape = FORMS[form]
    values = [
        helper.make_tensor_value_info(name, 1, None if shape is None else ["d" if n is None else n for n in shape])
        for name in (*(f"i{k}" for k in range(given)), *(f"o{k}" for k in range(made)), "spare")
    ]
    for op in (*operators("onnx"), "DequantizeLinear", "Constant", "If"):
        node = helper.make_node(op, [f"i{k}" for k in range(given)], [f"o{k}" for k in range(made)])
        graph = helper.make_graph([node], "g", values[:given] or values[-1:], values[given:-1] or values[-1:])
        (read, *_) = graphs_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
        assert len(read.nodes) == 1


def chain(count, op=lambda index: "Relu"):
    tensors = [Tensor(key, f"t{key}", (1,), "float32") for key in range(count + 1)]
    nodes = tuple(Node(i, op(i), (tensors[i],), (tensors[i + 1],)) for i in range(count))
    return Graph("onnx", nodes, (0,))


def test_pieces_are_found_in_one_walk():
    graph = chain(60_000)
    assert partitions(graph, set(range(0, 60_000, 2))) == [[index] for index in range(0, 60_000, 2)]
    assert partitions(graph, set(range(60_000))) == [list(range(60_000))]


def test_nodes_in_a_circle_or_out_of_order_end_the_walk():
    one, two = Tensor("a", "a", (1,), "float32"), Tensor("b", "b", (1,), "float32")
    circle = Graph("onnx", (Node(0, "Relu", (one,), (two,)), Node(1, "Relu", (two,), (one,))), ())
    assert partitions(circle, {0, 1}) == []
    late = Graph("onnx", (Node(0, "Relu", (two,), ()), Node(1, "Relu", (), (two,))), ())
    assert partitions(late, {0}) == [[0]]


def test_a_tensor_that_thousands_read_is_looked_at_once():
    x = Tensor("x", "x", (1,), "float32")
    ops = ("ReduceMean", "Sub", "Mul", "Erf", "Add")
    graph = Graph("onnx", tuple(Node(i, ops[i % 5], (x,), (x,)) for i in range(60_000)), ("x",))
    assert len(onnx_findings.layer_norms(graph)) == len(onnx_findings.gelus(graph)) == 12_000
