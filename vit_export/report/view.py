"""A report as it was read back from report.json, ready to be shown; what is missing or of another type is absent."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vit_export.base.numbers import NONE, figure, megabytes, number, percent, seconds, span, unit
from vit_export.model.names import FORMATS, PRECISIONS

Record = Mapping[str, Any]
EMPTY: Record = {}

CPU = "CPU"
"""The place where files run if nothing else is said (`runtimes.places`)."""


def record(value: Any) -> Record:
    """`value` where it is a JSON object, else an empty one."""
    return value if isinstance(value, Mapping) else EMPTY


def listed(value: Any) -> Sequence[Any]:
    """`value` where it is a JSON array, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def records(value: Any) -> list[Record]:
    """The objects of a JSON array."""
    return [item for item in listed(value) if isinstance(item, Mapping)]


def text(value: Any, default: str = "") -> str:
    """`value` where it is text, else `default`."""
    return value if isinstance(value, str) else default


def base_name(path: Any) -> str:
    """The last part of a path of any system."""
    return text(path).replace("\\", "/").rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class Cell:
    """One figure of the table of files; `note` is the small print below it, `bad` says that a limit is broken."""

    value: str
    note: str = ""
    bad: bool = False


@dataclass(frozen=True)
class RankedClass:
    """One class an output ranks high; `differs` where the reference has another class at this place."""

    name: str
    probability: float | None
    differs: bool


