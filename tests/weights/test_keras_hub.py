"""keras_hub's ViTs: files that it saved give what it computed, model objects too, and its other switches are named.

The files are made by `helpers/make_keras_hub.py`; nothing here but the last test needs keras_hub.
"""

import json
import zipfile

import numpy as np
import pytest
from helpers.make_keras_hub import FOLDER
from helpers.originals import worst

from vit_export.base.errors import InputError
from vit_export.base.quiet import import_tensorflow
from vit_export.base.signal import softmax
from vit_export.model.preprocessing import Preprocessing
from vit_export.weights.keras_hub_model import checkpoint_of_keras_hub, is_keras_hub_model
from vit_export.weights.open import open_checkpoint

NAMES = ("classifier", "wide", "backbone")


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


def images_of(spec):
    return np.random.default_rng(0).uniform(-1, 1, (4, *spec.image_sides, 3)).astype(np.float32)


def config_of(name):
    with zipfile.ZipFile(FOLDER / f"{name}.keras") as archive:
        return json.loads(archive.read("config.json"))


@pytest.fixture
def altered(tmp_path):
    """A copy of one of the files, what `change(own config, backbone's config)` did to its config."""

    def alter(name, change):
        config = config_of(name)
        change(config["config"], config["config"].get("backbone", config)["config"])
        path = tmp_path / f"{name}.keras"
        with zipfile.ZipFile(FOLDER / f"{name}.keras") as before, zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", json.dumps(config))
            archive.writestr("model.weights.h5", before.read("model.weights.h5"))
        return path

    return alter


def test_what_the_configs_say_is_followed():
    opened = {name: open_checkpoint(FOLDER / f"{name}.keras") for name in NAMES}
    spec = opened["classifier"].spec
    assert (spec.image_size, spec.num_classes, spec.pre_logits_size, spec.gelu) == (32, 5, 12, "erf")
    assert (spec.layer_norm_epsilon, spec.pooling, spec.class_token) == (1e-6, "class", True)
    assert opened["classifier"].record.answers == "single_label_classification"
    wide = opened["wide"].spec
    assert (wide.image_size, wide.layer_norm_epsilon, wide.pooling, wide.class_token) == ((24, 40), 1e-3, "mean", False)
    assert opened["backbone"].spec.num_classes is None
    for checkpoint in opened.values():
        assert checkpoint.record.weights["source"] == "keras_hub"
        assert checkpoint.record.trained


def test_the_image_converter_is_mean_std_and_resizing():
    checkpoint = open_checkpoint(FOLDER / "classifier.keras")
    found = checkpoint.preprocessing
    assert (found.resize, found.crop_fraction, found.interpolation) == ("shortest", 1.0, "bicubic")
    np.testing.assert_allclose(found.std, [0.25, 0.5, 0.2], rtol=1e-12)
    np.testing.assert_allclose(found.mean, [0.5, 0.5, 0.3], rtol=1e-12)
    assert not checkpoint.record.assumed
    assert any("antialiasing" in note for note in checkpoint.notes)
    assert any("softmax" in note for note in checkpoint.notes)
    # Where there is none, that is said, unless the user says it.
    assert {*open_checkpoint(FOLDER / "wide.keras").record.assumed} == {"scaling", "resizing"}
    given = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "resize": "squash"}
    said = open_checkpoint(FOLDER / "classifier.keras", pixels=given)
    assert said.preprocessing == Preprocessing(32, (0, 0, 0), (1, 1, 1), interpolation="bilinear")


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_computes_what_keras_hub_computes(name, expected):
    import_tensorflow()
    from vit_export.model.keras_model import reference_model
    from vit_export.model.saved_model import assign_parameters

    checkpoint = open_checkpoint(FOLDER / f"{name}.keras")
    model = reference_model(checkpoint.spec)
    assign_parameters(model, checkpoint.read)
    images = images_of(checkpoint.spec)
    found = np.asarray(model.tokens(images)) if name == "backbone" else model.predict_output(images)
    found = softmax(found) if name == "classifier" else found
    assert worst(found, expected[name]) < 1e-6


def stand_in(name, expected):
    """An object as keras_hub's: of a class of that package, with the config, weights and outputs of the file."""
    import_tensorflow()
    import keras

    config = config_of(name)

    def save_weights(self, path):
        with zipfile.ZipFile(FOLDER / f"{name}.keras") as archive:
            path.write_bytes(archive.read("model.weights.h5"))

    def call(self, images, training=False):
        assert not training
        return expected[name] if len(images) == 4 else None

    members = {"get_config": lambda self: config["config"], "save_weights": save_weights, "__call__": call}
    kind = type(config["class_name"], (keras.Model,), {**members, "__module__": config["module"]})
    return kind()


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_model_object_is_exported(name, expected, in_process, tmp_path):
    from vit_export import export

    model = stand_in(name, expected)
    result = export(model, tmp_path / "out", formats=("tflite", "onnx"), held_out_images=4)
    assert result.passed
    assert {*(path.name for path in (tmp_path / "out").iterdir())} >= {"saved_model", "report.json"}
    known, read = checkpoint_of_keras_hub(model), open_checkpoint(FOLDER / f"{name}.keras")
    assert (known.spec, known.preprocessing, known.notes) == (read.spec, read.preprocessing, read.notes)
    np.testing.assert_array_equal(known.read("encoder/norm/scale"), read.read("encoder/norm/scale"))


