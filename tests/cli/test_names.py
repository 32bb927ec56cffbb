"""Two checkpoints of one shape go to two folders, and a model that was named once keeps its name."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import write_pictures

from vit_export.cli.main import main

ORIGINALS = Path(__file__).parents[1] / "fixtures" / "originals"


def command(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def made(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.thorough
def test_models_of_one_shape_do_not_meet_and_keep_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--num-heads", 4, "--onnx", "--no-verify")
    for name in ("timm", "torchvision"):
        command(ORIGINALS / name, *options)
    assert made("exports") == ["timm-32", "torchvision-32"]
    report = json.loads(Path("exports/timm-32/report.json").read_text())
    assert report["spec"]["name"] == "timm"
    # From the SavedModel, and by another name.
    command("exports/timm-32/saved_model", "--tflite", "--no-verify")
    assert "timm_float32.tflite" in made("exports/timm-32")
    command("exports/timm-32", "--onnx", "--no-verify", "--name", "mine")
    assert made("exports/mine-32") == ["mine_float32.onnx", "report.html", "report.json", "saved_model"]
    refused = command(ORIGINALS / "torchvision", *options, "--name", "timm", code=2)
    assert "exists already" in refused.stderr
    # The same model by another name: files by the old one are still of it.
    command("exports/timm-32", "--onnx", "--no-verify", "--name", "new", "--output", "exports/timm-32", "--overwrite")
    assert {"timm_float32.onnx", "new_float32.onnx"} <= set(made("exports/timm-32"))


@pytest.mark.thorough
def test_a_file_by_its_own_name_is_verified_against_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "photos", 4, (40, 40))
    command(ORIGINALS / "hf", "--onnx", "--no-verify", "--name", "mine")
    file, data = "exports/mine-32/mine_float32.onnx", ("--data", "photos", "--no-latency", "--json")
    report = json.loads(command("verify", file, "--reference", ORIGINALS / "hf", *data).stdout)
    checks = {check["name"] for check in report["verification"]["files"][0]["checks"]}
    assert {"same_model", "constants"} <= checks


def test_random_weights_keep_the_name_of_the_variant(tmp_path, monkeypatch):
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "vit_export.pipeline.steps.export", lambda request, *rest, **more: seen.append(request) or 1 / 0
    )
    for words in (("vit_s32",), ("vit_s32", "--name", "mine")):
        CliRunner().invoke(main, [*words, "--quiet"])
    assert [(request.spec.name, str(request.output)) for request in seen] == [
        ("vit_s32", "exports/vit_s32-224"),
        ("mine", "exports/mine-224"),
    ]
    refused = command("vit_s32", "--name", "../x", code=2)
    assert refused.stderr.startswith("Error: --name is '../x', expected 1 to 100 letters")
    assert not list(tmp_path.iterdir())
