"""Passes that turn tf2onnx's decompositions back into the single operators LayerNormalization, Gelu and Attention.

Each pass looks for its pattern where the spec says there must be one, and nowhere else: a pattern that is missing, or
looks different, is an error, so no file ships with a part of it silently unfused.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import StructureError
from vit_export.model.head import DENSE, NORM
from vit_export.model.parameters import layer_name
from vit_export.model.spec import ViTSpec
from vit_export.onnx.editing import Constant, Editor, Number, Op, Pattern, Value, count, drop_unused

if TYPE_CHECKING:
    import onnx

ATTENTION = "Attention"

_HEADS_FIRST = (("perm", (0, 2, 1, 3)),)
_HEADS_FIRST_TRANSPOSED = (("perm", (0, 2, 3, 1)),)


@dataclass(frozen=True)
class Fusion:
    """One pass: from `opset` on, `run` leaves exactly `expected(spec)` operators called `operator`."""

    operator: str
    opset: int
    expected: Callable[[ViTSpec], int]
    run: Callable[[Editor, ViTSpec, int], None]


def fuse(model: "onnx.ModelProto", spec: ViTSpec, *, batch: int, without: Collection[str] = ()) -> None:
    """Apply in place every fusion that the opset of `model` has an operator for, but for the operators `without`.

    Raises:
        StructureError: a decomposition is not where, or not what, the spec says it must be.
    """
    opset = model.opset_import[0].version
    for fusion in FUSIONS:
        if opset < fusion.opset or fusion.operator in without:
            continue
        fusion.run(Editor(model.graph), spec, batch)
        drop_unused(model.graph)
        found, expected = count(model.graph, fusion.operator), fusion.expected(spec)
        if found != expected:
            raise StructureError(f"ONNX fusion {fusion.operator}: the graph has {found} of them, expected {expected}.")


def norms(spec: ViTSpec) -> dict[str, float]:
    """The epsilon of every LayerNorm of `spec`, by the prefix of its parameters."""
    names = ["embedding_norm"] if spec.embedding_norm else []
    for index in range(spec.num_layers):
        names += [f"{layer_name(index)}/attention_norm", f"{layer_name(index)}/mlp_norm"]
    names += ["encoder/norm"] if spec.final_norm else []
    names += ["pooling/norm"] if spec.attention_pooling else []
    own = {placed.name: placed.step.value or 0.0 for placed in spec.head_steps if placed.step.kind == NORM}
    return dict.fromkeys(names, spec.layer_norm_epsilon) | own


def mlp_names(spec: ViTSpec) -> Iterator[str]:
    """Prefix of the parameters of every MLP of `spec`."""
    for index in range(spec.num_layers):
        yield f"{layer_name(index)}/mlp"
    if spec.attention_pooling:
        yield "pooling/mlp"


def dense_layers(spec: ViTSpec) -> int:
    """Dense layers of `spec`: six per encoder layer, the patch embedding, five of attention pooling, the head's."""
    head = (spec.pre_logits_size is not None) + (spec.num_classes is not None)
    head += sum(step.kind == DENSE for step in spec.head)
    return 6 * spec.num_layers + 1 + 5 * spec.attention_pooling + head


def norm_pattern(epsilon: float, last_axis: int, *, axes_input: bool) -> Op:
    """LayerNorm as tf2onnx writes it; with `axes_input` (opset 18) ReduceMean's axes are an input, not an attribute."""

    def mean(x: Pattern) -> Op:
        if axes_input:
            return Op("ReduceMean", (x, Constant((-1,))))
        return Op("ReduceMean", (x,), (("axes", (last_axis,)),))

    centred = Op("Sub", (Value("x"), mean(Value("x"))))
    variance = mean(Op("Mul", (centred, centred)))
    inverse = Op("Reciprocal", (Op("Sqrt", (Op("Add", (variance, Number(epsilon))),)),))
    normed = Op("Mul", (centred, inverse))
    return Op("Add", (Op("Mul", (normed, Value("scale"))), Value("bias")))


def _fuse_norms(editor: Editor, spec: ViTSpec, batch: int) -> None:
    del batch
    from onnx import helper

    for name, epsilon in norms(spec).items():
        scale, bias = f"{name}/scale", f"{name}/bias"
        output = editor.only_consumer(bias).output[0]
        found = _first_match(editor, output, _norm_patterns(epsilon), {"scale": scale, "bias": bias}, name)
        # stash_type 1: mean and variance are computed in float32 whatever the type of x.
        attributes = {"axis": -1, "epsilon": epsilon, "stash_type": 1}
        editor.replace(
            output, [helper.make_node("LayerNormalization", [found["x"], scale, bias], [output], **attributes)]
        )


def _norm_patterns(epsilon: float) -> list[Op]:
    # Tokens are two-dimensional, so the last axis is 1 where tf2onnx writes it as an attribute.
    return [norm_pattern(epsilon, 1, axes_input=axes_input) for axes_input in (True, False)]


