"""The facts of an .onnx file.

The file is one protobuf message, up to 2 GB of it weights. Its fields are walked in a memory map, and all but the large
data of tensors is handed to protobuf, so that a file of any size costs its structure alone.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.facts import (
    RECORD_KEY,
    Constants,
    FileFacts,
    damage_told,
    mapped,
    require_few,
    text_of,
    usable_record,
    values_of,
)
from vit_export.artifacts.layout import layout_of, open_or_size
from vit_export.artifacts.onnx_external import ExternalFiles, external_entries
from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.model.artifact import TensorSpec

if TYPE_CHECKING:
    import onnx

_LARGE = 4096  # bytes from which a field is looked into, or left out where it is a tensor's data
_PAYLOADS = frozenset({"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"})
_MAX_DEPTH = 100  # protobuf's own limit
_MAX_PARTS = 150_000  # messages at any depth: nodes, attributes, dimensions; a Vision Transformer has some 10,000
_MAX_FIELDS = 500_000
_UNSEEN = 1 << 16  # bytes of small messages in which nothing is counted, which spares nearly every file the time
_MAX_GRAPHS = 10_000
_MAX_RANK = 64
_MAX_ELEMENTS = 1 << 62
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
        _require_own_data(path, model)
        graph = model.graph
        constants, files = Constants(), ExternalFiles(path)
        for tensor in _tensors(model):
            dtype, size = dtype_name(tensor.data_type), _nbytes(tensor)
            constants.add(dtype, tensor.dims, size)
            if tensor.data_location == tensor.EXTERNAL:
                files.require(tensor, size)
        record, notes = usable_record(properties_of(model).get(RECORD_KEY))
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


def require_own_data(path: Path) -> None:
    """Raise InputError where the .onnx file at `path` keeps weights in files outside its folder.

    Asked before a runtime opens it, which would follow what the file says.

    Raises:
        ValueError: the file is damaged.
    """
    _require_own_data(path, load_structure(path))


def _require_own_data(path: Path, model: "onnx.ModelProto") -> None:
    for tensor in chain(_tensors(model), (sparse.indices for sparse in _sparse(model))):
        if tensor.data_location == tensor.EXTERNAL:
            external_entries(path, tensor)


def load_structure(path: Path) -> "onnx.ModelProto":
    """The model at `path` without the data of its large tensors.

    Raises:
        InputError: it has more parts, or a tensor more dimensions or elements, than any model.
        ValueError: the file is no complete ModelProto, or holds no graph.
    """
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        _fill(model, mapped(path), _Parts(path))
    except (DecodeError, IndexError) as error:
        raise ValueError("not a complete protobuf message") from error
    if not model.ir_version or not (model.graph.node or model.graph.output):
        raise ValueError("no graph")
    for number, graph in enumerate(_graphs(model.graph)):
        if number > _MAX_GRAPHS:
            raise InputError(f"{shortened(path)} has more than {_MAX_GRAPHS:,} graphs in its nodes: expected fewer.")
        require_few(path, len(graph.input) + len(graph.output))
        for value in (*graph.input, *graph.output, *graph.value_info):
            _require_shape(path, text_of(value.name), [d.dim_value for d in value.type.tensor_type.shape.dim])
    for tensor in _tensors(model):
        _require_shape(path, text_of(tensor.name), tensor.dims)
    return model


class _Parts:
    """Counts the messages and fields of a file, of which 2 bytes take 200 of memory once they are parsed."""

    def __init__(self, path: Path) -> None:
        self._path, self._parts, self._fields = path, _MAX_PARTS, _MAX_FIELDS
        self._unseen = _UNSEEN

    def take(self, field: Any) -> None:
        """Count one field, by its descriptor (None: of a later release of ONNX)."""
        self._fields -= 1
        self._parts -= field is not None and field.message_type is not None
        if min(self._parts, self._fields) < 0:
            raise InputError(
                f"{shortened(self._path)} has more than {_MAX_PARTS:,} nodes, attributes, values and other parts: "
                "expected a model of fewer."
            )

    def count(self, kind: Any, data: memoryview, depth: int) -> None:
        """Count what is in `data`, a message of the descriptor `kind`."""
        if len(data) <= self._unseen:
            self._unseen -= len(data)
            return
        _require_depth(depth)
        known = _fields_of(kind)
        for number, _, value, end in _fields(data):
            field = known.get(number)
            self.take(field)
            if field is not None and field.message_type is not None:
                self.count(field.message_type, data[value:end], depth + 1)


def _require_depth(depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")


@cache
def _fields_of(kind: Any) -> dict[int, Any]:
    return {field.number: field for field in kind.fields}


def _fill(message: Any, data: memoryview, parts: _Parts, depth: int = 0) -> None:
    """Parse `data` into `message`, the data of large tensors left out; nodes keep their order, other fields may not."""
    _require_depth(depth)
    known = _fields_of(message.DESCRIPTOR)
    small = bytearray()
    for number, start, value, end in _fields(data):
        field = known.get(number)
        parts.take(field)
        if end - value < _LARGE:
            small += data[start:end]
            if field is not None and field.message_type is not None:
                parts.count(field.message_type, data[value:end], depth + 1)
        elif field is not None and field.message_type is not None:
            if field.name == "node":  # those before it come first: nodes run in their order
                message.MergeFromString(bytes(small))
                small.clear()
            child = getattr(message, field.name)
            _fill(child.add() if hasattr(child, "add") else child, data[value:end], parts, depth + 1)
        elif field is not None and field.name == "dims":
            raise ValueError("a tensor of thousands of dimensions")
        elif field is not None and field.name not in _PAYLOADS:
            small += data[start:end]
    message.MergeFromString(bytes(small))


def _require_shape(path: Path, name: str, dims: Sequence[int]) -> None:
    """Raise InputError for a shape that no tensor has: too many dimensions, or more elements than memory has bytes."""
    if len(dims) > _MAX_RANK or math.prod(max(1, n) for n in dims) > _MAX_ELEMENTS:
        raise InputError(
            f"{shortened(path)} says that {shortened(name)} has {len(dims)} dimensions, {shortened(str(dims[:4]))}…: "
            f"expected at most {_MAX_RANK}, and fewer than 2^62 elements; the file is damaged."
        )


def _fields(data: memoryview) -> Iterator[tuple[int, int, int, int]]:
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


def properties_of(model: "onnx.ModelProto") -> dict[str, str]:
    """The metadata_props of `model`."""
    return {text_of(entry.key): text_of(entry.value) for entry in model.metadata_props}


def _graphs(graph: "onnx.GraphProto") -> Iterator["onnx.GraphProto"]:
    """`graph` and those inside its nodes (bodies of If and Loop)."""
    yield graph
    for inner in _inner(graph.node):
        yield from _graphs(inner)


def _inner(nodes: Iterable["onnx.NodeProto"]) -> Iterator["onnx.GraphProto"]:
    """The graphs directly inside `nodes`."""
    for node in nodes:
        for attribute in node.attribute:
            yield from chain([attribute.g] if attribute.HasField("g") else [], attribute.graphs)


def _all_graphs(model: "onnx.ModelProto") -> Iterator["onnx.GraphProto"]:
    """The graphs of `model` and of its functions' nodes."""
    yield from _graphs(model.graph)
    for function in model.functions:
        for inner in _inner(function.node):
            yield from _graphs(inner)


def _nodes(model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    for graph in _all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """Every constant: initializers, dense and sparse, and those that nodes hold."""
    for graph in _all_graphs(model):
        yield from graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from chain([attribute.t] if attribute.HasField("t") else [], attribute.tensors)
    yield from (sparse.values for sparse in _sparse(model))


def _sparse(model: "onnx.ModelProto") -> Iterator["onnx.SparseTensorProto"]:
    """Every sparse constant, whose indices are no weights but may lie in another file, too."""
    for graph in _all_graphs(model):
        yield from graph.sparse_initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            yield from attribute.sparse_tensors


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
