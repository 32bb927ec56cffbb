"""The graphs of an .onnx file, with the shapes that ONNX infers."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.facts import damage_told, text_of
from vit_export.artifacts.layout import open_or_size
from vit_export.artifacts.onnx_file import dtype_name, load_structure, operator_of
from vit_export.inspection.operators import Graph, Node, Tensor

if TYPE_CHECKING:
    import onnx

_FEW = 8  # whole numbers in a constant up to which they are read: axes, shapes, slices
_WIDTHS = {"float64": 8, "int64": 8, "uint64": 8, "float32": 4, "int32": 4, "uint32": 4, "float16": 2, "bfloat16": 2}


def read_onnx_graphs(path: Path) -> tuple[Graph, ...]:
    """The graph of the .onnx file at `path`, then those inside its nodes (bodies of If and Loop); no weights are read.

    Raises:
        InputError: the file is damaged.
    """
    with damage_told(path, ".onnx"):
        return graphs_of(load_structure(path))


def graphs_of(model: "onnx.ModelProto") -> tuple[Graph, ...]:
    """The graphs of `model`, whose large tensors may be without data."""
    model = _with_shapes(model)
    return tuple(_graphs(model.graph, {}))


def _with_shapes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """`model` with the shapes that can be inferred; as it is where ONNX cannot (an operator that it does not know)."""
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # onnx raises its own InferenceError, protobuf's and bare ValueErrors
        return model


def _graphs(graph: "onnx.GraphProto", outer: dict[str, Tensor]) -> Iterator[Graph]:
    known = {**outer, **{tensor.name: tensor for tensor in _declared(graph)}}
    nodes = []
    inner: list[Any] = []
    for index, node in enumerate(graph.node):
        attributes = {text_of(a.name): _attribute(a) for a in node.attribute}
        if node.op_type == "Constant" and node.output:  # a weight by another name: no runtime computes it
            known[node.output[0]] = _constant(node)
        quantized = node.op_type == "DequantizeLinear" and node.output
        if quantized and all(known.get(name, _unknown(name)).constant for name in node.input):
            # A quantized weight: runtimes take the pair for a constant.
            made = known.get(node.output[0], _unknown(node.output[0]))
            known[node.output[0]] = replace(made, constant=True)
        nodes.append(
            Node(
                index,
                operator_of(node),
                tuple(known.get(name, _unknown(name)) if name else None for name in map(text_of, node.input)),
                tuple(known.get(name, _unknown(name)) for name in map(text_of, node.output) if name),
                attributes=attributes,
            )
        )
        for attribute in node.attribute:
            inner += [attribute.g] if attribute.HasField("g") else []
            inner += attribute.graphs
    yield Graph("onnx", tuple(nodes), tuple(text_of(value.name) for value in graph.input))
    for body in inner:
        yield from _graphs(body, known)


def _declared(graph: "onnx.GraphProto") -> Iterator[Tensor]:
    for value in (*graph.input, *graph.value_info, *graph.output):
        declared = value.type.tensor_type
        shape = None
        if declared.HasField("shape"):
            shape = tuple(open_or_size(d.dim_value if d.HasField("dim_value") else None) for d in declared.shape.dim)
        yield Tensor(text_of(value.name), text_of(value.name), shape, dtype_name(declared.elem_type))
    for tensor in graph.initializer:
        yield _weight(text_of(tensor.name), tensor)


def _constant(node: "onnx.NodeProto") -> Tensor:
    name = text_of(node.output[0])
    for attribute in node.attribute:
        if attribute.HasField("t"):
            return _weight(name, attribute.t)
    return Tensor(name, name, None, "", constant=True)


def _weight(name: str, tensor: "onnx.TensorProto") -> Tensor:
    import onnx

    dtype, shape = dtype_name(tensor.data_type), tuple(tensor.dims)
    values = None
    if dtype in ("int64", "int32") and math.prod(shape) <= _FEW and tensor.data_location != tensor.EXTERNAL:
        values = tuple(map(int, onnx.numpy_helper.to_array(tensor).reshape(-1)))
    nbytes = math.prod(shape) * _WIDTHS.get(dtype, 1)
    return Tensor(name, name, shape, dtype, True, nbytes, values)


def _unknown(name: str) -> Tensor:
    return Tensor(name, name, None, "")


def _attribute(attribute: "onnx.AttributeProto") -> Any:
    import onnx

    if attribute.type in (attribute.GRAPH, attribute.GRAPHS, attribute.TENSOR, attribute.TENSORS):
        return None
    return onnx.helper.get_attribute_value(attribute)
