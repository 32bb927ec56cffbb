"""A .tflite file from a parameter source: structure from the converter, weights streamed into it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.base.adapters.litert import names_of
from vit_export.base.files import digest_of_file
from vit_export.base.lazy import LazyTensor
from vit_export.base.versions import versions
from vit_export.deployment.rewrites import PLAIN, Extras, FoldedInput, folded_parameters, through_float16
from vit_export.int8.rounding import Levels
from vit_export.model.artifact import Artifact, InputKind, Precision, TensorSpec
from vit_export.model.input_kinds import kind_of, notes_on
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import shown_sides
from vit_export.tflite.half import halve_kernels
from vit_export.tflite.metadata import set_tflite_metadata
from vit_export.tflite.operator_versions import set_versions
from vit_export.tflite.stream import fit_inline, write_model
from vit_export.tflite.structure import convert_structure, get_metadata, set_metadata


def write_tflite(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    *,
    precision: Literal["float32", "float16"] = "float32",
    batch: int = 1,
    input: InputKind = "normalized",
    extras: Extras = PLAIN,
    kernels: Mapping[str, Levels] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the float .tflite file of `source` with a static batch (int8 is made from it, see `quantize`).

    Input `images`, [batch, height, width, 3] of the kind `input` (`input_kinds.KINDS`: float32, or uint8 for "uint8");
    outputs `spec.outputs`. float16 halves the file: kernels are stored as
    float16 and computed in the widest type the device has. `extras` are what is in the graph for int8 (see
    `rewrites.folded_parameters`); `kernels` stand for those of the same names, in float.

    Raises:
        InputError: there is no such `input`, or a weight that float16 cannot hold.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    _write(source, record, path, precision, batch, input, extras, kernels, overwrite=overwrite, lasting=True)
    return describe_tflite(path, precision)


def write_for_now(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    *,
    batch: int = 1,
    input: InputKind = "normalized",
    extras: Extras = PLAIN,
    kernels: Mapping[str, Levels] | None = None,
) -> None:
    """`write_tflite` in float32 of a file that goes before the command ends, in the place of one that may be there.

    It is neither described, which reads all of it, nor need it reach the disk.
    """
    _write(source, record, path, "float32", batch, input, extras, kernels, overwrite=True, lasting=False)


def _write(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    precision: Literal["float32", "float16"],
    batch: int,
    input: InputKind,
    extras: Extras,
    kernels: Mapping[str, Levels] | None,
    *,
    overwrite: bool,
    lasting: bool,
) -> None:
    rounding = through_float16 if precision == "float16" else None
    folded = folded_parameters(FoldedInput(source, record.preprocessing, input, rounding), extras=extras)
    rounded = {name: replace(folded[name], read=levels.values) for name, levels in (kernels or {}).items()}
    parameters = {**folded, **rounded}
    model, buffers = convert_structure(source.spec, parameters, batch, kind_of(input).dtype)
    if precision == "float16":
        halve_kernels(model, buffers)
    files = describe_inside(model, buffers, record, precision, None, input)
    write_model(model, buffers, path, files=files, overwrite=overwrite, lasting=lasting)


def describe_inside(
    model: Any,
    buffers: dict[int, LazyTensor],
    record: ModelRecord,
    precision: Precision,
    scheme: str | None,
    input: InputKind,
    more: Mapping[str, Any] | None = None,
) -> dict[str, bytes]:
    """Write into the finished model what it is and which runtime it needs; returns the files to append to it, by name.

    For people a description, for programs the versions of its operators, TFLite Metadata and the record, with `more`.
    """
    spec = record.spec
    kind = f"{precision}{f' ({scheme})' if scheme else ''}"
    model.description = f"{spec.name}, {shown_sides(spec.image_size)}, {kind}"
    set_metadata(
        model,
        json.dumps({**record.to_dict(), "precision": precision, "scheme": scheme, "input": input, **(more or {})}),
    )
    files = set_tflite_metadata(model, buffers, record, kind, input)
    set_versions(model, inline=fit_inline(buffers))
    return files


def describe_tflite(path: Path, precision: Precision, scheme: str | None = None) -> Artifact:
    """The Artifact of the file at `path`, which this package wrote."""
    graph = MappedModel(path).model.subgraphs[0]
    values = input_kind(path)
    return Artifact(
        path=str(path),
        format="tflite",
        precision=precision,
        scheme=scheme,
        inputs=tuple(replace(_tensor_spec(graph.tensors[i]), layout="NHWC", values=values) for i in graph.inputs),
        outputs=tuple(_tensor_spec(graph.tensors[i]) for i in graph.outputs),
        bytes=path.stat().st_size,
        sha256=digest_of_file(path),
        notes=notes_on(values, precision),
        versions=versions("tensorflow", "ai-edge-litert", "ai-edge-quantizer"),
    )


def input_kind(path: Path) -> InputKind:
    """What the .tflite file at `path` takes as an image, by its own metadata."""
    kind: InputKind = json.loads(get_metadata(path) or "{}").get("input", "normalized")
    return kind


def _tensor_spec(tensor: Any) -> TensorSpec:
    quantization = tensor.quantization
    scale = zero_point = None
    if quantization is not None and quantization.scale is not None and len(quantization.scale):
        scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    shape = tuple(int(n) for n in tensor.shape)
    return TensorSpec(tensor.name.decode(), shape, names_of("TensorType")[tensor.type].lower(), "", scale, zero_point)
