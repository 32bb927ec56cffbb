"""Which file to ship, and why: one choice by one rule from the figures of a report, and the best of each format.

Of the files that passed it is the fastest. Files whose interval of the time for an image overlaps with that of the
fastest are as fast as it: of those the smallest, and of those that are as small (to 1 %) the most accurate (SQNR of the
worst image). Where nothing was timed, all files count as equally fast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vit_export.base.numbers import figure, megabytes, number, percent, unit
from vit_export.model.names import FORMATS
from vit_export.report.view import File, Record, read_files, record, records, text

AS_SMALL = 1.01
"""Sizes that differ by a smaller factor are the same."""


@dataclass(frozen=True)
class _Timed:
    """The ends of the interval of milliseconds for one image; endless where the interval is unknown."""

    low: float
    high: float


def recommend(report: Record) -> dict[str, Any] | None:
    """The recommendation for `report`, JSON-ready; None where no file was verified.

    `file` is the name of the one to ship (None where none passed) and `why` a phrase on it; `formats` has the same of
    each format that a file was made in.
    """
    verification = record(report.get("verification"))
    _, files = read_files(report)
    if not verification or not files:
        return None
    kinds = [name for name in FORMATS if any(text(file.artifact.get("format")) == name for file in files)]
    of_kind = {name: [file for file in files if text(file.artifact.get("format")) == name] for name in kinds}
    return {**_choice(files), "formats": [{"format": name, **_choice(some)} for name, some in of_kind.items()]}


def recommendation_told(report: Record) -> str:
    """The recommendation that `report` holds in one line, without a full stop; empty where it has none."""
    found = record(report.get("recommendation"))
    if not found:
        return ""
    name = text(found.get("file"))
    if not name:
        return f"none of these files: {text(found.get('why'))}"
    others = [
        f"of {FORMATS[row['format']].title} {row['file']}, {text(row.get('why'))}"
        for row in records(found.get("formats"))
        if text(row.get("format")) in FORMATS and text(row.get("file")) not in ("", name)
    ]
    untrained = record(report.get("verification")).get("trained") is False
    caution = ["the weights are untrained, so this goes by size and speed alone"] if untrained else []
    return "; ".join([f"{name}, {text(found.get('why'))}", *others, *caution])


def _choice(files: Sequence[File]) -> dict[str, Any]:
    passed = [file for file in files if file.verdict == "pass"]
    if not passed:
        return {"file": None, "why": "no file passed"}
    times = {file.id: time for file in passed if (time := _time(file)) is not None}
    timed = [file for file in passed if file.id in times] or passed
    if times:
        fastest = min(timed, key=lambda file: file.milliseconds or 0.0)
        alike = [file for file in timed if _overlap(times[file.id], times[fastest.id])]
    else:
        alike = timed
    chosen, reason = _among(alike, bool(times), len(passed), len(files))
    return {"file": chosen.name, "why": f"{reason}: {_figures(chosen, times.get(chosen.id))}"}


def _among(alike: Sequence[File], timed: bool, passed: int, made: int) -> tuple[File, str]:
    """The one to take of files that are equally fast, and the reason."""
    least = min(file.bytes or 0.0 for file in alike)
    small = [file for file in alike if (file.bytes or 0.0) <= AS_SMALL * least]
    chosen = max(small, key=lambda file: number(file.score("sqnr")) or 0.0)
    if passed == 1:
        return chosen, "the only file" if made == 1 else f"the only one of {made} files that passed"
    if len(alike) == 1:
        return chosen, f"the fastest of {passed} files that passed"
    others = [file.name for file in alike if file is not chosen]
    if not timed:
        best = "smallest" if len(small) == 1 else "most accurate of the small ones"
        return chosen, f"the {best} of {passed} files that passed, none of which was timed"
    called = others[0] if len(others) == 1 else f"{len(others)} others"
    speed = f"as fast as {called} (their intervals overlap)"
    if len(small) == 1:
        return chosen, f"{speed} and {'smaller' if len(others) == 1 else 'the smallest of them'}"
    accurate = "more accurate" if len(small) == 2 else "the most accurate"
    return chosen, f"{speed}, {'of one size' if len(small) == len(alike) else 'the smallest'} and {accurate}"


def _time(file: File) -> _Timed | None:
    """What is known of the time of one image; None where the file was not timed."""
    latency, middle = file.part("latency"), file.milliseconds
    if middle is None:
        return None
    batch = number(latency.get("batch")) or 1.0
    low, high = number(latency.get("low_ms")), number(latency.get("high_ms"))
    if low is None or high is None:
        return _Timed(0.0, float("inf"))
    return _Timed(low / batch, high / batch)


def _overlap(one: _Timed, other: _Timed) -> bool:
    return one.low <= other.high and other.low <= one.high


def _figures(file: File, time: _Timed | None) -> str:
    known = time is not None and time.high != float("inf")
    ends = list(dict.fromkeys(map(figure, (time.low, time.high)))) if time and known else []
    told = [f"{' to '.join(ends)} ms" if ends else f"about {unit(file.milliseconds, 'ms')}" if time else ""]
    accuracy = file.score("accuracy")
    told += [megabytes(file.bytes), f"{unit(file.score('sqnr'), 'dB')} on its worst image"]
    told += [] if accuracy is None else [f"{percent(accuracy)} of the labelled images right"]
    return ", ".join(filter(None, told)).replace("\N{NO-BREAK SPACE}", " ")
