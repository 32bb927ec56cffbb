"""What users of vit_all_variants wrote, by its README and examples: the same calls in their order, one import changed.

https://github.com/charankulal/Vision-Transformers. Sizes are small where its own would be slow.
"""

import json
import warnings
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner

import vit_export
from vit_export.base.quiet import import_tensorflow
from vit_export.cli.main import main

import_tensorflow()

import tensorflow as tf  # noqa: E402

from vit_export.model.keras_model import build_model  # noqa: E402
from vit_export.model.keras_training import _say  # noqa: E402
from vit_export.model.listing import listing  # noqa: E402
from vit_export.model.spec import ViTSpec  # noqa: E402

OLD_NAMES = (
    *("VisionTransformer", "PatchEmbedding", "MultiHeadSelfAttention", "MLP", "TransformerBlock", "create_vit"),
    *("create_vit_s16", "create_vit_s32", "create_vit_b16", "create_vit_b32", "create_vit_l16", "create_vit_l32"),
    *("create_vit_h14", "create_vit_h16", "VIT_CONFIGS", "list_variants", "compare_variants"),
)
MILLIONS = {"s16": 21.7, "s32": 22.5, "b16": 85.8, "b32": 87.5, "l16": 303.3, "l32": 305.5, "h14": 630.8, "h16": 630.9}
"""Parameters without a classifier, as the old list shows them."""


@cache
def untrained(num_classes):
    return toy(num_classes)


def toy(num_classes):
    return build_model(ViTSpec("vit_toy", 8, 1, 32, 64, 4, 32, num_classes), seed=0)


def coloured(classes=3):
    """Images that are told by their colour, and their classes."""
    labels = np.arange(24) % classes
    images = np.random.default_rng(0).normal(0, 0.3, (24, 32, 32, 3)).astype(np.float32)
    images[np.arange(24), ..., labels] += 1
    return images, labels


# Names


def test_names_can_be_imported_or_say_what_became_of_them():
    for name in OLD_NAMES:
        if hasattr(vit_export, name):
            continue
        with pytest.raises(AttributeError, match=f"vit_export has no {name}: VARIANTS|vit_export has no {name}: vit_"):
            getattr(vit_export, name)
        with pytest.raises(ImportError, match=f"vit_export has no {name}: "):
            exec(f"from vit_export import {name}")
    assert {name for name in OLD_NAMES if not hasattr(vit_export, name)} == set(vit_export._GONE)


def test_a_star_brings_the_interface():
    found = {}
    exec("from vit_export import *", found)
    assert set(vit_export.__all__) <= set(found)
    assert found["create_vit_b16"].__name__ == "create_vit_b16"


# Lists


def test_variants_are_printed_and_returned(capsys):
    names = vit_export.list_variants()
    shown = capsys.readouterr().out
    assert names == list(vit_export.VARIANTS)
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert all(name in shown for name in names)
    assert "85.49 %" in shown.partition("checkpoints alone")[2]


def test_variants_are_compared_side_by_side(capsys):
    rows = vit_export.compare_variants(image_size=224)
    shown = capsys.readouterr().out
    assert all(len(line) <= 80 for line in shown.splitlines())
    for row in rows:
        assert f"{row['parameters_without_head']:,}" in shown
        name = row["name"].removeprefix("vit_")
        assert name == "ti16" or round(row["parameters_without_head"] / 1e6, 1) == MILLIONS[name]
    assert {row["name"]: row["tokens"] for row in rows}["vit_h14"] == 257
    with pytest.raises(vit_export.InputError, match="image_size is 0"):
        vit_export.compare_variants(image_size=0)


def test_published_accuracies_are_of_checkpoints():
    from vit_export.model.published import PUBLISHED

    assert len({row.variant for row in PUBLISHED}) == len(PUBLISHED)
    for row in PUBLISHED:
        assert row.variant in vit_export.VARIANTS
        letters, patch = row.variant.removeprefix("vit_")[:-2].capitalize(), row.variant[-2:]
        assert f"/{letters}_{patch}-i21k-" in row.location
        assert row.location.endswith(f"-res_{row.image_size}.npz")
        assert "github.com/google-research/vision_transformer" in row.source
    listed = {row["name"]: row for row in json.loads(CliRunner().invoke(main, ["list", "--json"]).output)}
    assert listed["vit_b16"]["published"][0]["top_1"] == 85.49
    assert listed["vit_h14"]["published"] == []
    shown = CliRunner().invoke(main, ["list"]).output
    assert "random weights have none" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


# Features


