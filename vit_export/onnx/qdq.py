"""int8 for accelerators: QuantizeLinear/DequantizeLinear pairs with ranges from calibration ("qdq").

The standard form of a statically quantized model: every Dense reads its input and its weights through a pair, and QKᵀ
its operands; all else is float. So are the outputs of Dense layers, which the residual stream takes: a few of its
channels are a hundred times the others in trained models, and 8 bits lose what a layer adds to the rest. And so is
softmax·V, because over many tokens the softmax's values are of the size of one level. On DINOv2-S/14 (docs/
quantization.md) the two are worth more than 10 dB, and cost no time: the CPU's integer Dense writes float as quickly.

Runtimes turn each pattern into their integer operator: ONNX Runtime's CPU provider into QGemm and
MatMulIntegerToFloat, OpenVINO into integer FullyConnected. Qualcomm's HTP takes no FullyConnected with a float output:
for it there is "w8a16". Attention is left decomposed at every opset, because nothing can stand between the products of
the single operator; 1/√d is in the query's weights.

Activations are uint8 with a zero point, weights int8 per output channel with zero point 0, biases int32 with the
product of both scales.

Weights are exact by pairs (`onnx.pairs`), which with heavy-tailed weights costs little, the neighbour of a large weight
being small. Signal to noise of the logits, in dB, on Zen 3 with default session
options, for a model trained on digits and for S/32 with heavy-tailed random weights, and latency of S/32 on one thread
(float32 36.4 ms, "dynamic" 26.3 ms); outputs of Dense layers in float, which are worth 0.5 dB on the digits:

    weights                         digits  heavy-tailed      ms
    int8                               8.9          22.4    23.5
    int8 by pairs                     35.7          23.6    23.4
    int8 with 7 bits                  36.4          19.3    23.5
    uint8 with zero point 128         37.1          24.9    27.5

"symmetric" is for TensorRT: the same graph, activations int8 with zero point 0, biases float32. TensorRT refuses uint8
and zero points other than 0, takes one scale for an activation and one for each output channel of weights, and wants
every scale above 0 (`QuantDequantLinearHelper` in onnxOpImporters.cpp and docs/operators.md of
github.com/onnx/onnx-tensorrt, 10.1). What it dequantizes is int8 or smaller, so that biases cannot be int32. Weights
that are int8 already stand as constants behind a DequantizeLinear of their own (docs.nvidia.com/deeplearning/tensorrt,
"Explicit Quantization"). They are not in pairs: GPUs add up products in 32 bits. For the CPU
they are no gain: of Dense layers with int8 activations ONNX Runtime leaves those that share their input in float (52.9
ms), and those with float biases too.

"w8a16" has uint16 activations, for accelerators that have them (Qualcomm's HTP): 65536 levels, so that every output
can be rounded too and what is lost is lost by the rounded weights, which need no care for 16-bit sums. ONNX Runtime's
CPU provider has no integer operator for it and computes between the pairs in float.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError, StructureError
from vit_export.base.lazy import LazyTensor, Tensors, computed_together
from vit_export.int8.arithmetic import HEADROOM
from vit_export.int8.rounding import Levels
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec
from vit_export.onnx.editing import Editor, drop_unused
from vit_export.onnx.fusion import dense_layers
from vit_export.onnx.pairs import in_steps, quantize_by_pairs
from vit_export.onnx.smoothing import int8_parameters, levels_of
from vit_export.onnx.stream import declare_inputs

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]
"""Site -> smallest and largest value, for every site of `sites` that is rounded."""

_LARGEST = 127
_LARGEST_BIAS = 2**30
_TINY = 1e-12

PIXELS = "patch_embedding:input"
"""The site whose range is known without looking."""


def qdq_parameters(source: ParameterSource, *, in_pairs: bool = False) -> Tensors:
    """What the graph holds before it is rounded: the parameters, 1/√d in the query projections.

    That is exact in every channel. With `in_pairs`, channels are in the order that suits pairs of weights.
    """
    factor = np.float32(_query_factor(source.spec))

    def scaled(tensor: LazyTensor) -> LazyTensor:
        return replace(tensor, read=lambda: tensor.read() * factor)

    parameters = int8_parameters(source, in_pairs=in_pairs)
    return {name: scaled(t) if "/attention/query/" in name else t for name, t in parameters.items()}


def _query_factor(spec: ViTSpec) -> float:
    return float(spec.head_size**-0.5)


def sites(graph: "onnx.GraphProto", spec: ViTSpec) -> dict[str, str]:
    """Site -> value of `graph` (attention decomposed) that is rounded there.

    `<dense>:input`, which query, key and value share; `…/attention/query`, `/key`, `/value` as the products read them;
    `…/attention/scores/softmax`; `<dense>`, the output, of every other Dense but the one that gives the logits (the
    names of `vit_export.deployment.graph.Graph.visit`).

    Raises:
        StructureError: a Dense or a product of attention is not where the spec says.
    """
    editor = Editor(graph)
    gemms = {node.input[1].removesuffix("/kernel"): node for node in graph.node if node.op_type == "Gemm"}
    # In the order of the parameters: that of the nodes is not the same in every process.
    names = [name for value in graph.input if (name := value.name.removesuffix("/kernel")) in gemms]
    found = {f"{name}:input": str(gemms[name].input[0]) for name in names}
    if len(found) != dense_layers(spec):
        raise StructureError(f"ONNX qdq: the graph has {len(found)} Dense layers, expected {dense_layers(spec)}.")
    for index in range(spec.num_layers):
        attention = f"{layer_name(index)}/attention"
        operands = _operands(editor, attention)
        found.update({f"{attention}/{name}": value for name, value in operands.items()})
    outputs = {name: str(gemms[name].output[0]) for name in names if name not in found}
    answer = {value.name for value in graph.output}
    return found | {name: value for name, value in outputs.items() if value not in answer}


def fold_query_scale(graph: "onnx.GraphProto", spec: ViTSpec) -> None:
    """Take the Mul by 1/√d out of every attention of `graph`, in place: it is in the weights of `qdq_parameters`.

    Raises:
        StructureError: there is no such Mul.
    """
    editor = Editor(graph)
    for index in range(spec.num_layers):
        scaled = _operands(editor, f"{layer_name(index)}/attention")["query"]
        node = editor.producer(scaled)
        factors = [] if node is None or node.op_type != "Mul" else [editor.constant(v) for v in node.input]
        if node is None or not any(f is not None and np.allclose(f, spec.head_size**-0.5) for f in factors):
            raise StructureError(f"ONNX qdq: the query of {layer_name(index)} is not multiplied by 1/√d.")
        plain = next(v for v, f in zip(node.input, factors, strict=True) if f is None)
        product = editor.only_consumer(scaled)
        product.input[list(product.input).index(scaled)] = plain
    drop_unused(graph)


def qdq_int8(model: "onnx.ModelProto", source: ParameterSource, ranges: Ranges, numbers: "Numbers") -> list[LazyTensor]:
    """Quantize `model` (weights as graph inputs, attention decomposed) in place; the weights it then wants.

    Each of its Dense has `x/kernel_quantized` int8 [in, out], `x/bias_quantized` int32 [out], and of both `…_scale`
    float32 [out] and `…_zero_point`; each site a scale and a zero point, float32 and the type of `numbers` []. Where
    `numbers` leave biases in float, there is `x/bias` float32 [out].

    Raises:
        InputError: not one range for every site, or one that is none.
        StructureError: the graph is not that of the spec.
    """
    from onnx import helper

    graph, spec = model.graph, source.spec
    fold_query_scale(graph, spec)
    values = {site: value for site, value in sites(graph, spec).items() if numbers.rounds(site)}
    steps = _Activations(values, ranges, numbers)
    operands = {value for site, value in values.items() if ":" not in site}
    nodes: list[onnx.NodeProto] = []
    dense = set()
    for original in graph.node:
        node = type(original)()
        node.CopyFrom(original)
        for index, value in enumerate(node.input):
            # What a Dense reads may be read in float as well: the last layer takes the class token's row out of it.
            if value in operands or (node.op_type == "Gemm" and index == 0):
                node.input[index] = steps.rounded(value, nodes)
        if node.op_type == "Gemm":
            name = node.input[1].removesuffix("/kernel")
            dense.add(name)
            parts = (("kernel", 1),) if numbers.float_bias else (("kernel", 1), ("bias", 0))
            for index, (part, axis) in enumerate(parts, start=1):
                node.input[index] = f"{name}/{part}:float"
                stored = [f"{name}/{part}_{kind}" for kind in ("quantized", "scale", "zero_point")]
                nodes.append(helper.make_node("DequantizeLinear", stored, [node.input[index]], axis=axis))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    weights: list[LazyTensor] = []
    plain, levels = qdq_parameters(source, in_pairs=numbers.in_pairs), levels_of(source)
    for name, weight in plain.items():
        owner, _, part = name.rpartition("/")
        if owner not in dense or (part == "bias" and numbers.float_bias):
            weights.append(weight)
        elif part == "kernel":
            bias = None if numbers.float_bias else plain[f"{owner}/bias"]
            factor = _query_factor(spec) if "/attention/query/" in name else 1.0
            quantize = _rounding(levels.get(name), numbers, factor)
            weights.extend(_quantized(owner, weight, bias, steps.scale(f"{owner}:input"), quantize))
    weights.extend(steps.constants())
    declare_inputs(graph, weights)
    return weights


class _Activations:
    """The pair of every site: its scale and zero point from `ranges`, its nodes when they are first asked for."""

    def __init__(self, values: Mapping[str, str], ranges: Ranges, numbers: "Numbers") -> None:
        if missing := [site for site in values if site not in ranges]:
            raise InputError(
                f"The ranges lack {missing[0]} (and {len(missing) - 1} more), expected one for each of {len(values)} "
                "sites: calibrate on this very model."
            )
        # Query, key and value read one tensor: the first of them stands for it.
        self._site_of: dict[str, str] = {}
        for site, value in values.items():
            self._site_of.setdefault(value, site)
        self._values = values
        self._steps = {site: activation_step(site, *ranges[site], numbers) for site in self._site_of.values()}
        self._made: dict[str, str] = {}

    def scale(self, site: str) -> np.float32:
        """The step between two levels at `site`."""
        return self._steps[self._site_of[self._values[site]]][0]

    def rounded(self, value: str, nodes: "list[onnx.NodeProto]") -> str:
        """`value` through its pair, which is appended to `nodes` the first time."""
        from onnx import helper

        if value not in self._made:
            prefix = _constant_prefix(self._site_of[value])
            constants = [f"{prefix}_scale", f"{prefix}_zero_point"]
            levels, again = f"{value}:quantized", f"{value}:dequantized"
            nodes.append(helper.make_node("QuantizeLinear", [value, *constants], [levels]))
            nodes.append(helper.make_node("DequantizeLinear", [levels, *constants], [again]))
            self._made[value] = again
        return self._made[value]

    def constants(self) -> list[LazyTensor]:
        """Scale and zero point of every site."""
        return [
            LazyTensor.of(f"{_constant_prefix(site)}_{part}", np.asarray(number))
            for site, step in self._steps.items()
            for part, number in zip(("scale", "zero_point"), step, strict=True)
        ]


def activation_step(site: str, low: float, high: float, numbers: "Numbers") -> tuple[np.float32, np.integer]:
    """Scale and zero point with which the levels of `numbers` cover low..high and hold 0 exactly.

    Signed levels have it in their middle, and reach as far down as up.

    Raises:
        InputError: the range is not finite, or its ends are the wrong way round.
    """
    if not (np.isfinite([low, high]).all() and low <= high):
        raise InputError(f"The range of {site} is {low} to {high}, expected two finite numbers in order.")
    headroom = 1.0 if site == PIXELS else numbers.headroom
    low, high = min(low * headroom, 0.0), max(high * headroom, 0.0)
    span = max(-low, high) if numbers.symmetric else high - low
    scale = max(span, _TINY) / np.iinfo(numbers.activations).max
    return np.float32(scale), numbers.activations(0 if numbers.symmetric else round(-low / scale))


def quantize_by_channels(kernel: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """`kernel` [in, out] as int8 [in, out] with zero point 0, and the float32 scale [out] of each output channel.

    The largest weight of a channel is 127; no scale is below `least`.
    """
    return in_steps(kernel, np.maximum(np.abs(kernel).max(axis=0) / _LARGEST, least))


@dataclass(frozen=True)
class Numbers:
    """What one scheme stores: the type of activations, where they are rounded, and how kernels are.

    `rounds` says which of `sites`; `headroom` how much further than what images showed their ranges reach. `tuned`
    models are what `int8.tune` makes of them, as in TFLite; others are smoothed and rounded by `onnx.smoothing` and
    `onnx.rounding`.
    """

    activations: type[np.integer]
    kernel: Callable[..., tuple[np.ndarray, np.ndarray]]
    rounds: Callable[[str], bool]
    headroom: float = 1.0
    float_bias: bool = False
    tuned: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether the zero points of activations are 0: those of signed types."""
        return issubclass(self.activations, np.signedinteger)

    @property
    def in_pairs(self) -> bool:
        """Whether the levels of neighbouring weights are bounded together (`onnx.pairs`)."""
        return self.kernel is quantize_by_pairs

    def through(self, kernel: np.ndarray) -> np.ndarray:
        """`kernel` [in, out] as it is stored, in float32 again (a `rewrites.Rounding`)."""
        values, scale = self.kernel(kernel)
        return values.astype(np.float32) * scale


