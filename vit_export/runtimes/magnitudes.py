"""How large what a file computes between its operators is, from running it on a CPU."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.artifacts.onnx_file import load_structure, require_own_data
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes.interior import KeptTensors, native
from vit_export.runtimes.onnx_interior import extended_session
from vit_export.runtimes.runner import OnnxRunner, Runner

if TYPE_CHECKING:
    import onnx

_LARGEST = ":vit_export_largest"


def largest_magnitudes(runner: Runner, images: np.ndarray) -> dict[Any, float]:
    """The largest magnitude of each tensor that the file of `runner` computes, over `images`.

    Images [n, s, s, 3] are in the numbers of its input, and run one at a time. Tensors of a .tflite file go by their
    index in the first subgraph, floats as they are, integers as what they stand for; of an .onnx file these are the
    float16 values, by their names.
    """
    return (_of_onnx if isinstance(runner, OnnxRunner) else _of_tflite)(runner.path, runner.inputs[0], images)


def half_values(path: Path) -> "dict[str, onnx.NodeProto]":
    """The float16 values between the operators of the .onnx file at `path`, in their order, with what makes them."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(load_structure(path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    found = ((value, node) for node in graph.node for value in node.output)
    return {value: node for value, node in found if types.get(value) == onnx.TensorProto.FLOAT16}


def _of_tflite(path: Path, spec: TensorSpec, images: np.ndarray) -> dict[Any, float]:
    kept, found = KeptTensors(path, threads=1), dict[Any, float]()
    for image in images:
        kept.run(native(image, spec))
        for detail in kept.details.values():
            values, index = kept.values(detail), int(detail["index"])
            if values is not None and values.size:
                found[index] = max(found.get(index, 0.0), float(max(values.max(), -values.min())))
    return found


def _of_onnx(path: Path, spec: TensorSpec, images: np.ndarray) -> dict[Any, float]:
    """ONNX Runtime computes in 32 bits on a CPU, and rounds nothing that is cast back: values are told beyond 65504."""
    from onnx import TensorProto, helper

    require_own_data(path)
    values, nodes = list(half_values(path)), []
    if not values:
        return {}
    names = [f"{value}{_LARGEST}" for value in values]
    for value, name in zip(values, names, strict=True):
        nodes.append(helper.make_node("Cast", [value], [f"{name}:full"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Abs", [f"{name}:full"], [f"{name}:sizes"]))
        nodes.append(helper.make_node("ReduceMax", [f"{name}:sizes"], [name], keepdims=0))
    session, found = extended_session(path, names, nodes, threads=1), np.zeros(len(names), np.float32)
    for image in images:
        # What is no number stays one: `maximum` hands it on.
        found = np.maximum(found, np.stack(session.run(names, {spec.name: native(image, spec)})))
    return dict(zip(values, found.tolist(), strict=True))
