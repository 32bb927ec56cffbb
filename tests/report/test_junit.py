"""JUnit XML: what pipelines read of a report."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from helpers.reports import FAILURE, HOSTILE, artifact, hostile_report, report_of, verification

from vit_export.base.errors import InputError, OutputError
from vit_export.report.junit import write_junit


def written(report, tmp_path):
    path = tmp_path / "junit.xml"
    write_junit(report, path)
    root = ElementTree.fromstring(path.read_bytes())
    # What readers take for granted: totals that add up, and no two cases of one name.
    cases = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(cases) == len(set(cases))
    for element in (root, *root.findall("testsuite")):
        assert int(element.get("tests")) == len(list(element.iter("testcase")))
        assert int(element.get("failures")) == len(list(element.iter("failure")))
        assert int(element.get("skipped")) == len(list(element.iter("skipped")))
        assert element.get("errors") == "0"
        assert float(element.get("time")) >= 0
    return root


def suite_of(root, name):
    return next(suite for suite in root if suite.get("name") == name)


def test_a_suite_for_each_file_and_a_case_for_each_check(tmp_path):
    report = report_of(verification())
    root = written(report, tmp_path)
    files = report["verification"]["files"]
    assert [suite.get("name") for suite in root] == [
        "reference", "toy_float32_tflite", "toy_float16_tflite", "toy_int8_tflite", "toy_int8_onnx", "toy_float32_onnx",
    ]  # fmt: skip
    for suite, file in zip(root[1:], files, strict=True):
        cases = suite.findall("testcase")
        assert [case.get("name") for case in cases] == [check["name"] for check in file["checks"]]
        assert [case.find("failure") is None for case in cases] == [check["passed"] for check in file["checks"]]
        assert {case.get("classname") for case in cases} == {suite.get("name")}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
    assert root.get("failures") == "2"


def test_a_failure_has_its_sentence_figure_and_limit(tmp_path):
    root = written(report_of(verification()), tmp_path)
    failure = suite_of(root, "toy_int8_onnx").find("testcase/failure")
    assert failure.get("message") == FAILURE
    assert failure.text.startswith(FAILURE)
    assert re.search(r"\nmeasured: 0\.\d+\nlimit: 0.05$", failure.text)


def test_properties_and_times(tmp_path):
    report = report_of(verification())
    suite = suite_of(written(report, tmp_path), "toy_int8_tflite")
    told = {p.get("name"): p.get("value") for p in suite.iter("property")}
    file = report["verification"]["files"][2]
    assert told["model"] == "vit_toy"
    assert told["file"] == "toy_int8.tflite"
    assert told["kind"] == "tflite int8 static"
    assert float(told["worst SQNR dB"]) == file["comparison"]["worst_sqnr_db"]
    assert float(told["median ms"]) == 30
    assert told["version tensorflow"] == report["versions"]["tensorflow"]
    assert suite.get("time") == "0.540"
    times = {case.get("name"): case.get("time") for case in suite.iter("testcase")}
    assert times == {"runs": "0.540", "worst_difference": "0.000", "sqnr": "0.000"}


def test_what_was_not_verified_is_skipped(tmp_path):
    root = written(report_of(None, artifacts=[artifact("a.tflite", "tflite", "float32")]), tmp_path)
    assert (root.get("tests"), root.get("skipped"), root.get("failures")) == ("1", "1", "0")
    assert root.find("testsuite/testcase").get("name") == "verified"


def test_files_of_one_name_stay_apart(tmp_path):
    plain = verification()
    one, other = (replace(plain.files[0], artifact=replace(plain.files[0].artifact, path=f"/{x}/m.onnx")) for x in "ab")
    third = replace(one, artifact=replace(one.artifact, path="/m (2).onnx"))
    root = written(report_of(replace(plain, files=(third, one, other, replace(one)))), tmp_path)
    assert [suite.get("name") for suite in root[1:]] == ["m (2)_onnx", "m_onnx", "m_onnx (2)", "m_onnx (3)"]


def test_hostile_names_and_characters_that_xml_cannot_hold(tmp_path):
    report = hostile_report()
    for file in report["verification"]["files"]:
        for number, check in enumerate(file["checks"]):
            check["passed"], check["name"] = False, f"{check['name']} {number}"
    root = written(report, tmp_path)
    text = (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\u202e]", text)
    messages = {failure.get("message") for failure in root.iter("failure")}
    assert "<script>alert(1)</script>" in messages
    assert "]]></style></script>-->" in messages
    assert "first second\\r\\u0000\\u001b[31m" in messages
    assert "\\ud800 lone surrogate \\uffff" in messages
    assert len(messages) == len(HOSTILE)


@pytest.mark.parametrize("report", [{}, {"verification": {"files": [{}, None, {"checks": 3}]}}, {"artifacts": [{}]}])
def test_nearly_nothing_is_still_junit(report, tmp_path):
    root = written(json.loads(json.dumps(report)), tmp_path)
    assert root.get("failures") == "0"


def test_refusals_leave_nothing(tmp_path):
    with pytest.raises(InputError, match="of type str, expected the JSON object"):
        write_junit("report.json", tmp_path / "junit.xml")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_junit({}, tmp_path / "file" / "junit.xml")
