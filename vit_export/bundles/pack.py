"""One zip per target, of one file: all of them, or none."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.base.files import (
    claimed,
    digest_of_file,
    input_errors,
    move_into,
    output_errors,
    refuse_existing,
    shortened,
)
from vit_export.base.json_file import json_text
from vit_export.base.scratch import owned_folder
from vit_export.base.text import visible
from vit_export.bundles.archive import SUMS_NAME, write_zip
from vit_export.bundles.card import licence_missing, model_card
from vit_export.bundles.check import CHECK_NAME, check
from vit_export.bundles.code import code_files, readme, uses_gpu
from vit_export.bundles.metadata import metadata
from vit_export.bundles.ort_format import MODEL_NAME, OPERATORS_NAME, Converted, to_ort
from vit_export.bundles.source import Subject, subject_of
from vit_export.bundles.targets import Row, row_of
from vit_export.model.names import LABELS_NAME

MAX_LICENCE = 1 << 20
"""Bytes of a licence; what is larger is some other file."""

_ATTENTION = 23
"""The first opset that has it (docs/delegates.md says what accelerators make of it)."""
_WHOLE = {"android": "QNN", "ios": "Core ML"}
"""What else than the CPU runs ONNX files on a target."""


@dataclass(frozen=True)
class Bundle:
    """One zip that was written: the names in it, and as `notes` what to know before it is shipped."""

    path: str
    target: str
    bytes: int
    sha256: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def bundle(
    path: str | os.PathLike[str],
    targets: Sequence[str],
    *,
    licence: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    ort: bool = False,
    overwrite: bool = False,
) -> tuple[Bundle, ...]:
    """Write `<name>_<format>_<target>.zip` of the .tflite or .onnx file at `path` for each of `targets`.

    `licence` is the text of the weights' licence; `output` the folder of the zips, beside the file without it. `ort`
    packs an .onnx file in ONNX Runtime's own format. The same input makes the same bytes.

    Raises:
        InputError: a target or the file is not known, or one does not fit the other; the licence cannot be read.
        OutputError: a zip exists (and `overwrite` is false) or cannot be written.
        StructureError: ONNX Runtime cannot convert the file (`ort`).
    """
    path = Path(path)
    subject = subject_of(path)
    rows = _rows(subject, targets, ort=ort)
    terms = _licence(licence)
    folder = path.parent if output is None else Path(output)
    planned = {target: folder / f"{path.stem}_{subject.artifact.format}_{target}.zip" for target in rows}
    told: list[str] = []
    with claimed(folder, told.append), output_errors(folder):
        for zipped in planned.values():
            refuse_existing(zipped, overwrite=overwrite, folder=False)
        with owned_folder(".bundle-", folder) as scratch:
            converted = to_ort(subject, scratch) if ort else None
            stage = [scratch / zipped.name for zipped in planned.values()]
            names = [_write(subject, row, target, terms, converted, file) for (target, row), file in
                     zip(rows.items(), stage, strict=True)]  # fmt: skip
            made = [(file.stat().st_size, digest_of_file(file)) for file in stage]
            move_into(folder, stage, overwrite=overwrite)
    return tuple(
        Bundle(str(planned[target]), target, size, digest, found, (*told, *_notes(subject, target)))
        for target, (size, digest), found in zip(rows, made, names, strict=True)
    )


def _rows(subject: Subject, targets: Sequence[str], *, ort: bool) -> dict[str, Row]:
    if not targets:
        raise InputError("There is no target to bundle for: give --target android, ios, linux or web.")
    rows = {target: row_of(target, subject) for target in targets}
    if ort and "web" in rows:
        raise InputError("--ort is for builds of the runtime that apps make, a page loads the whole: leave it out.")
    return rows


def _licence(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    file = Path(path)
    with input_errors(file):
        if not file.is_file() or not 0 < file.stat().st_size <= MAX_LICENCE:
            raise InputError(
                f"{shortened(file)} is no licence: expected a file of 1 to {MAX_LICENCE:,} bytes of text; give another "
                "to --licence."
            )
        return file.read_bytes()


def _write(
    subject: Subject, row: Row, target: str, terms: bytes | None, converted: Converted | None, path: Path
) -> tuple[str, ...]:
    """Write the zip of one target to `path`; the names in it."""
    artifact = subject.artifact
    model, file = (subject.model_name, subject.path) if converted is None else (MODEL_NAME, converted.model)
    placed = row.assets + model
    told: dict[str, Any] = {"file": placed, "bytes": file.stat().st_size, "sha256": artifact.sha256}
    conversion = None
    contents: dict[str, bytes | Path] = {placed: file}
    if converted is not None:
        told = {**told, "sha256": digest_of_file(converted.model), "converted_from": artifact.sha256}
        contents[OPERATORS_NAME] = converted.operators
        conversion = (
            f"`{MODEL_NAME}` was converted from that file by ONNX Runtime and not verified itself; for one random "
            f"image its outputs differ by {converted.difference:.1g} of their range."
        )
    texts = code_files(subject, row, model)
    if subject.record.labels is not None:
        texts[row.assets + LABELS_NAME] = "\n".join(map(visible, subject.record.labels)) + "\n"
    if uses_gpu(subject, row):
        texts[CHECK_NAME] = check(subject, file)
    texts["metadata.json"] = json_text(metadata(subject, row, told)) + "\n"
    texts["MODEL_CARD.md"] = model_card(subject, conversion)
    texts["LICENCE"] = licence_missing(subject)
    contents |= {name: subject.path.parent / name for name in artifact.extra_files}
    names = sorted({*contents, *texts, "README.md", SUMS_NAME})
    texts["README.md"] = readme(subject, row, target, model, names)
    contents |= {name: text.encode() for name, text in texts.items()}
    if terms is not None:
        contents["LICENCE"] = terms
    with input_errors(subject.path):
        digests = write_zip(path, contents)
    if digests[placed] != told["sha256"]:
        raise InputError(f"{subject.path.name} changed while it was being bundled: do it again when it is complete.")
    return tuple(names)


def _notes(subject: Subject, target: str) -> tuple[str, ...]:
    found = []
    if subject.result is None:
        found.append("No report beside the file has verified it: its card says 'not measured'.")
    elif subject.result.failed:
        found.append("The file failed its verification, as its card says.")
    if not subject.record.trained:
        found.append("The weights are untrained, as its card says.")
    if target in _WHOLE and (subject.opset or 0) >= _ATTENTION:
        found.append(
            f"Attention is one operator in opset {subject.opset}, which {_WHOLE[target]} does not take, so that the "
            "graph falls into pieces there. Export with --opset 22 for it; on the CPU both are as fast."
        )
    return tuple(found)
