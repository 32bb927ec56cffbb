"""The small frozen records that stages hand to each other: what a tensor is, what a file is."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

from vit_export.model.outputs import RETURNS

T = TypeVar("T")

Format = Literal["saved_model", "tflite", "onnx"]
Precision = Literal["float32", "float16", "int8"]
InputKind = Literal["normalized", "0..1", "0..255", "uint8"]
"""What numbers a file takes as an image; `vit_export.model.input_kinds` says what each means."""
Layout = Literal["NHWC", "NCHW"]
"""Whether the three colours of an image are its last axis or come before its rows and columns."""


@dataclass(frozen=True)
class FileOptions:
    """What all files of one export have in common: their static `batch` and the kind of their `input`.

    The rest is ONNX's alone: the `layout` of the input, whether it takes any number of images (`dynamic_batch`; the
    batch is 1 then), whether outputs are called by their `transformers_names` (`model.outputs`), and the `opset`, None
    for the default of each precision and scheme.
    """

    batch: int = 1
    input: InputKind = "normalized"
    layout: Layout = "NHWC"
    dynamic_batch: bool = False
    transformers_names: bool = False
    opset: int | None = None


@dataclass(frozen=True)
class PlannedFile:
    """One file to make."""

    path: Path
    format: Format
    precision: Precision
    scheme: str | None = None

    @property
    def label(self) -> str:
        """The file in words: 'tflite int8 (static)'."""
        return f"{self.format} {self.precision}{f' ({self.scheme})' if self.scheme else ''}"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a file.

    `scale` and `zero_point` are set for quantized integer tensors: real = scale * (q - zero_point). `values` is set for
    the image that a file of ours takes: the InputKind of its numbers (of the real ones, where they are quantized).
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    layout: str = ""
    scale: float | None = None
    zero_point: int | None = None
    values: str = ""


def in_order(outputs: Iterable[T], name: Callable[[T], str] = attrgetter("name")) -> tuple[T, ...]:
    """`outputs` as files of ours have them, first that which apps read; others than ours stay as they are.

    Signatures, and what reads them, know names alone.
    """
    found, places = tuple(outputs), {known: place for place, known in enumerate(RETURNS)}
    if not all(name(output) in places for output in found):
        return found
    return tuple(sorted(found, key=lambda output: places[name(output)]))


@dataclass(frozen=True)
class Artifact:
    """One exported model. `path` is the file (or SavedModel folder); `extra_files` are those it needs beside it.

    `quantization` tells, JSON-ready, how an int8 file came about: what computes in what, what was tuned by which error,
    how much the ranges of two halves of the representative dataset agree.
    """

    path: str
    format: Format
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bytes: int
    sha256: str
    scheme: str | None = None
    extra_files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    quantization: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)
