"""The vocabulary of an export: formats, precisions and int8 schemes, and the names of what an export writes.

Command line, help, file names, limits and docs all go by these tables: what is not here does not exist.
"""

from dataclasses import dataclass
from typing import get_args

from vit_export.model.artifact import Format, InputKind, Precision


@dataclass(frozen=True)
class FormatRow:
    """One format: as people call it (`title`), and what it is for."""

    title: str
    about: str


@dataclass(frozen=True)
class PrecisionRow:
    """One precision: the bytes a weight takes, and what it is for."""

    bytes: int
    about: str


@dataclass(frozen=True)
class Scheme:
    """One way to int8 in one format.

    `about` says it in a few words, `caution` in the sentence that a model card has: what is int8, and what that costs.
    """

    format: Format
    name: str
    about: str
    caution: str


FORMATS: dict[Format, FormatRow] = {
    "saved_model": FormatRow("SavedModel", "The SavedModel alone, float32 (it is always the first step)."),
    "tflite": FormatRow("TFLite", "TFLite, for Android, iOS and boards."),
    "onnx": FormatRow("ONNX", "ONNX, for ONNX Runtime."),
}
PRECISIONS: dict[Precision, PrecisionRow] = {
    "float32": PrecisionRow(4, "The reference's precision."),
    "float16": PrecisionRow(2, "Half the size; for GPUs and NPUs."),
    "int8": PrecisionRow(1, "A quarter of the size, and faster on CPUs."),
}
_DYNAMIC = "Weights are int8; activations are quantized by ranges found while running."
_RANGES = "by ranges taken from a few images: images unlike those fall outside the ranges and lose more."
_DENSE = f"Dense layers and attention are int8 {_RANGES}"
_WIDE = "16-bit activations, for accelerators, slow on CPUs"
SCHEMES: tuple[Scheme, ...] = (
    Scheme(
        "tflite",
        "auto",
        "the fastest mix within a budget",
        "A mix of int8 and more exact layers, chosen by a budget and by a few images: images unlike those may lose "
        "more.",
    ),
    Scheme("tflite", "static", "ranges from images", f"Weights and most activations are int8, {_RANGES}"),
    Scheme("tflite", "dynamic", "ranges found while running", _DYNAMIC),
    Scheme("tflite", "w8a16", _WIDE, f"Weights are int8, activations have 16 bits, {_RANGES}"),
    Scheme("tflite", "full", "integer in and out", f"Nearly everything is int8, input and output too, {_RANGES}"),
    Scheme("onnx", "dynamic", "ranges found while running", _DYNAMIC),
    Scheme("onnx", "qdq", "ranges in the graph, for accelerators", _DENSE),
    Scheme("onnx", "symmetric", "as qdq, zero points 0, for TensorRT", _DENSE),
    Scheme(
        "onnx",
        "w8a16",
        _WIDE,
        f"Weights are int8; activations of Dense layers and attention have 16 bits, {_RANGES}",
    ),
)
"""The first of a format is its default."""

INPUTS: tuple[InputKind, ...] = get_args(InputKind)
INT8_SCHEMES: dict[Format, tuple[str, ...]] = {
    name: tuple(scheme.name for scheme in SCHEMES if scheme.format == name) for name in FORMATS if name != "saved_model"
}
"""Names of the int8 schemes by format, the default first."""

SCHEME_NAMES = tuple(sorted({scheme.name for scheme in SCHEMES}))
SEARCHED = "auto"
"""The int8 scheme that looks for the fastest mix within a budget."""

DEFAULT_MIN_SQNR, DEFAULT_MIN_SQNR_UNTRAINED = 33.0, 12.0
"""The budget of `SEARCHED` in dB where none is given: some 30 are to be left on photographs unlike those it is judged
by, which lose a few (docs/quantization.md). That of random weights, whose answers mean nothing, is the least that
verification lets pass."""

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
EVALUATION_PAGE_NAME, FIGURES_NAME = "evaluation.html", "figures.json"
SAVED_MODEL_NAME = "saved_model"
HUB_NAME = "huggingface"
LABELS_NAME = "labels.txt"

OPSETS = range(13, 24)
MAX_BATCH, MAX_THREADS = 1024, 256
DYNAMIC = "dynamic"
"""The batch of files that take any number of images."""

TIME_LIMIT = 20.0
"""Seconds for the turns of each file of `bench`; on a quiet machine it takes fewer."""


def scheme_of(format: Format, scheme: str | None) -> Scheme | None:
    """The row of an int8 scheme, None where the table has none."""
    return next((row for row in SCHEMES if (row.format, row.name) == (format, scheme)), None)


def file_name(model: str, format: Format, precision: Precision, scheme: str | None) -> str:
    """What the file of `model` is called: its precision, and its int8 scheme where that is not the format's default."""
    plain = scheme is None or scheme == INT8_SCHEMES[format][0]
    return f"{model}_{precision}{'' if plain else f'_{scheme}'}.{format}"


def schemes_explained() -> str:
    """Every int8 scheme in a few words, for the command line's help."""
    said = []
    for name in dict.fromkeys(scheme.name for scheme in SCHEMES):
        rows = [scheme for scheme in SCHEMES if scheme.name == name]
        default = next((row for row in rows if INT8_SCHEMES[row.format][0] == name), None)
        where = f"{FORMATS[default.format].title}'s default" if default else ""
        only = FORMATS[rows[0].format].title if len(rows) == 1 and not default else ""
        said.append(f"{name}: {rows[0].about}{f' ({where or only})' if where or only else ''}")
    return "; ".join(said) + "."
