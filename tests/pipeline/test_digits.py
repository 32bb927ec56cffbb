"""Every file of a model that was really trained: its accuracy is the reference's, and int8 keeps the answer."""

import numpy as np
import pytest
from conftest import build
from helpers.digits import PREPROCESSING, SPEC, DigitsParameters, held_out, pictures
from PIL import Image

from vit_export.model.preprocessing import normalize
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import write_saved_model
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.runner import open_runner

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A SavedModel of the trained model, and a folder with digits it was trained on."""
    root = tmp_path_factory.mktemp("digits")
    record = ModelRecord(SPEC, PREPROCESSING, {"source": "tests/helpers/digits.py", "trained": True})
    write_saved_model(build(DigitsParameters()), root / "weights", record)
    images, _ = pictures()
    (root / "images").mkdir()
    for index in np.flatnonzero(~held_out())[:160]:
        Image.fromarray(images[index]).save(root / "images" / f"{index:04}.png")
    return root


@pytest.fixture(scope="module")
def test_set():
    images, labels = pictures()
    return normalize(images[held_out()], PREPROCESSING), labels[held_out()]


def test_the_fixture_is_trained(test_set):
    images, labels = test_set
    assert len(labels) == 449
    predicted = build(DigitsParameters()).predict_output(images).argmax(1)
    assert (predicted == labels).mean() >= 0.96


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formats", "scheme", "agreement", "least_db"),
    [
        (("tflite",), None, 0.995, 37.5),
        (("tflite",), "dynamic", 0.995, 42),
        (("onnx",), "dynamic", 0.995, 38),
        (("onnx",), "qdq", 0.995, 35),
        (("onnx",), "symmetric", 0.995, 35),
        (("tflite",), "full", 0.995, 30),
        (("tflite", "onnx"), "w8a16", 0.995, 41),
    ],
    ids=["default", "dynamic", "onnx", "qdq", "symmetric", "full", "w8a16"],
)
def test_every_file_keeps_the_answers(trained, test_set, formats, scheme, agreement, least_db, tmp_path):
    precisions = ("float32", "float16", "int8") if scheme is None else ("int8",)
    result = export(
        ExportRequest(
            spec=None,
            output=tmp_path / "out",
            formats=formats,
            precisions=precisions,
            int8_scheme=scheme,
            weights=trained / "weights",
            calibration=trained / "images",
        )
    )
    # Trained weights: agreement of the top class is judged, not only reported.
    assert result.passed, result.verification.failures
    images, labels = test_set
    reference = build(DigitsParameters()).predict_output(images)
    for artifact in result.artifacts:
        runner = open_runner(tmp_path / "out" / artifact.path.rpartition("/")[2], artifact.format, 2)
        runner.load()
        found = runner.run(images)
        agrees = (found.argmax(1) == reference.argmax(1)).mean()
        sqnr = 10 * np.log10((reference**2).sum() / ((reference - found) ** 2).sum())
        print(f"{artifact.format} {artifact.precision} {artifact.scheme}: {sqnr:.1f} dB, agreement {agrees:.3f}")
        assert agrees >= (agreement if artifact.precision == "int8" else 0.995)
        assert sqnr >= (least_db if artifact.precision == "int8" else 50)
        assert (found.argmax(1) == labels).mean() >= 0.96 - (1 - agreement)


def test_fit_then_export_then_verify_with_labels_and_accuracy(in_process, tmp_path):
    """What a user does: fine-tune in Keras, export in one call, read labels and accuracies in the report."""
    import keras

    from vit_export import export

    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    images, labels = pictures()
    out, folder = held_out(), tmp_path / "images"
    for side, chosen in (("representative", np.flatnonzero(~out)[:32]), ("held_out", np.flatnonzero(out)[:200])):
        for index in chosen:
            path = folder / side / names[labels[index]] / f"{index:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images[index]).save(path)
    model = build(DigitsParameters())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-5), loss, run_eagerly=True)  # tracing a training step takes seconds
    before = model.parameters()["head/kernel"].numpy()
    model.fit(normalize(images[~out][:64], PREPROCESSING), labels[~out][:64], batch_size=64, verbose=0)
    assert np.abs(model.parameters()["head/kernel"].numpy() - before).max() > 0
    result = export(
        model,
        tmp_path / "out",
        formats=("tflite",),
        precisions=("int8",),
        labels=names,
        calibration=folder,
        held_out_images=200,
    )
    assert result.passed, result.verification.failures
    assert result.report["weights"]["trained"]  # a step of the optimizer says so: agreement of classes is judged
    assert result.report["labels"] == list(names)
    assert (tmp_path / "out" / "labels.txt").read_text().split() == list(names)
    reference = result.report["verification"]["reference"]["accuracy"]
    (file,) = (entry["accuracy"] for entry in result.report["verification"]["files"])
    chosen = [str(path) for path in sorted((folder / "held_out").rglob("*.png"))]
    assert reference["total"] == file["total"] == len(chosen) == 200
    right = model.predict_output(
        normalize(np.stack([np.asarray(Image.open(p)) for p in chosen]), PREPROCESSING)
    ).argmax(1)
    assert reference["correct"] == sum(names[c] == p.split("/")[-2] for c, p in zip(right, chosen, strict=True))
    assert reference["low"] < reference["share"] < reference["high"]
    assert reference["share"] >= 0.96
    assert file["share"] >= reference["share"] - 0.01
