import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from vit_export.cli import main
from vit_export.variants import VARIANTS

HEAVY = ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "ai_edge_quantizer", "skimage", "PIL", "numpy")


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def fails(*arguments):
    """The one line of a call that has to be refused."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["vit_s32", "--help"], ["list"], ["vit_s31"], ["vit_s32", "--image-size", "225"]]
)
def test_light(arguments):
    code = (
        "import sys\nfrom vit_export.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_names_every_variant_and_option():
    text = invoke("--help").output
    assert all(name in text for name in VARIANTS)
    options = invoke("vit_b16", "--help").output
    assert all(
        f"--{o}" in options for o in ("tflite", "onnx", "int8-scheme", "calibration", "opset", "no-verify", "json")
    )


def test_list():
    rows = json.loads(invoke("list", "--json").output)
    assert [row["name"] for row in rows] == list(VARIANTS)
    s32 = rows[1]
    assert (s32["parameters"], s32["macs"], s32["tokens"]) == (22_878_952, 1_142_909_952, 50)
    assert s32["megabytes"]["float32"] == pytest.approx(91.5)
    table = invoke("list").output
    assert all(name in table and row["use"] in table for name, row in zip(VARIANTS, rows, strict=True))
    assert max(map(len, table.splitlines()[: len(VARIANTS) + 1])) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_s31"], "Did you mean 'vit_s32'?"),
        (["lst"], "Did you mean 'list'?"),
        (["resnet50"], "'vit-export list' shows them all"),
        (["vit_s32", "--onx"], "'--onnx'?"),
        (["vit_s32", "--image-size", "225"], "use 224 or 256"),
        (["vit_s32", "--image-size", "big"], "'big' is not a valid integer"),
        (["vit_s32", "--num-classes", "0"], "num_classes is 0, expected a whole number from 1"),
        (["vit_s32", "--features", "--num-classes", "5"], "give one of the two"),
        (["vit_s32", "--batch", "0"], "batch is 0, expected a whole number from 1 to 1024"),
        (["vit_s32", "--threads", "-1"], "threads is -1"),
        (["vit_s32", "--seed", "-1"], "seed is -1"),
        (["vit_s32", "--opset", "9", "--onnx"], "opset is 9, expected a whole number from 13 to 23"),
        (["vit_s32", "--int8", "--calibration-images", "0"], "calibration_images is 0"),
        (["vit_s32", "--int8-scheme", "full"], "add --int8"),
        (["vit_s32", "--int8", "--int8-scheme", "best"], "'best' is not one of"),
        (["vit_s32", "--onnx", "--int8", "--int8-scheme", "full"], "does not exist for onnx"),
        (["vit_s32", "--weights", "nowhere"], "There is no nowhere"),
        (["vit_s32", "--tflite", "--int8", "--calibration", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_calls_get_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_bad_calibration_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty, texts, file = tmp_path / "empty", tmp_path / "texts", tmp_path / "file"
    empty.mkdir()
    texts.mkdir()
    (texts / "a.txt").write_text("a")
    file.write_text("a")
    for folder in (empty, texts, file):
        line = fails("vit_s32", "--tflite", "--int8", "--calibration", str(folder))
        assert line.startswith("Error: ")
        assert folder.name in line
    assert not (tmp_path / "exports").exists()


def test_own_images_in_the_default_folder_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "mine.png").write_text("mine")
    assert "mine.png" in (line := fails("vit_s32", "--tflite", "--int8"))
    assert line.endswith("pass --calibration calibration.")
    assert [p.name for p in tmp_path.rglob("*")] == ["calibration", "mine.png"]


def test_outputs_that_exist_or_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "vit_s32_float32.tflite").write_text("mine")
    assert "exists already: pass --overwrite" in fails("vit_s32", "--tflite", "--output", "out")
    assert (out / "vit_s32_float32.tflite").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert "is a file, expected a folder" in fails("vit_s32", "--tflite", "--output", "file/below")
    assert "cannot be written" in fails("vit_s32", "--tflite", "--output", "/proc/exports")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]
