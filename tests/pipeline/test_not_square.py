"""Images that are not square, from a square checkpoint through every format to what files, bundles and reports say."""

import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import write_pictures
from helpers.originals import ORIGINALS, worst

from vit_export import create_vit
from vit_export.artifacts.read import artifact_of
from vit_export.artifacts.tflite_metadata import read_tflite_metadata
from vit_export.base.errors import InputError
from vit_export.base.quiet import import_tensorflow
from vit_export.cli.main import main
from vit_export.images.read import load_batch
from vit_export.inspection.inspect import inspect_file
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.input_kinds import feed
from vit_export.model.names import INT8_SCHEMES
from vit_export.model.record import read_record
from vit_export.pipeline import references
from vit_export.pipeline.references import _wanted
from vit_export.report.schema import report_schema
from vit_export.runtimes.runner import open_runner
from vit_export.weights.open import open_checkpoint
from vit_export.weights.positions import resample

SIZE = (24, 48)
HF = ORIGINALS / "hf"


def command(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photographs"), 12, (70, 50))


@pytest.fixture(scope="module")
def exported(photographs, tmp_path_factory):
    """A folder with files of every format and precision, and the JSON that the command printed."""
    out = tmp_path_factory.mktemp("exported") / "out"
    kinds = ("--tflite", "--onnx", "--float32", "--float16", "--int8")
    pixels = ("--resize", "shortest", "--crop-fraction", 0.875, "--image-size", "24x48")
    printed = command("--weights", HF, *kinds, *pixels, "--calibration", photographs, "--output", out, "--json")
    return out, json.loads(printed.stdout)


@pytest.mark.thorough
def test_every_file_of_an_export_is_the_reference(exported, photographs):
    out, report = exported
    assert report["verdict"] == "pass"
    assert (report["spec"]["image_size"], report["preprocessing"]["image_size"]) == ([24, 48], [24, 48])
    assert report["weights"]["resampled_from_image_size"] == 32
    import jsonschema

    assert not list(jsonschema.Draft202012Validator(report_schema()).iter_errors(report))
    assert "24 × 48 px" in (out / "report.html").read_text(encoding="utf-8")
    record = read_record(out / "saved_model")
    assert (record.spec.image_size, record.preprocessing.resized_sides) == (SIZE, (27, 54))
    images = load_batch(sorted(photographs.iterdir())[:3], record.preprocessing)
    wanted = open_runner(out / "saved_model", "saved_model").run(images)
    for format in ("tflite", "onnx"):
        path = out / f"hf_float32.{format}"
        assert artifact_of(path).inputs[0].shape == (1, *SIZE, 3)
        assert worst(open_runner(path, format).run(images), wanted) < 1e-5


@pytest.mark.thorough
def test_files_say_which_side_is_which(exported):
    out, _ = exported
    (image,) = read_tflite_metadata(out / "hf_float32.tflite")["inputs"]
    assert image["size"] == [48, 24]  # width and height
    properties = inspect_file(out / "hf_float32.onnx")["metadata_props"]
    assert properties["image_size"] == "24x48"
    assert "resized to cover 27x54 pixels (bilinear), the central 24x48 (height x width)" in properties["description"]
    for name in ("saved_model", "hf_int8.tflite", "hf_float16.onnx"):
        assert "24x48 (height x width)" in command("inspect", out / name).output
        assert inspect_file(out / name)["record"]["model"]["image_size"] == [24, 48]


@pytest.mark.thorough
@pytest.mark.parametrize(("format", "scheme"), [(f, s) for f, names in INT8_SCHEMES.items() for s in names[1:]])
def test_every_int8_scheme(format, scheme, photographs, in_process, tmp_path):
    weights = ("--weights", ORIGINALS / "timm", "--num-heads", 4, "--image-size", "24x48")
    options = (f"--{format}", "--int8", "--int8-scheme", scheme, "--calibration", photographs, "--input", "uint8")
    if scheme == "full":
        options = options[:-2]
    report = json.loads(command(*weights, *options, "--output", tmp_path / "out", "--json").stdout)
    assert report["verdict"] == "pass"


@pytest.mark.parametrize(("layout", "shape"), [("NHWC", (1, 24, 48, 3)), ("NCHW", (1, 3, 24, 48))])
def test_files_tell_the_size_of_the_checkpoint_that_they_are_verified_against(layout, shape, monkeypatch):
    monkeypatch.setattr(references, "_told", lambda checkpoint, artifacts: None)  # as of another tool's file
    entry = TensorSpec("images", shape, "float32", layout)
    artifact = Artifact("a.onnx", "onnx", "float32", (entry,), (TensorSpec("logits", (1, 7), "float32"),), 1, "")
    checkpoint = open_checkpoint(HF)
    assert _wanted(checkpoint, [artifact]) == checkpoint.spec.with_(image_size=SIZE)
    turned = replace(artifact, inputs=(replace(entry, shape=tuple({24: 48, 48: 24}.get(n, n) for n in shape)),))
    with pytest.raises(InputError, match="24x48 pixels and 7 outputs"):
        _wanted(checkpoint, [artifact, turned])


@pytest.mark.thorough
def test_bench_feeds_height_and_width(exported):
    out, _ = exported
    printed = command("bench", *sorted(out.glob("*_float32.*")), "--time-limit", 0.1, "--json").stdout
    assert [row["image"] for row in json.loads(printed)["files"]] == [[24, 48], [24, 48]]


@pytest.mark.thorough
def test_bundles_say_both_sides(exported, tmp_path):
    out, _ = exported
    command("bundle", out / "hf_float32.onnx", "--target", "linux", "--output", tmp_path)
    (made,) = tmp_path.glob("*.zip")
    with zipfile.ZipFile(made) as archive:
        told, card = json.loads(archive.read("metadata.json")), archive.read("MODEL_CARD.md").decode()
    assert (told["input"]["shape"], told["resize"]["image_size"]) == ([1, 24, 48, 3], [24, 48])
    assert told["resize"]["resized_side"] == [27, 54]
    assert "24 x 48 (height x width)" in card
    assert "it just covers 27 x 54 pixels" in card


@pytest.mark.thorough
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_model_of_keras_is_saved_and_opened_again(suffix, tmp_path):
    import_tensorflow()
    model = create_vit("vit_ti16", image_size=(32, 64), num_classes=5, seed=1)
    path = tmp_path / f"model{suffix}"
    if suffix == ".keras":
        model.save(path)
    else:
        model.save_weights(path)
    given = None if suffix == ".keras" else (32, 64)  # numbers alone do not say it
    opened = open_checkpoint(path, variant="vit_ti16", image_size=given)
    assert opened.spec.image_size == opened.preprocessing.image_size == (32, 64)
    assert not opened.notes or suffix != ".keras"
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 64, 3)).astype(np.float32)
    again = create_vit("vit_ti16", image_size=(32, 64), weights=path)
    np.testing.assert_array_equal(again.predict_output(images), model.predict_output(images))


