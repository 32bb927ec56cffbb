import io
import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from conftest import toy_spec, write_pictures
from helpers import reports
from helpers.shown import Shown
from rich.console import Console

from vit_export.base.errors import OutputError
from vit_export.base.machine import Cpu
from vit_export.images.split import ImageSet
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.report.content import SCHEMA_VERSION, build_report, write_report
from vit_export.report.page import render_page
from vit_export.report.schema import report_schema
from vit_export.report.table import render_table
from vit_export.runtimes.process import Memory
from vit_export.runtimes.timing.latency import Latency
from vit_export.verification.checks import Check, Limits
from vit_export.verification.evidence import Cause, LayerPoint, Location, TopClasses
from vit_export.verification.metrics import Accuracy, Comparison, compare
from vit_export.verification.verdict import FileResult, Reference, Verification
from vit_export.verification.verifier import verify

FAILURE = "worst difference 0.31 of the range on held_out/coffee_3.jpg, limit 0.05"


def artifact(name: str, format: str, precision: str, scheme: str | None = None) -> Artifact:
    return Artifact(
        path=f"/somewhere/{name}",
        format=format,
        precision=precision,
        inputs=(TensorSpec("images", (1, 224, 224, 3), "float32"),),
        outputs=(TensorSpec("logits", (1, 3), "float32"),),
        bytes=88_123_456,
        sha256="ab" * 32,
        scheme=scheme,
    )


@pytest.fixture
def verification():
    outputs = np.array([[1, 2, 3], [3, 1, 2]], np.float32)
    timing = Latency(median_ms=72.5, p90_ms=80.1, runs=30, reference_median_ms=72.5, speedup=1.0)
    fast = Latency(median_ms=17.25, p90_ms=18.0, runs=30, reference_median_ms=72.5, speedup=72.5 / 17.25)
    memory = Memory(312_000_000, 120_000_000, 40_000_000)
    files = (
        FileResult(
            artifact("vit_s16_float32.tflite", "tflite", "float32"),
            (Check("runs", True),),
            compare(outputs, outputs),
            timing,
            memory,
        ),
        FileResult(
            artifact("vit_s16_int8.tflite", "tflite", "int8", "dynamic"),
            (Check("runs", True), Check("worst_difference", False, 0.05, 0.31, FAILURE)),
            compare(outputs, outputs + np.float32(0.62) * (outputs > 2)),
            fast,
            memory,
        ),
        FileResult(
            artifact("vit_s16_float32.onnx", "onnx", "float32"),
            (Check("runs", False, detail="The process running vit_s16_float32.onnx was killed by SIGKILL"),),
        ),
    )
    return Verification(
        reference=Reference("/somewhere/saved_model", 88_000_000, (Check("runs", True),), None, 2.0, timing, memory),
        files=files,
        images=("held_out/coffee_1.jpg", "held_out/coffee_3.jpg"),
        trained=False,
        threads=1,
        cpu=Cpu("A processor", ("avx2", "avx512_vnni"), 2),
        latency_plan="together",
        warnings=("The weights are untrained: agreement of classes means little.",),
    )


