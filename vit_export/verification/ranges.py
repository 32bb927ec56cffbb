"""Whether what a file computes fits the 16-bit floats of a GPU, told from a run on the CPU, which computes in 32 bits.

What was found by running .tflite files on LiteRT's GPU (docs/gpu.md): whatever an operator hands on must fit, or the
outputs are NaN. Inside a LayerNorm it computes in 32 bits: squares of the residual stream may overflow, and its
variance may be smaller than any 16-bit float. A float16 .onnx file says itself which values are of 16 bits.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.errors import VitExportError
from vit_export.base.numbers import figure
from vit_export.runtimes.magnitudes import half_values
from vit_export.runtimes.places import Place
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled
from vit_export.verification.evidence import Cause
from vit_export.verification.verdict import FileResult

IMAGES = 2
"""Images that ranges are taken from: what leaves a range by its size does so on any picture."""

LARGEST, SMALLEST = 65504.0, 2.0**-14
"""The largest float16, and the smallest that has all its digits."""

_SQUARES = frozenset({"SQUARE", "SQUARED_DIFFERENCE"})
_SUMS = frozenset({"ADD", "FULLY_CONNECTED", "CONV_2D", "Add", "Gemm", "Conv"})
"""What is small throughout only where a whole branch or the residual stream is."""
_LAYER = re.compile(r"^encoder/layer_(\d+)/(attention|mlp)/")
_PARTS = {"attention": "attention", "mlp": "MLP"}


@dataclass(frozen=True)
class Beyond:
    """The first place of a file whose values leave the range of 16-bit floats.

    `where` is the place in words, `size` the largest magnitude there, `more` how many later tensors leave it too.
    """

    where: str
    size: float
    more: int

    @property
    def overflows(self) -> bool:
        """Whether it is too large, rather than too small to keep its digits."""
        return not self.size < SMALLEST

    def __str__(self) -> str:
        if self.overflows:
            return f"{self.where} reaches {figure(self.size)}, and the largest 16-bit float is 65504"
        return f"{self.where} is no larger than {figure(self.size)}, where 16-bit floats lose digits (below 6.1e-05)"


def beyond_half(path: Path, process: RunnerProcess, fed: np.ndarray) -> Beyond | None:
    """Where the file at `path` (`half_range.meets_half`), which `process` runs on the CPU, leaves 16-bit floats.

    Looked for on the images `fed`. None where it does not, and where its tensors cannot be kept: that is no fault of
    the file.
    """
    try:
        largest = process.largest(fed[:IMAGES])
        found = list(_onnx_places(path, largest) if process.format == "onnx" else _tflite_places(path, largest))
    except ProcessKilled:
        raise
    except (VitExportError, ValueError):
        return None
    return Beyond(*found[0], len(found) - 1) if found else None


def explained(file: FileResult, place: Place, beyond: Beyond | None) -> FileResult:
    """`file` with the reason why its outputs are wrong at `place`, where that is the range of 16-bit floats.

    On a CPU some operators of a float16 .onnx file round to 16 bits too.
    """
    broken = {check.name for check in file.checks if not check.passed}
    rounds = place.precision == "float16" or file.artifact.format == "onnx"
    if beyond is None or not rounds or not broken & {"finite", "worst_difference", "cosine", "sqnr"}:
        return file
    what = "overflows 16 bits" if beyond.overflows else "vanishes in 16 bits"
    where = " on a GPU" if place.precision else ""
    return replace(file, causes=(Cause("half_range", f"{what}{where}: {beyond}"),))


def _tflite_places(path: Path, largest: Mapping[int, float]) -> Iterator[tuple[str, float]]:
    """The places of a .tflite file where a tensor, of these `largest` magnitudes, leaves 16-bit floats."""
    model = MappedModel(path).model
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    last = ""
    for number, operator in enumerate(graph.operators):
        kind, inputs = kinds[operator.opcodeIndex], [int(index) for index in operator.inputs]
        outputs = [(int(index), _name(graph, int(index))) for index in operator.outputs]
        last = next((name for _, name in outputs if _part(name)), last)
        if kind in _SQUARES or (kind == "MUL" and inputs[0] == inputs[-1]):
            continue
        for index, name in outputs:
            size = largest.get(index)
            if size is not None and _width(graph, index) > 1 and _leaves(kind, size):
                yield _words(kind, number, name, last), size


def _onnx_places(path: Path, largest: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """The places of an .onnx file where a float16 value, of these `largest` magnitudes, leaves 16-bit floats."""
    for number, (name, node) in enumerate(half_values(path).items()):
        kind, size = node.op_type, largest.get(name, 0.0)
        if _leaves(kind, size):
            yield _words(kind, number, name, ""), size


def _leaves(kind: str, size: float) -> bool:
    """Whether what an operator of a `kind` gives is too large for a 16-bit float, or too small to keep its digits."""
    return not size <= LARGEST or (0 < size < SMALLEST and kind in _SUMS)


def _words(kind: str, number: int, name: str, last: str) -> str:
    if part := _part(name):
        return part
    if kind == "ADD" and last:
        return f"the residual stream after {_part(last)}"
    return f"operator {number} ({kind}, {name})"


def _part(name: str) -> str:
    """The part of the network that a tensor called `name` belongs to, in words; "" where its name does not say."""
    if found := _LAYER.match(name):
        return f"encoder layer {found[1]}'s {_PARTS[found[2]]}"
    first = name.partition("/")[0]
    return {"patch_embedding": "the patch embedding", "head": "the head", "pre_logits": "the pre-logits layer"}.get(
        first, ""
    )


def _name(graph: Any, index: int) -> str:
    name = graph.tensors[index].name
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name or "")


def _width(graph: Any, index: int) -> int:
    """The size of the last axis: 1 of what there is one of for each token, the mean and variance of a LayerNorm."""
    shape = graph.tensors[index].shape
    return int(shape[-1]) if shape is not None and len(shape) else 1
