"""What is found in a file: the record `FileFacts`, and what the readers of both formats share."""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from vit_export.base.errors import InputError, VitExportError
from vit_export.base.files import input_errors, shortened
from vit_export.base.json_file import parse_json
from vit_export.model.artifact import Format, Precision, TensorSpec
from vit_export.model.input_kinds import KINDS

RECORD_KEY = "vit_export"
"""The name under which files of ours hold their record: TFLite metadata, ONNX metadata_props."""


_MAX_ENDS = 1000  # inputs and outputs of a graph


@dataclass(frozen=True)
class FileFacts:
    """One .tflite or .onnx file. Sizes are in bytes; dtypes go by numpy's names (and int4, bfloat16, ...).

    `record` is what a file of ours holds of itself (a ModelRecord's fields and precision, scheme, input), None for
    another tool's. `weights` are the constants' bytes by dtype; `matrices` those of them with two or more dimensions
    larger than 1, which leaves out biases, norms and scales. `operators` counts by name: custom ones by their own,
    those of another ONNX domain as domain:Op. `schema` is TFLite's "schema", or ONNX's "ir" and its opset by domain
    ("ai.onnx" is the standard one). `extra_files`, names relative to the file's folder, are part of `bytes`;
    `checksums` are the SHA-1 that the file holds of some of them.
    """

    path: str
    format: Format
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bytes: int
    weights: dict[str, int]
    matrices: dict[str, int]
    operators: dict[str, int]
    schema: dict[str, int]
    producer: str = ""
    record: dict[str, Any] | None = None
    extra_files: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


@dataclass
class Constants:
    """Bytes by dtype, added up one constant at a time."""

    weights: dict[str, int] = field(default_factory=dict)
    matrices: dict[str, int] = field(default_factory=dict)

    def add(self, dtype: str, shape: Sequence[int], nbytes: int) -> None:
        """Count one constant."""
        is_matrix = sum(n > 1 for n in shape) > 1
        for tally in (self.weights, self.matrices) if is_matrix else (self.weights,):
            tally[dtype] = tally.get(dtype, 0) + nbytes


def mapped(path: Path) -> memoryview:
    """The bytes of the file at `path`, which must not be empty; only those that are looked at are read."""
    with input_errors(path), open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def require_few(path: Path, count: int) -> None:
    """Raise InputError where a graph of the file at `path` has so many (`count`) inputs and outputs as no model has."""
    if count > _MAX_ENDS:
        raise InputError(f"{shortened(path)} has {count:,} inputs and outputs: expected at most {_MAX_ENDS:,}.")


@contextmanager
def damage_told(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever reading a damaged file of this `kind` runs into into one InputError."""
    try:
        with input_errors(path):
            yield
    except VitExportError:
        raise
    except Exception as error:  # the parsers follow offsets and lengths that may say anything, and raise anything
        raise damaged(path, kind) from error


def damaged(path: Path, kind: str) -> InputError:
    """What to say of a file that begins as one of this `kind` and is none."""
    return InputError(
        f"{shortened(path)} is damaged or cut off, expected a complete {kind} file: fetch or export it again."
    )


def usable_record(text: bytes | str | None) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """The record that a file holds, and a note where it holds one that cannot be used (the file may well be)."""
    from vit_export.model.record import ModelRecord

    if text is None:
        return None, ()
    try:
        record = parse_json(text)
        ModelRecord.from_dict(record)
        precision, kind = record.get("precision"), record.get("input", "normalized")
        if precision not in get_args(Precision):
            raise InputError(f"precision is {precision!r:.40}, expected one of {', '.join(get_args(Precision))}.")
        if not isinstance(record.get("scheme"), str | None):
            raise InputError(f"scheme is {record['scheme']!r:.40}, expected a name or nothing.")
        if kind not in KINDS:
            raise InputError(f"input is {kind!r:.40}, expected one of {', '.join(KINDS)}.")
    except InputError as error:
        return None, (f"The vit-export record in the file is not used: {error}",)
    except (ValueError, TypeError, KeyError):
        return None, ("The vit-export record in the file is damaged and not used.",)
    return record, ()


def values_of(record: dict[str, Any] | None) -> str:
    """The InputKind of a file with this record, "" of another tool's."""
    return "" if record is None else record.get("input", "normalized")


def text_of(value: str | bytes | None) -> str:
    """A text in a file, whatever bytes it is made of: protobuf gives those that are no UTF-8 as they are."""
    return (value or b"").decode(errors="replace") if not isinstance(value, str) else value
