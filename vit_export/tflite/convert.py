"""A .tflite file from a parameter source: structure from the converter, weights streamed into it."""

import json
from pathlib import Path
from typing import Any, Literal

from vit_export.files import digest_of_file
from vit_export.parameters import ParameterSource
from vit_export.records import Artifact, Precision, TensorSpec
from vit_export.rewrites import folded_parameters
from vit_export.saved_model import ModelRecord
from vit_export.tflite.flatbuffer import MappedModel, schema, write_model
from vit_export.tflite.half import halve_kernels
from vit_export.tflite.structure import convert_structure, set_metadata
from vit_export.versions import versions


def write_tflite(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    *,
    precision: Literal["float32", "float16"] = "float32",
    batch: int = 1,
    overwrite: bool = False,
) -> Artifact:
    """Write the float .tflite file of `source` with a static batch (int8 is made from it, see `quantize`).

    Input `images`, float32 [batch, size, size, 3]; output `logits` [batch, classes] or `features` [batch, width].
    float16 halves the file: kernels are stored as float16 and computed in the widest type the device has.

    Raises:
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    model, payloads = convert_structure(source.spec, folded_parameters(source), batch)
    if precision == "float16":
        halve_kernels(model, payloads)
    describe_inside(model, record, precision, None)
    write_model(model, payloads, path, overwrite=overwrite)
    return describe_tflite(path, precision)


def describe_inside(model: Any, record: ModelRecord, precision: Precision, scheme: str | None) -> None:
    """Write into the model what it is: a description for people, the record for programs."""
    spec = record.spec
    model.description = (
        f"{spec.name}, {spec.image_size}x{spec.image_size}, {precision}{f' ({scheme})' if scheme else ''}"
    )
    set_metadata(model, json.dumps({**record.to_dict(), "precision": precision, "scheme": scheme}))


def describe_tflite(path: Path, precision: Precision, scheme: str | None = None) -> Artifact:
    """The Artifact of the file at `path`."""
    graph = MappedModel(path).model.subgraphs[0]
    return Artifact(
        path=str(path),
        format="tflite",
        precision=precision,
        scheme=scheme,
        inputs=tuple(_tensor_spec(graph.tensors[i], "NHWC") for i in graph.inputs),
        outputs=tuple(_tensor_spec(graph.tensors[i]) for i in graph.outputs),
        bytes=path.stat().st_size,
        sha256=digest_of_file(path),
        versions=versions("tensorflow", "ai-edge-litert", "ai-edge-quantizer"),
    )


def _tensor_spec(tensor: Any, layout: str = "") -> TensorSpec:
    types = {code: name.lower() for name, code in vars(schema().TensorType).items() if isinstance(code, int)}
    quantization = tensor.quantization
    scale = zero_point = None
    if quantization is not None and quantization.scale is not None and len(quantization.scale):
        scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    shape = tuple(int(n) for n in tensor.shape)
    return TensorSpec(tensor.name.decode(), shape, types[tensor.type], layout, scale, zero_point)
