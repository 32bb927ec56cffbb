"""What report.json keeps of older exports: a list of the files that they left, which does not grow."""

import json
import os
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from helpers import reports

from vit_export.base.errors import InputError
from vit_export.pipeline.folder import outdated
from vit_export.report.content import write_report
from vit_export.report.earlier import earlier_files, files_told, recorded, settings_told
from vit_export.report.schema import report_schema
from vit_export.report.view import read_files

FILES = {Path(file.artifact.path).name: file for file in reports.verification().files}
INT8, FLOAT = "toy_int8.tflite", "toy_float32.onnx"


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that the reports below list."""
    for name in FILES:
        (tmp_path / name).write_text("model")
    (tmp_path / "labels.txt").write_text("a\n")
    return tmp_path


def report_on(*names, verified=True, sha256="ab" * 32, **changes):
    """The report of an export that made the files `names`."""
    files = tuple(replace(FILES[name], artifact=replace(FILES[name].artifact, sha256=sha256)) for name in names)
    artifacts = [file.artifact for file in files]
    return reports.report_of(reports.verification(files=files) if verified else None, artifacts=artifacts, **changes)


def write(report, folder):
    """`report` in place of the one in `folder`, as an export writes it; what it keeps of that, by file."""
    if left := earlier_files(files_told(folder), report, folder):
        report["earlier_files"] = left
    write_report(report, folder / "report.json")
    return {entry["files"][0]: entry for entry in report.get("earlier_files", [])}


def was_verified(entry):
    return [file.verdict for file in read_files(entry)[1]]


EXPORTS = {
    "all the files again": [(tuple(FILES), True)],
    "one after the other": [((name,), True) for name in FILES],
    "some not verified": [((INT8, FLOAT), True), ((INT8,), False), (tuple(FILES)[:2], True), ((), False)],
}


@pytest.mark.thorough
@pytest.mark.parametrize("turns", EXPORTS.values(), ids=EXPORTS)
def test_the_report_is_bounded_over_fifty_exports(turns, folder):
    made, sizes = [report_on(*names, verified=verified) for names, verified in turns], []
    for index in range(50):
        report = dict(made[index % len(turns)])
        assert set(write(report, folder)) <= set(FILES)
        assert "earlier_reports" not in report
        sizes.append((folder / "report.json").stat().st_size)
    assert not list(jsonschema.Draft202012Validator(report_schema()).iter_errors(report))
    # As soon as each export was made twice, all is as large as it was before.
    known = 2 * len(turns)
    assert sizes[known:] == sizes[known - len(turns) : -len(turns)]
    whole = len(json.dumps(report_on(*FILES), indent=2))
    assert max(sizes) < 1.3 * whole


def test_an_entry_says_what_its_report_said_of_the_file(folder):
    whole = report_on(*FILES)
    write(whole, folder)
    left = write(report_on(FLOAT), folder)
    assert set(left) == set(FILES) - {FLOAT}
    assert was_verified(left[INT8]) == ["pass"]
    assert was_verified(left["toy_int8.onnx"]) == ["fail"]
    (artifact,) = (entry for entry in whole["artifacts"] if entry["path"].endswith(INT8))
    verification = whole["verification"]
    assert left[INT8] == {
        "files": [INT8],
        "created": whole["created"],
        "artifact": artifact,
        "machine": whole["machine"],
        "limits": [row for row in whole["limits"] if row["file"] == "tflite int8 static"],
        "verification": {
            **{key: verification[key] for key in ("threads", "cpu", "images")},
            "files": [file for file in verification["files"] if file["artifact"] == artifact],
        },
    }
    assert recorded(folder / INT8) == replace(FILES[INT8].artifact, path=str(folder / INT8))


def test_files_that_are_gone_are_forgotten(folder):
    write(report_on(*FILES), folder)
    (folder / INT8).unlink()
    assert INT8 not in write(report_on(FLOAT), folder)
    assert recorded(folder / INT8) is None


def test_external_data_alone_is_remembered(folder):
    artifact = replace(FILES[FLOAT].artifact, extra_files=(f"out/{FLOAT}.data",))
    write(reports.report_of(None, artifacts=[artifact]), folder)
    (folder / FLOAT).rename(folder / f"{FLOAT}.data")
    assert write(report_on(INT8), folder)[FLOAT]["files"] == [FLOAT, f"{FLOAT}.data"]


def test_the_verification_of_the_very_bytes_outlives_exports_that_did_not_verify(folder):
    write(report_on(INT8), folder)
    for _ in range(3):
        assert was_verified(write(report_on(INT8, verified=False), folder)[INT8]) == ["pass"]
    assert was_verified(write(report_on(FLOAT), folder)[INT8]) == ["pass"]
    assert write(report_on(INT8, FLOAT, verified=False, sha256="cd" * 32), folder) == {}
    assert was_verified(write(report_on(FLOAT), folder)[INT8]) == []


def test_labels_that_an_older_export_wrote_are_known(folder):
    write(report_on(INT8), folder)
    assert "labels.txt" not in write(report_on(INT8), folder)
    for _ in range(2):
        assert set(write(report_on(INT8, labels=None), folder)["labels.txt"]) == {"files", "created"}


def test_reports_that_hold_whole_ones_are_understood(folder):
    """Until schema_version 2 older reports were kept as they were, newest first."""
    older = [report_on(INT8, sha256="cd" * 32), report_on(INT8, "toy_int8.onnx"), *[report_on(INT8)] * 50]
    write_report({**report_on(FLOAT), "earlier_reports": older}, folder / "report.json")
    assert recorded(folder / INT8).sha256 == "cd" * 32
    assert set(left := write(report_on(FLOAT), folder)) == {INT8, "toy_int8.onnx"}
    assert left[INT8]["artifact"]["sha256"] == "cd" * 32
    assert was_verified(left["toy_int8.onnx"]) == ["fail"]


def test_somebody_elses_report_does_not_spoil_ours(folder):
    text = json.dumps({"artifacts": [{"path": f"x/{INT8}", "bytes": float("nan")}], "created": 5, "machine": 6})
    (folder / "report.json").write_text(text)
    assert write(report_on(FLOAT), folder)[INT8]["artifact"]["bytes"] == "NaN"


@pytest.mark.parametrize("kind", ["120 MB", "a folder", "a pipe"])
def test_what_is_no_report_is_refused_before_it_is_read(kind, folder):
    path = folder / "report.json"
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        with open(path, "wb") as file:
            file.truncate(120_000_000)
    with pytest.raises(InputError, match="is no report that can be read"):
        files_told(folder)


def test_names_in_a_report_that_no_file_can_have(folder):
    entries = [{"path": name} for name in ("a" * 5000 + ".onnx", "\0.onnx", "\udcff.onnx")]
    (folder / "report.json").write_text(json.dumps({"artifacts": entries}))
    assert outdated(folder, folder, set()) == ()
    assert write(report_on(FLOAT), folder) == {}


def test_settings_are_those_of_the_report_that_tells_of_a_file(tmp_path):
    report = {
        "artifacts": [{"path": "/x/new.onnx"}],
        "earlier_files": [{"files": ["old.tflite"]}],
        "settings": {"calibration": "photos", "seed": 3},
    }
    (tmp_path / "report.json").write_text(json.dumps(report), encoding="utf-8")
    assert settings_told(tmp_path / "new.onnx")["calibration"] == "photos"
    assert settings_told(tmp_path / "old.tflite")["seed"] == 3
    assert settings_told(tmp_path / "other.tflite") == {}
    (tmp_path / "report.json").write_text(json.dumps({**report, "settings": {"files": []}}), encoding="utf-8")
    assert settings_told(tmp_path / "new.onnx") == {}
