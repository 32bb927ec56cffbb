"""The operators of a file of ours: epsilon, GELU's form, heads, steps in pairs, and which parameters they read."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.constants import Constant, read_constants
from vit_export.artifacts.facts import text_of
from vit_export.artifacts.onnx_file import load_structure
from vit_export.artifacts.tflite_file import Reader
from vit_export.base.adapters.litert import integers, schema
from vit_export.base.files import shortened
from vit_export.model.head import NORM, SELU_ALPHA, SELU_SCALE, Step
from vit_export.model.spec import QUICK_GELU, UNIT_EPSILON, ViTSpec
from vit_export.verification.audit.wiring import Read, misread
from vit_export.verification.checks import Check, check

_PART = 0.02
"""How far an epsilon may be off in parts: w8a16 keeps it in 16 bits, with a scale of its own (1e-12 as 1.007e-12)."""


_GELUS = {"gelu": "erf", "gelu_tanh": "tanh"}
_SIGMOIDS = {"sigmoid", "silu", "softplus", "mish"}
_MADE_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("RELU", "Relu"), ("relu",)),
    **dict.fromkeys(("RELU6", "Clip"), ("relu6", "hard_silu")),
    **dict.fromkeys(("ELU", "Elu"), ("elu", "selu")),
    **dict.fromkeys(("LEAKY_RELU", "LeakyRelu"), ("leaky_relu", "elu", "selu")),
    **dict.fromkeys(("LOG", "Log"), ("softplus", "mish")),
    "HARD_SWISH": ("hard_silu",),
}
"""Operators that a head's activations alone have, and the activations that are made of them."""
_NUMBERS: dict[str, tuple[float, ...]] = {
    "erf": (0.5, 0.5**0.5),
    "tanh": (0.5, 3, 0.044715, (2 / np.pi) ** 0.5),
    "quick": (QUICK_GELU,),
    "relu6": (0, 6),
    "hard_silu": (0, 6, 3, 1 / 6),
    "selu": (SELU_SCALE,),
    **dict.fromkeys(("softplus", "mish"), (0.5,)),
}
"""Numbers that GELU's forms and a head's activations are computed with in ONNX."""


def attributes(path: Path, format: str, spec: ViTSpec) -> Check:
    """Whether the operators of the file compute what `spec` says."""
    wrong = list(dict.fromkeys((_of_tflite if format == "tflite" else _of_onnx)(path, spec)))
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return check(
        "attributes", not wrong, 0, len(wrong), f"an operator is not the reference's: {wrong[0] if wrong else ''}{more}"
    )


