"""int8 .tflite files from a finished float32 one, by AI Edge Quantizer.

What computes in int8 is said by `vit_export.int8.modes`, but for the two schemes that are for accelerators and quantize
every operator: `full`, int8 with integer input and output, and `w8a16`, int8 weights with 16-bit activations.
LayerNorm, softmax, GELU and the residual stream are float in all others.

`w8a16`: activations int16 with zero point 0, weights int8 per output channel, biases int64. Input and output are
float32: an app feeds what it feeds the float32 file, and what accelerators take begins behind one QUANTIZE. The
interpreter has an int16 kernel for each operator of the graph, but a LayerNorm's variance has to be float, from the
squares to the root: the largest square is 5000 times the smallest variance in DINOv2-S/14's first LayerNorm, and RSQRT
interpolates 1/√x in a table of 513 points, 6 % off at the small end. Signal to noise of its features on 16
photographs, weights int8, in dB, median and worst: 36.6 and 33.3, with RSQRT alone in float 35.4 and 28.8. Softmax and
GELU, whose int16 kernels have tables too, stay integer: all of it float but the Dense layers keeps 36.7 and 34.6.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.adapters.litert import invoke_for_ranges, schema
from vit_export.base.adapters.quantizer import open_quantizer
from vit_export.base.errors import InputError, StructureError
from vit_export.base.machine import release_memory, usable_cores
from vit_export.base.quiet import quiet
from vit_export.base.scratch import owned_folder
from vit_export.deployment.graph import INPUT_NAME
from vit_export.int8.arithmetic import GELU_FLOOR, HEADROOM
from vit_export.int8.equalize import Factors
from vit_export.int8.modes import SCHEMES, Modes
from vit_export.int8.simulate import Clips
from vit_export.int8.told import KEY, tell
from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import affine, kind_of
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.tflite.bias import correct_patch_bias, fit_biases
from vit_export.tflite.parts import run_in_parts
from vit_export.tflite.stream import write_model
from vit_export.tflite.write import describe_inside, describe_tflite, input_kind

Ranges = dict[str, tuple[float, float]]
"""Tensor name -> smallest and largest value over the representative dataset."""

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class Rule:
    """Which operators are quantized, and how. Later rules win. `scope` is matched against the output's name."""

    scope: str
    operator: str
    mode: Literal["static", "dynamic", "static16", "float"]
    """static: ranges known beforehand; static16: likewise, 16-bit activations; dynamic: ranges found while running."""


_STREAM = ("ADD", "SUB", "MUL", "MEAN", "RSQRT")
"""Residual stream and LayerNorm. A few of the stream's channels are a hundred times the others in trained models: one
scale for all, and what a layer adds to it is a fraction of a level."""

_STREAM_MOVES = ("RESHAPE", "STRIDED_SLICE", "CONCATENATION")
_OF_STREAM = "^(?!images|patch_embedding|encoder/|pooling/|pre_logits|head)"
"""What joins the tokens and picks rows of them, by names: those of no layer."""

EVERYWHERE = {
    "full": (
        Rule(r".*", "*", "static"),
        *(Rule(r".*", kind, "float") for kind in _STREAM),
        *(Rule(_OF_STREAM, kind, "float") for kind in _STREAM_MOVES),
    ),
    "w8a16": (
        Rule(r".*", "*", "static16"),
        *(Rule(r".*", kind, "float") for kind in ("INPUT", "OUTPUT", "RSQRT")),
        *(Rule(r"/variance;?$", kind, "float") for kind in ("MUL", "MEAN", "ADD")),
    ),
}
"""Schemes that quantize operators by their kind, wherever they are."""

WIDE_NOTE = (
    "CPUs run 16-bit activations on TFLite's plain kernels, about 20 times slower than float32: this file is for "
    "accelerators."
)
"""What an app has to know of a `w8a16` file."""

