"""A file taken up alone, without the report of its export: its facts, and the Artifact that stages work with."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

from vit_export.artifacts.facts import FileFacts
from vit_export.artifacts.identify import format_of, suffix_note
from vit_export.artifacts.onnx_file import read_onnx
from vit_export.artifacts.sizes import too_large
from vit_export.artifacts.tflite_file import read_tflite
from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file, input_errors, shortened
from vit_export.model.artifact import Artifact, Precision, in_order
from vit_export.model.record import ModelRecord, read_record

REQUANTIZED = "It was quantized by another tool after the export"
"""How the note begins on a file of ours whose record promises wider weights than it has."""

_DYNAMIC = ("DynamicQuantizeLinear", "MatMulInteger", "com.microsoft:DynamicQuantizeMatMul")
"""ONNX operators by which activations become integers while the file runs."""

_EIGHT_BITS = ("int8", "uint8", "int4", "uint4", "int2", "uint2", "float8", "float6", "float4")
_SIXTEEN_BITS = ("float16", "bfloat16")
_FULL = ("float32", "float64")


def read_facts(path: str | os.PathLike[str]) -> FileFacts:
    """What the .tflite or .onnx file at `path` says of itself.

    Raises:
        InputError: it is neither, or damaged, or its external data is missing or named outside its folder.
    """
    path = Path(path)
    format = format_of(path)
    if format == "saved_model":
        raise InputError(f"{shortened(path)} is a SavedModel, expected a .tflite or .onnx file: export it to one.")
    facts = read_tflite(path) if format == "tflite" else read_onnx(path)
    notes = (*suffix_note(path, format), *facts.notes)
    # A signature has names alone; another tool's outputs stay in the order of that.
    outputs = facts.outputs if facts.record is None else in_order(facts.outputs)
    return replace(facts, outputs=outputs, notes=notes)


def require_feasible(facts: FileFacts) -> None:
    """Raise InputError where a file's images or answers are larger than can be run."""
    if reason := too_large(facts.inputs, facts.outputs):
        raise InputError(f"{shortened(facts.path)} cannot be run: {reason}.")


def record_of(path: str | Path) -> ModelRecord:
    """What this package wrote into the SavedModel or the .tflite or .onnx file at `path` of the model that it is.

    Raises:
        InputError: it holds no such record; see also `read_facts` and `read_record`.
    """
    if os.path.isdir(path):
        return read_record(path)
    facts = read_facts(path)
    if facts.record is None:
        raise InputError(f"{shortened(path)} holds no record of vit-export, expected a file that it wrote: give one.")
    return ModelRecord.from_dict({**facts.record})


def precision_found(facts: FileFacts) -> Precision:
    """The precision that most bytes of a file's weights are stored in (`precision_of`)."""
    return precision_of(facts.matrices)


def precision_of(matrices: Mapping[str, int]) -> Precision:
    """The precision of most of the bytes `matrices`, by dtype (`FileFacts`): what a file with such weights may go by.

    "int8" stands for every type of 8 bits or fewer; where two share the bytes evenly it is the wider one.
    """
    shares: dict[Precision, int] = {
        "float32": sum(size for dtype, size in matrices.items() if dtype in _FULL),
        "float16": sum(size for dtype, size in matrices.items() if dtype in _SIXTEEN_BITS),
        "int8": sum(size for dtype, size in matrices.items() if dtype.startswith(_EIGHT_BITS)),
    }
    return max(shares, key=lambda precision: shares[precision])


def artifact_of(
    path: str | os.PathLike[str], *, precision: Precision | None = None, scheme: str | None = None
) -> Artifact:
    """The Artifact of the .tflite or .onnx file at `path`; `extra_files` are named relative to its folder.

    What is not given, `precision` and `scheme`, goes by the record in a file of ours. Another tool's has the precision
    that is found in it (`precision_found`) and no scheme; and so has a file of ours that another tool quantized, whose
    record is that of the file before. The whole file is read once, for its sha256.

    Raises:
        InputError: there is no such precision, or images or answers are too large to run it; see also `read_facts`.
    """
    if precision is not None and precision not in get_args(Precision):
        raise InputError(f"Unknown precision {precision!r}: expected one of {', '.join(get_args(Precision))}.")
    path = Path(path)
    facts = read_facts(path)
    require_feasible(facts)
    record = facts.record or {}
    own: Precision = record.get("precision") or precision_found(facts)
    notes: tuple[str, ...] = ()
    if precision is None and record and (found := _narrower(facts, own)):
        notes = (
            f"{REQUANTIZED}: its record says {own}, its weights are {found}, and {found} is what it is judged as.",
        )
        own, scheme = found, scheme or ("dynamic" if found == "int8" and _is_dynamic(facts) else None)
    elif scheme is None and precision in (None, own):
        scheme = record.get("scheme")
    with input_errors(path):
        digest = digest_of_file(path)
    return Artifact(
        path=facts.path,
        format=facts.format,
        precision=precision or own,
        inputs=facts.inputs,
        outputs=facts.outputs,
        bytes=facts.bytes,
        sha256=digest,
        scheme=scheme,
        extra_files=facts.extra_files,
        notes=notes,
    )


def _narrower(facts: FileFacts, recorded: Precision) -> Precision | None:
    """The precision of the weights where it is a narrower one than is `recorded`, else None."""
    widths: dict[Precision, int] = {"float32": 32, "float16": 16, "int8": 8}
    found = precision_found(facts)
    return found if facts.matrices and widths[found] < widths[recorded] else None


def _is_dynamic(facts: FileFacts) -> bool:
    """Whether activations are float, or become integers while the file runs: nothing was calibrated."""
    if facts.format == "onnx":
        return any(operator in facts.operators for operator in _DYNAMIC)
    return "QUANTIZE" not in facts.operators and all(spec.scale is None for spec in facts.inputs)
