"""Verification as JUnit XML, which GitLab, Jenkins and GitHub's actions show beside a pipeline's other tests."""

import math
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vit_export.base.errors import InputError
from vit_export.base.files import publish
from vit_export.base.numbers import number
from vit_export.base.text import visible
from vit_export.report.view import CPU, File, Record, read_files, record, text

_FIGURES = {
    "worst difference of range": ("comparison", "worst_relative"),
    "worst SQNR dB": ("comparison", "worst_sqnr_db"),
    "agreement": ("comparison", "agreement"),
    "neighbours": ("neighbours", "recall"),
    "accuracy": ("accuracy", "share"),
    "median ms": ("latency", "median_ms"),
    "peak memory bytes": ("memory", "peak"),
}
"""Figures that are told as properties, by name: record and field."""


def write_junit(report: Mapping[str, Any], path: Path) -> None:
    """Write the checks of `report`, the content of a report.json, to `path` as JUnit XML, complete or not at all.

    There is a test suite for the reference and one for each file, with a test case for each check. The time of a suite
    is that of loading the file and running it first, which is its check 'runs'. What was not verified is a skipped test
    case. An older file at `path` is replaced.

    Raises:
        InputError: `report` is no JSON object.
        OutputError: `path` cannot be written.
    """
    if not isinstance(report, Mapping):
        raise InputError(f"A report is of type {type(report).__name__}, expected the JSON object of a report.json.")
    reference, files = read_files(report)
    every = [*([reference] if reference else []), *files]
    suites = [_suite(file, name, report) for file, name in zip(every, _names(every), strict=True)]
    root = ElementTree.Element("testsuites", {"name": "vit-export", **_totals(suites)})
    root.extend(suites)
    ElementTree.indent(root)
    with publish(path, overwrite=True) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _names(files: list[File]) -> list[str]:
    """One name per file that no other has; Jenkins takes what stands before a dot for a package, so there is none."""
    names: list[str] = []
    for file in files:
        name = visible("reference" if file.is_reference else file.name).replace(".", "_")
        name += "" if file.place == CPU else f" ({visible(file.place)})"
        numbered = (f"{name} ({number})" for number in count(2))
        names.append(name if name not in names else next(other for other in numbered if other not in names))
    return names


def _suite(file: File, name: str, report: Record) -> ElementTree.Element:
    seconds = [number(file.entry.get(key)) for key in ("load_seconds", "first_run_seconds")]
    spent = sum(value for value in seconds if value is not None and math.isfinite(value))
    suite = ElementTree.Element("testsuite", {"name": name})
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in _properties(file, report).items():
        ElementTree.SubElement(properties, "property", {"name": visible(key), "value": visible(value)})
    for check in file.checks:
        runs = check.get("name") == "runs"
        case = _case(suite, name, text(check.get("name"), "unnamed check"), spent if runs else 0.0)
        if check.get("passed") is False:
            detail = visible(text(check.get("detail")) or "failed", keep="\n\t")
            message = " ".join(detail.split())
            failure = ElementTree.SubElement(case, "failure", {"message": message, "type": "check"})
            failure.text = f"{detail}\nmeasured: {_plain(check.get('value'))}\nlimit: {_plain(check.get('limit'))}"
    if not file.checks:
        ElementTree.SubElement(_case(suite, name, "verified", 0.0), "skipped", {"message": "not verified"})
    for key, value in _counts(suite).items():
        suite.set(key, value)
    suite.set("time", f"{spent:.3f}")
    if created := text(report.get("created")):
        suite.set("timestamp", visible(created[:19]))  # the readers' schemas allow no zone; ours is UTC
    return suite


def _case(suite: ElementTree.Element, file: str, name: str, seconds: float) -> ElementTree.Element:
    attributes = {"classname": file, "name": visible(name), "time": f"{seconds:.3f}"}
    return ElementTree.SubElement(suite, "testcase", attributes)


def _counts(suite: ElementTree.Element) -> dict[str, str]:
    kinds = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped"}
    return {**{key: str(len(suite.findall(where))) for key, where in kinds.items()}, "errors": "0"}


def _totals(suites: list[ElementTree.Element]) -> dict[str, str]:
    totals = {key: str(sum(int(s.attrib[key]) for s in suites)) for key in ("tests", "failures", "skipped", "errors")}
    return {**totals, "time": f"{sum(float(s.attrib['time']) for s in suites):.3f}"}


def _properties(file: File, report: Record) -> dict[str, str]:
    model = text(record(report.get("spec")).get("name"))
    told = {
        "model": model,
        "file": file.name,
        "kind": file.label,
        "place": file.place,
        "sha256": text(file.artifact.get("sha256")),
    }
    told |= {name: _plain(file.part(part).get(key)) for name, (part, key) in _FIGURES.items()}
    told |= {f"version {key}": text(value) for key, value in record(report.get("versions")).items()}
    return {key: value for key, value in told.items() if value not in ("", "none")}


def _plain(value: Any) -> str:
    return "none" if value is None else visible(str(value))