# Tensors whose zero point is 0. XNNPACK takes an int8 BATCH_MATMUL only when that of its right side is; with the whole
# path from query, key and value to the output projection alike, nothing on it has to be requantized. The softmax is
# not among them: it is never negative, and a symmetric range would waste half of its levels.
_SYMMETRIC = re.compile(r"/attention/(query|key|value|mixed|output)(/reshape|/transpose)*$")

# What moves a tensor has its range; the input of an MLP's second Dense is called after what makes it.
_MOVED = re.compile(r"(/reshape|/transpose)+$")
_TENSORS = re.compile(r"/dense_2:input$")

# The image itself, cast and moved about: where it is pixels, its range is known without looking.
_IMAGE = re.compile(rf"^{INPUT_NAME}(/|$)")


def modes_of(scheme: str, spec: ViTSpec) -> Modes | None:
    """What computes in what by the scheme of that name; None for `w8a16`, which quantizes every operator.

    Raises:
        InputError: there is no such scheme.
    """
    if scheme in SCHEMES:
        return SCHEMES[scheme](spec)
    if scheme not in EVERYWHERE:
        known = ", ".join(dict.fromkeys((*SCHEMES, *EVERYWHERE)))
        raise InputError(f"Unknown int8 scheme '{scheme}': choose one of {known}.")
    return None


def rules_of(scheme: str, modes: Modes | None) -> tuple[Rule, ...]:
    """The rules that make a file compute in `modes`, or where there are none as `scheme` says (see `modes_of`)."""
    if modes is None:
        return EVERYWHERE[scheme]
    if modes.whole:
        layers = [i for i, layer in enumerate(modes.layers) if layer.products != "int8"]
        last = (("scores/softmax", "SOFTMAX"), ("mixed", "BATCH_MATMUL"))
        floats = (Rule(rf"{_layers(layers)}/attention/{name};?$", kind, "float") for name, kind in last if layers)
        return (*EVERYWHERE["full"], *floats)
    found = []
    for name, mode in (
        ("patch_embedding", modes.patch),
        ("(pooling|pre_logits|head|logits|pooled|features)", modes.head),
    ):
        if mode != "float":
            found.append(Rule(rf"^{name}(/|;?$)", "FULLY_CONNECTED", mode))
    if modes.patch == "static":
        found += [Rule(r"^images.*/(reshape|transpose);?$", kind, "static") for kind in _MOVES]
    modes_in_turn: tuple[Literal["static", "dynamic"], ...] = ("static", "dynamic")
    for mode in modes_in_turn:
        for part in ("attention", "mlp"):
            layers = [i for i, layer in enumerate(modes.layers) if getattr(layer, part) == mode]
            found += [Rule(f"{_layers(layers)}/{part}/", "FULLY_CONNECTED", mode)] if layers else []
    for product, moved, wanted in (
        ("scores", "query|key", ("scores", "int8")),
        ("mixed", "value|mixed", ("int8",)),
    ):
        layers = [i for i, layer in enumerate(modes.layers) if layer.products in wanted]
        if layers:
            attention = f"{_layers(layers)}/attention"
            found.append(Rule(rf"{attention}/{product};?$", "BATCH_MATMUL", "static"))
            # Moving int8 costs a quarter of moving float, and saves a dequantize and a quantize each.
            scope = rf"{attention}/({moved}).*/(reshape|transpose);?$"
            found += [Rule(scope, kind, "static") for kind in _MOVES]
    return tuple(found)


_MOVES = ("RESHAPE", "TRANSPOSE")


def _layers(indexes: list[int]) -> str:
    return f"^encoder/layer_({'|'.join(map(str, indexes))})"


