"""The Python library, as users of the module that it replaces know it, and the export of a model in memory."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, build, toy_spec, write_pictures
from helpers.originals import ORIGINALS, worst

import vit_export
from vit_export.base.errors import InputError
from vit_export.base.quiet import import_tensorflow
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import read_record
from vit_export.model.saved_model import ModelParameters
from vit_export.model.variants import VARIANTS
from vit_export.runtimes.runner import open_runner

import_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from vit_export.model.keras_model import build_model  # noqa: E402

pytestmark = pytest.mark.thorough

# TensorFlow's time goes by the number of layers.
SMALL = toy_spec().with_(num_layers=1)


def batch(count=8, size=224):
    return np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def run(path, images):
    return open_runner(path, path.suffix[1:] or "saved_model").run(images)


def fit(model, images, labels, from_logits=True):
    """One step of training; eagerly, because tracing a training step of even a toy takes seconds."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile("adam", loss, run_eagerly=True)
    model.fit(images, labels, verbose=0)


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", 12, (40, 40))


# Building


def test_every_variant_has_a_factory():
    for name in (
        "create_vit_s16",
        "create_vit_s32",
        "create_vit_b16",
        "create_vit_l32",
        "create_vit_h14",
        "create_vit_h16",
    ):
        assert getattr(vit_export, name).__name__ == name
    assert {f"create_{variant}" for variant in VARIANTS} <= set(dir(vit_export))
    assert vit_export.list_variants() == list(VARIANTS)
    model = vit_export.create_vit_ti16(image_size=32, num_classes=10)
    assert isinstance(model, keras.Model)
    assert model(batch(8, 32)).shape == (8, 10)
    with pytest.raises(AttributeError, match="create_vit_s15"):
        _ = vit_export.create_vit_s15


def test_names_mean_the_same_however_often_they_are_imported():
    import vit_export.cli.compare
    import vit_export.pipeline.steps  # noqa: F401

    for _ in range(2):
        from vit_export import create_vit, export, verify

        assert all(callable(name) for name in (create_vit, export, verify))


