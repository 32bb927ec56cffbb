"""A full-size variant through the command line, as a user types it, on real photographs."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def vit_export(*arguments, folder):
    command = [sys.executable, "-m", "vit_export", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def exported(folder):
    result = vit_export("vit_s32", "--float32", "--float16", "--int8", folder=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_vit_s32_in_every_format_and_precision(exported, folder):
    output = folder / "exports" / "vit_s32-224"
    report = json.loads((output / "report.json").read_text())
    assert report["verdict"] == "pass"
    files = {file["artifact"]["path"].rpartition("/")[2]: file for file in report["verification"]["files"]}
    assert set(files) == {f"vit_s32_{p}.{f}" for p in ("float32", "float16", "int8") for f in ("tflite", "onnx")}
    for kind in ("tflite", "onnx"):
        single, half, integer = (files[f"vit_s32_{p}.{kind}"] for p in ("float32", "float16", "int8"))
        assert single["comparison"]["worst_relative"] < 1e-4
        assert half["artifact"]["bytes"] < 0.52 * single["artifact"]["bytes"]
        assert integer["artifact"]["bytes"] < 0.28 * single["artifact"]["bytes"]
    for text in ("PASS", "vit_s32_int8.tflite", "report.html and report.json", "Next: "):
        assert text in exported.stdout
    assert "scikit-image" in exported.stderr
    assert "float16 ONNX is for GPUs and NPUs" in exported.stderr
    # TensorFlow's chatter is not for users.
    for noise in ("tensorflow/", "cuda", "oneDNN", "WARNING", "XNNPACK", "absl"):
        assert noise not in exported.stdout + exported.stderr


def test_from_its_saved_model_to_another_scheme(exported, folder):
    saved_model = "exports/vit_s32-224/saved_model"
    result = vit_export(
        "vit_s32", "--weights", saved_model, "--tflite", "--int8", "--int8-scheme", "dynamic", "--json", folder=folder
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["verification"]["files"][0]["artifact"]["scheme"] == "dynamic"
    assert (folder / "exports/vit_s32-224/vit_s32_float32.tflite").is_file()  # what was there stays


def test_again_without_overwrite_is_refused(exported, folder):
    result = vit_export("vit_s32", "--tflite", folder=folder)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "exists already: pass --overwrite" in result.stderr


def test_another_variant_than_the_weights_is_refused(exported, folder):
    saved_model = "exports/vit_s32-224/saved_model"
    result = vit_export("vit_s16", "--weights", saved_model, "--tflite", folder=folder)
    assert result.returncode == 2
    assert "holds vit_s32 (patch 32, " in result.stderr
    assert "but vit_s16 is patch 16" in result.stderr


def test_own_sizes_classes_and_features(exported, folder):
    calibration = "calibration/representative"
    options = ["--image-size", "96", "--batch", "2", "--calibration", calibration, "--calibration-images", "16"]
    result = vit_export("vit_ti16", "--tflite", "--onnx", "--int8", "--num-classes", "10", *options, folder=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((folder / "exports/vit_ti16-96/report.json").read_text())
    assert report["artifacts"][1]["outputs"][0]["shape"] == [2, 10]
    assert len(report["datasets"]["representative"]["files"]) == 16
    result = vit_export("vit_ti16", "--onnx", "--opset", "13", "--features", "--output", "features", folder=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "features" in (folder / "features/report.json").read_text()


def test_the_figures_of_the_report_by_hand(exported, folder):
    """The runtimes, Pillow and numpy alone, nothing of vit_export: the report's figures come out again."""
    import numpy as np
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter
    from PIL import Image

    output = folder / "exports" / "vit_s32-224"
    report = json.loads((output / "report.json").read_text())
    held_out, names = report["datasets"]["held_out"]["folder"], report["verification"]["images"]
    pixels = [Image.open(folder / held_out / name).convert("RGB").resize((224, 224), 2) for name in names]
    images = (np.stack([np.asarray(image) for image in pixels]).astype(np.float32) - 127.5) / 127.5
    serve = tf.saved_model.load(str(output / "saved_model")).signatures["serving_default"]
    expected = np.concatenate([serve(images=tf.constant(image[None]))["logits"].numpy() for image in images])
    model = Interpreter(str(output / "vit_s32_int8.tflite"))
    model.allocate_tensors()
    found = []
    for image in images:
        model.set_tensor(model.get_input_details()[0]["index"], image[None])
        model.invoke()
        found.append(model.get_tensor(model.get_output_details()[0]["index"])[0].copy())
    noise = np.float64(found) - expected
    worst = np.abs(noise).max() / np.ptp(expected)
    signal = (np.float64(expected) ** 2).sum(1)
    sqnr = 10 * np.log10(np.maximum(signal, signal.mean()) / (noise**2).sum(1))
    told = [report, *report.get("earlier_files", ())]  # another test may have exported into the folder since
    files = [file for each in told for file in each.get("verification", {}).get("files", ())]
    (file,) = (f for f in files if f["artifact"]["path"].endswith("int8.tflite"))
    assert worst == pytest.approx(file["comparison"]["worst_relative"], rel=1e-3)
    assert sqnr == pytest.approx(file["comparison"]["sqnr_db"], abs=0.01)
    assert (np.argmax(found, 1) == expected.argmax(1)).mean() == file["comparison"]["agreement"]