@dataclass(frozen=True)
class File:
    """One file (or the reference) of a report: its name, its verdict, and its figures where they exist."""

    id: str
    entry: Record
    artifact: Record
    is_reference: bool
    limits_row: Record

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return base_name(self.artifact.get("path")) or "unnamed file"

    @property
    def label(self) -> str:
        """Format, precision and scheme; 'reference' for that."""
        if self.is_reference:
            return "reference"
        parts = (text(self.artifact.get(key)) for key in ("format", "precision", "scheme"))
        label = " ".join(filter(None, parts)) or self.name
        return label if self.place == CPU else f"{label} ({self.place})"

    @property
    def place(self) -> str:
        """Where it ran, in words."""
        return text(self.entry.get("place"), CPU)

    @property
    def shape(self) -> str:
        """The mark of its format in charts."""
        return {"tflite": "circle", "onnx": "square"}.get(text(self.artifact.get("format")), "diamond")

    @property
    def kind(self) -> str:
        """The CSS class of its precision in charts."""
        precision = text(self.artifact.get("precision"))
        return precision if precision in PRECISIONS and not self.is_reference else "other"

    @property
    def verdict(self) -> str:
        """'pass', 'fail' or 'not verified'."""
        if self.is_reference:
            return "fail" if self.failed_checks else "pass" if self.checks else "not verified"
        verdict = self.entry.get("verdict")
        return verdict if verdict in ("pass", "fail") else "not verified"

    @property
    def failed(self) -> bool:
        """Whether it was verified and found at fault."""
        return self.verdict == "fail"

    @property
    def bytes(self) -> float | None:
        """The size of the file."""
        return number(self.artifact.get("bytes"))

    @cached_property
    def checks(self) -> list[Record]:
        """The checks of the file, passed or not."""
        return records(self.entry.get("checks"))

    @property
    def failed_checks(self) -> list[Record]:
        """The checks that the file failed."""
        return [check for check in self.checks if check.get("passed") is False]

    @property
    def failures(self) -> list[str]:
        """A sentence for each failed check."""
        details = [text(check.get("detail")) or f"{text(check.get('name'))} failed" for check in self.failed_checks]
        return details or [text(failure) for failure in listed(self.entry.get("failures")) if text(failure)]

    def part(self, name: str) -> Record:
        """One record of the file: 'comparison', 'latency', 'memory', 'accuracy', 'location', 'neighbours'."""
        return record(self.entry.get(name))

    def limit(self, check: str, column: str = "") -> float | None:
        """The limit of a check, from the check itself or from the report's table of limits."""
        for entry in self.checks:
            if entry.get("name") == check and number(entry.get("limit")) is not None:
                return number(entry.get("limit"))
        return number(self.limits_row.get(column or check))

    def broke(self, *names: str) -> bool:
        """Whether one of the checks `names` failed."""
        return any(check.get("name") in names for check in self.failed_checks)

    @cached_property
    def differences(self) -> list[float | None]:
        """Per image the largest difference of any output, divided by the range of the reference's outputs."""
        comparison = self.part("comparison")
        bounds = number(comparison.get("range"))
        found = [number(value) for value in listed(comparison.get("worst_difference"))]
        if bounds is None:
            return [None] * len(found)
        return [v if v is None else v / bounds if bounds > 0 else 0.0 if v == 0 else math.inf for v in found]

    @cached_property
    def agrees(self) -> list[bool]:
        """Per image whether the top class is the reference's; empty where there are no classes."""
        return [value is not False for value in listed(self.part("comparison").get("top1_agrees"))]

    def image(self, name: str, index: int) -> float | None:
        """The figure `name` of one image of the comparison."""
        values = listed(self.part("comparison").get(name))
        return number(values[index]) if index < len(values) else None

    @property
    def further(self) -> list[dict[str, str]]:
        """The outputs beside the first: the name of each, and figures as `cells` shows those of the first."""
        found = []
        for output in records(self.entry.get("outputs")):
            comparison, near = record(output.get("comparison")), _neighbours(record(output.get("neighbours")))
            found.append(
                {
                    "name": text(output.get("name")),
                    "difference": figure(number(comparison.get("worst_relative"))),
                    "sqnr": unit(number(comparison.get("worst_sqnr_db")), "dB"),
                    "neighbours": " ".join(filter(None, (near.value, near.note))),
                }
            )
        return found

    @property
    def milliseconds(self) -> float | None:
        """The median time of one image."""
        latency = self.part("latency")
        median, batch = number(latency.get("median_ms")), number(latency.get("batch")) or 1.0
        return None if median is None or not math.isfinite(median) or batch <= 0 else median / batch

    def score(self, measure: str) -> float | None:
        """How good the file is by `measure`: 'accuracy' or 'agreement' (shares), 'sqnr' (dB of the worst image)."""
        if measure == "accuracy":
            return number(self.part("accuracy").get("share"))
        key = "agreement" if measure == "agreement" else "worst_sqnr_db"
        return number(self.part("comparison").get(key))

    def cells(self, reference_bytes: float | None) -> dict[str, Cell]:
        """The file's row of the table, by COLUMNS."""
        comparison, latency, correct = self.part("comparison"), self.part("latency"), self.part("accuracy")
        agreement, agreeing = number(comparison.get("agreement")), self.agrees
        share = None if not self.bytes or not reference_bytes or self.is_reference else self.bytes / reference_bytes
        batch = number(latency.get("batch"))
        tails = [number(latency.get("p90_ms")), number(latency.get("p99_ms"))]
        tail = " / ".join(figure(value) for value in tails if value is not None)
        speed = None if self.is_reference else number(latency.get("speedup"))
        return {
            "size": Cell(megabytes(self.bytes), f"{percent(share)} of ref." if share else ""),
            "difference": Cell(
                figure(number(comparison.get("worst_relative"))),
                _limit("≤", self.limit("worst_difference")) if comparison else "",
                self.broke("worst_difference"),
            ),
            "sqnr": Cell(
                unit(number(comparison.get("worst_sqnr_db")), "dB"),
                _limit("≥", self.limit("sqnr", "sqnr_db")) if comparison else "",
                self.broke("sqnr"),
            ),
            "agreement": Cell(
                percent(agreement),
                f"{sum(agreeing)} of {len(agreeing)}" if agreeing else "",
                self.broke("agreement"),
            ),
            "neighbours": _neighbours(self.part("neighbours")),
            "accuracy": Cell(
                percent(number(correct.get("share"))), _interval(correct.get("low"), correct.get("high"), 100)
            ),
            "median": Cell(
                unit(number(latency.get("median_ms")), "ms"),
                " · ".join(
                    filter(
                        None,
                        (
                            _interval(latency.get("low_ms"), latency.get("high_ms")),
                            f"batch of {figure(batch)}" if batch and batch != 1 else "",
                            "not settled" if latency.get("settled") is False else "",
                        ),
                    )
                ),
                self.broke("latency"),
            ),
            "tail": Cell(f"{tail}\N{NO-BREAK SPACE}ms" if tail else NONE),
            "speed": Cell(
                NONE if speed is None else f"{figure(speed)} ×",
                _interval(latency.get("speedup_low"), latency.get("speedup_high")) if speed is not None else "",
            ),
            "load": Cell(seconds(number(self.entry.get("load_seconds")))),
            "first": Cell(seconds(number(self.entry.get("first_run_seconds")))),
            "memory": Cell(megabytes(number(self.part("memory").get("peak")))),
        }


