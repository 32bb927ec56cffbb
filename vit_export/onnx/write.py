"""An .onnx file from a parameter source: structure through tf2onnx, operators fused, weights streamed into it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.description import PRODUCER, facts_for_people
from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError, StructureError
from vit_export.base.files import digest_of_file, refuse_existing
from vit_export.base.lazy import LazyTensor
from vit_export.base.versions import versions
from vit_export.deployment.rewrites import FoldedInput, Rounding, plain_parameters, through_float16
from vit_export.int8.equalize import Factors
from vit_export.int8.told import KEY, tell
from vit_export.model import outputs
from vit_export.model.artifact import Artifact, InputKind, Layout, Precision, TensorSpec
from vit_export.model.input_kinds import kind_of, left_to_do, notes_on
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec, shown_sides, shown_size
from vit_export.onnx.fusion import ATTENTION, fuse
from vit_export.onnx.half import NOTE, to_float16
from vit_export.onnx.interface import INPUT_NAMES, open_batch, rename_outputs, take_channels_first
from vit_export.onnx.qdq import NUMBERS, Ranges, qdq_int8
from vit_export.onnx.quantize import dynamic_int8, through_int8
from vit_export.onnx.smoothing import SmoothedParameters, Smoothing
from vit_export.onnx.stream import write_model
from vit_export.onnx.structure import onnx_structure
from vit_export.onnx.value_names import name_nodes

if TYPE_CHECKING:
    import onnx

MIN_OPSET, MAX_OPSET = 13, 23
DEFAULT_OPSET = 23
"""The first opset with Attention, and the pinned ONNX Runtime has CPU kernels for all of it.

On one thread Attention takes as long as the products and softmax it replaces, and as long as ONNX Runtime's own
MultiHeadAttention, within the noise (medians on Zen 3, ms: S/32 float32 35.1, 35.5, 35.5; S/16 124, 123, 121; S/32 int8
23.3, 24.2, 24.0; S/16 int8 95.6, 97.3, 95.9), and it spares four Transposes a layer. Opset 13, all decomposed, takes
37.6, 128, 26.7 and 102. Gemm or MatMul and Add makes no difference (35.1 and 34.6; 124 and 124).
"""

_IMAGE_DIMENSIONS: dict[Layout, tuple[str, ...]] = {
    "NHWC": ("DATA_BATCH", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL"),
    "NCHW": ("DATA_BATCH", "DATA_CHANNEL", "DATA_FEATURE", "DATA_FEATURE"),
}
_OUTPUT_DIMENSIONS = ("DATA_BATCH", "DATA_FEATURE")

QDQ_OPSET = 20
"""The first opset with Gelu: accelerators' runtimes follow ONNX at a distance, and nothing later is needed."""
WIDE_OPSET = 21
"""The first opset whose QuantizeLinear has 16-bit types; before, they are ONNX Runtime's own (com.microsoft)."""


def _float32(model: "onnx.ModelProto", source: ParameterSource, ranges: Ranges) -> list[LazyTensor]:
    del model, ranges
    return list(plain_parameters(source).values())


WIDE_NOTE = (
    "ONNX Runtime's CPU provider has no integer operators for 16-bit activations: on CPUs this file is no faster than "
    "float32. It is for accelerators."
)
"""What an app has to know of a "w8a16" file."""


@dataclass(frozen=True)
class _Form:
    """How one precision and scheme turns the float32 structure, in place, and which weights it then wants."""

    precision: Precision
    scheme: str | None
    apply: Callable[["onnx.ModelProto", ParameterSource, Ranges], list[LazyTensor]]
    """The ranges are empty unless the form takes them."""
    stored: Rounding | None = None
    """What the form makes of the patch embedding's kernel, where it rounds."""
    notes: tuple[str, ...] = ()
    opset: int = DEFAULT_OPSET
    unfused: tuple[str, ...] = ()
    """Operators that stay decomposed at every opset."""
    takes_ranges: bool = False
    first_opset: int = MIN_OPSET


def _with_ranges(scheme: str, opset: int = QDQ_OPSET, **more: Any) -> _Form:
    numbers = NUMBERS[scheme]
    return _Form(
        "int8",
        scheme,
        partial(qdq_int8, numbers=numbers),
        numbers.through,
        opset=opset,
        unfused=(ATTENTION,),
        takes_ranges=True,
        **more,
    )


# The first form of a precision is the one meant when no scheme is asked for.
_FORMS = (
    _Form("float32", None, _float32),
    _Form("float16", None, to_float16, through_float16, (NOTE,)),
    _Form("int8", "dynamic", dynamic_int8, through_int8),
    _with_ranges("qdq"),
    _with_ranges("symmetric"),
    _with_ranges("w8a16", WIDE_OPSET, notes=(WIDE_NOTE,), first_opset=WIDE_OPSET),
)