def _integer_operand(site: str) -> bool:
    """Whether a Dense or QKᵀ reads the values of `site`."""
    return site.endswith((":input", "/attention/query", "/attention/key"))


def _anywhere(site: str) -> bool:
    del site
    return True


QDQ = Numbers(np.uint8, quantize_by_pairs, _integer_operand)
SYMMETRIC = Numbers(np.int8, quantize_by_channels, _integer_operand, float_bias=True)
W8A16 = Numbers(np.uint16, quantize_by_channels, _anywhere, headroom=HEADROOM, tuned=True)
NUMBERS: Mapping[str, Numbers] = {"qdq": QDQ, "symmetric": SYMMETRIC, "w8a16": W8A16}
"""Those of every scheme with ranges in the graph, by its name."""


def _rounding(levels: Levels | None, numbers: Numbers, factor: float) -> Callable[..., Any]:
    """How a kernel becomes integer: by `levels` times `factor` where it has them, unless its bias asks for more."""

    def given(kernel: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        assert levels is not None
        scale = (levels.scale * np.float32(factor)).astype(np.float32)
        return numbers.kernel(kernel, least) if (scale < least).any() else (levels.levels.T, scale)

    return numbers.kernel if levels is None else given


def _quantized(
    name: str, kernel: LazyTensor, bias: LazyTensor | None, input_scale: np.float32, quantize: Callable[..., Any]
) -> list[LazyTensor]:
    """What the Dense `name` holds in integers, in the order of the file: its kernel, and its `bias` if there is one."""
    out = kernel.shape[1:]
    stored = [(f"{name}/kernel_quantized", kernel.shape, np.int8), (f"{name}/kernel_scale", out, np.float32)]
    # ONNX does not ask for a zero point of 0, ONNX Runtime's patterns do.
    kernel_zero = LazyTensor.of(f"{name}/kernel_zero_point", np.zeros(out, np.int8))
    if bias is None:
        return [*computed_together(stored, lambda: quantize(kernel.read())), kernel_zero]

    def compute() -> tuple[np.ndarray, ...]:
        shift = bias.read().astype(np.float64)
        # A channel of next to no weights gets a scale that its bias fits into.
        values, scale = quantize(kernel.read(), np.abs(shift) / (float(input_scale) * _LARGEST_BIAS))
        steps = (input_scale * scale).astype(np.float32)
        return values, scale, np.rint(shift / steps).astype(np.int32), steps

    stored += [(f"{name}/bias_quantized", out, np.int32), (f"{name}/bias_scale", out, np.float32)]
    values, scale, shift, steps = computed_together(stored, compute)
    bias_zero = LazyTensor.of(f"{name}/bias_zero_point", np.zeros(out, np.int32))
    return [values, scale, kernel_zero, shift, steps, bias_zero]


def _operands(editor: Editor, attention: str) -> dict[str, str]:
    """What the products of `attention` read, by what it comes from: query, key, value, scores/softmax.

    Raises:
        StructureError: it is not softmax(QKᵀ)V of the Dense layers of those names.
    """
    value = str(editor.only_consumer(f"{attention}/value/kernel").output[0])
    while (node := editor.only_consumer(value)).op_type in ("Reshape", "Transpose"):
        value = str(node.output[0])
    softmax = str(node.input[0])
    scores = editor.producer(softmax)
    product = None if scores is None else editor.producer(scores.input[0])
    if node.op_type != "MatMul" or product is None or product.op_type != "MatMul":
        raise StructureError(f"ONNX qdq: {attention} is not softmax(QKᵀ)V.")
    query, key = (str(name) for name in product.input)
    for name, operand in (("query", query), ("key", key)):
        if _origin(editor, operand) != f"{attention}/{name}/kernel":
            raise StructureError(f"ONNX qdq: {operand} is not the {name} of {attention}.")
    return {"query": query, "key": key, "value": value, "scores/softmax": softmax}


def _origin(editor: Editor, value: str) -> str | None:
    """The kernel of the Dense that `value` comes from, moved about, scaled and turned; None without one."""
    node = editor.producer(value)
    while node is not None and node.op_type != "Gemm":
        if node.op_type not in ("Reshape", "Transpose", "Mul", "Add", "Concat", "Slice", "Split"):
            return None
        # Constants have no producer; what is turned is the same Dense's in all inputs.
        node = next((found for name in node.input if (found := editor.producer(name)) is not None), None)
    return None if node is None else str(node.input[1])


def _constant_prefix(site: str) -> str:
    name, _, side = site.partition(":")
    return f"{name}/{side or 'output'}"
