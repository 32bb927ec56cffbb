"""Fields of an .onnx file set to what bytes seldom hit."""

import json
import random
from typing import Any

from fuzz.mutate import spoilt_json

_OPERATORS = (
    *(
        "If",
        "Loop",
        "Constant",
        "DequantizeLinear",
        "Einsum",
        "",
        "\x1b[31mX",
        "Reshape",
        "Gather",
        "Split",
        "Attention",
    ),
    *("Conv", "Resize", "ConstantOfShape", "Range", "Tile", "Expand", "Gemm", "MatMul"),
)
_SHAPES: tuple[list[int], ...] = ([], [-1], [0], [1 << 62] * 17, [1] * 70, [-5, 3], [(1 << 63) - 1], [2] * 5000)
_SIZES = (-1, 0, 3, 1 << 62, -(1 << 63))


def spoilt_fields(data: bytes, chance: random.Random) -> bytes:
    """The .onnx file `data` with up to four fields set to other values."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(chance.choice((1, 2, 4))):
        chance.choice(_CHANGES)(model, chance)
    return model.SerializeToString()


def _node(model: Any, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    match chance.randrange(4):
        case 0:
            node.op_type = chance.choice(_OPERATORS)
        case 1:
            del node.input[:]
        case 2:
            del node.output[:]
        case _:
            node.input.extend([chance.choice(("", "nothing", *node.output))] * chance.choice((1, 3, 50)))


def _attribute(model: Any, chance: random.Random) -> None:
    node = chance.choice(model.graph.node)
    if node.attribute and chance.random() < 0.4:
        chance.choice(node.attribute).type = chance.randrange(13)
        return
    made = node.attribute.add()
    made.name = chance.choice(("axis", "perm", "value", "body", "epsilon", "axes", "to", "alpha", "transA", ""))
    made.type = chance.randrange(14)
    made.i = chance.choice((0, -1, 1 << 31, -(1 << 63), (1 << 63) - 1))
    made.ints.extend([chance.choice((0, -1, 1 << 40))] * chance.choice((0, 1, 9)))


def _weight(model: Any, chance: random.Random) -> None:
    tensor = chance.choice(model.graph.initializer)
    match chance.randrange(3):
        case 0:
            tensor.dims[:] = chance.choice(_SHAPES)
        case 1:
            tensor.data_type = chance.choice((0, 1, 7, 8, 10, 11, 16, 17, 21, 22, 23, 99, -1))
        case _:
            tensor.data_location = 1
            places = ("../x", "/etc/passwd", "a\0b", "", "model.onnx", ".")
            for key, values in (
                ("location", places),
                ("offset", ("-1", "0", "1e3", "9" * 5000, "x", "")),
                ("length", ("5", "-5", "\u0664")),
            )[: chance.randrange(1, 4)]:
                entry = tensor.external_data.add()
                entry.key, entry.value = key, chance.choice(values)


def _value(model: Any, chance: random.Random) -> None:
    value = chance.choice((*model.graph.input, *model.graph.output))
    match chance.randrange(5):
        case 0:
            value.ClearField("type")
        case 1:
            value.type.sequence_type.elem_type.tensor_type.elem_type = 1
        case 2:
            value.type.tensor_type.elem_type = chance.choice((0, 99, -3, 8))
        case 3:
            for dimension in value.type.tensor_type.shape.dim:
                dimension.dim_value = chance.choice(_SIZES)
        case _:
            for dimension in value.type.tensor_type.shape.dim:
                dimension.dim_param = chance.choice(("c", "\x1b[31m", "", "channel"))


def _said(model: Any, chance: random.Random) -> None:
    if chance.random() < 0.4:
        opset = model.opset_import.add()
        opset.domain = chance.choice(("", "ai.onnx", "com.microsoft", "\x1b[31m"))
        opset.version = chance.choice((0, -1, 1, 99, 1 << 62, 7))
        return
    entry = chance.choice(model.metadata_props)
    if entry.key == "vit_export" and json.loads(entry.value or "0"):
        entry.value = spoilt_json(entry.value.encode(), chance).decode(errors="replace")
    else:
        entry.value = chance.choice(("\x1b]0;x\x07", "[/b]", "x" * 100_000))


_CHANGES = (_node, _attribute, _weight, _value, _said)
