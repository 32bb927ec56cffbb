"""What a caller sees of an .onnx file, settled on the finished graph: where colours are, how many images a call takes.

The graph is made, fused and quantized for a fixed batch of NHWC images, whatever is asked for: so the patterns of
`fusion` and the ranges of `qdq` are one form, and files that differ in nothing else hold the same weights.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import StructureError
from vit_export.deployment.graph import INPUT_NAME
from vit_export.model.artifact import Layout
from vit_export.onnx.editing import Editor, drop_unused
from vit_export.onnx.value_names import sort_nodes

if TYPE_CHECKING:
    import onnx

INPUT_NAMES: dict[Layout, str] = {"NHWC": INPUT_NAME, "NCHW": "pixel_values"}
"""What the input is called; in NCHW as transformers calls it, and with it optimum and transformers.js."""

BATCH = "batch"
"""Name of the dimension that is left open."""

_NHWC_TO_NCHW, _NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def take_channels_first(graph: "onnx.GraphProto") -> None:
    """Make the images of `graph`, NHWC, its input `pixel_values`, NCHW, in place: a Transpose in front.

    Cutting patches out of NCHW directly would spare it, with a Transpose of rank 6, which accelerators refuse, and the
    kernel's rows in another order. It would gain 0.03 ms of the 0.05 that the Transpose takes (one thread of an AMD
    EPYC with AVX-512 VNNI, 224 x 224 pixels), of 10 ms in the fastest file, ViT-S/32 in int8.
    """
    from onnx import helper

    images = graph.input[0]
    nhwc = f"{images.name}/NHWC"
    for node in graph.node:
        for index, value in enumerate(node.input):
            if value == images.name:
                node.input[index] = nhwc
    sizes = [dimension.dim_value for dimension in images.type.tensor_type.shape.dim]
    for dimension, axis in zip(images.type.tensor_type.shape.dim, _NHWC_TO_NCHW, strict=True):
        dimension.dim_value = sizes[axis]
    images.name = INPUT_NAMES["NCHW"]
    graph.node.insert(0, helper.make_node("Transpose", [images.name], [nhwc], perm=_NCHW_TO_NHWC))


def rename_outputs(graph: "onnx.GraphProto", names: Mapping[str, str]) -> None:
    """Call the outputs of `graph` by other `names`, in place; what reads them inside reads them by these."""
    for value in graph.output:
        value.name = names[value.name]
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)


def open_batch(graph: "onnx.GraphProto") -> None:
    """Let `graph`, made for one image, take any number of them, in place.

    The batch leads every shape of the deployment graph, alone or multiplied with tokens, so in each Reshape it is the
    one size that is left to be found. What is concatenated to an image's tokens is repeated for every image. ONNX
    Runtime takes no longer for one image than with a batch of 1 (0.97 to 1.00 of the time, float32 and int8).

    Raises:
        StructureError: a Reshape or Concat is none of these.
    """
    from onnx import helper

    sort_nodes(graph)
    editor, images = Editor(graph), graph.input[0].name
    of_images, nodes = {images}, []
    counted, repeated = "", dict[str, str]()
    for node in list(graph.node):
        fed = [value in of_images for value in node.input]
        if node.op_type == "Reshape" and fed[0]:
            node.input[1] = _any_number(editor, node)
        elif node.op_type == "Concat" and any(fed) and not all(fed):
            if not node.attribute[0].i:
                raise StructureError(f"ONNX batch: {node.output[0]} puts constants between images.")
            if not counted:
                counted = f"{images}/count"
                nodes += _shape_of_batch(editor, images, counted)
            for index, value in enumerate(node.input):
                if not fed[index]:
                    if value not in repeated:
                        repeated[value] = f"{value}/repeated"
                        nodes.append(helper.make_node("Expand", [value, counted], [repeated[value]]))
                    node.input[index] = repeated[value]
        if any(fed):
            of_images.update(node.output)
        nodes.append(node)
    # The nodes in hand belong to the graph: they are copied before it is emptied.
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    drop_unused(graph)
    for value in (graph.input[0], *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH


def _any_number(editor: Editor, node: "onnx.NodeProto") -> str:
    """The name of the shape that `node` reshapes to, with its first size left to be found."""
    elements = editor.constant(node.input[1])
    if elements is None or not (elements[1:] > 0).all():
        raise StructureError(f"ONNX batch: {node.output[0]} is reshaped to {elements}, expected a batch and sizes.")
    shape = np.array([-1, *elements[1:]], np.int64)
    return editor.add_constant(f"shape_any_{'_'.join(map(str, shape[1:]))}", shape)


def _shape_of_batch(editor: Editor, images: str, name: str) -> "list[onnx.NodeProto]":
    """What makes `name` the shape [batch, 1, 1], to which Expand repeats what is [1, tokens, width]."""
    from onnx import helper

    first = editor.add_constant("first_axis", np.array([0], np.int64))
    ones = editor.add_constant("ones", np.array([1, 1], np.int64))
    return [
        helper.make_node("Shape", [images], [f"{name}/shape"]),
        helper.make_node("Gather", [f"{name}/shape", first], [f"{name}/batch"], axis=0),
        helper.make_node("Concat", [f"{name}/batch", ones], [name], axis=0),
    ]