@dataclass(frozen=True)
class _Operator:
    """One operator of a .tflite file: inputs and outputs by number, -1 for one that is left out; options or None."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any


_OPTIONS = {
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "GELU": "GeluOptions",
    "SOFTMAX": "SoftmaxOptions",
    "LEAKY_RELU": "LeakyReluOptions",
}
_FUSED = {1: "RELU", 3: "RELU6"}
"""Activations that another operator ends in, by their numbers in the schema."""


def _operators(reader: Reader, graph: Any) -> Iterator[_Operator]:
    kinds = [name for name, _, _ in reader.codes()]
    for operator in reader.each(graph.Operators, graph.OperatorsLength()):
        kind, table, options = kinds[operator.OpcodeIndex()], operator.BuiltinOptions(), None
        if table is not None and kind in _OPTIONS:
            options = getattr(schema(), _OPTIONS[kind])()
            options.Init(table.Bytes, table.Pos)
        yield _Operator(kind, integers(operator.InputsAsNumpy()), integers(operator.OutputsAsNumpy()), options)


def _of_tflite(path: Path, spec: ViTSpec) -> Iterator[str]:
    reader, constants = Reader(path), read_constants(path, "tflite")
    graph = reader.subgraphs[0]
    tensors = list(reader.each(graph.Tensors, graph.TensorsLength()))
    names = [text_of(tensor.Name()) for tensor in tensors]
    operators = list(_operators(reader, graph))
    made = {output: operator for operator in operators for output in operator.outputs}
    yield from misread(
        (Read(o.kind, [names[i] for i in o.inputs if i >= 0], [names[i] for i in o.outputs]) for o in operators), spec
    )
    behind = _behind_encoder([names[i] for i in operator.inputs if i >= 0] for operator in operators)
    for number, operator in enumerate(operators):
        kind, options = operator.kind, operator.options
        head = spec.head if number > behind else ()
        if kind == "RSQRT":
            added = made.get(operator.inputs[0])
            added = made.get(added.inputs[0], added) if added and added.kind == "DEQUANTIZE" else added
            inputs = [names[i] for i in added.inputs] if added else []
            yield from _unlike_epsilon([float(constants[n].values().max()) for n in inputs if n in constants], spec)
        elif kind == "MEAN":
            axes = [constants[names[i]].load().reshape(-1) for i in operator.inputs[1:] if names[i] in constants]
            yield from _unlike_axis(kind, [int(axis) for part in axes for axis in part])
        elif kind == "LOGISTIC" and _has(head, _SIGMOIDS):
            pass
        elif kind == "LOGISTIC":
            scaled = made.get(operator.inputs[0])
            scaled = made.get(scaled.inputs[0]) if scaled and scaled.kind in ("QUANTIZE", "DEQUANTIZE") else scaled
            numbers = [names[i] for i in (scaled.inputs if scaled else ()) if names[i] in constants]
            yield from _unlike_quick([float(constants[name].values().max()) for name in numbers], spec)
        elif kind == "GELU":
            yield from _unlike_gelu("tanh" if options and options.Approximate() else "erf", spec, head)
        elif kind in _MADE_OF:
            yield from _unlike_activation(kind, options.Alpha() if kind == "LEAKY_RELU" else None, head)
        elif kind == "SOFTMAX" and options and options.Beta() != 1:
            yield f"a softmax has beta {options.Beta():g}, expected 1"
        elif kind == "BATCH_MATMUL":
            heads = [int(tensors[i].Shape(1)) for i in operator.inputs]
            if set(heads) != {spec.num_heads}:
                yield f"attention has {heads[0]} heads, expected {spec.num_heads}"
        activation = options.FusedActivationFunction() if hasattr(options, "FusedActivationFunction") else 0
        if activation and not _has(head, _MADE_OF.get(_FUSED.get(activation, ""), ())):
            yield f"a {kind} has an activation (number {activation}), expected none"


def _of_onnx(path: Path, spec: ViTSpec) -> Iterator[str]:
    graph = load_structure(path).graph
    constants = read_constants(path, "onnx")
    made = {value: node for node in graph.node for value in node.output}
    yield from misread((Read(node.op_type, node.input, node.output) for node in graph.node), spec)
    yield from _unlike_numbers(constants, spec)
    behind = _behind_encoder(node.input for node in graph.node)
    for number, node in enumerate(graph.node):
        head = spec.head if number > behind else ()
        given = {attribute.name: attribute for attribute in node.attribute}
        yield from _unlike_axis(node.op_type, _axes(given))
        if node.op_type == "LayerNormalization":
            yield from _unlike_epsilon([given["epsilon"].f if "epsilon" in given else 1e-5], spec)
        elif node.op_type == "Sqrt":
            added = made.get(node.input[0])
            inputs = added.input if added is not None and added.op_type == "Add" else ()
            yield from _unlike_epsilon([float(constants[n].values().max()) for n in inputs if n in constants], spec)
        elif node.op_type == "Gelu":
            form = given["approximate"].s.decode() if "approximate" in given else "none"
            yield from _unlike_gelu("tanh" if form == "tanh" else "erf", spec, head)
        elif node.op_type == "Erf":
            yield from _unlike_gelu("erf", spec, head)
        elif node.op_type in _MADE_OF:
            slope = given["alpha"].f if node.op_type == "LeakyRelu" and "alpha" in given else None
            yield from _unlike_activation(node.op_type, slope, head)
        elif node.op_type == "Attention":
            heads = {given[name].i for name in ("q_num_heads", "kv_num_heads") if name in given}
            scale = given["scale"].f if "scale" in given else spec.head_size**-0.5
            if heads - {spec.num_heads}:
                yield f"attention has {min(heads - {spec.num_heads})} heads, expected {spec.num_heads}"
            if not np.isclose(scale, spec.head_size**-0.5, rtol=1e-5):
                yield f"attention has scale {scale:.6g}, expected {spec.head_size**-0.5:.6g}"
            if "is_causal" in given and given["is_causal"].i:
                yield "attention is causal"
        elif node.op_type == "DequantizeLinear" and node.input[0] in made:
            yield from _unlike_pair(made[node.input[0]], node, constants)


def _unlike_axis(kind: str, axes: Sequence[int]) -> Iterator[str]:
    """Means and norms are over the channels of [rows, channels], a softmax over the last axis of four."""
    last = {"MEAN": (-1, 1), "ReduceMean": (-1, 1), "LayerNormalization": (-1, 1), "Softmax": (-1, 3)}.get(kind)
    if last is not None and any(axis not in last for axis in axes):
        yield f"a {kind} works over axis {', '.join(map(str, axes))}, expected the last"


def _axes(given: Mapping[str, Any]) -> list[int]:
    return [*([given["axis"].i] if "axis" in given else []), *(given["axes"].ints if "axes" in given else [])]


def _unlike_numbers(constants: Mapping[str, Constant], spec: ViTSpec) -> Iterator[str]:
    """The single numbers of an .onnx file: epsilon, 1/√d, and those of GELU where it is decomposed."""
    forms = [spec.gelu, *(_GELUS.get(kind, kind) for kind, _ in spec.head)]
    numbers = [number for form in forms for number in _NUMBERS.get(form, ())]
    lengths = [size**-0.5 for size in _unit_sizes(spec)]
    known = np.array([*_epsilons(spec), spec.head_size**-0.5, 1, *numbers, *lengths])
    for name, constant in constants.items():
        if constant.shape == () and constant.dtype in ("float32", "float16") and not name.endswith("_scale"):
            part = 1e-3 if constant.dtype == "float16" else 1e-5
            if not np.isclose(constant.values(), known, rtol=part, atol=0).any():
                number = float(constant.values())
                yield f"the number {shortened(repr(name))} is {number:.6g}, which no operator of this model needs"


def _behind_encoder(inputs: Iterable[Iterable[str]]) -> int:
    """The number of the last operator that reads a parameter of the encoder or its pooling, by what each reads."""
    before = ("encoder/layer_", "pooling/", "pre_logits/")
    return max((i for i, names in enumerate(inputs) if any(name.startswith(before) for name in names)), default=-1)


def _has(head: Sequence[Step], kinds: Collection[str]) -> bool:
    return any(kind in kinds for kind, _ in head)


def _unlike_gelu(form: str, spec: ViTSpec, head: Sequence[Step]) -> Iterator[str]:
    wanted = {_GELUS[kind] for kind, _ in head if kind in _GELUS} if head else {spec.gelu}
    if form not in wanted:
        yield f"there is a GELU of the form {form}, expected {' or '.join(sorted(wanted)) or 'none'}"


def _unlike_activation(kind: str, slope: float | None, head: Sequence[Step]) -> Iterator[str]:
    if not _has(head, _MADE_OF[kind]):
        yield f"there is a {kind}, which this part of the model has none of"
    known = [SELU_ALPHA if name == "selu" else value for name, value in head if name in _MADE_OF["LEAKY_RELU"]]
    if slope is not None and not np.isclose(slope, [value for value in known if value is not None], rtol=1e-5).any():
        yield f"a {kind} has the slope {slope:.6g}, expected another"


def _unlike_quick(found: list[float], spec: ViTSpec) -> Iterator[str]:
    if spec.gelu != "quick" or not found:
        yield f"there is a sigmoid, expected GELU of the form {spec.gelu}"
    for number in found:
        if not np.isclose(number, QUICK_GELU, rtol=1e-3, atol=0):
            yield f"a sigmoid reads {number:.6g} x, expected {QUICK_GELU:g} x"


def _unlike_epsilon(found: list[float], spec: ViTSpec) -> Iterator[str]:
    for epsilon in found:
        if not np.isclose(epsilon, _epsilons(spec), rtol=_PART, atol=0).any():
            yield f"a LayerNorm has epsilon {epsilon:.4g}, expected {spec.layer_norm_epsilon:.4g}"


def _epsilons(spec: ViTSpec) -> list[float]:
    """Those of LayerNorms, and those by which embeddings are divided by their length."""
    own = [value for kind, value in spec.head if kind == NORM and value is not None]
    return [spec.layer_norm_epsilon, *own, *(UNIT_EPSILON / size for size in _unit_sizes(spec))]


def _unit_sizes(spec: ViTSpec) -> list[int]:
    """The sizes of the embeddings that are divided by their length."""
    return [spec.outputs[name][0] for name in ("pooled", "features") if spec.l2_normalize and name in spec.outputs]


def _unlike_pair(first: Any, second: Any, constants: Mapping[str, Constant]) -> Iterator[str]:
    """Whether integers are read with the scale and zero point that they were made with."""
    if first.op_type != "QuantizeLinear":
        return
    for index, what in ((1, "scale"), (2, "zero point")):
        names = [node.input[index] if len(node.input) > index else "" for node in (first, second)]
        if names[0] != names[1] and not _equal(*(constants.get(name) for name in names)):
            name = shortened(repr(second.name or second.output[0]))
            yield f"{name} reads integers with another {what} than they were made with"


def _equal(first: Constant | None, second: Constant | None) -> bool:
    return first is not None and second is not None and np.array_equal(first.load(), second.load())
