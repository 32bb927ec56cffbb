"""Which release of its runtime a file needs.

Of TensorFlow Lite by the operators and their versions: the table is that of TensorFlow, whose converter writes its
result into a file as metadata `min_runtime_version`
(tensorflow/compiler/mlir/lite/tools/versioning/runtime_version.cc).
Here are the operators that image models are made of.
Of ONNX Runtime by the opset and the version of the file format.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_export.artifacts.facts import damage_told, text_of
from vit_export.artifacts.operator_versions import RULES, Operand, needed_version
from vit_export.artifacts.tflite_file import Reader
from vit_export.base.adapters.litert import integers, names_of, schema

MIN_RUNTIME = b"min_runtime_version"
"""The name of the metadata with the release; text, padded with zeros."""

Release = tuple[int, ...]

_RELEASES = {  # operator: the release of version 1, 2, ...
    "ADD": "1.5.0 1.14.0 2.4.0 2.6.0 2.13.0",
    "AVERAGE_POOL_2D": "1.5.0 1.14.0 2.3.0",
    "BATCH_MATMUL": "2.3.0 2.3.0 2.4.0 2.5.0",
    "BROADCAST_TO": "- 2.5.0 2.5.0",  # version 1 was withdrawn
    "CAST": "1.5.0 2.7.0 2.8.0 2.9.0 2.12.0 2.15.0 2.17.0",
    "CONCATENATION": "1.5.0 1.14.0 2.3.0 2.14.0",
    "CONV_2D": "1.5.0 1.14.0 1.14.0 2.3.0 2.4.0 2.9.0 2.11.0 2.15.0",
    "DEPTHWISE_CONV_2D": "1.5.0 1.12.0 1.14.0 2.2.0 2.3.0 2.3.0 2.11.0",
    "DEQUANTIZE": "1.13.1 1.14.0 1.15.0 2.2.0 2.7.0 2.18.0",
    "DIV": "1.6.0 2.3.0",
    "EXPAND_DIMS": "1.10.0",
    "FULLY_CONNECTED": "1.5.0 1.10.0 1.14.0 1.14.0 2.0.0 2.1.0 2.3.0 2.3.0 2.3.0 2.11.0 2.15.0 2.17.0 2.18.0",
    "GATHER": "1.6.0 1.14.0 1.15.0 2.4.0 2.5.0 2.13.0 2.15.0",
    "GELU": "2.9.0 2.9.0",
    # TensorFlow gave the int16 kernel no version of its own; seen by running: 2.19 loads such a file and fails.
    "GELU INT16": "2.20.0",
    "LOGISTIC": "1.14.0 1.14.0 2.3.0",
    "MEAN": "1.6.0 1.14.0 2.4.0",
    "MUL": "1.5.0 1.14.0 1.15.0 2.3.0 2.6.0 2.11.0 2.13.0",
    "PACK": "1.11.0 1.14.0 2.3.0 2.13.0",
    "PAD": "1.5.0 1.14.0 2.4.0 2.6.0",
    "POW": "1.10.0",
    "QUANTIZE": "1.14.0 1.15.0 2.7.0",
    "RESHAPE": "1.5.0",
    "RSQRT": "1.10.0 2.5.0 2.15.0",
    "SHAPE": "1.10.0",
    "SLICE": "1.14.0 1.14.0 1.14.0 2.4.0 2.5.0 2.14.0",
    "SOFTMAX": "1.5.0 1.14.0 2.3.0",
    "SPLIT": "1.5.0 1.14.0 1.14.0 2.3.0",
    "SQRT": "1.10.0",
    "SQUARED_DIFFERENCE": "1.13.1 2.5.0",
    "SQUEEZE": "1.6.0 2.5.0",
    "STRIDED_SLICE": "1.6.0 1.14.0 2.1.0 2.2.0 2.5.0 2.6.0 2.14.0 2.14.0",
    "SUB": "1.6.0 1.14.0 2.3.0 2.4.0 2.4.0",
    "SUM": "1.10.0 1.15.0",
    "TANH": "1.14.0 1.14.0 2.3.0",
    "TRANSPOSE": "1.6.0 1.14.0 1.15.0 2.3.0 2.4.0 2.12.0 2.14.4",
    "UNPACK": "1.11.0 1.14.0 2.2.0 2.3.0",
}
_TABLE = {
    (name, version): text
    for name, row in _RELEASES.items()
    for version, text in enumerate(row.split(), 1)
    if text != "-"
}

_BY_OPSET = {
    13: (1, 6), 14: (1, 8), 15: (1, 9), 16: (1, 11), 17: (1, 12), 18: (1, 14), 19: (1, 15), 20: (1, 17), 21: (1, 18),
    22: (1, 21), 23: (1, 23),
}  # fmt: skip
_BY_IR = {7: (1, 6), 8: (1, 9), 9: (1, 15), 10: (1, 18), 11: (1, 23)}
"""The first release of ONNX Runtime that reads an opset, and a version of the file format (its table of releases)."""

WIDE_GELU = ("GELU INT16", 1)
"""Stands among operators for a GELU of int16, which has no version of its own."""

OFFSETS = "2.14.0"
"""The release that reads buffers outside the flatbuffer, as large files have them: 2.12 does not find them."""


def runtime_of(operators: Iterable[tuple[str, int]], *, inline: bool = True) -> str | None:
    """The release that has all `operators`, (name, version) each; None where one is not in the table.

    `inline` says whether every buffer is in the flatbuffer.
    """
    found = [*(_TABLE.get(operator) for operator in operators), *(() if inline else (OFFSETS,))]
    known = [text for text in found if text is not None]
    return max(known, key=_release) if known and len(known) == len(found) else None


def minimum_onnx_runtime(schema: Mapping[str, int]) -> str | None:
    """The ONNX Runtime release that a file of this `schema` (FileFacts.schema) needs, as "1.23"; None if unknown."""
    found = [_BY_OPSET.get(schema.get("ai.onnx", 0)), _BY_IR.get(schema.get("ir", 0))]
    known = [release for release in found if release is not None]
    return None if len(known) < len(found) else ".".join(map(str, max(known)))


@dataclass(frozen=True)
class Needs:
    """What a .tflite file needs of its runtime.

    `release` of TensorFlow Lite, as "2.9.0": by the operators, in the versions that their types need or the file says,
    whichever is higher; where one of them is not in the table, what the file says itself, and None where it says
    nothing. `understated` are operators that the file calls by a lower version than their types need: name, said,
    needed. `outside` of its buffers lie outside the flatbuffer, by offset and size.
    """

    release: str | None
    understated: tuple[tuple[str, int, int], ...]
    outside: int


def needs_of(path: Path) -> Needs:
    """What the .tflite file at `path` needs.

    Raises:
        InputError: the file is damaged or cut off.
    """
    with damage_told(path, ".tflite"):
        reader = Reader(path)
        said = text_of(reader.metadata(MIN_RUNTIME)).rstrip("\0")
        outside = sum(reader.model.Buffers(i).Offset() > 1 for i in range(reader.buffers))
        codes, (needed, wide_gelu) = list(reader.codes()), _needed(reader)
        operators = [(name, max(version, needed.get(i, 1))) for i, (name, version, _) in enumerate(codes)]
        return Needs(
            runtime_of([*operators, *([WIDE_GELU] if wide_gelu else [])], inline=not outside) or said or None,
            tuple((codes[i][0], codes[i][1], v) for i, v in sorted(needed.items()) if v > codes[i][1]),
            outside,
        )


def _needed(reader: Reader) -> tuple[dict[int, int], bool]:
    """By number, the version that each operator code has to have where there is a rule; whether a GELU is of int16."""
    codes = list(reader.codes())
    found: dict[int, int] = {}
    wide_gelu = False

    def operand(graph: Any, index: int) -> Operand | None:
        if index < 0:
            return None
        tensor = reader.tensor(graph, index)
        quantization = tensor.Quantization()
        scales = () if quantization is None or not quantization.ScaleLength() else tuple(quantization.ScaleAsNumpy())
        return Operand(reader.dtype(tensor), integers(tensor.ShapeAsNumpy()), scales)

    for graph in reader.subgraphs:
        for operator in reader.each(graph.Operators, graph.OperatorsLength()):
            index = operator.OpcodeIndex()
            name, _, custom = codes[index]
            if name == "GELU" and operator.InputsLength():
                wide_gelu |= reader.dtype(reader.tensor(graph, operator.Inputs(0))) == "int16"
            if custom or name not in RULES:
                continue
            inputs = [operand(graph, i) for i in integers(operator.InputsAsNumpy())]
            outputs = [operand(graph, i) for i in integers(operator.OutputsAsNumpy())]
            version = needed_version(name, _options(operator), inputs, outputs)
            if version is not None:
                found[index] = max(found.get(index, 1), version)
    return found, wide_gelu


def _options(operator: Any) -> dict[str, bool]:
    """The flags of an operator that versions depend on."""
    table, kinds = operator.BuiltinOptions(), names_of("BuiltinOptions")
    name = kinds.get(operator.BuiltinOptionsType())
    if table is None or name not in ("FullyConnectedOptions", "BatchMatMulOptions"):
        return {}
    options = getattr(schema(), name)()
    options.Init(table.Bytes, table.Pos)
    flags = {"asymmetricQuantizeInputs": options.AsymmetricQuantizeInputs()}
    return flags | ({"keepNumDims": options.KeepNumDims()} if name == "FullyConnectedOptions" else {})


def _release(text: str) -> Release:
    return tuple(map(int, text.split(".")))
