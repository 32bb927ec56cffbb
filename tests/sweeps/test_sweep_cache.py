"""What is done is not done again, and what anything has changed of is: weights, images, options, versions, data, files.

Cells are made by a stand-in here: which ones are asked for is what these tests are about.
"""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_pictures
from helpers import reference_google
from helpers.originals import STUDENT

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import claimed
from vit_export.cli.main import main
from vit_export.sweeps import grid, making
from vit_export.sweeps import run as module
from vit_export.sweeps.run import sweep

CELLS = ("one-32-tflite-float32", "one-32-tflite-int8-auto")
FIGURES = {
    "verdict": "pass", "failed_checks": [], "sqnr_median_db": 50.0, "sqnr_worst_db": 40.0, "agreement": 1.0
}  # fmt: skip


def weights(path, seed=3):
    np.savez(path, **reference_google.fabricate(STUDENT, np.random.default_rng(seed)))
    return path


class Makes:
    """Stands for processes that make cells: writes a file for each, and remembers which."""

    def __init__(self):
        self.made, self.ends = [], {}

    def __call__(self, jobs, workers):
        for id, (job, folder) in jobs.items():
            self.made.append(id)
            yield id, None
            if isinstance(end := self.ends.get(id), BaseException):
                raise end
            if end is not None:
                yield id, end
                continue
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "x.tflite").write_text(json.dumps(job, sort_keys=True))
            done = {"file": "x.tflite", "files": ["x.tflite"], "bytes": 9, "report": "report.html", **FIGURES}
            yield id, {"status": "done", "reason": None, "seconds": 1.0, **done}


@pytest.fixture
def makes(monkeypatch):
    made = Makes()
    monkeypatch.setattr(making, "run_locally", made)
    monkeypatch.setattr(module, "latencies", lambda outcomes, *rest: {id: {"ms": 1.0} for id in outcomes})
    return made


@pytest.fixture
def go(makes, tmp_path):
    """A sweep of the checkpoint one.npz in int8 and float32; which cells it makes."""
    weights(tmp_path / "one.npz")
    write_pictures(tmp_path / "photos", 8, (40, 40))

    def run(*models, **options):
        makes.made.clear()
        usual = {"formats": ["tflite"], "precisions": ["float32", "int8"], "calibration_images": 4}
        usual |= {"calibration": tmp_path / "photos", "held_out_images": 2}
        run.result = sweep(models or [tmp_path / "one.npz"], tmp_path / "out", **{**usual, **options})
        return tuple(makes.made)

    return run


def test_what_is_done_is_not_done_again(go, tmp_path):
    assert go() == CELLS
    first = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (tmp_path / "out" / "sweep.html").is_file()
    assert go() == ()
    again = go.result.to_dict()
    assert [cell.pop("cached") for cell in first["cells"]] == [False, False]
    assert [cell.pop("cached") for cell in again["cells"]] == [True, True]
    assert again["cells"] == first["cells"]
    assert go.result.passed
    assert first["ship"]["id"] in CELLS


@pytest.mark.thorough
def test_whatever_changes_is_made_again(go, monkeypatch, tmp_path):
    go()
    assert go(calibration_images=3) == CELLS
    assert go(held_out_images=1) == CELLS
    assert go(input="uint8") == CELLS
    assert go(features=True) == CELLS
    assert go(image_sizes=[48]) == tuple(id.replace("-32-", "-48-") for id in CELLS)
    assert go(int8_schemes=["static", "auto"]) == (CELLS[0], "one-32-tflite-int8-static", CELLS[1])
    assert go(formats=["onnx"]) == ("one-32-onnx-float32", "one-32-onnx-int8-dynamic")
    assert go() == ()
    weights(tmp_path / "one.npz", seed=4)
    assert go() == CELLS
    picture = next(iter((tmp_path / "photos").iterdir()))
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert go() == CELLS
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    assert go() == ()
    monkeypatch.setattr(grid, "code", lambda: {"onnxruntime": "next"})
    assert go() == CELLS


def test_the_place_of_files_changes_nothing(go, tmp_path):
    go()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one.npz").rename(tmp_path / "elsewhere" / "one.npz")
    (tmp_path / "photos").rename(tmp_path / "pictures")
    assert go(tmp_path / "elsewhere" / "one.npz", calibration=tmp_path / "pictures") == ()


@pytest.mark.thorough
def test_a_cell_that_was_deleted_damaged_or_not_ended_is_made_again(go, tmp_path):
    go()
    cells = tmp_path / "out" / "cells"
    (cells / CELLS[0] / "x.tflite").write_text("damaged")
    assert go() == CELLS[:1]
    (cells / CELLS[1] / "cell.json").unlink()
    assert go() == CELLS[1:]
    (cells / CELLS[1] / "cell.json").write_text("{")
    assert go() == CELLS[1:]


def test_a_sweep_that_is_interrupted_goes_on(go, makes):
    makes.ends[CELLS[1]] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go()
    makes.ends.clear()
    assert go() == CELLS[1:]
    assert [cell["cached"] for cell in go.result.cells] == [True, False]


