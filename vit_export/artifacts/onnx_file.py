"""The facts of an .onnx file.

The file is one protobuf message, up to 2 GB of it weights. Its fields are walked in a memory map, and all but the large
data of tensors is handed to protobuf, so that a file of any size costs its structure alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.facts import (
    RECORD_KEY,
    Constants,
    FileFacts,
    damage_told,
    mapped,
    text_of,
    usable_record,
    values_of,
)
from vit_export.artifacts.layout import layout_of, open_or_size
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors, shortened
from vit_export.model.artifact import TensorSpec

if TYPE_CHECKING:
    import onnx

_LARGE = 4096  # bytes from which a field is looked into, or left out where it is a tensor's data
_PAYLOADS = frozenset({"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"})
_MAX_DEPTH = 100  # protobuf's own limit
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types
_DOMAIN = "ai.onnx"
_NAMES = {"float": "float32", "double": "float64"}


def read_onnx(path: Path) -> FileFacts:
    """The facts of the .onnx file at `path`; its external data is looked up, not read.

    Raises:
        InputError: the file is damaged, or external data is missing, cut off, or named outside the file's folder.
    """
    with damage_told(path, ".onnx"):
        model = load_structure(path)
        graph = model.graph
        constants, files = Constants(), _ExternalFiles(path)
        for tensor in _tensors(model):
            dtype, size = dtype_name(tensor.data_type), _nbytes(tensor)
            constants.add(dtype, tensor.dims, size)
            if tensor.data_location == tensor.EXTERNAL:
                files.require(tensor, size)
        texts = {entry.key: entry.value for entry in model.metadata_props}
        record, notes = usable_record(texts.get(RECORD_KEY))
        given = {tensor.name for tensor in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
        return FileFacts(
            path=str(path),
            format="onnx",
            # Before IR version 4 weights had to be listed among the inputs too.
            inputs=tuple(_spec(v, values_of(record), image=True) for v in graph.input if v.name not in given),
            outputs=tuple(_spec(value) for value in graph.output),
            bytes=path.stat().st_size + sum(files.sizes.values()),
            weights=constants.weights,
            matrices=constants.matrices,
            operators=dict(Counter(operator_of(node) for node in _nodes(model))),
            schema={"ir": model.ir_version} | {text_of(o.domain) or _DOMAIN: o.version for o in model.opset_import},
            producer=f"{text_of(model.producer_name)} {text_of(model.producer_version)}".strip(),
            record=record,
            extra_files=tuple(sorted(files.sizes)),
            checksums=files.checksums,
            notes=notes,
        )


def load_structure(path: Path) -> "onnx.ModelProto":
    """The model at `path` without the data of its large tensors.

    Raises:
        ValueError: the file is no complete ModelProto, or holds no graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        _fill(model, mapped(path))
    except (DecodeError, IndexError) as error:
        raise ValueError("not a complete protobuf message") from error
    if not model.ir_version or not (model.graph.node or model.graph.output):
        raise ValueError("no graph")
    return model


def _fill(message: Any, data: memoryview, depth: int = 0) -> None:
    """Parse `data` into `message`, the data of large tensors left out; nodes keep their order, other fields may not."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    known = {field.number: field for field in message.DESCRIPTOR.fields}
    small = bytearray()
    for number, start, value, end in fields_of(data):
        field = known.get(number)
        if end - value < _LARGE:
            small += data[start:end]
        elif field is not None and field.message_type is not None:
            if field.name == "node":  # those before it come first: nodes run in their order
                message.MergeFromString(bytes(small))
                small.clear()
            child = getattr(message, field.name)
            _fill(child.add() if hasattr(child, "add") else child, data[value:end], depth + 1)
        elif field is not None and field.name not in _PAYLOADS:
            small += data[start:end]
    message.MergeFromString(bytes(small))


def fields_of(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Number, start, start of the value and end of each field of a serialized message."""
    end = 0
    while end < len(data):
        start = end
        tag, value = _varint(data, start)
        kind = tag & 7
        if kind == _VARINT:
            end = _varint(data, value)[1]
        elif kind == _DELIMITED:
            length, value = _varint(data, value)
            end = value + length
        elif kind in (_FIXED32, _FIXED64):
            end = value + (4 if kind == _FIXED32 else 8)
        else:
            raise ValueError(f"wire type {kind}")
        if end > len(data):
            raise ValueError("cut off")
        yield tag >> 3, start, value, end


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """The base-128 number at `position`, and where it ends."""
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, position
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _graphs(graph: "onnx.GraphProto") -> Iterator["onnx.GraphProto"]:
    """`graph` and those inside its nodes (bodies of If and Loop)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in chain([attribute.g] if attribute.HasField("g") else [], attribute.graphs):
                yield from _graphs(inner)


def _nodes(model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    for graph in _graphs(model.graph):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """Every constant: initializers, dense and sparse, and those that nodes hold."""
    for graph in _graphs(model.graph):
        yield from graph.initializer
        yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from chain([attribute.t] if attribute.HasField("t") else [], attribute.tensors)


def operator_of(node: "onnx.NodeProto") -> str:
    """The name of the operator of `node`, as domain:Op where the domain is not ONNX's own."""
    name, domain = text_of(node.op_type), text_of(node.domain)
    return name if domain in ("", _DOMAIN) else f"{domain}:{name}"


