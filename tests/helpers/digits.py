"""A Vision Transformer that was really trained: on scikit-learn's handwritten digits, to more than 96 %.

    python tests/helpers/digits.py        trains it again and writes tests/fixtures/digits_vit.npz (about two minutes)

The digits (8x8 pixels, grey) are scaled to 32x32 RGB. A quarter of them, chosen by a fixed seed, is never trained on.
"""

from pathlib import Path

import numpy as np

from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import Variant

FIXTURE = Path(__file__).parents[1] / "fixtures" / "digits_vit.npz"
SPEC = ViTSpec.of(
    Variant("vit_digits", patch_size=4, num_layers=4, hidden_size=64, mlp_size=128, num_heads=4, use="tests"),
    image_size=32,
    num_classes=10,
)
PREPROCESSING = Preprocessing(SPEC.image_size)


def pictures() -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB pictures [n, 32, 32, 3] and their labels [n]."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    scaled = [Image.fromarray(g).resize((32, 32), Image.Resampling.BICUBIC).convert("RGB") for g in grey]
    return np.stack([np.asarray(image) for image in scaled]), digits.target


def held_out() -> np.ndarray:
    """Which pictures are not trained on, bool [n]."""
    count = len(pictures()[1])
    return np.random.default_rng(0).permutation(count) < count // 4


class DigitsParameters:
    """The trained parameters (a ParameterSource)."""

    spec = SPEC

    def __init__(self) -> None:
        with np.load(FIXTURE) as file:
            self._values = {name: file[name].astype(np.float32) for name in file.files}

    def read(self, name: str) -> np.ndarray:
        return self._values[name]


def train() -> None:
    """Train, report the accuracy on held-out digits, write the fixture in float16."""
    from vit_export.base.quiet import import_tensorflow

    import_tensorflow()
    import keras
    import tensorflow as tf

    from vit_export.model.keras_model import build_model
    from vit_export.model.preprocessing import normalize
    from vit_export.model.saved_model import assign_parameters

    images, labels = pictures()
    out = held_out()
    x, y = normalize(images, PREPROCESSING), labels
    model = build_model(SPEC, seed=0, dropout=0.1)

    def shifted(image, label):
        padded = tf.pad(image, [[3, 3], [3, 3], [0, 0]], constant_values=-1.0)
        return tf.image.random_crop(padded, (32, 32, 3), seed=1), label

    data = tf.data.Dataset.from_tensor_slices((x[~out], y[~out])).shuffle(2000, seed=0).map(shifted).batch(64)
    epochs = 60
    rate = keras.optimizers.schedules.CosineDecay(1e-3, epochs * len(data), warmup_target=1e-3, warmup_steps=200)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.05),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(data, epochs=epochs, verbose=2)
    values = {name: v.numpy().astype(np.float16) for name, v in model.parameters().items()}
    assign_parameters(model, lambda name: values[name].astype(np.float32))
    accuracy = model.evaluate(x[out], y[out], verbose=0)[1]
    print(f"accuracy on {out.sum()} held-out digits: {100 * accuracy:.1f} %")
    FIXTURE.parent.mkdir(exist_ok=True)
    np.savez_compressed(FIXTURE, **values)


if __name__ == "__main__":
    train()
