"""From a checkpoint to files on the command line: what they compute is what the original package computes."""

import json
import shutil
import threading
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_pictures
from helpers.make_timm_originals import FAMILIES, FOLDER
from helpers.originals import CLASSIFIERS, ORIGINALS, STUDENT, fabricated, worst

from vit_export.cli.main import main
from vit_export.model.input_kinds import feed
from vit_export.model.preprocessing import normalize
from vit_export.model.record import read_record
from vit_export.runtimes.runner import open_runner
from vit_export.weights.open import open_checkpoint

pytestmark = pytest.mark.thorough


def export(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def run(path, images):
    return open_runner(path, path.suffix[1:] or "saved_model").run(images)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_both_files_compute_what_the_original_computes(name, golden, tmp_path):
    out = tmp_path / "out"
    export("--weights", ORIGINALS / name, "--num-heads", 4, "--tflite", "--onnx", "--no-verify", "--output", out)
    files = sorted(path for path in out.iterdir() if path.suffix in (".tflite", ".onnx"))
    assert [path.name for path in files] == [f"{name}_float32.onnx", f"{name}_float32.tflite"]
    for path in files:
        assert worst(run(path, golden["images"]), golden[f"{name}/logits"]) < 1e-5
    labelled = name == "hf"
    assert (out / "labels.txt").exists() == labelled
    if labelled:
        assert (out / "labels.txt").read_text(encoding="utf-8").splitlines()[-1] == "crème brûlée"
    record = read_record(out / "saved_model")
    assert record.weights["source"] == {"hf": "huggingface"}.get(name, name.partition("_")[0])
    assert record.labels == open_checkpoint(ORIGINALS / name, num_heads=4).labels


@pytest.mark.parametrize("name", FAMILIES)
def test_both_files_compute_what_timm_computes(name, tmp_path):
    out = tmp_path / "out"
    export("--weights", FOLDER / name, "--tflite", "--onnx", "--no-verify", "--output", out)
    height, width = open_checkpoint(FOLDER / name).spec.image_sides
    with np.load(FOLDER / "expected.npz") as expected:
        images, wanted = expected["images"][:, :height, :width], expected[f"{name}/output"]
    files = [path for path in out.iterdir() if path.suffix in (".tflite", ".onnx")]
    assert len(files) == 2
    for path in files:
        assert worst(run(path, images), wanted) < 1e-5


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), 12, (48, 40))