def gelu_pattern(form: str) -> Op:
    """GELU of x as tf2onnx writes `vit_export.deployment.graph`'s two forms."""
    x = Value("x")
    half = Op("Mul", (Number(0.5), x))
    if form == "tanh":
        cubed = Op("Mul", (Number(0.044715), Op("Pow", (x, Number(3.0)))))
        bent = Op("Tanh", (Op("Mul", (Number((2 / np.pi) ** 0.5), Op("Add", (x, cubed)))),))
    else:
        bent = Op("Erf", (Op("Mul", (x, Number(0.5**0.5))),))
    return Op("Mul", (half, Op("Add", (Number(1.0), bent))))


def _fuse_gelus(editor: Editor, spec: ViTSpec, batch: int) -> None:
    del batch
    from onnx import helper

    if spec.gelu == "quick":
        return
    for name in mlp_names(spec):
        x = editor.only_consumer(f"{name}/dense_1/kernel").output[0]
        output = editor.only_consumer(f"{name}/dense_2/kernel").input[0]
        _first_match(editor, output, [gelu_pattern(spec.gelu)], {"x": x}, name)
        approximate = "tanh" if spec.gelu == "tanh" else "none"
        editor.replace(output, [helper.make_node("Gelu", [x], [output], approximate=approximate)])


def attention_pattern(spec: ViTSpec) -> Op:
    """softmax(QKᵀ/√d)V on the outputs of the query, key and value Dense, up to the input of the output Dense."""

    def heads(name: str, perm: tuple[tuple[str, tuple[int, ...]], ...]) -> Op:
        return Op("Transpose", (Op("Reshape", (Value(name), Value(f"{name}_shape"))),), perm)

    query = Op("Mul", (heads("query", _HEADS_FIRST), Number(spec.head_size**-0.5)))
    weights = Op("Softmax", (Op("MatMul", (query, heads("key", _HEADS_FIRST_TRANSPOSED))),))
    attended = Op("MatMul", (weights, heads("value", _HEADS_FIRST)))
    return Op("Reshape", (Op("Transpose", (attended,), _HEADS_FIRST), Constant((-1, spec.hidden_size))))


def _fuse_attentions(editor: Editor, spec: ViTSpec, batch: int) -> None:
    from onnx import helper

    for index in range(spec.num_layers if spec.positions == "learned" else 0):
        name = f"{layer_name(index)}/attention"
        bound = {p: editor.only_consumer(f"{name}/{p}/kernel").output[0] for p in ("query", "key", "value")}
        output = editor.only_consumer(f"{name}/output/kernel").input[0]
        found = _first_match(editor, output, [attention_pattern(spec)], bound, name)
        queries = spec.kept_tokens if index == spec.num_layers - 1 else spec.num_tokens
        nodes, inputs = [], []
        for projection, tokens in (("query", queries), ("key", spec.num_tokens), ("value", spec.num_tokens)):
            _require_shape(editor, found[f"{projection}_shape"], (batch, tokens, spec.num_heads, spec.head_size), name)
            shape = editor.add_constant(
                f"shape_{batch}_{tokens}_{spec.hidden_size}", np.array((batch, tokens, spec.hidden_size), np.int64)
            )
            inputs.append(f"{name}/{projection}/tokens")
            nodes.append(helper.make_node("Reshape", [bound[projection], shape], inputs[-1:]))
        attended = f"{name}/attended"
        attention = helper.make_node(
            "Attention", inputs, [attended], q_num_heads=spec.num_heads, kv_num_heads=spec.num_heads
        )
        rows = editor.add_constant(f"shape_rows_{spec.hidden_size}", np.array((-1, spec.hidden_size), np.int64))
        editor.replace(output, [*nodes, attention, helper.make_node("Reshape", [attended, rows], [output])])


def _first_match(editor: Editor, output: str, patterns: list[Op], bound: dict[str, str], name: str) -> dict[str, str]:
    for pattern in patterns:
        found = editor.match(output, pattern, bound)
        if found is not None:
            return found
    raise StructureError(
        f"ONNX fusion: {name} is not written the way the pinned tf2onnx writes it, so it cannot be fused; "
        "export with --opset 13 for the decomposed form, and report this."
    )


def _require_shape(editor: Editor, value: str, wanted: tuple[int, ...], name: str) -> None:
    elements = editor.constant(value)
    if elements is None or tuple(elements.tolist()) != wanted:
        raise StructureError(f"ONNX fusion: {name} reshapes its tokens to {elements}, expected {wanted}.")


FUSIONS = (
    Fusion("LayerNormalization", 17, lambda spec: len(norms(spec)), _fuse_norms),
    # The runtime finds x·sigmoid(1.702 x) itself, which has no operator of ONNX's own.
    Fusion("Gelu", 20, lambda spec: 0 if spec.gelu == "quick" else len([*mlp_names(spec)]), _fuse_gelus),
    # Rotary positions stand between the Dense layers and the products, where the operator would have no room for them.
    Fusion(ATTENTION, 23, lambda spec: spec.num_layers if spec.positions == "learned" else 0, _fuse_attentions),
)