def dtype_name(code: int) -> str:
    """The name in numpy of an ONNX data type (or its own in lower case, where numpy has none)."""
    from onnx import TensorProto

    if code not in TensorProto.DataType.values():  # of a later release of ONNX
        return f"type_{code}"
    name = TensorProto.DataType.Name(code).lower()
    return _NAMES.get(name, name)


def _nbytes(tensor: "onnx.TensorProto") -> int:
    """Bytes of a tensor's elements by its type and shape; 4-bit ones come two to a byte."""
    dtype = dtype_name(tensor.data_type)
    if dtype == "string":
        return sum(map(len, tensor.string_data))
    # The first number in a type's name is its bits: float16, int4, float8e4m3fn.
    bits = re.search(r"\d+", dtype)
    return -(-math.prod(tensor.dims) * (int(bits[0]) if bits else 8) // 8)


def _spec(value: "onnx.ValueInfoProto", values: str = "", *, image: bool = False) -> TensorSpec:
    name = text_of(value.name)
    if not value.type.HasField("tensor_type"):
        return TensorSpec(name, (), str(value.type.WhichOneof("value")).removesuffix("_type"))
    declared = value.type.tensor_type
    dimensions = [d.dim_value if d.HasField("dim_value") else text_of(d.dim_param) for d in declared.shape.dim]
    layout = layout_of(dimensions, "NCHW") if image else ""
    shape = tuple(map(open_or_size, dimensions))
    return TensorSpec(name, shape, dtype_name(declared.elem_type), layout, values=values)


class _ExternalFiles:
    """The files that a model's external tensors lie in: `sizes`, in bytes, and `checksums` (SHA-1), by their names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sizes: dict[str, int] = {}
        self.checksums: dict[str, str] = {}

    def require(self, tensor: "onnx.TensorProto", size: int) -> None:
        """Raise InputError unless the file of `tensor`, of `size` bytes, is there and holds it."""
        entries = {entry.key: text_of(entry.value) for entry in tensor.external_data}
        name = entries.get("location", "")
        if name not in self.sizes:
            self.sizes[name] = self._size(name)
        if checksum := entries.get("checksum"):
            self.checksums[name] = checksum
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        if offset < 0 or length < 0 or offset + length > self.sizes[name]:
            raise InputError(
                f"{shortened(self._path.parent / name)} has {self.sizes[name]} bytes, but {self._path.name} expects "
                f"{offset + length} or more: it is cut off or belongs to another file; fetch or export both again."
            )

    def _size(self, name: str) -> int:
        # Either system's separators: what is one here may be part of a name there.
        ways = (PurePosixPath(name), PureWindowsPath(name))
        if not name or "\0" in name or any(way.anchor or ".." in way.parts for way in ways):
            raise InputError(
                f"{shortened(self._path)} keeps weights in {shortened(repr(name))}, expected the name of a file in "
                "its own folder or below: it may have been made to read other files; export the model again."
            )
        file = self._path.parent / name
        with input_errors(file):
            if not file.is_file():
                raise InputError(
                    f"{shortened(self._path)} keeps weights in {shortened(name)}, which is not there: put that file "
                    "beside it, under this name."
                )
            return file.stat().st_size