def write_int8(
    float_path: Path,
    record: ModelRecord,
    path: Path,
    *,
    scheme: str = "static",
    rules: tuple[Rule, ...] | None = None,
    ranges: Ranges | None = None,
    clips: Clips | None = None,
    factors: Factors | None = None,
    rounded: Iterable[str] = (),
    overwrite: bool = False,
) -> Artifact:
    """Write an int8 file of the float32 .tflite at `float_path`, by `rules` or, when None, those of `scheme`.

    `ranges` come from `calibrate`; each reaches to the parts of its ends that `clips` say (see `int8.simulate.Clips`).
    `factors` and kernels `rounded` by error are those that the float file was made with: the record tells what nobody
    could read off the weights.

    Raises:
        InputError: unknown scheme, or one that needs ranges without any.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    rules = rules_of(scheme, modes_of(scheme, record.spec)) if rules is None else rules
    wide = any(rule.mode == "static16" for rule in rules)
    needed = wide or any(rule.mode == "static" for rule in rules)
    if needed and not ranges:
        raise InputError(
            f"The int8 scheme '{scheme}' needs a representative dataset: give images, or choose 'dynamic'."
        )
    headroom = HEADROOM if wide else 1.0
    statistics = _statistics(float_path, ranges, clips or {}, headroom) if ranges and needed else None
    more = {KEY: tell(factors or Factors(), rounded)}
    _quantize(float_path, rules, statistics, record, path, scheme, more, overwrite=overwrite)
    artifact = describe_tflite(path, "int8", scheme)
    return replace(artifact, notes=(*artifact.notes, WIDE_NOTE)) if wide else artifact


def calibrate(
    float_path: Path,
    images: Iterable[np.ndarray],
    total: int,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """The true minimum and maximum of every activation over `images`: `together` of what `calibrate_each` finds."""
    return together(calibrate_each(float_path, images, total, threads=threads, progress=progress))


def calibrate_each(
    float_path: Path,
    images: Iterable[np.ndarray],
    total: int,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Ranges]:
    """The true minimum and maximum of every activation in each of `images`.

    Each of `images` is [batch, height, width, 3] in the file's own numbers and dtype (`input_kinds.feed`). `threads`
    are those of the runtime, all usable cores by default.

    AI Edge Quantizer's default is a moving average of them, which cuts off what is rare; that cost 16 dB of
    signal-to-noise in a trained ViT (see docs/quantization.md).

    Raises:
        InputError: images of another dtype or shape than the file takes.
    """
    seen: list[Ranges] = [{} for _ in range(total)]
    run_in_parts(
        float_path,
        images,
        total,
        lambda interpreter, i: seen[i].update(invoke_for_ranges(interpreter)),
        progress=progress,
        threads=threads or usable_cores(),
        experimental_disable_delegate_node_fusion=True,
        experimental_force_delegate_node_profiling=True,
    )
    return seen


def together(seen: Sequence[Ranges]) -> Ranges:
    """The ranges of all batches, `seen` being those of each."""
    return {
        name: (min(ranges[name][0] for ranges in seen), max(ranges[name][1] for ranges in seen))
        for name in (seen[0] if seen else ())
    }


def _statistics(float_path: Path, ranges: Ranges, clips: Clips, headroom: float) -> dict[str, dict[str, np.ndarray]]:
    """AI Edge Quantizer's calibration result, with the ranges of `_SYMMETRIC` tensors made to give zero point 0.

    Every range reaches `headroom` times as far as was seen, but that of pixels: it is the one they can have, 0..255 or
    0..1, so that each of the 256 values is a level of its own.
    """
    parts = {_TENSORS.sub("/dense_1/gelu", site): ends for site, ends in clips.items()}
    found = {}
    per_pixel = kind_of(input_kind(float_path)).per_pixel
    ranks = {t.name.decode(): len(t.shape) for t in MappedModel(float_path).model.subgraphs[0].tensors}
    for name, seen in ranges.items():
        lowest, highest = parts.get(_MOVED.sub("", name), (1.0, 1.0))
        low, high = seen[0] * lowest * headroom, seen[1] * highest * headroom
        if name.endswith("/dense_1"):
            low = max(low, GELU_FLOOR)
        if per_pixel is not None and _IMAGE.search(name):
            low, high = 0.0, 255 * per_pixel
        step = max(abs(low), abs(high), 1e-12) / 127
        ends = (-128 * step, 127 * step) if _SYMMETRIC.search(name) else (low, high)
        shape = (1,) * ranks[name]
        found[name] = {key: np.full(shape, end, np.float32) for key, end in zip(("min", "max"), ends, strict=True)}
    return found


def _quantize(
    float_path: Path,
    rules: tuple[Rule, ...],
    statistics: dict[str, Any] | None,
    record: ModelRecord,
    path: Path,
    scheme: str,
    more: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    release_memory()  # the quantizer reads all of the float file
    with owned_folder(f".{path.name}.", path.parent) as folder:
        raw = folder / path.name
        with quiet():
            # Not kept: it maps the float file, which is as large as the model.
            _quantizer(float_path, rules).quantize(
                statistics, serialize_to_path=str(raw), enable_progress_bar=False, enable_progress_report=False
            )
        # The quantizer leaves large buffers outside the flatbuffer, where older runtimes do not look: write it again.
        mapped = MappedModel(raw)
        _read_integers(mapped.model)
        _name_outputs(mapped.model, list(record.spec.outputs))
        fit_biases(mapped, float_path)
        kind = input_kind(float_path)
        if kind_of(kind).per_pixel is not None:
            correct_patch_bias(mapped, float_path, affine(kind, record.preprocessing)[1])
        files = describe_inside(mapped.model, mapped.buffers, record, "int8", scheme, kind, more)
        write_model(mapped.model, mapped.buffers, path, files=files, overwrite=overwrite)


def _read_integers(model: Any) -> None:
    """Let what computes in integers read those of an output that others read, too: the quantizer gives it the float."""
    graph, kinds, float32 = model.subgraphs[0], operator_kinds(model), schema().TensorType.FLOAT32
    for step in (o for o in graph.operators if kinds[o.opcodeIndex] == "DEQUANTIZE"):
        if (output := step.outputs[0]) not in graph.outputs:
            continue
        for reader in (o for o in graph.operators if output in list(o.inputs)):
            integer = any(graph.tensors[index].type != float32 for index in reader.outputs)
            if integer and kinds[reader.opcodeIndex] != "QUANTIZE":
                reader.inputs = [step.inputs[0] if index == output else index for index in reader.inputs]


def _name_outputs(model: Any, names: Sequence[str]) -> None:
    """A dequantize or quantize step that was added at the end took an output's name with a suffix: give it back."""
    graph = model.subgraphs[0]
    found = [graph.tensors[index].name.decode() for index in graph.outputs]
    if len(found) != len(names) or not all(map(str.startswith, found, names)):
        raise StructureError(f"TFLite quantization: the outputs are {', '.join(found)}, expected {', '.join(names)}.")
    for index, name in zip(graph.outputs, names, strict=True):
        for other, tensor in enumerate(graph.tensors):
            if other != index and tensor.name == name.encode():
                tensor.name = f"{name}/raw".encode()
        graph.tensors[index].name = name.encode()


def _quantizer(float_path: Path, rules: tuple[Rule, ...]) -> Any:
    """An AI Edge Quantizer loaded with `rules`: the only place that knows its configuration classes."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    operators, algorithm = qtyping.TFLOperationName, algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT
    weights = qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE, dtype=qtyping.TensorDataType.INT
    )
    narrow, wide = (
        qtyping.TensorQuantizationConfig(
            num_bits=bits,
            symmetric=bits == 16,  # what the kernels of that type take
            granularity=qtyping.QuantGranularity.TENSORWISE,
            dtype=qtyping.TensorDataType.INT,
        )
        for bits in (8, 16)
    )
    activations = {"static": narrow, "static16": wide, "dynamic": None}
    made = open_quantizer(float_path)
    for rule in rules:
        operator = operators(rule.operator)
        if rule.mode == "float":
            none = algorithm_manager.AlgorithmName.NO_QUANTIZE
            made.update_quantization_recipe(rule.scope, operator, algorithm_key=none)
            continue
        operation = qtyping.OpQuantizationConfig(
            activations[rule.mode], weights, qtyping.ComputePrecision.INTEGER, explicit_dequantize=False
        )
        made.update_quantization_recipe(rule.scope, operator, operation, algorithm)
    return made
