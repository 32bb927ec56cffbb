"""The interior tensors of a .tflite file, computed by the kernels that an app would use."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.base.machine import usable_cores
from vit_export.base.quiet import quiet
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes.runner import RunnerError
from vit_export.verification.layers.tensors import Interior, native, of_one


class TFLiteInterior(Interior):
    """A .tflite file in ai-edge-litert's interpreter, with every tensor kept and XNNPACK given one operator at a time.

    So XNNPACK still computes, with the same result to the last bit, but cannot keep tensors to itself. All
    activations of one call are in memory together.
    """

    def __init__(self, path: Path, spec: TensorSpec, output: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._path, self._spec, self._place = path, spec, output
        graph = MappedModel(path).model.subgraphs[0]
        self._computed = [index for operator in graph.operators for index in operator.outputs]
        with quiet():  # the interpreter warns of the memory that this takes
            self._interpreter = Interpreter(
                str(path),
                num_threads=usable_cores(),
                experimental_preserve_all_tensors=True,
                experimental_disable_delegate_node_fusion=True,
            )
        self._details: dict[str, Any] = {}

    @property
    def output(self) -> str:
        """See `Interior`."""
        index = self._interpreter.get_output_details()[self._place]["index"]
        return next(name for name, detail in self._details.items() if detail["index"] == index)

    def candidates(self, image: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[str, np.ndarray]]:
        """See `Interior`."""
        batch = self._run(image)
        wanted = {size * batch for size in sizes}
        for name, detail in self._details.items():
            if int(np.prod(detail["shape"])) in wanted and (values := self._values(detail)) is not None:
                yield name, of_one(values, batch)

    def read(self, image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Interior`."""
        batch = self._run(image)
        found = {name: self._values(self._details[name]) for name in (*names, self.output)}
        return {name: of_one(values, batch) for name, values in found.items() if values is not None}

    def _run(self, image: np.ndarray) -> int:
        values = native(image, self._spec)
        if not self._details:
            self._allocate(values.shape)
        self._interpreter.set_tensor(self._interpreter.get_input_details()[0]["index"], values)
        self._interpreter.invoke()
        return len(values)

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
                self._details[name if name not in self._details else f"{name}#{index}"] = details[index]

    def _values(self, detail: dict[str, Any]) -> np.ndarray | None:
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


def _require_memory(path: Path, details: list[dict[str, Any]]) -> None:
    needed = sum(int(np.prod(detail["shape"])) * np.dtype(detail["dtype"]).itemsize for detail in details)
    free = psutil.virtual_memory().available
    if needed > free:
        raise RunnerError(
            f"The interior tensors of {path.name} take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are "
            "free: compare its layers on a larger machine, or those of the same model for smaller images."
        )