def _neighbours(found: Record) -> Cell:
    """The share of nearest images that come back."""
    k = number(found.get("k"))
    return Cell(percent(number(found.get("recall"))), "" if k is None else f"recall@{k:g}")


COLUMNS = {
    "size": "Size",
    "difference": "Worst difference",
    "sqnr": "Worst SQNR",
    "agreement": "Same top class",
    "neighbours": "Same neighbours",
    "accuracy": "Accuracy",
    "median": "Median call",
    "tail": "p90 / p99",
    "speed": "Speed vs. ref.",
    "load": "Load",
    "first": "First run",
    "memory": "Peak memory",
}
"""Headings of the table of files, by key."""


def read_files(report: Record) -> tuple[File | None, list[File]]:
    """The reference (None where nothing was verified) and the files of a report."""
    verification = record(report.get("verification"))
    rows = {text(row.get("file")): row for row in records(report.get("limits"))}

    def of(index: int, entry: Record, artifact: Record) -> File:
        parts = (text(artifact.get(key)) for key in ("format", "precision", "scheme"))
        return File(f"file-{index}", entry, artifact, False, rows.get(" ".join(filter(None, parts)), EMPTY))

    if verification:
        found = records(verification.get("files"))
        files = [of(i, entry, record(entry.get("artifact"))) for i, entry in enumerate(found)]
        known = record(verification.get("reference"))
        suffix = Path(text(known.get("path"))).suffix.lower().removeprefix(".")
        format = suffix if suffix in FORMATS else "saved_model"
        return (File("reference", known, {**known, "format": format}, True, EMPTY) if known else None), files
    artifacts = records(report.get("artifacts"))
    return None, [of(i, EMPTY, artifact) for i, artifact in enumerate(artifacts)]


def image_names(report: Record) -> list[str]:
    """The images a report was verified on."""
    return [text(name, "unnamed image") for name in listed(record(report.get("verification")).get("images"))]


def ranked_classes(file: File, index: int, labels: Sequence[Any], reference: File | None = None) -> list[RankedClass]:
    """The classes `file` ranks highest on one image, marked where the `reference` has others at their place."""
    own, theirs = _top(file, index), _top(reference, index) if reference else None
    known = listed(theirs.get("indices")) if theirs else None
    probabilities = listed(own.get("probabilities"))
    found = []
    for place, at in enumerate(listed(own.get("indices"))):
        position = at if isinstance(at, int) and 0 <= at < len(labels) else None
        name = text(labels[position]) if position is not None else ""
        probability = number(probabilities[place]) if place < len(probabilities) else None
        differs = known is not None and (place >= len(known) or known[place] != at)
        found.append(RankedClass(name or f"class {at}", probability, differs))
    return found


def _top(file: File, index: int) -> Record:
    images = listed(file.entry.get("top"))
    return record(images[index]) if index < len(images) else EMPTY


def _limit(sign: str, value: float | None) -> str:
    return "" if value is None else f"limit {sign}\N{NO-BREAK SPACE}{value:g}"


def _interval(low: Any, high: Any, factor: float = 1.0) -> str:
    sides = [number(low), number(high)]
    return span(*(side if side is None else factor * side for side in sides))