def rendered(verification, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render_table(verification, console)
    return console.file.getvalue()


def test_the_table_fits_in_100_columns(verification):
    text = rendered(verification)
    table = [line for line in text.partition("Worst image")[0].splitlines() if line.strip()]
    assert len(table) == 6  # two header lines, four rows: no row wraps
    assert max(len(line) for line in table) <= 100


def test_the_table_says_what_matters(verification):
    text = rendered(verification)
    rows = {
        name: line
        for line in text.splitlines()
        for name in ("float32.tflite", "int8.tflite", "(reference)")
        if name in line
    }
    assert "88.1" in rows["float32.tflite"]
    assert "inf" in rows["float32.tflite"]
    assert "pass" in rows["float32.tflite"]
    for figure in ("3.1e-01", "100.0 %", "17.2", "4.2", "312", "FAIL"):
        assert figure in rows["int8.tflite"], figure
    assert "72.5" in rows["(reference)"]


def test_failures_and_warnings_are_spelled_out_one_a_line(verification):
    lines = rendered(verification).splitlines()
    assert f"FAIL  tflite int8 dynamic: {FAILURE}." in lines
    assert "FAIL  onnx float32: The process running vit_s16_float32.onnx was killed by SIGKILL." in lines
    assert "note  The weights are untrained: agreement of classes means little." in lines
    assert lines[-1] == "FAIL: 1 of 3 files are the reference's model on 2 images."
    assert any("one call on 1 thread of 2 usable cores, A processor (avx2, avx512_vnni)" in line for line in lines)


def test_a_verdict_is_one_line_in_a_notebook(verification):
    assert repr(verification).startswith("<Verification FAILED on 2 images: ")
    assert repr(verification).endswith("vit_s16_float32.onnx FAILED>")
    assert len(repr(verification)) < 200


def test_square_brackets_in_names_are_not_markup(verification):
    odd = Check("runs", False, detail="input is images [1, 8, 8, 3] [bold]")
    result = Verification(
        **{**vars(verification), "files": (FileResult(artifact("[red]x.onnx", "onnx", "float32"), (odd,)),)}
    )
    text = rendered(result)
    assert "[red]x.onnx" in text
    assert "images [1, 8, 8, 3] [bold]." in text


def report_of(verification, **changes):
    values = {
        "record": ModelRecord(ViTSpec.of("vit_s16"), Preprocessing(224), {"trained": False}),
        "datasets": {"held_out": {"folder": "held_out", "files": ["a.jpg", "b.jpg"], "digest": "cd" * 32}},
        "settings": {"threads": 1},
        "commands": ["vit-export vit_s16"],
        "verification": verification,
        "artifacts": [file.artifact for file in verification.files] if verification else [],
    }
    return build_report(**{**values, **changes})


def test_report_holds_everything_and_is_strict_json(verification, tmp_path):
    path = tmp_path / "report.json"
    write_report(report_of(verification), path)
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["schema_version"] == SCHEMA_VERSION
    assert report["verdict"] == "fail"
    assert report["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    assert {"python", "tensorflow", "ai-edge-litert", "onnxruntime"} <= set(report["versions"])
    assert report["machine"]["cpu"]["cores"] >= 1
    assert report["machine"]["memory_bytes"] > 0
    assert report["datasets"]["held_out"]["files"] == ["a.jpg", "b.jpg"]
    assert report["commands"] == ["vit-export vit_s16"]
    assert [a["format"] for a in report["artifacts"]] == ["tflite", "tflite", "onnx"]
    first, second, third = report["verification"]["files"]
    assert first["comparison"]["worst_sqnr_db"] == "Infinity"
    assert first["latency"]["median_ms"] == 72.5
    assert second["checks"][1] == {
        "name": "worst_difference", "passed": False, "limit": 0.05, "value": 0.31, "detail": FAILURE,
    }  # fmt: skip
    assert third["comparison"] is third["latency"] is None
    assert report["verification"]["reference"]["range"] == 2.0
    assert any(row["file"] == "tflite int8 dynamic" for row in report["limits"])


def test_report_without_verification_says_so():
    report = report_of(None)
    assert report["verdict"] == "not verified"
    assert report["verification"] is None


def test_numbers_json_lacks_are_refused_rather_than_written_wrong(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report({"x": float("nan")}, tmp_path / "report.json")
    assert list(tmp_path.iterdir()) == []


def definition(name):
    schema = report_schema()
    return schema if name == "" else schema["$defs"][name]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("artifact", Artifact), ("tensor", TensorSpec), ("check", Check), ("memory", Memory),
        ("accuracy", Accuracy), ("top", TopClasses), ("layer", LayerPoint), ("location", Location), ("cause", Cause),
        ("preprocessing", Preprocessing), ("spec", ViTSpec), ("image_set", ImageSet), ("cpu", Cpu),
    ],
)  # fmt: skip
def test_the_schema_describes_each_field_of_the_records_and_no_other(name, known):
    described = definition(name)
    assert set(described["properties"]) == {field.name for field in fields(known)}
    assert described["additionalProperties"] is False


@pytest.mark.parametrize(
    ("name", "known", "made"),
    [
        ("comparison", Comparison,
         {"worst_relative", "worst_image", "median_relative", "worst_cosine", "worst_sqnr_db", "agreement"}),
        ("latency", Latency, {"settled"}),
        ("file", FileResult, {"verdict", "failures"}),
        ("reference", Reference, {"passed"}),
        ("verification", Verification, {"verdict", "failures", "explanations"}),
        ("limits", Limits, {"file"}),
    ],
)  # fmt: skip
def test_the_schema_describes_what_is_made_of_records_too(name, known, made):
    described = definition(name)
    assert set(described["properties"]) == {field.name for field in fields(known)} | made
    assert described["additionalProperties"] is False


def problems(report):
    validator = jsonschema.Draft202012Validator(report_schema())
    found = [jsonschema.exceptions.best_match([error]) for error in validator.iter_errors(report)]
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in found]


