"""`.keras` files of models around a VisionTransformer: read without running them, equal to what Keras computes."""

import json
import zipfile

import numpy as np
import pytest
from conftest import build
from helpers.heads import REFUSED, TAKEN, backbone, dense, of, pooled, sequential, shaken
from keras import layers

from vit_export.base.errors import InputError
from vit_export.base.signal import softmax
from vit_export.model.functional import as_vision_transformer
from vit_export.weights.open import open_checkpoint

QUICK = ("old readme",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.thorough) for n in TAKEN])
def test_a_file_is_the_model_that_was_saved(name, tmp_path):
    model = shaken(TAKEN[name]())
    model.save(tmp_path / "tuned.keras")
    checkpoint = open_checkpoint(tmp_path / "tuned.keras")
    told, pixels = " ".join(checkpoint.notes), checkpoint.preprocessing
    images = np.random.default_rng(1).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    given = (images * pixels.std + pixels.mean) * 255 if "scaling" in told else images
    wanted = model.predict_on_batch(given.astype(np.float32))
    found = build(checkpoint).predict_output(images)
    found = softmax(found) if "softmax" in told else 1 / (1 + np.exp(-found)) if "sigmoid" in told else found
    np.testing.assert_allclose(found, wanted, atol=2e-5 * max(1, np.ptp(wanted)))


@pytest.mark.parametrize(
    "name", [n if n == "maximum" else pytest.param(n, marks=pytest.mark.thorough) for n in REFUSED]
)
def test_others_are_refused_by_layer(name, tmp_path):
    make, message = REFUSED[name]
    make().save(tmp_path / "tuned.keras")
    with pytest.raises(InputError, match=f"tuned.keras cannot be used: .*{message}"):
        open_checkpoint(tmp_path / "tuned.keras")


def test_code_in_a_file_is_not_run(tmp_path):
    model = sequential(backbone(), layers.Lambda(lambda x: x[:, 0], name="pick"), dense())
    model.save(tmp_path / "tuned.keras")
    with pytest.raises(InputError, match=r"pick \(Lambda\) holds code, which is not run: .* in Python where you trust"):
        open_checkpoint(tmp_path / "tuned.keras")


@pytest.mark.thorough
def test_a_model_that_was_fitted_is_trained(tmp_path):
    model = pooled(dense(3, "softmax"))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.save(tmp_path / "before.keras")
    assert not open_checkpoint(tmp_path / "before.keras").record.trained
    model.fit(np.zeros((2, 16, 16, 3), np.float32), np.arange(2), verbose=0)
    model.save(tmp_path / "after.keras")
    assert open_checkpoint(tmp_path / "after.keras").record.trained


@pytest.mark.thorough
@pytest.mark.parametrize("units", [(3,), (1,), (24, 3)], ids=str)
def test_a_head_whose_weights_were_changed_is_not_untrained(units, tmp_path):
    """By no `fit`: nothing but the weights tells."""
    hidden, bent, normed = layers.Dense(units[0], "relu"), layers.BatchNormalization(), layers.LayerNormalization()
    model = pooled(
        of(*([hidden, bent, normed] if units[1:] else []), dense(units[-1], "softmax" if units[-1] > 1 else None))
    )
    model.save(tmp_path / "before.keras")
    assert not open_checkpoint(tmp_path / "before.keras").record.trained
    assert not as_vision_transformer(model)[0].current_record.trained
    bias = model.layers[-1].bias
    for change in (lambda: bias.assign(bias + 1e-4), lambda: (bias.assign(0 * bias), shaken(model))):
        change()
        model.save(tmp_path / "after.keras")
        checkpoint = open_checkpoint(tmp_path / "after.keras")
        assert checkpoint.record.trained
        assert "not by fit" in checkpoint.notes[-1]
        assert as_vision_transformer(model)[0].current_record.trained


@pytest.mark.thorough
def test_an_own_model_with_a_head_is_saved_and_opened(tmp_path):
    steps = (("norm", 1e-4), ("dense", 6), ("relu", None), ("norm", 1e-5), ("dense", 7))
    model = shaken(backbone(num_classes=4, pre_logits_size=10, embedding_norm=True, head=steps))
    model.save(tmp_path / "own.keras")
    images = np.random.default_rng(1).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    checkpoint = open_checkpoint(tmp_path / "own.keras")
    np.testing.assert_allclose(build(checkpoint).predict_output(images), model.predict_output(images), atol=1e-6)
    other = checkpoint.adapted(checkpoint.spec_for(9))
    assert build(other).predict_output(images).shape == (3, 9)
    assert checkpoint.adapted(checkpoint.spec.with_(num_classes=None)).spec.head == ()


def changed(path, change):
    """The archive at `path` with `change` made to its config."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**members, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)


def layer_of(config, name):
    return next(layer for layer in config["config"]["layers"] if layer["class_name"] == name)


CHANGES = {
    "another's Dense": (lambda c: layer_of(c, "Dense").update(module="os"), "cannot be taken apart"),
    "a width": (lambda c: layer_of(c, "Dense")["config"].update(units=10**9), "has 1000000000 units"),
    "another width": (lambda c: layer_of(c, "Dense")["config"].update(units=9), r"is \[16, 24\], expected \[16, 9\]"),
    "a setting": (lambda c: layer_of(c, "Dense")["config"].update(lora_rank=4), "has lora_rank=4, which is not read"),
    "a circle": (
        lambda c: c["config"]["layers"][-1].update(inbound_nodes=c["config"]["layers"][-1]["inbound_nodes"] * 300),
        "calls layers 30. times",
    ),
    "no output": (
        lambda c: c["config"].update(output_layers=["nowhere", 0, 0]),
        "output that its layers do not lead to",
    ),
    "no layers": (
        lambda c: layer_of(c, "VisionTransformer").update(inbound_nodes=[{"args": 3}]),
        "output that its layers do not lead to",
    ),
    "a list": (lambda c: c["config"]["layers"][0].update(name=None, config=[1]), "is damaged"),
    "a name": (lambda c: layer_of(c, "Dropout").update(class_name="\x1b[2J" * 99), r"\\x?u?0*1b"),
    "no spec": (lambda c: layer_of(c, "VisionTransformer").update(config={}), "is damaged .*'spec'"),
    "layers as text": (lambda c: c["config"].update(layers="abc"), "no list of layers|of another Keras|the class"),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tuned.keras"
    TAKEN["old readme"]().save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", CHANGES)
def test_a_config_that_was_tampered_with_is_refused(name, saved, tmp_path):
    change, message = CHANGES[name]
    (tmp_path / "tuned.keras").write_bytes(saved)
    changed(tmp_path / "tuned.keras", change)
    with pytest.raises(InputError, match=message) as refused:
        open_checkpoint(tmp_path / "tuned.keras")
    assert len(str(refused.value)) < 600
    assert "\x1b" not in str(refused.value)