@pytest.mark.parametrize(
    ("variant", "width"),
    [
        ("vit_s32", 384),
        pytest.param("vit_b16", 768, marks=pytest.mark.slow),
        pytest.param("vit_l16", 1024, marks=pytest.mark.slow),
    ],
)
def test_features(variant, width):
    model = vit_export.create_vit(variant, image_size=224, include_top=False)
    images = batch()
    features, tokens = model.extract_features(images), model(images)
    assert features.shape == (8, width)
    assert tokens.shape == (8, 1 + (224 // int(variant[-2:])) ** 2, width)
    np.testing.assert_allclose(tokens[:, 0], features, atol=1e-5)


@pytest.mark.parametrize("size", [384, 512])  # 224: test_features
def test_image_sizes(size):
    model = vit_export.create_vit_s32(image_size=size, num_classes=10)
    assert model(batch(1, size)).shape == (1, 10)
    assert model.extract_features(batch(1, size)).shape == (1, 384)


def test_weights_of_a_checkpoint(monkeypatch):
    tiny = replace(VARIANTS["vit_ti16"], name="vit_fixture", patch_size=8, num_layers=2, hidden_size=32, mlp_size=64)
    monkeypatch.setitem(VARIANTS, "vit_fixture", replace(tiny, num_heads=4))
    with np.load(ORIGINALS / "expected.npz") as file:
        images, expected = file["images"], file["hf/logits"]
    model = vit_export.create_vit("vit_fixture", weights=ORIGINALS / "hf")
    assert worst(model.predict_output(images), expected) < 1e-5
    assert model.record.labels[0] == "tabby cat"
    assert model.spec.layer_norm_epsilon == 1e-12
    with pytest.warns(UserWarning, match="classifier of 3 classes is new and untrained"):
        tuned = vit_export.create_vit("vit_fixture", 48, 3, weights=str(ORIGINALS / "hf"), dropout=0.1)
    assert tuned(batch(2, 48)).shape == (2, 3)
    np.testing.assert_array_equal(
        tuned.parameters()["patch_embedding/kernel"].numpy(), model.parameters()["patch_embedding/kernel"].numpy()
    )
    with pytest.warns(UserWarning, match="classifier of 7 classes is left out"):
        backbone = vit_export.create_vit("vit_fixture", include_top=False, weights=ORIGINALS / "hf")
    assert backbone(images).shape == (6, 17, 32)
    with pytest.raises(InputError, match="but vit_s32 is"):
        vit_export.create_vit("vit_s32", weights=ORIGINALS / "hf")
    with pytest.raises(InputError, match="gelu 'erf' where 'tanh' was asked for"):
        vit_export.create_vit("vit_fixture", weights=ORIGINALS / "hf", gelu="tanh")
    with pytest.raises(InputError, match="has no classifier: give num_classes"):
        vit_export.create_vit("vit_fixture", weights=ORIGINALS / "hf_model")


# Training


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["vit_s32", "vit_b32", "vit_l32"])
def test_compile_and_fit(variant):
    size = 2 * VARIANTS[variant].patch_size
    model = vit_export.create_vit(variant, image_size=size, num_classes=3, seed=0)
    images, labels = batch(8, size), np.arange(8) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
    history = model.fit(images, labels, batch_size=4, epochs=4, verbose=0).history["loss"]
    assert history[-1] < history[0]
    assert model.predict(images, verbose=0).shape == (8, 3)


def test_softmax_ensemble(images):
    models = [build_model(SMALL, seed=seed, name=f"vit_{seed}") for seed in (0, 1)]
    probabilities = [tf.nn.softmax(model(images)).numpy() for model in models]
    assert not np.allclose(*probabilities)
    mean = np.mean(probabilities, axis=0)
    np.testing.assert_allclose(mean.sum(axis=1), 1, atol=1e-5)
    inputs = keras.Input((32, 32, 3))
    together = keras.Model(inputs, keras.layers.Average()([keras.ops.softmax(model(inputs)) for model in models]))
    np.testing.assert_allclose(together(images), mean, atol=1e-5)


def test_xla(images):
    model = build(RandomParameters(SMALL))
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    assert worst(compiled(images).numpy(), model.predict_output(images)) < 1e-5


@pytest.mark.slow
def test_trains_under_xla(images):
    model = build(RandomParameters(toy_spec()))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True)
    first = model.evaluate(images, np.arange(6), verbose=0)
    model.fit(images, np.arange(6), epochs=3, verbose=0)
    assert model.evaluate(images, np.arange(6), verbose=0) < first


def test_mixed_precision_is_exported_in_float32(images, tmp_path):
    model = build_model(SMALL.with_(num_classes=4), dtype="mixed_float16", seed=0)
    fit(model, images, np.arange(6) % 4)
    assert all(variable.dtype == "float32" for variable in model.trainable_variables)
    vit_export.export(model, tmp_path / "out", formats=(), verify=False)
    exact = build(ModelParameters(model)).predict_output(images)
    assert worst(run(tmp_path / "out" / "saved_model", images), exact) < 1e-6
    assert 1e-5 < worst(model.predict_output(images), exact) < 2e-2  # the model itself computes in float16


# Exporting what was trained


def frozen_with_head(softmax=False, extra=None):
    backbone = build_model(SMALL, include_top=False, seed=0)
    backbone.trainable = False
    inputs = keras.Input((32, 32, 3))
    x = backbone.extract_features(extra(inputs) if extra else inputs)
    x = keras.layers.Dropout(0.2)(x)
    return backbone, keras.Model(inputs, keras.layers.Dense(4, activation="softmax" if softmax else None)(x))


