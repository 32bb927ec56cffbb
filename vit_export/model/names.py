"""The vocabulary of an export: formats, precisions, int8 schemes, and the names of what an export writes."""

from typing import get_args

from vit_export.model.artifact import Format, InputKind, Precision

FORMATS: tuple[Format, ...] = get_args(Format)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
INPUTS: tuple[InputKind, ...] = get_args(InputKind)
INT8_SCHEMES: dict[Format, tuple[str, ...]] = {
    "tflite": ("static", "dynamic", "full", "auto"),
    "onnx": ("dynamic", "qdq"),
}
"""int8 schemes by format, the default first."""

NEEDS_IMAGES = (*(("tflite", scheme) for scheme in INT8_SCHEMES["tflite"]), ("onnx", "qdq"))
"""int8 schemes that are chosen by images of the representative dataset, and mostly take ranges from them too."""

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
"""The same for people."""

SAVED_MODEL_NAME = "saved_model"
LABELS_NAME = "labels.txt"
SEARCHED = "auto"
"""The int8 scheme that looks for the fastest mix within a budget."""

DEFAULT_MIN_SQNR = 35.0
"""Its budget in dB where none is given."""

OPSETS = range(13, 24)


MAX_BATCH, MAX_THREADS = 1024, 256


TIME_LIMIT = 20.0
"""Seconds for the turns of each file; on a quiet machine it takes fewer."""
