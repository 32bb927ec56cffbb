"""What keeps more of a model's answers than a file that lost them: other images, another int8 scheme, more bits."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.numbers import number
from vit_export.int8.budget import MOST_DB
from vit_export.model.artifact import Format, Precision
from vit_export.model.names import (
    DEFAULT_MIN_SQNR,
    DEFAULT_MIN_SQNR_UNTRAINED,
    INT8_SCHEMES,
    SEARCHED,
    scheme_of,
)
from vit_export.model.record import ModelRecord
from vit_export.pipeline.commands import for_file, value_of
from vit_export.pipeline.guesses import is_own_domain
from vit_export.report.view import record
from vit_export.verification.verdict import FileResult, Verification

BETTER: Mapping[tuple[Format, str], tuple[str, ...]] = {
    ("tflite", "static"): (SEARCHED, "dynamic"),
    ("tflite", SEARCHED): ("dynamic", SEARCHED),
    ("tflite", "dynamic"): (SEARCHED,),
    ("tflite", "full"): ("w8a16",),
    ("onnx", "dynamic"): ("w8a16",),
    ("onnx", "qdq"): ("w8a16",),
}
"""int8 schemes that keep more of the answers than that of a file and run where it does, the first to try first."""

_FOLDER = "DIR"
"""Stands for a folder of images that only the user knows."""

_MORE_DB = 3.0
"""What a budget is raised by: photographs unlike those that it is measured on have up to so much less."""


@dataclass(frozen=True)
class Advice:
    """One thing to do about `files` (names): why, a sentence without a full stop, and the `command`, if there is one.

    `kind` is a short name for it.
    """

    kind: str
    files: tuple[str, ...]
    text: str
    command: str | None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "files": list(self.files)}


@dataclass(frozen=True)
class Known:
    """What is known beside the results: the model, the command that makes a file anew, and images of the user's own."""

    verification: Verification
    record: ModelRecord
    making: str
    images: str | None = None


def name_of(file: FileResult) -> str:
    """The file's name without its folder."""
    return Path(file.artifact.path).name


def more_exact(file: FileResult, known: Known) -> Advice | None:
    """What keeps more of the model's answers than `file`; None where that is float32 already."""
    artifact, name = file.artifact, (name_of(file),)
    if artifact.precision == "int8":
        if (folder := calibration_folder(known)) is not None:
            hint = " (DIR: a folder of a hundred or more)" if folder == _FOLDER else ""
            text = f"calibrate on images as the model will meet them, not on the default photographs{hint}"
            options = {**scheme_options(file, known), "--calibration": folder}
            return Advice("calibration", name, text, for_file(known.making, artifact.format, "int8", options))
        if (better := _better_scheme(file, known)) is not None:
            scheme = scheme_of(artifact.format, better["--int8-scheme"])
            what = "a larger budget" if scheme and scheme.name == scheme_asked(file) else "another int8 scheme"
            text = f"{what} keeps more of the answers ({scheme.name}: {scheme.about})" if scheme else what
            return Advice("scheme", name, text, for_file(known.making, artifact.format, "int8", better))
    wider: dict[Precision, tuple[Precision, ...]] = {"int8": ("float16", "float32"), "float16": ("float32",)}
    made = {(f.artifact.format, f.artifact.precision): f.passed for f in known.verification.files}
    for precision in wider.get(artifact.precision, ()):
        passed = made.get((artifact.format, precision))
        if passed:
            text = f"no int8 scheme is left to try, and {precision} passed: ship that"
            return Advice("precision", name, text, None)
        if passed is None:
            text = f"{precision} keeps more of the answers than {artifact.precision}"
            return Advice("precision", name, text, for_file(known.making, artifact.format, precision, {}))
    return None


def calibration_folder(known: Known) -> str | None:
    """The folder to calibrate on where the default photographs did, and other images would suit the model better."""
    if value_of(known.making, "--calibration"):
        return None
    return known.images or (_FOLDER if is_own_domain(known.record) else None)


def scheme_asked(file: FileResult) -> str | None:
    """The int8 scheme that `file` was asked for by: a mix that was looked for may have come out as another one."""
    return SEARCHED if _search(file) else file.artifact.scheme


def _search(file: FileResult) -> Mapping[str, Any]:
    """How the mix of the file was found (`Choice.to_dict`); empty where none was looked for."""
    return record(record(file.artifact.quantization).get("search"))  # of a report that anybody may have written


def _budget_given(file: FileResult, known: Known) -> dict[str, str]:
    """The options of the budget that somebody gave."""
    options = ("--min-sqnr", "--min-agreement")
    given = {option: value for option in options if (value := value_of(known.making, option))}
    told = record(_search(file).get("budget"))
    usual = (DEFAULT_MIN_SQNR, DEFAULT_MIN_SQNR_UNTRAINED)
    values = {option: number(told.get(option[2:].replace("-", "_"))) for option in options}
    return given or {
        option: f"{value:g}" for option, value in values.items() if value is not None and value not in usual
    }


def scheme_options(file: FileResult, known: Known) -> dict[str, str]:
    """The scheme of `file` and its budget, where they are not what is made without being asked for."""
    scheme = scheme_asked(file)
    if scheme == SEARCHED and (budget := _budget_given(file, known)):
        return {"--int8-scheme": SEARCHED, **budget}
    known_ones = INT8_SCHEMES.get(file.artifact.format, ())
    return {"--int8-scheme": scheme} if scheme in known_ones[1:] else {}


def _better_scheme(file: FileResult, known: Known) -> dict[str, str] | None:
    """The options of the next int8 scheme to try, which nothing here was made with yet."""
    format, own = file.artifact.format, scheme_asked(file) or ""
    if own == SEARCHED and _budget_given(file, known):
        return None  # what a budget could do was done
    tried = {scheme_asked(f) for f in known.verification.files if f.artifact.format == format} - {own}
    for scheme in BETTER.get((format, own), ()):
        if scheme in tried or (scheme == own == SEARCHED and _search(file).get("met") is False):
            continue  # a budget that is larger still than one that no mix keeps
        if scheme != SEARCHED or (own == "static" and known.record.trained):
            return {"--int8-scheme": scheme}
        return {"--int8-scheme": SEARCHED, "--min-sqnr": f"{_raised(file, known):g}"}
    return None


def _raised(file: FileResult, known: Known) -> float:
    """A budget in dB that leaves the file what it lacks, and room for images that are harder."""
    budget = DEFAULT_MIN_SQNR if known.record.trained else DEFAULT_MIN_SQNR_UNTRAINED
    if measured := number(record(_search(file).get("measured")).get("sqnr_db")):
        budget = max(budget, measured)
    elif scheme_asked(file) != SEARCHED and file.comparison is not None:
        budget = float(np.median(file.comparison.sqnr_db))
    lacks = [c.limit - c.value for c in file.checks if c.name == "sqnr" and not c.passed]
    return min(MOST_DB, math.ceil(max(budget, 1.0) + max([0.0, *lacks]) + _MORE_DB))