@pytest.mark.parametrize("softmax", [False, True])
def test_a_frozen_backbone_with_a_head_of_its_own(softmax, images, tmp_path):
    backbone, model = frozen_with_head(softmax)
    before = backbone.parameters()["encoder/layer_0/mlp/dense_1/kernel"].numpy()
    fit(model, images, np.arange(6) % 4, from_logits=not softmax)
    np.testing.assert_array_equal(backbone.parameters()["encoder/layer_0/mlp/dense_1/kernel"].numpy(), before)
    notes = []
    reporter = type(
        "R", (), {"step": lambda s, t: None, "progress": lambda s, d, t: None, "note": lambda s, t: notes.append(t)}
    )
    result = vit_export.export(
        model, tmp_path / "out", formats=(), labels=list("abcd"), verify=False, reporter=reporter()
    )
    found = run(tmp_path / "out" / "saved_model", images)
    wanted = model.predict(images, verbose=0)
    assert worst(keras.ops.softmax(found).numpy() if softmax else found, wanted) < 1e-4
    assert (tmp_path / "out" / "labels.txt").read_text() == "a\nb\nc\nd\n"
    assert result.report["weights"]["trained"]
    assert any("softmax" in note for note in notes) == softmax


def test_models_that_are_more_than_a_backbone_and_a_head(tmp_path):
    _, scaled = frozen_with_head(extra=keras.layers.Rescaling(2.0))
    with pytest.raises(InputError, match=r"The layer rescaling\w* changes the images .* leave it out of the model"):
        vit_export.export(scaled, tmp_path / "out")
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="only")])
    with pytest.raises(InputError, match="has the layers only: expected a VisionTransformer"):
        vit_export.export(plain, tmp_path / "out")
    with pytest.raises(InputError, match="A dict cannot be exported"):
        vit_export.export({}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_export_of_a_model_in_one_call(in_process, images, photos, tmp_path):
    model = build(RandomParameters(SMALL))
    own = Preprocessing(32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    result = vit_export.export(
        model,
        str(tmp_path / "out"),
        formats=("tflite", "onnx"),
        precisions=("float32", "int8"),
        labels=[f"class {index}" for index in range(10)],
        preprocessing=own,
        calibration=photos,
        trained=False,
    )
    assert result.passed, result.verification.failures
    expected = model.predict_output(images)
    for kind in ("tflite", "onnx"):
        assert worst(run(tmp_path / "out" / f"vit_toy_float32.{kind}", images), expected) < 1e-5
        assert worst(run(tmp_path / "out" / f"vit_toy_int8.{kind}", images), expected) < 0.2
    record = read_record(tmp_path / "out" / "saved_model")
    assert (record.preprocessing, record.labels[3], record.trained) == (own, "class 3", False)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["labels"][9] == "class 9"
    with pytest.raises(vit_export.OutputError, match="exists already"):
        vit_export.export(model, tmp_path / "out")


def test_export_of_a_variant_a_spec_and_a_checkpoint(tmp_path):
    result = vit_export.export(ORIGINALS / "hf", tmp_path / "hf", formats=(), verify=False)
    assert repr(result) == f"<ExportResult not verified: saved_model in {tmp_path}/hf/>"
    assert result.report["weights"]["source"] == "huggingface"
    result = vit_export.export(SMALL, tmp_path / "toy", formats=(), verify=False)
    assert result.report["weights"]["source"] == "random"
    result = vit_export.export("vit_ti16", tmp_path / "ti", formats=(), verify=False, image_size=32, num_classes=5)
    assert result.failures == ()
    assert (result.report["spec"]["image_size"], result.report["spec"]["num_classes"]) == (32, 5)
    with pytest.raises(InputError, match="There is no vit_s31"):
        vit_export.export("vit_s31", tmp_path / "none")
    with pytest.raises(InputError, match="9 labels"):
        vit_export.export(SMALL, tmp_path / "none", labels=list("abcdefghi"), verify=False)
    with pytest.raises(InputError, match="no classifier"):
        vit_export.export(SMALL.with_(num_classes=None), tmp_path / "none", labels=list("abc"), verify=False)
    assert not Path(tmp_path / "none").exists()