def test_what_cannot_be_made_is_told_and_the_others_are(go, makes, tmp_path):
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4 and no more")
    makes.ends[CELLS[1]] = {"status": "failed", "reason": "The converter broke.", "seconds": 1.0}
    both = (tmp_path / "damaged.npz", tmp_path / "one.npz")
    assert go(*both) == CELLS
    cells = {cell["id"]: cell for cell in go.result.cells}
    assert [cell["status"] for cell in cells.values()] == ["refused", "refused", "done", "failed"]
    assert cells["damaged-tflite-float32"]["image_size"] is None
    assert cells["damaged-tflite-float32"]["file"] is None
    assert not go.result.passed
    assert [text.partition(":")[0] for text in go.result.failures] == [
        "damaged-tflite-float32 and 1 more", CELLS[1]
    ]  # fmt: skip
    makes.ends.clear()
    assert go(*both) == CELLS[1:]  # it is tried again


def test_the_same_weights_twice_are_made_once(go, tmp_path):
    weights(tmp_path / "two.npz", seed=3)
    (tmp_path / "copies").mkdir()
    weights(tmp_path / "copies" / "one.npz", seed=5)
    found = go(tmp_path / "one.npz", tmp_path / "copies" / "one.npz", precisions=["float32"])
    assert found == ("one-32-tflite-float32", "one-2-32-tflite-float32")
    assert go(precisions=["float32"], image_sizes=[32, 48, (48, 48)]) == ("one-48-tflite-float32",)
    assert go(tmp_path / "one.npz", tmp_path / "two.npz", precisions=["float32"]) == ()
    assert [cell["id"] for cell in go.result.cells] == ["one-32-tflite-float32"]


@pytest.mark.parametrize(
    ("models", "options", "told"),
    [
        (["vit_s32"], {"image_sizes": [224, 225]}, "225"),
        (["vit_s33"], {}, "did you mean 'vit_s32'?"),
        (["nowhere/one.npz"], {}, "There is no nowhere/one.npz"),
        (["vit_s32"], {"data": "nowhere"}, "There is no nowhere"),
        (["vit_s32"], {"data": "here", "knn": 3, "train": "here"}, "vit_s32 is a classifier"),
        (["vit_s32"], {"data": "here", "features": True}, "vit_s32 has no classifier"),
    ],
)
def test_a_grid_that_cannot_be_leaves_nothing(models, options, told, go, tmp_path):
    with pytest.raises(InputError) as caught:
        go(*models, **options)
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_or_in_use_is_left_alone(go, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty and holds no sweep"):
        go()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    (tmp_path / "out" / "thesis.txt").unlink()
    with claimed(tmp_path / "out", print), pytest.raises(OutputError, match="is writing into"):
        go()


def test_what_is_typed_wins_over_the_plan_and_the_exit_code_says_what_could_not_be_made(go, makes, tmp_path):
    text = "models = ['one.npz']\nonnx = true\nfloat32 = true\ncalibration = 'photos'\noutput = 'out'\n"
    (tmp_path / "plan.toml").write_text(f"{text}held-out-images = 2\ncalibration-images = 4\n")
    plan = str(tmp_path / "plan.toml")
    done = CliRunner().invoke(main, ["sweep", plan, "--json", "--tflite", "--int8"])
    assert done.exit_code == 0, done.stderr
    assert [cell["id"] for cell in json.loads(done.stdout)["cells"]] == [CELLS[1]]
    assert "Cell 1 of 1: one-32-tflite-int8-auto" in done.stderr
    makes.ends["one-32-onnx-float32"] = {"status": "failed", "reason": "The converter broke.", "seconds": 1.0}
    done = CliRunner().invoke(main, ["sweep", plan])
    assert done.exit_code == 1
    assert "The converter broke." in done.stdout
    for words, told in (
        ([plan, "vit_s32"], "A plan names its models itself"),
        ([plan, "--image-size", "33"], "33"),
        ([str(tmp_path / "no.toml")], "no.toml cannot be read"),
        (["vit_s32", "--max-drop", "1"], "--max-drop is about accuracy, which --data measures: give --data"),
    ):
        done = CliRunner().invoke(main, ["sweep", *words])
        assert (done.exit_code, told in done.stderr) == (2, True), done.stderr


def test_where_nothing_could_be_made_that_is_the_record(go, tmp_path):
    (tmp_path / "damaged.npz").write_bytes(b"PK\3\4 and no more")
    assert go(tmp_path / "damaged.npz") == ()
    record = go.result.to_dict()
    assert {cell["status"] for cell in record["cells"]} == {"refused"}
    assert (record["front"], record["ship"]["id"]) == ([], None)
    assert (tmp_path / "out" / "sweep.html").is_file()
    assert not go.result.passed


def test_a_password_in_an_address_is_in_no_record(go, tmp_path):
    assert go("https://me:secret@127.0.0.1:1/runs/best.npz", data=None) == ()
    assert [cell["weights"] for cell in go.result.cells] == ["https://127.0.0.1:1/runs/best.npz"] * 2
    for name in ("sweep.json", "sweep.html"):
        assert "secret" not in (tmp_path / "out" / name).read_text()