def write_onnx(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    *,
    precision: Precision = "float32",
    scheme: str | None = None,
    opset: int | None = None,
    batch: int | None = 1,
    input: InputKind = "normalized",
    layout: Layout = "NHWC",
    transformers_names: bool = False,
    ranges: Ranges | None = None,
    smoothing: Smoothing | None = None,
    factors: Factors | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the ONNX file of `source`; above 1.9 GB its weights go to `<path>.data` beside it.

    Input `images`, [batch, height, width, 3] of the kind `input` (`input_kinds.KINDS`: float32, or uint8 for "uint8"),
    or with the `layout` "NCHW" `pixel_values`, [batch, 3, height, width]; the `batch` is static, None for any number;
    outputs `spec.outputs`, in float32 whatever the precision, called by their `transformers_names` (`model.outputs`)
    where that is asked for. LayerNormalization (opset 17), Gelu (20) and Attention (23) are single operators where
    `opset` has them, and decomposed below; None is 20 for "qdq" and "symmetric", 21 for "w8a16" and 23 for all others.
    `scheme` belongs to int8 only: "dynamic", or those of `onnx.qdq`, which leave Attention decomposed and need
    `ranges`. What images showed of channels and weights may be given to int8 as `smoothing` (`onnx.calibration`,
    `onnx.smoothing`, `onnx.rounding`; `onnx.int8` does all of it). `factors` are those that `source` was equalized
    with: an int8 file's record tells what nobody could read off its weights.

    Raises:
        InputError: an opset, batch, precision, scheme or input that does not exist; ranges that are missing or belong
            to another scheme; a weight that float16 cannot hold.
        OutputError: a file exists (and `overwrite` is false) or cannot be written.
        StructureError: a step of the conversion did not leave what it promises.
    """
    spec: ViTSpec = source.spec
    form = _form(precision, scheme)
    opset = form.opset if opset is None else opset
    whole_number("opset", opset, MIN_OPSET, MAX_OPSET)
    if opset < form.first_opset:
        raise InputError(
            f"The ONNX int8 scheme '{form.scheme}' needs opset {form.first_opset} or above, given {opset}: the 16-bit "
            "types of QuantizeLinear came with it."
        )
    if batch is not None:
        whole_number("The batch size", batch, 1)
    if layout not in INPUT_NAMES:
        raise InputError(f"layout is {layout!r:.40}, expected {' or '.join(INPUT_NAMES)}.")
    # What a fit to 16-bit floats (`half_range`) changes of the epsilon is no other model.
    if record.spec.with_(layer_norm_epsilon=spec.layer_norm_epsilon) != spec:
        raise InputError(f"The record describes {record.spec}, the weights belong to {spec}: pass those of one model.")
    if form.takes_ranges and ranges is None:
        raise InputError(
            f"The ONNX int8 scheme '{form.scheme}' needs the ranges of a representative dataset: give images "
            "(vit_export.onnx.write_int8_onnx), or choose the scheme 'dynamic'."
        )
    if ranges is not None and not form.takes_ranges:
        takers = ", ".join(f"'{name}'" for name in NUMBERS)
        raise InputError(f"ONNX {precision} ({form.scheme or 'no scheme'}) takes no ranges: give them to {takers}.")
    if smoothing is not None and precision != "int8":
        raise InputError(f"ONNX {precision} takes no smoothing, which is for int8.")
    dtype = kind_of(input).dtype
    refuse_existing(path, overwrite=overwrite)

    source = FoldedInput(source, record.preprocessing, input, form.stored)
    if smoothing is not None:
        source = SmoothedParameters(source, smoothing)
    made_for = batch or 1
    model = onnx_structure(spec, plain_parameters(source), opset=opset, batch=made_for, dtype=dtype)
    fuse(model, spec, batch=made_for, without=(*form.unfused, *_unsafe(precision, spec)))
    if smoothing is not None:
        smoothing.scale_hidden(model.graph)
    weights = form.apply(model, source, ranges or {})
    if layout == "NCHW":
        take_channels_first(model.graph)
    names = outputs.transformers_names(spec) if transformers_names else {name: name for name in spec.outputs}
    rename_outputs(model.graph, names)
    if batch is None:
        open_batch(model.graph)
    name_nodes(model.graph)
    rounded = smoothing.kernels if smoothing is not None else ()
    more = {KEY: tell(factors or Factors(), rounded)} if precision == "int8" else {}
    _describe(model, record, form, input, layout, list(names.values()), more)
    shapes = {names[name]: (batch, *shape) for name, shape in spec.outputs.items()}
    _check(model, shapes, batch)
    _denote_dimensions(model.graph, layout)
    extra_files = write_model(model, weights, path, overwrite=overwrite)
    files = (path, *extra_files)
    return Artifact(
        path=str(path),
        format="onnx",
        precision=precision,
        scheme=form.scheme,
        inputs=(TensorSpec(INPUT_NAMES[layout], _image_shape(spec, batch, layout), dtype, layout, values=input),),
        outputs=tuple(TensorSpec(name, shape, "float32") for name, shape in shapes.items()),
        bytes=sum(file.stat().st_size for file in files),
        # The model file holds the checksum of its data file, so this digest stands for both.
        sha256=digest_of_file(path),
        extra_files=tuple(str(file) for file in extra_files),
        notes=(*form.notes, *notes_on(input, precision)),
        versions=versions("tensorflow", "tf2onnx", "onnx"),
    )


def _unsafe(precision: Precision, spec: ViTSpec) -> tuple[str, ...]:
    """Operators that are computed wrong somewhere, and so stay decomposed.

    On arm64, ONNX Runtime 1.32's float16 Attention takes the last four numbers of a head's values as zeros where heads
    have 8n + 4 of them (tests/runtimes/test_emulation.py shows it). No variant of the table has such heads.
    """
    return (ATTENTION,) if precision == "float16" and spec.head_size % 8 == 4 else ()


def _form(precision: str, scheme: str | None) -> _Form:
    forms = [form for form in _FORMS if form.precision == precision]
    if not forms:
        known = ", ".join(dict.fromkeys(form.precision for form in _FORMS))
        raise InputError(f"Unknown precision {precision!r} for ONNX: expected {known}.")
    for form in forms:
        if scheme in (None, form.scheme):
            return form
    known = ", ".join(repr(form.scheme) for form in forms)
    raise InputError(f"ONNX {precision} has no scheme {scheme!r}: expected {known}.")


def _describe(
    model: "onnx.ModelProto",
    record: ModelRecord,
    form: _Form,
    input: InputKind,
    layout: Layout,
    names: list[str],
    more: dict[str, Any],
) -> None:
    """Write into the model what it is: for people a name and a text, for programs the record, with `more`, and facts.

    `mean` and `std` say what an app has to do, in one formula for every input kind: (pixel / 255 - mean) / std
    (`input_kinds.left_to_do`). What the model was trained with is in the record. `labels`, where there are any, are a
    JSON list in the order of the classes. `output` is the first of the outputs; where there are several, all of them
    are listed as `outputs`.
    """
    spec = record.spec
    mean, std = left_to_do(input, record.preprocessing)
    kind = f"{form.precision}{f' ({form.scheme})' if form.scheme else ''}"
    model.producer_name = PRODUCER
    model.producer_version = versions(PRODUCER)[PRODUCER]
    model.graph.name = spec.name
    model.doc_string = f"{spec.name}, {shown_sides(spec.image_size)}, {kind}"
    facts = {
        **facts_for_people(record, kind),
        "vit_export": json.dumps(
            {**record.to_dict(), "precision": form.precision, "scheme": form.scheme, "input": input, **more}
        ),
        "input": input,
        "output": names[0],
        "image_size": shown_size(spec.image_size),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "channel_order": "RGB",
        "layout": layout,
        "producer": f"{PRODUCER} {model.producer_version}",
    }
    if len(names) > 1:
        facts["outputs"] = json.dumps(names)
    if record.labels is not None:
        facts["labels"] = json.dumps(list(record.labels), ensure_ascii=False)
    del model.metadata_props[:]
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)


def _image_shape(spec: ViTSpec, batch: int | None, layout: Layout) -> tuple[int | None, ...]:
    return (batch, *spec.image_sides, 3) if layout == "NHWC" else (batch, 3, *spec.image_sides)


def _check(model: "onnx.ModelProto", wanted: dict[str, tuple[int | None, ...]], batch: int | None) -> None:
    """Every operator valid in its opset, every type and shape known; costs nothing while the weights are still inputs.

    Where the `batch` is open, so is the first size of a shape, and no other.

    Leaves the shape of every value in the model, for runtimes and viewers that do not infer them.

    Raises:
        StructureError: the structure is not valid ONNX, or its outputs are not those `wanted`, by name and shape.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StructureError(f"ONNX check: the structure is not valid ({error}).") from error
    shapes = {
        value.name: tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    values = [value for node in model.graph.node for value in node.output]
    first = 1 if batch is None else 0
    unknown = [value for value in values if value not in shapes or None in shapes[value][first:]]
    if unknown:
        raise StructureError(f"ONNX check: the shape of {unknown[0]} (and {len(unknown) - 1} more) is not static.")
    found = {value.name: shapes[value.name] for value in model.graph.output}
    if [*found.items()] != [*wanted.items()]:
        raise StructureError(f"ONNX check: the outputs are {found}, expected {wanted}.")
    model.graph.value_info.extend(inferred.graph.value_info)


def _denote_dimensions(graph: "onnx.GraphProto", layout: Layout) -> None:
    """Name the dimensions of input and output, in ONNX's standard words (its DimensionDenotation.md).

    A dimension has a size or a name (dim_param, which leaves it open), never both; the denotation stands beside a size.
    """
    images = next(value for value in graph.input if value.name == INPUT_NAMES[layout])
    denoted = ((images, _IMAGE_DIMENSIONS[layout]), *((output, _OUTPUT_DIMENSIONS) for output in graph.output))
    for value, names in denoted:
        for place, dimension in enumerate(value.type.tensor_type.shape.dim):
            dimension.denotation = names[min(place, len(names) - 1)]
