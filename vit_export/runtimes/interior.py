"""The tensors between the operators of a .tflite file, kept while it runs by the kernels that an app would use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.base.quiet import quiet
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes.runner import RunnerError


class KeptTensors:
    """The file at `path` in ai-edge-litert's interpreter, every tensor kept and XNNPACK given one operator at a time.

    So XNNPACK still computes, with the same result to the last bit, but cannot keep tensors to itself. All
    activations of one call are in memory together. `details` are the interpreter's of each computed tensor, by name,
    known once it has run.
    """

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._path = path
        graph = MappedModel(path).model.subgraphs[0]
        self._computed = list(_of_images(graph))
        with quiet():  # the interpreter warns of the memory that this takes
            self._interpreter = Interpreter(
                str(path),
                num_threads=threads,
                experimental_preserve_all_tensors=True,
                experimental_disable_delegate_node_fusion=True,
            )
        self.details: dict[str, Any] = {}

    def output(self, place: int) -> int:
        """The index of the tensor that is the output at `place`."""
        return int(self._interpreter.get_output_details()[place]["index"])

    def run(self, values: np.ndarray) -> None:
        """Compute all tensors from `values`, what the file takes."""
        if not self.details:
            self._allocate(values.shape)
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], values)
        self._interpreter.invoke()

    def values(self, detail: dict[str, Any]) -> np.ndarray | None:
        """A tensor as real numbers, None for integers that stand for none."""
        values = self._interpreter.get_tensor(detail["index"])
        if values.dtype.kind == "f":
            return values.astype(np.float32)
        parameters = detail["quantization_parameters"]
        scales, zero_points = (np.asarray(parameters[key]) for key in ("scales", "zero_points"))
        if not len(scales) or values.dtype.kind not in "iu":
            return None
        shape = [1] * values.ndim
        if len(scales) > 1:
            shape[parameters["quantized_dimension"]] = len(scales)
        shifted = values.astype(np.float64) - zero_points.reshape(shape)
        return (shifted * scales.reshape(shape)).astype(np.float32)

    def _allocate(self, shape: tuple[int, ...]) -> None:
        entry = self._interpreter.get_input_details()[0]
        if tuple(entry["shape"]) != shape:
            self._interpreter.resize_tensor_input(entry["index"], shape)
        with quiet():
            _require_memory(self._path, self._interpreter.get_tensor_details())
            self._interpreter.allocate_tensors()
        details = {detail["index"]: detail for detail in self._interpreter.get_tensor_details()}
        for index in self._computed:
            if index in details:
                name = details[index]["name"]  # not always unique
                self.details[name if name not in self.details else f"{name}#{index}"] = details[index]


def _of_images(graph: Any) -> Iterator[int]:
    """The tensors that follow from the graph's inputs, by their indices, in the order of the operators.

    Others are weights that are dequantized while the file runs: XNNPACK keeps those to itself, and what lies in their
    place is no number of anybody's.
    """
    known = {int(index) for index in graph.inputs}
    for operator in graph.operators:
        if not known.isdisjoint(map(int, operator.inputs)):
            known.update(map(int, operator.outputs))
            yield from map(int, operator.outputs)


def native(image: np.ndarray, spec: TensorSpec) -> np.ndarray:
    """The image as input `spec` takes it: its layout, type and quantization, repeated to fill a fixed batch.

    Copies of the image, not zeros: those would widen the range of what is quantized per tensor.
    """
    dtype = np.dtype(spec.dtype)
    if spec.layout == "NCHW":
        image = image.transpose(2, 0, 1)
    if dtype.kind in "iu" and image.dtype.kind == "f":
        limits = np.iinfo(dtype)
        image = np.clip(np.rint(image / (spec.scale or 1)) + (spec.zero_point or 0), limits.min, limits.max)
    return np.ascontiguousarray(np.repeat(image[np.newaxis], spec.shape[0] or 1, axis=0), dtype)


def _require_memory(path: Path, details: list[dict[str, Any]]) -> None:
    import psutil

    needed = sum(int(np.prod(detail["shape"])) * np.dtype(detail["dtype"]).itemsize for detail in details)
    free = psutil.virtual_memory().available
    if needed > free:
        raise RunnerError(
            f"The interior tensors of {path.name} take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are "
            "free: compare its layers on a larger machine, or those of the same model for smaller images."
        )
