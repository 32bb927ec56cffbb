"""Files that the version before the folders of stages wrote, kept as fixtures, so that later ones still open them.

    python tests/helpers/make_earlier.py      writes tests/fixtures/earlier.zip (half a minute)

Needs the package as of commit 6c55273 (its modules are imported by the names they had): run it with the environment
of a checkout of that commit. What it writes depends on the machine in times and last bits alone; the outputs that are
expected of the model are in expected.npz, with the two images they belong to. It is one archive, since graphs and
reports are long texts: a quarter of a megabyte instead of one.

In exported/ are the files of two exports into one folder, both verified: the first made int8 files, the second, of the
same model, float32 ones, and left the others where they were, so that report.json tells of those only in the report
that it keeps of the first. The model says that it is trained, since an optimizer made a step.
"""

import os
import platform
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

EARLIER = Path(__file__).parents[1] / "fixtures" / "earlier.zip"

IMAGE, PATCH, LAYERS, WIDTH, MLP, HEADS = 16, 4, 2, 16, 32, 2
LABELS = ("tabby cat", "hen", "crème brûlée", "lighthouse, beacon")
PICTURES = 8
"""All that there are, to calibrate and to verify on: few, so that the report is small."""


def make(folder: Path) -> None:
    """Write everything to `folder`, which is the working directory, so that no path of this machine is in a file."""
    from vit_export import export

    model = trained_model()
    images = np.random.default_rng(2).uniform(-1, 1, (2, IMAGE, IMAGE, 3)).astype(np.float32)
    np.savez_compressed(folder / "expected.npz", images=images, logits=model.predict_output(images))
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    pictures(folder / "pictures")
    for precision in ("int8", "float32"):
        result = export(
            "model.keras",
            "exported",
            formats=("tflite", "onnx"),
            precisions=(precision,),
            calibration="pictures",
            calibration_images=PICTURES // 2,
            held_out_images=PICTURES // 2,
            overwrite=True,
        )
        assert result.passed, result.verification.failures
    shutil.rmtree(folder / "pictures")


def trained_model():
    """A model whose every parameter matters, with labels and preprocessing of its own, after one step of SGD."""
    import keras
    from vit_export.preprocess import Preprocessing
    from vit_export.saved_model import ModelRecord
    from vit_export.spec import ViTSpec

    from vit_export.model import build_model

    spec = ViTSpec(
        name="vit_toy",
        patch_size=PATCH,
        num_layers=LAYERS,
        hidden_size=WIDTH,
        mlp_size=MLP,
        num_heads=HEADS,
        image_size=IMAGE,
        num_classes=len(LABELS),
    )
    preprocessing = Preprocessing(IMAGE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), resize="shortest")
    model = build_model(spec, record=ModelRecord(spec, preprocessing, {"source": "random", "trained": False}, LABELS))
    random = np.random.default_rng(1)
    for name, variable in model.parameters().items():
        shape = tuple(variable.shape)
        if name.endswith("scale"):
            variable.assign(random.uniform(0.5, 1.5, shape))
        else:
            spread = 1.3 * np.prod(shape[:-1]) ** -0.5 if "kernel" in name else 0.3
            variable.assign(spread * random.standard_normal(shape))
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    images = random.uniform(-1, 1, (4, IMAGE, IMAGE, 3)).astype(np.float32)
    model.fit(images, np.arange(4), epochs=1, batch_size=4, verbose=0)
    return model


def pictures(folder: Path) -> None:
    """Small pictures that differ from each other."""
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(3)
    for index in range(PICTURES):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC).save(folder / f"{index:02}.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        platform.platform = lambda: "Linux"  # what the report says of the machine need not be of this one
        make(Path())
        with zipfile.ZipFile(EARLIER, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(Path().rglob("*")):
                archive.write(path)
