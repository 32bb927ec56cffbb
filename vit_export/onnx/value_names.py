"""Readable names and one fixed order: a node is called after the parameter it uses, or the place it works in."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vit_export.onnx.editing import rename_values

if TYPE_CHECKING:
    import onnx

_FIRST_SCOPE = "patch_embedding"


def name_nodes(graph: "onnx.GraphProto") -> None:
    """Sort the nodes of `graph` and name nodes, values and small constants, in place.

    A Dense becomes `encoder/layer_0/mlp/dense_1/Gemm`, its output has the same name. Graph inputs and outputs keep
    theirs. The result depends on the graph alone, never on the order in which tf2onnx happened to visit it, so the
    same model gives the same bytes.
    """
    sort_nodes(graph)
    outputs = {value.name for value in graph.output}
    owners = {value.name: os.path.dirname(value.name) for value in graph.input if "/" in value.name}
    scopes: dict[str, str] = {}
    taken: dict[str, int] = {}
    renamed = dict(_constant_names(graph))
    for node in graph.node:
        scope = _scope(node, owners, scopes)
        if node.op_type == "DequantizeLinear" and node.input[0] in owners:
            owners[node.output[0]] = scope  # a weight in all but type
        node.name = _unique(f"{scope}/{node.op_type}", taken)
        for index, value in enumerate(node.output):
            scopes[value] = scope
            if value not in outputs:
                renamed[value] = node.name if index == 0 else f"{node.name}:{index}"
    rename_values(graph, renamed)
    del graph.value_info[:]


def sort_nodes(graph: "onnx.GraphProto") -> None:
    """Order the nodes so that each follows those it reads, its inputs from first to last."""
    producer = {output: node for node in graph.node for output in node.output}
    done: set[str] = set()
    ordered = []
    stack = [(value.name, False) for value in reversed(graph.output)]
    while stack:
        value, inputs_done = stack.pop()
        node = producer.get(value)
        if node is None or value in done:
            continue
        if inputs_done:
            done.update(node.output)
            ordered.append(node)
        else:
            stack.append((value, True))
            stack.extend((source, False) for source in reversed(node.input))
    del graph.node[:]
    graph.node.extend(ordered)


def _scope(node: "onnx.NodeProto", owners: dict[str, str], scopes: dict[str, str]) -> str:
    own = [owners[value] for value in node.input if value in owners]
    if own:
        return own[0]
    sources = [scopes[value] for value in node.input if value in scopes]
    if not sources:
        return _FIRST_SCOPE
    common = os.path.commonpath(sources)
    # Nothing in common but the word "encoder": a residual sum, which belongs to the branch it closes.
    return common if "/" in common or len(set(sources)) == 1 else sources[-1]


def _constant_names(graph: "onnx.GraphProto") -> Iterator[tuple[str, str]]:
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    used = dict.fromkeys(value for node in graph.node for value in node.input if value in constants)
    order = {name: index for index, name in enumerate(used)}
    tensors = sorted(graph.initializer, key=lambda tensor: order[tensor.name])
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    taken: dict[str, int] = {}
    for name in used:
        elements = numpy_helper.to_array(constants[name])
        text = "_".join(f"{element:.6g}" for element in elements.reshape(-1).tolist())
        yield name, _unique(f"constant/{text}", taken)


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}_{taken[name]}"
