"""From a checkpoint to files: what they compute is what the original package computes, on photographs too."""

import pytest
from click.testing import CliRunner
from test_weights import CLASSIFIERS, ORIGINALS, STUDENT, golden, worst  # noqa: F401

from vit_export.cli import main
from vit_export.runners import open_runner
from vit_export.saved_model import read_record
from vit_export.weights.sources import open_checkpoint


def export(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def run(path, images):
    runner = open_runner(path, path.suffix[1:], 2)
    return runner.run(images)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_both_files_compute_what_the_original_computes(name, golden, tmp_path):  # noqa: F811
    out = tmp_path / "out"
    export("--weights", ORIGINALS / name, "--num-heads", 4, "--tflite", "--onnx", "--no-verify", "--output", out)
    files = sorted(path for path in out.iterdir() if path.suffix in (".tflite", ".onnx"))
    assert [path.name for path in files] == ["vit_l2_d32_p8_float32.onnx", "vit_l2_d32_p8_float32.tflite"]
    for path in files:
        assert worst(run(path, golden["images"]), golden[f"{name}/logits"]) < 1e-5
    labelled = name == "hf"
    assert (out / "labels.txt").exists() == labelled
    if labelled:
        assert (out / "labels.txt").read_text(encoding="utf-8").splitlines()[-1] == "crème brûlée"
    record = read_record(out / "saved_model")
    assert record.weights["source"] == {"hf": "huggingface"}.get(name, name.partition("_")[0])
    assert record.labels == open_checkpoint(ORIGINALS / name, num_heads=4).labels
