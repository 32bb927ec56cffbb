"""The interior tensors of an .onnx file: a copy of it whose outputs are more."""

import mmap
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.machine import usable_cores
from vit_export.model.artifact import TensorSpec
from vit_export.verification.layers.tensors import Interior, native, of_one

if TYPE_CHECKING:
    import onnx

IN_MEMORY = 256 * 2**20
"""Bytes up to which a model file is handed to ONNX Runtime from memory; larger ones are copied on disk."""

AT_ONCE = 2**30
"""Bytes of candidates that one session holds."""

_SIZE = ":vit_export_size"
# Field numbers and wire types of onnx.proto and of protobuf's encoding.
_MODEL_GRAPH, _GRAPH_INITIALIZER = 7, 5
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class OnnxInterior(Interior):
    """An .onnx file in ONNX Runtime, sessions made as tensors are asked for.

    A protobuf message followed by another one is both merged. So further outputs, and the nodes that make them, are
    simply appended to the file's own bytes, and weights are never parsed here.
    """

    def __init__(self, path: Path, spec: TensorSpec, output: int) -> None:
        self._path, self._spec, self._output = path, spec, output
        graph = structure_of(path).graph
        self._outputs = [value.name for value in graph.output]
        self._values = [value for node in graph.node for value in node.output if value]
        self._last: tuple[tuple[str, ...], Any] | None = None

    @property
    def output(self) -> str:
        """See `Interior`."""
        return self._outputs[self._output]

    def candidates(self, image: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[str, np.ndarray]]:
        """See `Interior`."""
        fed = native(image, self._spec)
        wanted = {size * len(fed) for size in sizes}
        found = {name: size for name, size in self._sizes(fed).items() if size in wanted}
        for names in _chunks(found, AT_ONCE // 4):
            session = self._session(names)
            # Integers are either quantized values, of which the float ones follow, or no activations at all.
            types = {entry.name: entry.type for entry in session.get_outputs()}
            floats = [name for name in names if types[name] in _FLOATS]
            for name, values in zip(floats, session.run(floats, {self._spec.name: fed}), strict=True):
                yield name, of_one(values, len(fed))

    def read(self, image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Interior`. All that need not be kept for this is optimized as an app's session would."""
        wanted = tuple(dict.fromkeys((*names, self.output)))
        if self._last is None or self._last[0] != wanted:
            self._last = wanted, self._session(names, optimized=True)
        fed = native(image, self._spec)
        values = self._last[1].run(list(wanted), {self._spec.name: fed})
        return {name: of_one(value, len(fed)) for name, value in zip(wanted, values, strict=True)}

    def _sizes(self, fed: np.ndarray) -> dict[str, int]:
        """Elements of every value, found by running: shape inference knows the operators of no other domain."""
        session = self._session([f"{value}{_SIZE}" for value in self._values], sizes=True)
        names = [entry.name for entry in session.get_outputs() if entry.name.endswith(_SIZE)]
        sizes = session.run(names, {self._spec.name: fed})
        return {name.removesuffix(_SIZE): int(size) for name, size in zip(names, sizes, strict=True)}

    def _session(self, outputs: Collection[str], *, sizes: bool = False, optimized: bool = False) -> Any:
        """A session on the file with `outputs` too, each made by a node Size where it is one of the `sizes`."""
        import onnx
        import onnxruntime as ort

        more = onnx.ModelProto(graph=onnx.GraphProto())
        more.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in self._outputs)
        if sizes:
            more.graph.node.extend(
                onnx.helper.make_node("Size", [name.removesuffix(_SIZE)], [name]) for name in outputs
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = usable_cores()
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._path.stat().st_size <= IN_MEMORY:
            folder = str(self._path.parent.absolute())
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            data = self._path.read_bytes() + more.SerializeToString()
            return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory(prefix="vit_export.") as scratch:
            copy = Path(scratch) / self._path.name
            shutil.copyfile(self._path, copy)
            with open(copy, "ab") as file:
                file.write(more.SerializeToString())
            return ort.InferenceSession(str(copy), options, providers=["CPUExecutionProvider"])


_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


def structure_of(path: Path) -> "onnx.ModelProto":
    """The model at `path` without its initializers, which are skipped, not read.

    Raises:
        InputError: the file is not a protobuf message.
    """
    import onnx

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            model, graph = bytearray(), bytearray()
            for number, start, body, end in _fields(data, 0, len(data)):
                if number != _MODEL_GRAPH:
                    model += data[start:end]
                    continue
                for inner, inner_start, _, inner_end in _fields(data, body, end):
                    if inner != _GRAPH_INITIALIZER:
                        graph += data[inner_start:inner_end]
            found = onnx.ModelProto.FromString(bytes(model))
            found.graph.MergeFromString(bytes(graph))
        except Exception as error:  # protobuf raises a class of its own, and a cut file an IndexError here
            raise InputError(f"{path} is not an .onnx file: it cannot be read as one.") from error
    return found


def _fields(data: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the body and end of each protobuf field from `position` to `end`."""
    while position < end:
        start = position
        tag, position = _varint(data, position)
        body, wire = position, tag & 7
        if wire == _VARINT:
            _, position = _varint(data, position)
        elif wire == _LENGTH:
            length, body = _varint(data, position)
            position = body + length
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            position += 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position > end:
            raise ValueError("a field beyond the end")
        yield tag >> 3, start, body, position


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7


def _chunks(sizes: dict[str, int], limit: int) -> Iterator[list[str]]:
    """The names of `sizes` in their order, in runs of at most `limit` elements (or of one name)."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        if names and total + size > limit:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    if names:
        yield names