@pytest.mark.thorough
@pytest.mark.parametrize("size", [32, 224])
def test_tokens_and_features(size):
    model = vit_export.create_vit_ti16(image_size=size, include_top=False)
    images = tf.random.normal((2, size, size, 3))
    tokens = model(images, training=False)
    assert tokens.shape == (2, (size // 16) ** 2 + 1, 192)
    features = model.extract_features(images, training=False)
    assert features.shape == (2, 192)
    np.testing.assert_allclose(features, tokens[:, 0], atol=1e-5)
    (row,) = (row for row in listing(size) if row["name"] == "vit_ti16")
    assert model.count_params() == row["parameters_without_head"]


@pytest.mark.thorough
def test_variants_in_a_loop():
    for create, width in ((vit_export.create_vit_s32, 384), (vit_export.create_vit_ti16, 192)):
        model = create(image_size=64, include_top=False)
        assert model(tf.random.normal((1, 64, 64, 3))).shape[-1] == width
        assert model.extract_features(tf.random.normal((1, 64, 64, 3))).shape == (1, width)


@pytest.mark.thorough
def test_models_of_a_notebook_are_saved_in_all_three_ways(tmp_path):
    model = vit_export.create_vit_ti16(image_size=32, include_top=False)
    _ = model(tf.random.normal((1, 32, 32, 3)), training=False)
    model.save(tmp_path / "features.keras")
    model.save_weights(tmp_path / "w.weights.h5")
    classifier = vit_export.create_vit_ti16(image_size=32, include_top=True, num_classes=10, dropout=0.1)
    classifier.save(tmp_path / "classifier.keras")
    images = tf.random.normal((2, 32, 32, 3))
    again = tf.keras.models.load_model(tmp_path / "features.keras")
    np.testing.assert_allclose(again.extract_features(images), model.extract_features(images), atol=1e-6)
    logits = tf.keras.models.load_model(tmp_path / "classifier.keras")(images, training=False)
    np.testing.assert_allclose(tf.reduce_sum(tf.nn.softmax(logits), axis=-1), 1, atol=1e-5)


@pytest.mark.thorough
def test_weights_are_saved_and_loaded(tmp_path):
    model = vit_export.create_vit_ti16(image_size=32, include_top=False)
    model.save_weights(tmp_path / "ti.weights.h5")
    images = tf.random.normal((1, 32, 32, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a file of numbers alone leaves open is assumed, and said
        created = vit_export.create_vit_ti16(image_size=32, include_top=False, weights=str(tmp_path / "ti.weights.h5"))
        unnamed = vit_export.create_vit(weights=tmp_path / "ti.weights.h5", include_top=False)
    loaded = vit_export.create_vit_ti16(image_size=32, include_top=False)
    loaded.load_weights(tmp_path / "ti.weights.h5")
    with pytest.raises(ValueError, match=r"must end in `.weights.h5`"):  # as Keras 3 has it, of any model
        model.save_weights(tmp_path / "ti.h5")
    assert unnamed.spec.name == "vit_ti16"
    for other in (created, unnamed, loaded):
        assert float(tf.reduce_max(tf.abs(model(images) - other(images)))) == 0


def test_a_model_is_of_a_name_or_of_weights():
    with pytest.raises(vit_export.InputError, match=r"name a variant \(vit_ti16, .*\), or give weights"):
        vit_export.create_vit()
    with pytest.raises(vit_export.InputError, match="num_heads is 3, which a variant says itself"):
        vit_export.create_vit("vit_ti16", num_heads=3)


# Training


@pytest.mark.thorough
def test_a_frozen_backbone_in_a_functional_model():
    base = vit_export.create_vit_ti16(image_size=32, include_top=False)
    base.trainable = False
    inputs = tf.keras.Input(shape=(32, 32, 3))
    x = base(inputs, training=False)
    x = x[:, 0, :]
    x = tf.keras.layers.Dense(16, activation="relu")(x)
    x = tf.keras.layers.Dropout(0.3)(x)
    outputs = tf.keras.layers.Dense(4, activation="softmax")(x)
    model = tf.keras.Model(inputs=inputs, outputs=outputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Keras' own model, which ends in a softmax: its losses are Keras' own
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    assert model.loss == "sparse_categorical_crossentropy"
    assert sum(int(tf.size(weight)) for weight in model.trainable_weights) == 192 * 16 + 16 + 16 * 4 + 4


@pytest.mark.thorough
@pytest.mark.parametrize(
    "loss",
    ["sparse_categorical_crossentropy", tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)],
    ids=["named", "object"],
)
def test_a_classifier_learns_whether_its_loss_is_named_or_given(loss, tmp_path):
    images, labels = coloured()
    model = toy(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.compile(optimizer=tf.keras.optimizers.Adam(3e-3), loss=loss, metrics=["accuracy"], run_eagerly=True)
    model.fit(images, labels, batch_size=12, epochs=6, verbose=0)
    before = model.evaluate(images, labels, verbose=0)
    assert before[0] < 0.3
    assert before[1] > 0.9
    model.save(tmp_path / "tuned.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # what is loaded says its loss whole
        again = tf.keras.models.load_model(tmp_path / "tuned.keras")
    np.testing.assert_allclose(again.evaluate(images, labels, verbose=0), before, rtol=1e-4)
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)


def loss_of(given, num_classes=3):
    model = untrained(num_classes)
    model.compile("adam", given)
    return model.loss


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("sparse_categorical_crossentropy", "SparseCategoricalCrossentropy"),
        ("categorical_crossentropy", "CategoricalCrossentropy"),
        ("binary_crossentropy", "BinaryCrossentropy"),
        ("categorical_focal_crossentropy", "CategoricalFocalCrossentropy"),
        ("binary_focal_crossentropy", "BinaryFocalCrossentropy"),
        ("BinaryCrossentropy", "BinaryCrossentropy"),
        ("bce", "BinaryCrossentropy"),
        (tf.keras.losses.categorical_crossentropy, "CategoricalCrossentropy"),
    ],
)
@pytest.mark.filterwarnings("ignore:The model returns logits")
def test_named_losses_are_of_logits(given, name):
    logits, labels = np.array([[2.0, -1.0, 0.5]], np.float32), np.array([[1.0, 0.0, 0.0]], np.float32)
    labels = labels.argmax(axis=1) if name.startswith("Sparse") else labels
    expected = float(getattr(tf.keras.losses, name)(from_logits=True)(labels, logits))
    for found in (loss_of(given), loss_of([given])[0], loss_of({"head": given})["head"]):
        assert float(found(labels, logits)) == pytest.approx(expected)
        assert found.from_logits


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:The model returns logits")
def test_what_is_no_cross_entropy_of_a_name_is_left_to_keras():
    assert loss_of("mse") == "mse"
    model = toy(3)
    model.compile("adam")
    assert model.loss is None
    own = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert loss_of(own) is own
    model = build_model(toy(3).spec.with_(num_classes=None))
    model.compile("adam", "categorical_crossentropy")  # tokens are no logits
    assert model.loss == "categorical_crossentropy"
    assert loss_of("no_such_loss") == "no_such_loss"  # which Keras refuses by its own message when it trains


@pytest.mark.filterwarnings("ignore:The model returns logits")
@pytest.mark.parametrize(
    ("num_classes", "labels"), [(1, [[1.0]]), (3, [2]), (3, [[0.0, 0.0, 1.0]])], ids=["binary", "sparse", "one-hot"]
)
def test_a_cross_entropy_by_the_shape_of_the_labels(num_classes, labels):
    logits = np.array([[2.0, -1.0, 0.5][:num_classes]], np.float32)
    kind = "Binary" if num_classes == 1 else "Sparse" if np.ndim(labels) == 1 else ""
    name = "BinaryCrossentropy" if kind == "Binary" else f"{kind}CategoricalCrossentropy"
    expected = float(getattr(tf.keras.losses, name)(from_logits=True)(np.array(labels), logits))
    found = loss_of("crossentropy", num_classes)(tf.constant(labels), tf.constant(logits))
    assert float(tf.reduce_mean(found)) == pytest.approx(expected)


def test_it_is_said_once_and_a_loss_of_probabilities_is_kept():
    _say.cache_clear()
    with pytest.warns(UserWarning, match="'binary_crossentropy' is taken of logits, with from_logits=True"):
        loss_of("binary_crossentropy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_of("binary_crossentropy")
    own = tf.keras.losses.SparseCategoricalCrossentropy()
    with pytest.warns(UserWarning, match=r"SparseCategoricalCrossentropy\(from_logits=False\) takes them for prob"):
        assert loss_of(own) is own


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:The model returns logits")
def test_metrics_of_a_name_are_of_logits():
    model = toy(1)
    names = ["accuracy", "binary_accuracy", "binary_crossentropy", "auc"]
    model.compile("adam", "binary_crossentropy", metrics=names, run_eagerly=True)
    images, labels = coloured(2)
    figures = dict(zip(["loss", *names], model.evaluate(images, labels[:, None], verbose=0), strict=True))
    logits = model.predict_output(images)[:, 0]
    right = float(np.mean((logits > 0) == labels))
    assert figures["accuracy"] == figures["binary_accuracy"] == pytest.approx(right)
    assert figures["binary_crossentropy"] == pytest.approx(figures["loss"], rel=1e-4)
    _say.cache_clear()
    with pytest.warns(UserWarning, match="Precision compares them with a threshold"):
        toy(1).compile("adam", "binary_crossentropy", metrics=["precision"])


@pytest.mark.thorough
def test_named_losses_in_mixed_precision():
    images, labels = coloured()
    model = build_model(toy(3).spec, dtype="mixed_float16", seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    assert np.isfinite(model.fit(images, labels, verbose=0).history["loss"]).all()
    assert model.get_compile_config()["loss"]["config"]["from_logits"]
