import json
import os
import subprocess

import numpy as np
import pytest
from conftest import RandomParameters, build, toy_spec
from helpers import reference_numpy

from vit_export.base.python import python_command, python_environment
from vit_export.base.quiet import import_tensorflow

import_tensorflow()

import keras  # noqa: E402

from vit_export.api import create_vit  # noqa: E402
from vit_export.model.keras_model import build_model  # noqa: E402


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gelu": "tanh"},
        {"layer_norm_epsilon": 0.1},
        {"image_size": 48, "num_classes": 3},
        {"image_size": (24, 40)},
        {"pre_logits_size": 20},
    ],
    ids=str,
)
def test_equals_the_paper_in_numpy(changes, images):
    spec = toy_spec(**changes)
    source = RandomParameters(spec)
    images = np.resize(images, (3, *spec.image_sides, 3))
    model = build(source)
    tokens = reference_numpy.forward(source.read, spec, images)
    expected = reference_numpy.logits(source.read, spec, images)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(model.predict_output(images), expected, atol=2e-5 * np.ptp(expected))
    np.testing.assert_allclose(model.extract_features(images), tokens[:, 0], atol=2e-5 * np.ptp(tokens))


def test_epsilon_and_gelu_matter(source, expected, images):
    for changes in ({"gelu": "tanh"}, {"layer_norm_epsilon": 0.01}):
        other = RandomParameters(toy_spec(**changes))
        assert np.abs(build(other).predict_output(images) - expected).max() > 1e-4


def test_without_top_gives_tokens(images):
    model = create_vit("vit_ti16", image_size=32, include_top=False)
    tokens = model(images)
    assert tokens.shape == (6, 5, 192)
    np.testing.assert_allclose(tokens[:, 0], model.extract_features(images), atol=1e-5)
    assert model.predict_output(images).shape == (6, 192)


def test_saves_and_loads_as_keras(model, expected, images, tmp_path):
    model.save(tmp_path / "toy.keras")
    loaded = keras.saving.load_model(tmp_path / "toy.keras")
    np.testing.assert_array_equal(loaded.predict_output(images), expected)
    assert loaded.spec == model.spec


@pytest.mark.parametrize("registers", [0, 2])
def test_the_summary_shows_shapes(registers):
    model, lines = build_model(toy_spec(num_registers=registers, image_size=(24, 40)), seed=0), []
    model.summary(print_fn=lines.append)
    told = [line for line in "\n".join(lines).splitlines() if "Embedding" in line or "EncoderLayer" in line]
    tokens = model.layers[0](np.zeros((1, 24, 40, 3), np.float32))
    assert len(told) > 1
    assert all(f"(None, {tokens.shape[1]}, {tokens.shape[2]})" in line for line in told)


def test_seed_makes_weights_reproducible(images):
    first, again, other = (build_model(toy_spec(), seed=seed)(images) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.thorough
def test_trains_with_compile_and_fit(images):
    model = build_model(toy_spec(num_classes=6).with_(num_layers=1), dropout=0.1, seed=0)
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    history = model.fit(images, np.arange(6), epochs=30, batch_size=6, verbose=0).history
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert model.evaluate(images, np.arange(6), verbose=0)[1] == 1.0


@pytest.mark.thorough
def test_dropout_acts_in_training_only(images):
    model = create_vit("vit_ti16", image_size=32, num_classes=4, dropout=0.5, seed=0)
    np.testing.assert_array_equal(model(images, training=False), model(images, training=False))
    assert np.abs(model(images, training=True) - model(images, training=True)).max() > 1e-3


@pytest.mark.thorough
def test_is_a_backbone_in_a_functional_model(images):
    backbone = create_vit("vit_ti16", image_size=32, include_top=False)
    backbone.trainable = False
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dense(2)(backbone(inputs)[:, 0])
    model = keras.Model(inputs, outputs)
    assert len(model.trainable_variables) == 2
    assert model(images).shape == (6, 2)


@pytest.mark.thorough
def test_mixed_precision(images):
    model = create_vit("vit_ti16", image_size=32, num_classes=4, dtype="mixed_float16", seed=0)
    full = create_vit("vit_ti16", image_size=32, num_classes=4, seed=0)
    assert model.encoder_layers[0].dense_1.compute_dtype == "float16"
    outputs = model(images)
    assert outputs.dtype == "float32"
    np.testing.assert_allclose(outputs, full(images), atol=0.02)


@pytest.mark.thorough
def test_the_users_choice_of_a_backend_does_not_matter(tmp_path):
    """Nor what else a keras.json says; the parameters and the answers stay the same."""
    told = {"backend": "jax", "floatx": "float16", "image_data_format": "channels_first", "epsilon": 0.01}
    (tmp_path / "keras.json").write_text(json.dumps(told))
    code = (
        "from vit_export.base.quiet import import_tensorflow; import_tensorflow()\n"
        "import numpy, keras; from vit_export.model.keras_model import reference_model\n"
        "from vit_export.model.spec import ViTSpec\n"
        "from vit_export.model.parameters import fingerprint_of\n"
        "from vit_export.model.saved_model import ModelParameters\n"
        "spec = ViTSpec.of('vit_ti16', image_size=32, num_classes=2).with_(num_layers=1)\n"
        "model = reference_model(spec, seed=1)\n"
        "answers = model.predict_output(numpy.ones((1, 32, 32, 3), 'f4'))\n"
        "print(keras.backend.backend(), fingerprint_of(ModelParameters(model)), answers.tolist())"
    )
    own, others = os.environ.copy(), {"KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)}
    own.pop("KERAS_BACKEND", None)
    said = []
    for environment in (own, {**own, **others}):
        done = subprocess.run(
            python_command("-c", code), env={**environment, "PYTHONPATH": python_environment()["PYTHONPATH"]},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0].startswith("tensorflow ")
    assert said[0] == said[1]


def test_keras_that_runs_on_another_backend_already_is_told():
    code = (
        "import sys; from unittest.mock import MagicMock\n"
        "sys.modules['keras'] = keras = MagicMock(); keras.backend.backend.return_value = 'jax'\n"
        "import vit_export.model.keras_model"
    )
    done = subprocess.run(
        python_command("-c", code), env=python_environment(), capture_output=True, text=True, check=False
    )
    assert "InputError: Keras was imported before vit_export, with the backend jax, expected tensorflow" in done.stderr
