"""What a model's record says of its weights after each way of changing them."""

import numpy as np
import pytest
from conftest import toy_spec

from vit_export.base.quiet import import_tensorflow

import_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from vit_export import export  # noqa: E402
from vit_export.api import create_vit  # noqa: E402
from vit_export.model.keras_model import build_model  # noqa: E402
from vit_export.model.record import read_record  # noqa: E402
from vit_export.model.saved_model import write_saved_model  # noqa: E402
from vit_export.weights.open import open_checkpoint  # noqa: E402

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
LABELS = np.arange(2)


def fitted(model, folder):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, run_eagerly=True)
    model.fit(IMAGES, LABELS, verbose=0)


def looped(model, folder):
    """One step of a training loop of one's own, with an optimizer that the model does not know."""
    optimizer = keras.optimizers.SGD(1e-3)
    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(LABELS, model(IMAGES), from_logits=True)
    variables = model.trainable_variables
    optimizer.apply(tape.gradient(losses, variables), variables)


def head_set(model, folder):
    kernel, bias = model.head.get_weights()
    model.head.set_weights([kernel * 1.01, bias])


def assigned(model, folder):
    bias = model.parameters()["encoder/layer_0/mlp/dense_1/bias"]
    bias.assign(bias + 1e-3)


def weights_loaded(model, folder):
    other = build_model(model.spec, seed=1)
    other.save_weights(folder / "other.weights.h5")
    model.load_weights(folder / "other.weights.h5")


def untouched(model, folder):
    model(IMAGES)


def random(folder):
    return build_model(toy_spec(), seed=0)


def new_head(folder):
    """A trained model with a new classifier."""
    model = build_model(toy_spec(), seed=0)
    model.record = model.record.saying(trained=True)
    write_saved_model(model, folder / "trained")
    with pytest.warns(UserWarning, match="new and untrained"):
        return create_vit(weights=folder / "trained", num_classes=3)


def from_file(folder):
    """An untrained model that was saved and loaded."""
    build_model(toy_spec(), seed=0).save(folder / "before.keras")
    return keras.saving.load_model(folder / "before.keras")


CHANGES = [fitted, looped, head_set, assigned, weights_loaded]


@pytest.mark.thorough
@pytest.mark.parametrize("made", [random, new_head, from_file])
@pytest.mark.parametrize("change", [*CHANGES, untouched])
def test_only_weights_that_nobody_changed_are_untrained(made, change, tmp_path):
    model = made(tmp_path)
    assert not model.current_record.trained
    change(model, tmp_path)
    assert model.current_record.trained is (change in CHANGES)
    model.save(tmp_path / "model.keras")
    checkpoint = open_checkpoint(tmp_path / "model.keras")
    assert checkpoint.record.trained is (change in CHANGES)
    assert checkpoint.record.fingerprint is None
    assert any("not by fit" in note for note in checkpoint.notes) is (change in CHANGES[1:])
    assert keras.saving.load_model(tmp_path / "model.keras").current_record.trained is (change in CHANGES)
    write_saved_model(model, tmp_path / "written")
    assert read_record(tmp_path / "written").trained is (change in CHANGES)


def test_weights_that_are_no_numbers_are_not_untrained():
    model = build_model(toy_spec(), seed=0)
    model.head.bias.assign(np.full(model.head.bias.shape, np.nan))
    assert model.current_record.trained


@pytest.mark.thorough
def test_an_export_goes_by_the_weights_and_is_overridden(tmp_path):
    model = build_model(toy_spec(), seed=0)
    head_set(model, tmp_path)
    told = export(model, tmp_path / "a", formats=(), verify=False).report["weights"]
    assert (told["trained"], told["changed_in"]) == (True, "python")
    told = export(model, tmp_path / "b", formats=(), verify=False, trained=False).report["weights"]
    assert told["trained"] is False