@pytest.mark.thorough
def test_a_model_that_computes_something_else_is_refused(expected):
    model = stand_in("classifier", {"classifier": 1 - expected["classifier"]})
    with pytest.raises(InputError, match="ViTImageClassifier computes something else than its config says"):
        checkpoint_of_keras_hub(model)


def test_what_derives_from_a_class_of_theirs_is_not_one():
    theirs = type("ViTBackbone", (), {"__module__": "keras_hub.src.models.vit.vit_backbone"})
    assert is_keras_hub_model(theirs())
    assert not is_keras_hub_model(type("ViTBackbone", (theirs,), {"__module__": "mine"})())


def own(name, value):
    return lambda own, backbone: own.__setitem__(name, value)


def of_backbone(name, value):
    return lambda own, backbone: backbone.__setitem__(name, value)


def of_converter(name, value):
    return lambda own, backbone: own["preprocessor"]["config"]["image_converter"]["config"].__setitem__(name, value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("classifier", own("pooling", "gap"), "has pooling 'gap', expected 'token', as it has a class token"),
        ("wide", own("pooling", "token"), "has pooling 'token', expected 'gap', as it has no class token"),
        ("classifier", own("activation", "relu"), "has activation 'relu', expected none, or one of linear, softmax"),
        ("classifier", own("num_classes", "5"), "has num_classes '5', expected a whole number from 1"),
        ("backbone", of_backbone("patch_size", [8, 16]), r"has patch_size \[8, 16\], expected square patches"),
        ("backbone", of_backbone("image_shape", [3, 32, 32]), "expected .height, width, 3.: RGB images, channels last"),
        ("backbone", of_backbone("image_shape", [32, 32, 1]), "expected .height, width, 3."),
        ("backbone", of_backbone("image_shape", None), "has image_shape None"),
        ("backbone", of_backbone("use_mha_bias", "no"), "has use_mha_bias 'no', expected true or false"),
        ("backbone", of_backbone("use_mlp_bias", False), "unexpected .*dense_1/vars/1"),
        ("backbone", of_backbone("mlp_dim", 48), r"dense_1/vars/0 is \[16, 32\], expected \[16, 48\]"),
        ("backbone", of_backbone("num_layers", 2), "missing .*vi_t_encoder_block_1/"),
        ("backbone", of_backbone("num_heads", 3), "3 attention heads do not divide the width 16"),
        ("backbone", of_backbone("layer_norm_epsilon", None), "has layer_norm_epsilon None"),
        ("backbone", of_backbone("dtype", {"class_name": "QuantizedDTypePolicy"}), "not quantized yet"),
        ("classifier", of_converter("pad_to_aspect_ratio", True), "has pad_to_aspect_ratio True, expected .*give Pre"),
        ("classifier", of_converter("interpolation", "lanczos3"), "has interpolation 'lanczos3', expected bilinear or"),
        ("classifier", of_converter("image_size", [64, 64]), r"to image_size \[64, 64\], expected 32"),
        ("classifier", of_converter("scale", 1e-3), "expected those of a mean and std on the 0..1 scale"),
        ("classifier", of_converter("offset", [0, 0]), r"offset \[0, 0\], expected a number or three: give Pre"),
        ("classifier", own("preprocessor", {"class_name": "Mine"}), "has a preprocessor 'Mine', expected one with an"),
    ],
)
def test_what_is_not_built_is_refused_by_name(name, change, message, altered):
    with pytest.raises(InputError, match=message) as caught:
        open_checkpoint(altered(name, change))
    assert len(str(caught.value)) < 600


def test_other_models_of_keras_hub_are_refused_by_name(altered):
    def deit(own, backbone):
        own["backbone"]["class_name"] = "DeiTBackbone"

    with pytest.raises(
        InputError, match="is keras_hub's 'ViTImageClassifier' of 'DeiTBackbone', expected its ViTBackb"
    ):
        open_checkpoint(altered("classifier", deit))


def test_presets_and_numbers_alone_say_what_to_do(tmp_path):
    with zipfile.ZipFile(FOLDER / "backbone.keras") as archive:
        for name in ("config.json", "model.weights.h5"):
            (tmp_path / name).write_bytes(archive.read(name))
    with pytest.raises(InputError, match=r"is a preset of keras_hub, expected a model: load it in Python"):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"numbers of a model of keras_hub's alone, expected the whole model"):
        open_checkpoint(tmp_path / "model.weights.h5")


@pytest.mark.thorough
def test_objects_of_the_real_package(expected):
    pytest.importorskip("keras_hub")
    import_tensorflow()
    import keras

    for name in NAMES:
        model = keras.models.load_model(FOLDER / f"{name}.keras")
        assert checkpoint_of_keras_hub(model).spec == open_checkpoint(FOLDER / f"{name}.keras").spec
