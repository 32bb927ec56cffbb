"""Weights streamed into an ONNX file, one tensor in memory at a time.

An .onnx file is one protobuf message, and the size of every weight is known before it is read. So the length prefixes
of the nested messages can be written by hand, and between them each tensor as it comes: model { ... graph { structure,
initializer { header, raw_data } ... } }. The result is what a protobuf library would have written, without the copies
of the whole model that it makes on the way. Protobuf itself ends at 2 GiB: above `SINGLE_FILE_LIMIT` the weights go to
`<name>.onnx.data` beside the model (ONNX external data), each at an offset that a runtime can map into memory.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from vit_export.base.errors import StructureError
from vit_export.base.files import move_into, output_errors, publish, refuse_existing
from vit_export.base.lazy import LazyTensor
from vit_export.base.scratch import owned_folder

if TYPE_CHECKING:
    import onnx

SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes of weights up to which a model is one file; a protobuf message must stay below 2^31 bytes."""

ALIGNMENT = 4096
"""Offsets in a data file are multiples of a memory page, so that a runtime can map the tensors."""

INLINE = 256
"""Bytes up to which a tensor stays in the model file all the same: a page for each scale would be wasted."""

# Field numbers and wire types of onnx.proto: tag = field << 3 | 2 (length-delimited).
_MODEL_GRAPH = 7 << 3 | 2
_GRAPH_INITIALIZER = 5 << 3 | 2
_TENSOR_RAW_DATA = 9 << 3 | 2


def declare_inputs(graph: "onnx.GraphProto", weights: Iterable[LazyTensor]) -> None:
    """Make the inputs of `graph` the image, its first one so far, and `weights`, each until it is written."""
    from onnx import helper

    images = type(graph.input[0])()
    images.CopyFrom(graph.input[0])
    del graph.input[:]
    inputs = (helper.make_tensor_value_info(w.name, _data_type(w.dtype), w.shape) for w in weights)
    graph.input.extend([images, *inputs])


def data_path(path: Path) -> Path:
    """Where the weights of a model too large for one file go."""
    return path.with_name(f"{path.name}.data")


def write_model(
    structure: "onnx.ModelProto",
    weights: Collection[LazyTensor],
    path: Path,
    *,
    overwrite: bool = False,
    single_file: bool | None = None,
) -> tuple[Path, ...]:
    """Write `structure` to `path` with every graph input named in `weights` turned into an initializer.

    `structure` is left as it is. Whether it becomes a `single_file` goes by the size of the weights when None. Returns
    the files that `path` needs beside it: none, or the data file. Both appear complete or not at all.

    Raises:
        OutputError: a file exists (and `overwrite` is false) or cannot be written.
        StructureError: `weights` and the graph's inputs do not fit.
    """
    model = _without_inputs(structure, weights)
    data = data_path(path)
    if single_file is None:
        single_file = sum(weight.nbytes for weight in weights) <= SINGLE_FILE_LIMIT
    if single_file:
        with publish(path, overwrite=overwrite) as temporary, open(temporary, "wb") as file:
            _write_single(model, weights, file)
        if overwrite:
            # What an earlier, larger model of this name left behind belongs to nothing any more.
            data.unlink(missing_ok=True)
        return ()
    refuse_existing(path, overwrite=overwrite)
    refuse_existing(data, overwrite=overwrite)
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with owned_folder(f".{path.name}.", path.parent) as stage:
            _write_external(model, weights, stage / path.name, stage / data.name, data.name)
            # The data takes its place first: a model file is never there without the weights it names.
            move_into(path.parent, [stage / data.name, stage / path.name], overwrite=overwrite)
    return (data,)


def _without_inputs(structure: "onnx.ModelProto", weights: Iterable[LazyTensor]) -> "onnx.ModelProto":
    """A copy of `structure` whose only inputs are those that stay inputs."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(structure)
    announced = {w.name: (_data_type(w.dtype), w.shape) for w in weights}
    kept = []
    for value in structure.graph.input:
        declared = value.type.tensor_type
        shape = tuple(d.dim_value for d in declared.shape.dim)
        if value.name not in announced:
            kept.append(value)
        elif announced.pop(value.name) != (declared.elem_type, shape):
            raise StructureError(
                f"ONNX weights: {value.name} is not of the type and shape {shape} that the graph reads."
            )
    if announced:
        raise StructureError(f"ONNX weights: the graph has no input {', '.join(sorted(announced))}.")
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _write_single(model: "onnx.ModelProto", weights: Collection[LazyTensor], file: BinaryIO) -> None:
    headers = []
    for weight in weights:
        tensor = _header(weight).SerializeToString() + _prefix(_TENSOR_RAW_DATA, weight.nbytes)
        headers.append(_prefix(_GRAPH_INITIALIZER, len(tensor) + weight.nbytes) + tensor)
    graph = model.graph.SerializeToString()
    size = len(graph) + sum(len(header) + weight.nbytes for header, weight in zip(headers, weights, strict=True))
    rest = type(model)()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    file.write(rest.SerializeToString() + _prefix(_MODEL_GRAPH, size) + graph)
    for header, weight in zip(headers, weights, strict=True):
        file.write(header)
        file.write(weight.elements())


def _write_external(
    model: "onnx.ModelProto", weights: Collection[LazyTensor], path: Path, data: Path, location: str
) -> None:
    digest = hashlib.sha1(usedforsecurity=False)
    inline = [weight for weight in weights if weight.nbytes <= INLINE]
    outside = [weight for weight in weights if weight.nbytes > INLINE]
    with open(data, "wb") as file:
        for offset, weight in _offsets(outside):
            for part in (bytes(offset - file.tell()), weight.elements()):
                digest.update(part)
                file.write(part)
    for offset, weight in _offsets(outside):
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(_header(weight))
        tensor.data_location = tensor.EXTERNAL
        entries = {
            "location": location,
            "offset": str(offset),
            "length": str(weight.nbytes),
            # Of the whole file, as ONNX defines it: it ties this model file to these weights.
            "checksum": digest.hexdigest(),
        }
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    for weight in inline:
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(_header(weight))
        tensor.raw_data = bytes(weight.elements())
    path.write_bytes(model.SerializeToString())


def _offsets(weights: Iterable[LazyTensor]) -> Iterator[tuple[int, LazyTensor]]:
    end = 0
    for weight in weights:
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        yield offset, weight
        end = offset + weight.nbytes


def _header(weight: LazyTensor) -> "onnx.TensorProto":
    from onnx import TensorProto

    return TensorProto(dims=weight.shape, data_type=_data_type(weight.dtype), name=weight.name)


def _data_type(dtype: np.dtype) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _prefix(tag: int, size: int) -> bytes:
    """Tag and length of a length-delimited protobuf field, both as base-128 varints."""
    return _varint(tag) + _varint(size)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
