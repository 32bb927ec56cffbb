"""What the version before the folders of stages wrote still opens: tests/helpers/make_earlier.py made it."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pictures

import vit_export
from vit_export.bundles.card import model_card
from vit_export.bundles.pack import bundle
from vit_export.bundles.source import subject_of
from vit_export.inspection.inspect import inspect_file
from vit_export.model.record import read_record
from vit_export.pipeline.verify_files import VerifyRequest, verify_files
from vit_export.report.junit import write_junit
from vit_export.report.page import render_page
from vit_export.weights.open import open_checkpoint

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "earlier.zip"
LABELS = ("tabby cat", "hen", "crème brûlée", "lighthouse, beacon")
FILES = ("vit_toy_float32.onnx", "vit_toy_float32.tflite", "vit_toy_int8.onnx", "vit_toy_int8.tflite")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The folder with all of it, to be read alone."""
    folder = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def expected(earlier):
    """Two images and the logits that the version before gave for them."""
    with np.load(earlier / "expected.npz") as arrays:
        return arrays["images"], arrays["logits"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), 8, (24, 20))


@pytest.fixture
def folder(earlier, tmp_path):
    """A copy of the folder of the exports, to be written to."""
    return Path(shutil.copytree(earlier / "exported", tmp_path / "exported"))


@pytest.mark.thorough
def test_keras_loads_the_model_where_the_factory_was_imported(earlier, expected, tmp_path):
    images, logits = expected
    np.save(tmp_path / "images.npy", images)
    code = (
        "import sys; import numpy as np; from vit_export import create_vit; import keras; "
        "model = keras.models.load_model(sys.argv[1]); record = model.current_record; "
        "assert record.trained and record.preprocessing.mean == (0.4, 0.5, 0.6), record; "
        "np.save('logits.npy', model(np.load('images.npy')))"
    )
    subprocess.run([sys.executable, "-c", code, earlier / "model.keras"], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "exported/saved_model", "exported"])
def test_checkpoints_open_as_the_same_model(name, earlier, expected):
    images, logits = expected
    found = open_checkpoint(earlier / name, num_heads=2)
    model = vit_export.VisionTransformer(found.spec)
    for parameter, variable in model.parameters().items():
        variable.assign(found.read(parameter))
    np.testing.assert_allclose(model(images), logits, rtol=1e-5, atol=1e-6)
    if name != "model.weights.h5":  # which holds numbers alone
        assert found.record.trained
        assert found.record.labels == LABELS
        assert found.record.preprocessing.std == (0.2, 0.25, 0.3)


@pytest.mark.thorough
def test_the_saved_model_converts_to_files_that_still_name_it(earlier, pictures, tmp_path, in_process):
    """Old and new files are all the old SavedModel's, by weights, pixels, labels and what they compute."""
    result = vit_export.export(
        earlier / "exported" / "saved_model", tmp_path / "out", formats=("tflite", "onnx"), verify=False
    )
    new = [artifact.path for artifact in result.artifacts]
    verified = verify_files(
        VerifyRequest(
            files=(earlier / "exported", *new),
            reference=earlier / "exported" / "saved_model",
            data=pictures,
            latency=False,
        )
    )
    assert verified.passed, verified.verification.failures
    assert [Path(file.artifact.path).name for file in verified.verification.files] == [
        *FILES,
        *sorted(FILES[:2], key=lambda name: not name.endswith("tflite")),
    ]
    asked = [{check.name for check in file.checks} for file in verified.verification.files]
    assert all(names >= {"sha256", "same_model", "same_weights", "same_pixels", "same_labels"} for names in asked)
    schemes = {Path(f.artifact.path).name: f.artifact.scheme for f in verified.verification.files}
    assert (schemes["vit_toy_int8.tflite"], schemes["vit_toy_int8.onnx"]) == ("static", "dynamic")


def test_inspect_finds_each_file_in_the_report_of_its_own_export(earlier):
    for name in FILES:
        found = inspect_file(earlier / "exported" / name)
        assert [(row["what"], row["agrees"]) for row in found["checks"]] == [("bytes", True), ("sha256", True)]
        assert found["record"]["labels"]["count"] == len(LABELS)
        assert found["record"]["weights"]["trained"]
    assert inspect_file(earlier / "exported" / "saved_model")["record"]["model"]["name"] == "vit_toy"


def test_bundles_tell_what_was_measured_by_the_export_that_made_the_file(earlier, tmp_path):
    for name in FILES:
        (made,) = bundle(earlier / "exported" / name, ["linux"], output=tmp_path)
        assert not [note for note in made.notes if "verified" in note or "verification" in note or "untrained" in note]
        with zipfile.ZipFile(made.path) as archive:
            card = archive.read("MODEL_CARD.md").decode()
        assert "The file passed vit-export's verification on 2 images" in card
        assert "Not measured" not in card
    subject = subject_of(earlier / "exported" / "vit_toy_int8.tflite")
    assert subject.result.verdict == "pass"
    assert (subject.artifact.scheme, subject.artifact.precision) == ("static", "int8")


def test_the_report_is_shown(earlier, tmp_path):
    report = json.loads((earlier / "exported" / "report.json").read_text(encoding="utf-8"))
    assert "vit_toy_float32.tflite" in render_page(report, {})
    write_junit(report, tmp_path / "junit.xml")
    assert "vit_toy_float32.onnx" in (tmp_path / "junit.xml").read_text(encoding="utf-8")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.thorough
def test_the_same_model_exported_again_keeps_what_is_there(earlier, folder, pictures):
    before = names(folder)
    kept = {name: (folder / name).read_bytes() for name in FILES[2:]}
    cards = {name: model_card(subject_of(folder / name)) for name in FILES}
    vit_export.export(earlier / "model.keras", folder, calibration=pictures, verify=False, overwrite=True)
    assert names(folder) == before
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    # This export made a .tflite file alone and did not verify it: what was said of the others is not lost.
    assert {name: model_card(subject_of(folder / name)) for name in kept} == {name: cards[name] for name in kept}
    assert model_card(subject_of(folder / FILES[0])) == cards[FILES[0]]
    for name in FILES:
        assert all(row["agrees"] for row in inspect_file(folder / name)["checks"]), name
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert "earlier_reports" not in report
    told = [(entry["files"], "verification" in entry) for entry in report["earlier_files"]]
    assert sorted(told)[:3] == [([FILES[0]], True), ([FILES[2]], True), ([FILES[3]], True)]


def test_another_model_takes_the_old_files_with_it(folder):
    (folder / "mine.tflite").write_text("mine")
    spec = read_record(folder / "saved_model").spec
    vit_export.export(spec, folder, formats=("onnx",), verify=False, overwrite=True)
    assert names(folder) == ["mine.tflite", "report.html", "report.json", "saved_model", "vit_toy_float32.onnx"]
