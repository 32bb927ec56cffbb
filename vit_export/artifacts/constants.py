"""The constants of a .tflite or .onnx file, read one at a time where they lie, with the scales that they mean.

A file holds integers beside the scales and zero points by which they are numbers: TFLite in the tensor itself, ONNX in
tensors of their own that the node which reads the integers names.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.artifacts.facts import damage_told, mapped, text_of
from vit_export.artifacts.onnx_file import dtype_name, fields_of, load_structure
from vit_export.artifacts.tflite_file import Reader
from vit_export.base.adapters.litert import integers

if TYPE_CHECKING:
    import onnx

_KNOWN = {"float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"}
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # fields of ModelProto, GraphProto and TensorProto


@dataclass(frozen=True)
class Constant:
    """One constant: `shape` and `dtype` (numpy's name) as stored, `load` gives it so.

    Integers with a meaning have a `scale`, float64, that broadcasts over the shape, and a `zero_point` likewise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """The numbers that are meant, float64 in `shape`."""
        stored = self.load().astype(np.float64)
        if self.scale is None:
            return stored
        return (stored - (0 if self.zero_point is None else self.zero_point)) * self.scale


def read_constants(path: Path, format: str) -> dict[str, Constant]:
    """The constants of the file at `path` by name: those of the main graph, of types that numpy has.

    Raises:
        InputError: the file is damaged.
    """
    with damage_told(path, f".{format}"):
        return dict(_of_tflite(path) if format == "tflite" else _of_onnx(path))


def _of_tflite(path: Path) -> Iterator[tuple[str, Constant]]:
    reader = Reader(path)
    graph = reader.subgraphs[0]
    for tensor in reader.each(graph.Tensors, graph.TensorsLength()):
        content, dtype = reader.content(tensor.Buffer()), reader.dtype(tensor)
        shape = integers(tensor.ShapeAsNumpy())
        if not len(content) or dtype not in _KNOWN:
            continue
        name, scale, zero = text_of(tensor.Name()), *_tflite_steps(tensor.Quantization(), shape)

        def load(content: Any = content, dtype: str = dtype, shape: tuple[int, ...] = shape) -> np.ndarray:
            return np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).reshape(shape)

        yield name, Constant(name, shape, dtype, load, scale, zero)


def _tflite_steps(parameters: Any, shape: tuple[int, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    if parameters is None or not parameters.ScaleLength():
        return None, None
    along = [1] * len(shape)
    if parameters.ScaleLength() > 1:
        along[parameters.QuantizedDimension()] = parameters.ScaleLength()
    scale = np.asarray(parameters.ScaleAsNumpy(), np.float64).reshape(along)
    zero = np.asarray(parameters.ZeroPointAsNumpy(), np.float64) if parameters.ZeroPointLength() else np.zeros(1)
    return scale, zero.reshape(along if zero.size == scale.size else [1] * len(shape))


def _of_onnx(path: Path) -> Iterator[tuple[str, Constant]]:
    found = dict(_initializers(path))
    yield from found.items()
    for name, (scale, zero, axis) in _onnx_steps(load_structure(path).graph, found).items():
        stored = found[name]
        along = [1] * len(stored.shape)
        if scale.size > 1:
            along[axis] = scale.size
        yield (
            name,
            Constant(
                name,
                stored.shape,
                stored.dtype,
                stored.load,
                scale.astype(np.float64).reshape(along),
                zero.astype(np.float64).reshape(along if zero.size == scale.size else [1] * len(along)),
            ),
        )


def _onnx_steps(
    graph: "onnx.GraphProto", constants: Mapping[str, Constant]
) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Scale, zero point and axis of each constant that a node reads as integers."""
    found: dict[str, tuple[np.ndarray, np.ndarray, int]] = {}

    def constant(value: str) -> np.ndarray | None:
        return constants[value].load() if value in constants else None

    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            name, (scale, zero) = node.input[0], [constant(value) for value in (*node.input[1:3], "", "")[:2]]
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        elif node.op_type == "MatMulInteger" and node.input[1] in constants:
            name, zero, axis = node.input[1], constant((*node.input, "", "")[3]), -1
            scale = constant(f"{name.removesuffix('_quantized')}_scale")
        else:
            continue
        if scale is not None:
            found[name] = scale, np.zeros(1) if zero is None else zero, axis
    return found


def _initializers(path: Path) -> Iterator[tuple[str, Constant]]:
    import onnx

    data = mapped(path)
    for number, _, start, end in fields_of(data):
        if number != _GRAPH:
            continue
        graph = data[start:end]
        for inner, _, begin, stop in fields_of(graph):
            if inner != _INITIALIZER:
                continue
            header, raw = bytearray(), None
            for field, first, value, last in fields_of(graph[begin:stop]):
                if field == _RAW_DATA:
                    raw = graph[begin:stop][value:last]
                else:
                    header += graph[begin:stop][first:last]
            tensor = onnx.TensorProto.FromString(bytes(header))
            dtype = dtype_name(tensor.data_type)
            if dtype in _KNOWN:
                name, shape = text_of(tensor.name), tuple(tensor.dims)
                yield name, Constant(name, shape, dtype, _loader(path, tensor, raw, dtype, shape))


def _loader(
    path: Path, tensor: "onnx.TensorProto", raw: memoryview | None, dtype: str, shape: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    stored = np.dtype(dtype).newbyteorder("<")
    if tensor.data_location == tensor.EXTERNAL:
        entries = {entry.key: text_of(entry.value) for entry in tensor.external_data}

        def external() -> np.ndarray:
            start = int(entries.get("offset", 0))
            size = stored.itemsize * math.prod(shape)
            return np.frombuffer(mapped(path.parent / entries["location"])[start : start + size], stored).reshape(shape)

        return external
    if raw is not None:
        return lambda: np.frombuffer(raw, stored).reshape(shape)

    def typed() -> np.ndarray:
        from onnx import numpy_helper

        return np.asarray(numpy_helper.to_array(tensor)).reshape(shape)

    return typed
