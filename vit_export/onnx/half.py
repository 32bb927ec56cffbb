"""float16: the graph and its weights in half precision, float32 (or uint8) images in, float32 outputs.

float16 reaches 65,504, which the square of an activation of 256 exceeds. A LayerNorm squares: as the operator it
computes mean and variance in float32 by definition (stash_type 1), and where an old opset leaves it decomposed it stays
in float32 as a whole. So does what divides an embedding by its length. Softmax subtracts the maximum first and cannot
overflow; the Attention operator is asked for a float32 softmax all the same, which costs nothing where it matters.
"""

from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import StructureError
from vit_export.base.lazy import LazyTensor
from vit_export.deployment.rewrites import halved, plain_parameters
from vit_export.model.parameters import ParameterSource
from vit_export.model.spec import ViTSpec
from vit_export.onnx.editing import Editor, drop_unused
from vit_export.onnx.fusion import norms
from vit_export.onnx.qdq import Ranges
from vit_export.onnx.stream import declare_inputs

if TYPE_CHECKING:
    import onnx

NOTE = (
    "float16 ONNX is for GPUs and NPUs: ONNX Runtime's CPU provider computes it in float32 "
    "with conversions in between, which is slower than the float32 file."
)

_HALF = np.dtype(np.float16)


def to_float16(model: "onnx.ModelProto", source: ParameterSource, ranges: Ranges) -> list[LazyTensor]:
    """Turn `model` (weights as graph inputs) to float16 in place; the weights it then wants. No `ranges` are looked at.

    Raises:
        InputError: when a weight is read that float16 cannot hold.
    """
    from onnx import TensorProto, helper

    del ranges
    graph = model.graph
    full = _float32_nodes(graph, source.spec)
    images, outputs = graph.input[0].name, {value.name: f"{value.name}:half" for value in graph.output}
    parameters = {value.name for value in graph.input if value.name != images}
    # The type that each float value has in the new graph; integers (shapes) are not in it.
    types = {images: TensorProto.FLOAT} if _is_float(graph.input[0]) else {}
    constants = _float_constants(graph)
    nodes = []
    casts: dict[tuple[str, int], str] = {}

    def typed(value: str, wanted: int) -> str:
        """`value` as a float of type `wanted`, cast where it is of the other one."""
        if value in parameters:
            # A parameter is stored in the type of its first reader; each has one reader but for the class token.
            types.setdefault(value, wanted)
        if value in constants:
            return constants[value][wanted]
        if types.get(value, wanted) == wanted:
            return value
        if (value, wanted) not in casts:
            casts[value, wanted] = f"{value}:{TensorProto.DataType.Name(wanted).lower()}"
            nodes.append(helper.make_node("Cast", [value], [casts[value, wanted]], to=wanted))
        return casts[value, wanted]

    for original in graph.node:
        node = type(original)()
        node.CopyFrom(original)
        wanted = TensorProto.FLOAT if original.output[0] in full else TensorProto.FLOAT16
        for index, value in enumerate(outputs.get(value, value) for value in node.input):
            if value in types or value in parameters or value in constants:
                node.input[index] = typed(value, wanted)
        if node.op_type == "Cast" and images in node.input:
            # Integer pixels: the one Cast there is turns them into the type that is wanted.
            node.attribute[0].i = wanted
        if node.op_type == "Attention":
            node.attribute.append(helper.make_attribute("softmax_precision", TensorProto.FLOAT))
        node.output[0] = outputs.get(node.output[0], node.output[0])
        types[node.output[0]] = wanted
        nodes.append(node)
    nodes += [helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT) for name, half in outputs.items()]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    plain = plain_parameters(source)
    weights = [halved(p) if types[name] == TensorProto.FLOAT16 else p for name, p in plain.items()]
    declare_inputs(graph, weights)
    return weights


def _is_float(value: "onnx.ValueInfoProto") -> bool:
    from onnx import TensorProto

    return bool(value.type.tensor_type.elem_type == TensorProto.FLOAT)


def _float32_nodes(graph: "onnx.GraphProto", spec: ViTSpec) -> set[str]:
    """Outputs of the nodes that make up decomposed LayerNorms; empty where LayerNormalization is an operator."""
    editor = Editor(graph)
    found: set[str] = set()
    for name in norms(spec):
        final = editor.only_consumer(f"{name}/bias")
        if final.op_type == "LayerNormalization":
            continue
        centred = _input_of_norm(editor, final)
        pending = [final.output[0]]
        while pending:
            value = pending.pop()
            node = editor.producer(value)
            if node is not None and value != centred and value not in found:
                found.add(value)
                pending.extend(node.input)
    for name in ("features", "pooled") if spec.l2_normalize else ():
        node = editor.producer(name)
        while node is not None:  # embedding * (1 / length), the embedding first
            found.add(node.output[0])
            node = editor.producer(next(value for value in reversed(node.input) if editor.producer(value) is not None))
            if node is not None and len(set(node.input)) == 1 < len(node.input):  # its square
                found.add(node.output[0])
                break
    return found


def _input_of_norm(editor: Editor, final: "onnx.NodeProto") -> str:
    """The x of (x - mean) / deviation * scale + bias, `final` being the last sum: what its first Sub reads."""
    pending = list(final.input)
    while pending:
        node = editor.producer(pending.pop(0))
        if node is None:
            continue
        if node.op_type == "Sub":
            return node.input[0]
        pending.extend(node.input)
    raise StructureError(f"ONNX float16: the LayerNorm that ends in {final.output[0]} subtracts no mean.")


def _float_constants(graph: "onnx.GraphProto") -> dict[str, dict[int, str]]:
    """The float constants of `graph` by type: each gets a float16 twin, and whichever stays unread is dropped."""
    from onnx import TensorProto, numpy_helper

    found = {}
    for tensor in list(graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            twin = f"{tensor.name}:half"
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(_HALF), twin))
            found[tensor.name] = {TensorProto.FLOAT: tensor.name, TensorProto.FLOAT16: twin}
    return found