@pytest.mark.thorough
def test_another_tools_file_is_run_by_its_own_layout(photographs, tmp_path):
    """One that a converter turned to NCHW: bench and verify feed it [1, 3, height, width]."""
    import onnx
    from onnx import helper

    reference = tmp_path / "out"
    pixels = ("--weights", HF, "--image-size", "24x48", "--calibration", photographs)
    command(*pixels, "--onnx", "--no-verify", "--output", reference)
    model = onnx.load(reference / "hf_float32.onnx")
    (entry,) = model.graph.input
    sides = [1, 3, 24, 48]
    for node in model.graph.node:
        node.input[:] = ["turned" if name == entry.name else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Transpose", [entry.name], ["turned"], perm=[0, 2, 3, 1]))
    entry.CopyFrom(helper.make_tensor_value_info(entry.name, onnx.TensorProto.FLOAT, sides))
    del model.metadata_props[:]
    model.producer_name = "another"
    path = tmp_path / "turned.onnx"
    onnx.save(model, path)
    facts = inspect_file(path)
    assert (facts["inputs"][0]["shape"], facts["inputs"][0]["layout"]) == ((1, 3, 24, 48), "NCHW")
    printed = command("bench", path, "--time-limit", 0.1, "--json").stdout
    assert json.loads(printed)["files"][0]["image"] == [24, 48]
    for told in (reference / "saved_model", HF):
        command("verify", path, "--reference", told, "--data", photographs)


def test_positions_go_from_a_square_to_rows_and_columns():
    checkpoint = open_checkpoint(HF)
    wide = checkpoint.adapted(checkpoint.spec.with_(image_size=SIZE))
    wanted = resample(checkpoint.read("position_embedding"), (4, 4), (3, 6), "bicubic")
    np.testing.assert_array_equal(wide.read("position_embedding"), wanted)
    assert any("from 32 to 24x48 pixels" in note for note in wide.notes)
    assert wide.preprocessing.image_size == SIZE


@pytest.mark.parametrize("name", ["hf", "timm_layerscale", "torchvision"])
def test_a_shape_of_as_many_patches_is_resampled_to(name):
    """16 x 64 pixels have 16 patches, too: --image-size asks for them, it does not say that the weights have them."""
    opened = open_checkpoint(ORIGINALS / name, num_heads=4, image_size=(16, 64))
    assert opened.spec.image_size == 32
    wide = opened.adapted(opened.spec.with_(image_size=(16, 64)))
    assert wide.read("position_embedding").shape == opened.read("position_embedding").shape
    assert not np.array_equal(wide.read("position_embedding"), opened.read("position_embedding"))


def test_defaults_name_the_folder_after_both_sides():
    from vit_export.cli.closing import default_output
    from vit_export.model.spec import ViTSpec

    assert str(default_output(ViTSpec.of("vit_b16", image_size=(224, 384)))) == "exports/vit_b16-224x384"
    assert str(default_output(ViTSpec.of("vit_b16"))) == "exports/vit_b16-224"


def test_list_and_compare_round_each_side_up():
    rows = json.loads(command("list", "--image-size", "225x384", "--json").stdout)
    assert {tuple(row["image_size"]) for row in rows} >= {(240, 384), (256, 384), (238, 392)}
    assert "240x384" in command("list", "--image-size", "225x384").output
    found = json.loads(command("compare", "--image-size", "225x384", "--no-measure", "--json").stdout)
    assert found["settings"]["image_size"] == [225, 384]
    assert [row["image_size"] for row in found["variants"]] == [row["image_size"] for row in rows]


def test_pixels_are_fed_by_height_and_width(photographs):
    checkpoint = open_checkpoint(HF)
    wide = checkpoint.adapted(checkpoint.spec.with_(image_size=SIZE))
    paths = sorted(photographs.iterdir())[:2]
    assert feed(np.zeros((2, *SIZE, 3), np.uint8), "uint8", wide.preprocessing).shape == (2, *SIZE, 3)
    assert load_batch(paths, wide.preprocessing).shape == (2, *SIZE, 3)