def test_the_schema_is_one():
    schema = report_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:vit-export:report:{SCHEMA_VERSION}"
    assert schema["properties"]["schema_version"] == {"const": SCHEMA_VERSION}


def test_reports_of_records_fulfil_the_schema():
    assert problems(reports.report_of(reports.verification())) == []
    assert problems(reports.report_of(None, labels=None)) == []
    never_ran = reports.verification().files[-1:]
    assert problems(reports.report_of(reports.verification(files=never_ran), datasets={}, commands=())) == []


@pytest.mark.parametrize(
    "where",
    [
        (), ("machine",), ("spec",), ("datasets",), ("verification",), ("verification", "reference"),
        ("verification", "files", 0), ("verification", "files", 0, "artifact"),
        ("verification", "files", 0, "checks", 0), ("verification", "files", 0, "comparison"),
        ("verification", "files", 0, "latency"), ("verification", "files", 3, "location", "points", 0),
    ],
)  # fmt: skip
def test_the_schema_refuses_keys_it_does_not_know(where):
    report = reports.report_of(reports.verification())
    part = report
    for key in where:
        part = part[key]
    part["surprise"] = 1
    assert len(problems(report)) >= 1


def test_the_schema_refuses_wrong_values_and_missing_ones():
    for path, value in (
        (("verdict",), "maybe"), (("schema_version",), 1), (("versions",), {"numpy": 2}),
        (("verification", "files", 0, "comparison", "sqnr_db"), [1.0, "infinite"]),
        (("verification", "files", 0, "artifact", "bytes"), -1),
        (("verification", "files", 0, "accuracy", "share"), 1.5),
    ):  # fmt: skip
        report = reports.report_of(reports.verification())
        part = report
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        assert problems(report), path
        del part[path[-1]]
        assert problems(report), path


@pytest.fixture
def exported(in_process, tmp_path):
    """A real export of a toy, and its request."""
    photos = write_pictures(tmp_path / "photos", 8, (64, 64))
    spec = toy_spec().with_(num_layers=1)
    request = ExportRequest(spec, tmp_path / "out", formats=("tflite",), calibration=photos)
    return export(request)


@pytest.mark.thorough
def test_a_real_export_fulfils_the_schema_whether_it_passes_or_fails(exported, images):
    report = json.loads(exported.report_path.read_text(encoding="utf-8"))
    assert report["verdict"] == "pass"
    assert problems(report) == []
    good = exported.artifacts[0]
    spoilt = [replace(good, sha256="0" * 64), replace(good, path=f"{good.path}.gone")]
    shown = Shown(images, [f"{i}.png" for i in range(len(images))])
    result = verify(Path(exported.saved_model.path), spoilt, shown)
    assert not result.passed
    again = reports.built({key: report[key] for key in GIVEN} | {"verification": result, "artifacts": spoilt})
    assert again["verdict"] == "fail"
    assert problems(json.loads(json.dumps(again))) == []
    assert "has changed" in render_page(again, {})


GIVEN = ("spec", "preprocessing", "weights", "labels", "datasets", "settings")


def test_an_older_report_is_replaced_and_nothing_is_left_beside_it(verification, tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    write_report(report_of(verification), path)
    assert json.loads(path.read_text(encoding="utf-8"))["verdict"] == "fail"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report({}, tmp_path / "file" / "report.json")


def test_importing_the_verifier_loads_no_runtime_and_no_converter():
    code = (
        "import sys, vit_export.verification.verifier, vit_export.report.content, vit_export.report.table; "
        "heavy = {'tensorflow', 'keras', 'onnx', 'onnxruntime', 'tf2onnx', 'ai_edge_litert', 'ai_edge_quantizer'}; "
        "own = {'vit_export.tflite', 'vit_export.onnx', 'vit_export.pipeline.convert', 'vit_export.deployment.graph'}; "
        "loaded = sorted((heavy | own) & set(sys.modules)); "
        "sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
