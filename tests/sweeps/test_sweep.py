"""A whole sweep, as its user has it: made, killed, gone on with, and its figures those of the commands."""

import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import asdict

import pytest
from click.testing import CliRunner
from conftest import build, write_pictures
from helpers.bundles import digits_record
from helpers.data_sets import FORMS, encoded
from helpers.digits import DigitsParameters

from vit_export.base.python import python_command, python_environment
from vit_export.cli.main import main
from vit_export.evaluation.evaluate import evaluate

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.slow

PLAN = """
models = ["digits"]
tflite = true
onnx = true
float32 = true
int8 = true
int8-scheme = ["static", "dynamic"]
calibration = "photos"
calibration-images = 8
held-out-images = 4
data = "val"
max-drop = 5
output = "out"
workers = 2
"""
IDS = [f"digits-32-{kind}" for kind in (
    "tflite-float32", "tflite-int8-static", "tflite-int8-dynamic", "onnx-float32", "onnx-int8-dynamic"
)]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A plan, its checkpoint, which really was trained, its photographs and its data."""
    from vit_export.model.saved_model import write_saved_model

    found = tmp_path_factory.mktemp("sweep")
    write_saved_model(build(DigitsParameters()), found / "digits", digits_record())
    write_pictures(found / "photos", 16, (48, 48))
    FORMS["folders"](found / "val", *encoded(80))
    (found / "plan.toml").write_text(PLAN, encoding="utf-8")
    return found


def swept(folder, *words):
    done = CliRunner().invoke(main, ["sweep", str(folder / "plan.toml"), "--json", *words])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def without_times(cell):
    return {name: value for name, value in cell.items() if name not in ("cached", "seconds", "latency")}


def test_a_sweep_is_killed_goes_on_and_ends_as_one_that_was_not(folder):
    """Killed by the system after the first cells: those stay, their processes are gone, the record is the same."""
    command = python_command("-m", "vit_export", "sweep", str(folder / "plan.toml"), "--quiet")
    child = subprocess.Popen(command, env=python_environment())
    cells = folder / "out" / "cells"
    deadline = time.monotonic() + 600
    while len(list(cells.glob("*/cell.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = {path.parent.name: path.stat().st_mtime_ns for path in cells.glob("*/cell.json")}
    assert 2 <= len(there) < len(IDS)
    record, _ = swept(folder)
    assert [cell["id"] for cell in record["cells"]] == IDS
    assert {cell["id"] for cell in record["cells"] if cell["cached"]} == set(there)
    assert {name: (cells / name / "cell.json").stat().st_mtime_ns for name in there} == there
    folders = (folder / "out", cells, *cells.iterdir())
    assert not [name for path in folders for name in os.listdir(path) if name.startswith(".")]

    for cell in record["cells"]:
        assert (cell["status"], cell["trained"]) == ("done", True)
        assert cell["verdict"] == "pass" or cell["precision"] == "int8"
        assert (folder / "out" / cell["file"]).stat().st_size == cell["bytes"]
        assert (folder / "out" / cell["report"]).is_file()
        assert cell["latency"]["ms"] > 0
        report = json.loads((folder / "out" / cell["report"]).with_suffix(".json").read_text())
        entry = report["verification"]["files"][0]
        assert entry["latency"] is None
        assert entry["artifact"]["path"] == str(folder / "out" / cell["file"])
        assert report["verdict"] == cell["verdict"]
    assert record["evaluation"] == {"data": str(folder / "val"), "metric": "top-1", "images": 80, "labelled": 80}
    assert record["ship"]["id"] in record["front"]
    assert (folder / "out" / "sweep.html").read_text().startswith("<!")

    again, said = swept(folder)
    assert all(cell["cached"] for cell in again["cells"])
    assert [cell["latency"] for cell in again["cells"]] == [cell["latency"] for cell in record["cells"]]
    assert "5 of 5" in said
    assert "Measuring" not in said

    shutil.rmtree(cells / IDS[2])
    third, said = swept(folder)
    assert [cell["cached"] for cell in third["cells"]] == [True, True, False, True, True]
    assert list(map(without_times, third["cells"])) == list(map(without_times, record["cells"]))


def test_accuracy_is_that_of_evaluate_and_counted_anew_where_the_data_changed(folder):
    record, _ = swept(folder)
    paths = [folder / "out" / cell["file"] for cell in record["cells"]]
    found = evaluate(paths, str(folder / "val"))
    for cell, file in zip(record["cells"], found.figures.files, strict=True):
        told = cell["evaluation"]
        assert told["accuracy"] == asdict(file.top1)
        assert told["reference"] == asdict(found.figures.files[0].top1)
        assert told["drop"] == pytest.approx(100 * (found.figures.files[0].top1.share - file.top1.share))
        assert told["mcnemar"] == file.to_dict()["mcnemar"]
    _, said = swept(folder)
    assert "Evaluating" not in said
    image = next((folder / "val").rglob("*.png"))
    image.write_bytes(image.read_bytes()[:40])  # of another size, and damaged
    changed, _ = swept(folder)
    assert all(cell["cached"] for cell in changed["cells"])
    assert changed["evaluation"]["images"] == 79
