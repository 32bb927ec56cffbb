"""Small models that keras_hub itself saves, and what it computes from them: fixtures, so that tests need no keras_hub.

    python tests/helpers/make_keras_hub.py      writes tests/fixtures/keras_hub/ (half a minute)

Needs keras_hub and tensorflow (written with keras_hub 0.32.0, keras 3.15.1), but not this package. Weights and pictures
are reproducible. The archives, which Keras stores, are deflated: most of so small an HDF5 file is empty.
"""

import os
import zipfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"

import numpy as np

FOLDER = Path(__file__).parents[1] / "fixtures" / "keras_hub"
SMALL = {"patch_size": 8, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 32}


def models():
    import keras
    import keras_hub

    hub = keras_hub.models
    backbone = hub.ViTBackbone((32, 32, 3), num_layers=2, dropout_rate=0.1, attention_dropout=0.1, **SMALL)
    converter = keras_hub.layers.ViTImageConverter(
        image_size=(32, 32), scale=[1 / 63.75, 1 / 127.5, 1 / 51], offset=[-2.0, -1.0, -1.5], interpolation="bicubic"
    )
    yield (
        "classifier",
        hub.ViTImageClassifier(
            backbone,
            num_classes=5,
            preprocessor=hub.ViTImageClassifierPreprocessor(image_converter=converter),
            intermediate_dim=12,
            activation=keras.activations.softmax,
            dropout=0.1,
        ),
    )
    # Everything that can be left out, of images that are not square.
    off = dict.fromkeys(("use_class_token", "use_mha_bias", "use_mlp_bias", "use_patch_bias"), False)
    wide = hub.ViTBackbone((24, 40, 3), num_layers=1, layer_norm_epsilon=1e-3, **off, **SMALL)
    yield "wide", hub.ViTImageClassifier(wide, num_classes=3, pooling="gap")
    yield "backbone", hub.ViTBackbone((32, 32, 3), num_layers=1, **SMALL)


def randomize(model, seed: int) -> None:
    """Random values of which every one matters, embeddings so small that the epsilon of LayerNorm does, too."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        name, shape = variable.path.split("/", 1)[-1], tuple(variable.shape)
        noise = random.standard_normal(shape)
        if name.endswith("gamma"):
            value = random.uniform(0.5, 1.5, shape)
        elif "embedding" in name or "class_token" in name:
            value = 0.02 * noise
        elif name.endswith("kernel"):
            inputs = np.prod(shape[:-1]) if "output" in name or len(shape) != 3 else shape[0]
            value = 1.3 * noise / inputs**0.5
        else:
            value = 0.3 * noise
        variable.assign(value.astype(np.float32))


def deflate(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    expected = {}
    for seed, (name, model) in enumerate(models()):
        randomize(model, seed)
        path = FOLDER / f"{name}.keras"
        model.save(path)
        deflate(path)
        # The images of `keras_hub_model`, which compares a model object with what is rebuilt of it.
        images = np.random.default_rng(0).uniform(-1, 1, (4, *model.input.shape[1:])).astype(np.float32)
        expected[name] = np.asarray(model(images, training=False))
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