def refused(*arguments):
    """The one line of a call that has to be refused."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


def test_googles_file_at_another_size_with_pixels_as_input(in_process, tmp_path, photos):
    fabricated(tmp_path / "w.npz", sizes=STUDENT.with_(num_layers=2))
    out = tmp_path / "out"
    options = ("--image-size", 48, "--input", "uint8", "--tflite", "--onnx", "--float32", "--int8")
    scaling = ("--mean", "0.4,0.5,0.6", "--std", "0.2,0.25,0.3", "--resize", "shortest", "--crop-fraction", 0.9)
    result = export(
        "--weights", tmp_path / "w.npz", *options, *scaling, "--calibration", photos, "--output", out, "--json"
    )
    report = json.loads(result.stdout)
    assert report["verdict"] == "pass"
    assert report["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert report["weights"]["resampled_from_image_size"] == 32
    assert {entry["inputs"][0]["dtype"] for entry in report["artifacts"][1:]} == {"uint8"}
    preprocessing = read_record(out / "saved_model").preprocessing
    assert (preprocessing.image_size, preprocessing.resize, preprocessing.crop_fraction) == (48, "shortest", 0.9)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    wanted = run(out / "saved_model", normalize(pixels, preprocessing))
    for name, limit in (("float32.tflite", 1e-5), ("float32.onnx", 1e-5), ("int8.tflite", 0.1), ("int8.onnx", 0.1)):
        assert worst(run(out / f"w_{name}", feed(pixels, "uint8", preprocessing)), wanted) < limit


@pytest.mark.slow
def test_features_before_and_after_the_pooler(tmp_path, golden):
    weights = ("--weights", ORIGINALS / "hf_model", "--no-verify", "--output")
    for options, made, key in (
        (("--features", "--saved-model"), "saved_model", "class_token"),
        (("--pooled", "--tflite"), "hf_model_float32.tflite", "pooler_output"),
        (("--saved-model",), "saved_model", "class_token"),
    ):
        out = tmp_path / "-".join(("x", *options))
        export(*weights, out, *options)
        assert worst(run(out / made, golden["images"]), golden[f"hf_model/{key}"]) < 1e-5


def test_an_exported_saved_model_is_a_checkpoint_with_all_that_belongs_to_it(tmp_path):
    labels = tmp_path / "names.txt"
    labels.write_text("\n".join("abcdefg") + "\n")
    first = ("--weights", ORIGINALS / "timm", "--saved-model", "--output", tmp_path / "out")
    export(*first, "--labels", labels)
    known = open_checkpoint(tmp_path / "out" / "saved_model")
    assert known.labels == tuple("abcdefg")
    assert known.record.positions == "bicubic_antialiased"
    again = ("--weights", tmp_path / "out" / "saved_model", "--output", tmp_path / "out")
    export(*again, "--onnx", "--no-verify")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "labels.txt",
        "report.html",
        "report.json",
        "saved_model",
        "timm_float32.onnx",
    ]
    labels.write_text("\n".join("gfedcba"))
    assert "exists already" in refused(*again, "--labels", labels, "--tflite", "--no-verify")
    export(*again, "--labels", labels, "--saved-model", "--overwrite")
    assert open_checkpoint(tmp_path / "out" / "saved_model").labels == tuple("gfedcba")
    assert (tmp_path / "out" / "labels.txt").read_text().split() == list("gfedcba")


def test_a_new_classifier_is_said_aloud(tmp_path):
    result = export("--weights", ORIGINALS / "hf", "--num-classes", 3, "--saved-model", "--output", tmp_path / "out")
    assert result.stderr.count("classifier of 3 classes is new and untrained, in place of 7 classes") == 1
    assert not (tmp_path / "out" / "labels.txt").exists()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["weights"]["trained"] is False


def test_a_file_from_the_web(tmp_path, monkeypatch, golden):
    monkeypatch.setenv("VIT_EXPORT_CACHE", str(tmp_path / "cache"))
    served = tmp_path / "served"
    served.mkdir()
    shutil.copy(ORIGINALS / "torchvision" / "model.safetensors", served / "w.safetensors")
    digest = sha256((served / "w.safetensors").read_bytes()).hexdigest()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=served))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/w.safetensors"
        options = ("--num-heads", 4, "--saved-model", "--output", tmp_path / "out")
        assert "sha256" in refused("--weights", f"{url}#sha256={'0' * 64}", *options)
        assert not (tmp_path / "out").exists()
        export("--weights", f"{url}#sha256={digest}", *options)
    finally:
        server.shutdown()
        server.server_close()
    assert worst(run(tmp_path / "out" / "saved_model", golden["images"]), golden["torchvision/logits"]) < 1e-5
    assert json.loads((tmp_path / "out" / "report.json").read_text())["weights"]["sha256"] == digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a checkpoint, or name a variant ('vit-export list' shows them)"),
        (["--weights", "HF", "--image-size", "36"], "Image size 36 is not a multiple of hf's patch size 8"),
        (["--weights", "HF", "--pooled"], "has no pooler"),
        (["--weights", "HF", "--features", "--num-classes", "3"], "give one of the two"),
        (["--weights", "HF", "--labels", "nowhere.txt"], "nowhere.txt"),
        (["--weights", "HF", "--labels", "imagenet"], "1000 labels"),
        (["--weights", "HF", "--features", "--labels", "imagenet"], "no classifier"),
        (["--weights", "HF", "--mean", "0.5,0.5"], "expected three numbers such as 0.485,0.456,0.406"),
        (["--weights", "HF", "--std", "0,1,1"], "expected three numbers for red, green and blue, above 0"),
        (["--weights", "HF", "--crop-fraction", "0.9"], "use resize='shortest'"),
        (["--weights", "HF", "--num-heads", "8"], "has 4 attention heads, 8 were asked for"),
        (["vit_s32", "--weights", "HF"], "which is no variant of the table: leave vit_s32 out"),
        (["--weights", "HF", "--tflite", "vit_b16"], "which is no variant of the table: leave vit_b16 out"),
        (["vit_s32", "--num-heads", "4"], "belongs to a checkpoint"),
        (["--weights", "HF", "--input", "0-255"], "'0-255' is not one of"),
        (["--weights", "hf:not a name"], "hf:"),
        (["--weights", "ftp://host/file"], "an address of a kind that is not supported"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_calls_get_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [str(ORIGINALS / "hf") if argument == "HF" else argument for argument in arguments]
    options = named if named and not named[0].startswith("-") else ["export", *named]
    assert message in refused(*options, "--output", "out")
    assert list(tmp_path.iterdir()) == []


def test_damaged_weights_leave_nothing(tmp_path):
    stored = (ORIGINALS / "timm" / "model.safetensors").read_bytes()
    bad = np.load(fabricated_file(tmp_path), allow_pickle=False)
    arrays = {key: bad[key] for key in bad.files}
    arrays["Transformer/encoder_norm/bias"][3] = np.nan
    np.savez(tmp_path / "nan.npz", **arrays)
    (tmp_path / "cut.safetensors").write_bytes(stored[: len(stored) // 2])
    for name, message in (("nan.npz", "contains NaN"), ("cut.safetensors", "damaged or truncated")):
        line = refused("--weights", tmp_path / name, "--tflite", "--no-verify", "--output", tmp_path / "out")
        assert message in line
        assert not (tmp_path / "out").exists()


def fabricated_file(folder):
    fabricated(folder / "good.npz")
    return folder / "good.npz"
