"""What was assumed, and what outputs are, from the checkpoint to verdict, report, page, card and code."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_pictures
from helpers.originals import ORIGINALS, STUDENT, fabricated
from rich.console import Console

from vit_export.base.errors import InputError
from vit_export.base.reporting import Silent
from vit_export.cli.main import main
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, read_record
from vit_export.pipeline.choice import default_photographs
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import _checkpoint, export
from vit_export.pipeline.verify_files import VerifyRequest, verify_files
from vit_export.report.table import render_table
from vit_export.weights.open import open_checkpoint


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "photos"
    write_pictures(folder, 12, (40, 40))
    return folder


def exported(folder, checkpoint, pictures, **more):
    return export(ExportRequest(None, folder, ("onnx",), weights=checkpoint, calibration=pictures, **more))


def printed(verification):
    console = Console(file=io.StringIO(), width=100)
    render_table(verification, console)
    return console.file.getvalue()


def bundled(path, folder):
    from vit_export.bundles.pack import bundle

    (made,) = bundle(path, ["linux"], output=folder)
    with zipfile.ZipFile(made.path) as archive:
        return {name.rpartition("/")[2]: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


@pytest.mark.thorough
def test_assumptions_go_wherever_the_verdict_goes(photos, tmp_path, in_process):
    fabricated(tmp_path / "w.npz", sizes=STUDENT)
    result = exported(tmp_path / "out", open_checkpoint(tmp_path / "w.npz"), photos)
    scaling = "scaling as Google's vision_transformer and big_vision does it (mean 0.5,0.5,0.5, std 0.5,0.5,0.5)"
    assert result.passed
    assert scaling in result.verification.assumed
    assert "square images of 32 pixels (4 x 4 patches)" in result.verification.assumed
    assert f"PASS, assuming {'; '.join(result.verification.assumed)}: 1 of 1 files" in printed(result.verification)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verification"]["assumed"] == list(result.verification.assumed)
    assert report["weights"]["assumed"]["scaling"] == scaling
    assert scaling in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")
    path = next((tmp_path / "out").glob("*.onnx"))
    assert scaling in bundled(path, tmp_path)["MODEL_CARD.md"].replace("\\", "").replace("&#39;", "'")
    # and later, from the SavedModel alone
    again = verify_files(VerifyRequest((path,), data=photos, latency=False))
    assert again.verification.assumed == result.verification.assumed


def test_a_guess_is_heard_where_nothing_else_is(photos, tmp_path):
    fabricated(tmp_path / "w.npz", sizes=STUDENT)
    command = ["--weights", str(tmp_path / "w.npz"), "--onnx", "--calibration", str(photos), "--no-verify", "--quiet"]
    result = CliRunner().invoke(main, [*command, "--image-size", "32", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines() == [
        "ASSUMED  scaling as Google's vision_transformer and big_vision does it (mean 0.5,0.5,0.5, std 0.5,0.5,0.5)",
        "ASSUMED  resizing as Google's vision_transformer and big_vision does it (squash, bilinear)",
    ]
    assert result.stdout == ""


@pytest.mark.thorough
def test_nothing_is_assumed_of_what_says_everything(photos, tmp_path, in_process):
    result = exported(tmp_path / "out", open_checkpoint(ORIGINALS / "hf"), photos)
    assert result.verification.assumed == ()
    assert "PASS: 1 of 1" in printed(result.verification)
    assert "assumed" not in result.report["weights"]


@pytest.mark.parametrize(
    ("problem", "classes", "says"),
    [
        ("multi_label_classification", 7, "several at once: a number for each, whose sigmoid"),
        pytest.param("regression", 7, "estimates 7 numbers from an image", marks=pytest.mark.thorough),
        pytest.param(None, 1, "estimates a number from an image", marks=pytest.mark.thorough),
        pytest.param(None, 7, "sorts images", marks=pytest.mark.thorough),
    ],
)
def test_outputs_are_what_the_config_says(altered, photos, tmp_path, in_process, problem, classes, says):
    config = {"problem_type": problem, "num_labels": classes}
    head = {"classifier.weight": np.ones((1, 32), "f4"), "classifier.bias": np.ones(1, "f4")} if classes == 1 else {}
    if classes == 1:
        config["id2label"] = {"0": "age"}
    checkpoint = open_checkpoint(altered("hf", config, **head))
    result = exported(tmp_path / "out", checkpoint, photos)
    assert result.passed, result.verification.failures
    record = read_record(tmp_path / "out" / "saved_model")
    ranks = says == "sorts images"
    assert record.classifies == ranks
    (file,) = result.verification.files
    assert (file.comparison.agreement is not None, file.top is not None) == (ranks, ranks)
    path = next((tmp_path / "out").glob("*.onnx"))
    found = bundled(path, tmp_path)
    assert says in found["MODEL_CARD.md"]
    assert ("softmax" in found["classifier.py"] or "exp(" in found["classifier.py"]) == ranks
    if not ranks:
        request = VerifyRequest((path,), data=photos, latency=False, labelled=True)
        with pytest.raises(InputError, match="top class is the answer"):
            verify_files(request)


def test_a_record_of_before_ranks_its_classes():
    values = ModelRecord.random(STUDENT, 0).to_dict()
    del values["problem_type"]
    assert ModelRecord.from_dict(values).classifies
    with pytest.raises(InputError, match="problem_type is 'x' in the record"):
        ModelRecord.from_dict({**values, "problem_type": "x"})


@pytest.mark.thorough
def test_verification_writes_nothing_where_it_runs(photos, tmp_path, in_process, monkeypatch):
    result = exported(tmp_path / "out", open_checkpoint(ORIGINALS / "hf"), photos, verify=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    (artifact,) = result.artifacts
    again = verify_files(VerifyRequest((artifact.path,), images=2, latency=False))
    assert again.passed
    assert not list((tmp_path / "empty").iterdir())


def test_photographs_go_elsewhere_where_nothing_can_be_written(tmp_path, monkeypatch):
    from vit_export.images import photographs
    from vit_export.pipeline import choice

    monkeypatch.chdir("/proc")
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", photographs.PHOTOGRAPHS[-1:])
    choice._temporary.cache_clear()
    folder = default_photographs(Silent(), keep=True)
    assert (folder / "held_out").is_dir()
    choice._temporary.cache_clear()


@pytest.mark.parametrize("keep", [False, True])
def test_photographs_that_are_there_are_digested_once(tmp_path, monkeypatch, keep):
    from vit_export.images import photographs

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", photographs.PHOTOGRAPHS[-1:])
    photographs.write_photographs("calibration")
    read, digest = [], photographs.digest_of_file
    monkeypatch.setattr(photographs, "digest_of_file", lambda path: read.append(path) or digest(path))
    assert default_photographs(Silent(), keep=keep) == Path("calibration")
    assert len(read) == photographs.PHOTOGRAPHS[0].count


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_pixels_are_told_alike_of_a_location_and_of_what_is_open(tmp_path, scale):
    fabricated(tmp_path / "w.npz", sizes=STUDENT)
    pixels = Preprocessing(224, (0.5, 0.5, 0.5), (scale,) * 3)
    found = [
        _checkpoint(ExportRequest(None, tmp_path / "out", weights=weights, preprocessing=pixels), Silent()).stated
        for weights in (tmp_path / "w.npz", open_checkpoint(tmp_path / "w.npz"))
    ]
    assert found[0] == found[1]
    assert found[0].preprocessing == replace(pixels, image_size=32)


@pytest.mark.thorough
def test_another_tools_uint8_input_is_pixels(altered, photos, tmp_path, in_process):
    import onnx

    from vit_export.artifacts.facts import RECORD_KEY

    out = tmp_path / "out"
    (artifact,) = exported(out, open_checkpoint(ORIGINALS / "hf"), photos, input="uint8", verify=False).artifacts
    model = onnx.load(artifact.path)
    kept = [entry for entry in model.metadata_props if entry.key != RECORD_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "other.onnx")
    request = VerifyRequest((tmp_path / "other.onnx",), out / "saved_model", data=photos, latency=False)
    assert verify_files(request).passed
