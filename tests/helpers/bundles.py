"""What bundles are made of in tests: the trained digits with difficult labels, and what this package answers."""

import zipfile
from pathlib import Path

import numpy as np
from conftest import toy_spec

from helpers.digits import PREPROCESSING, SPEC
from vit_export.bundles.source import Subject, subject_of
from vit_export.images.read import load_pixels
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.input_kinds import KINDS, feed
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.runtimes.runner import open_runner

LABELS = (
    "zero", "<b>one</b>", "${two}", "\"three\"", "'; four", "{{7*7}}", "six\\n", "`seven`", "ächt, 八", "%nine"
)  # fmt: skip


CROPPED = Preprocessing(
    32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize="shortest", crop_fraction=0.875,
    interpolation="bicubic",
)  # fmt: skip

WIDE = Preprocessing((24, 40), CROPPED.mean, CROPPED.std, "shortest", 0.875, "bicubic")


def digits_record(preprocessing=PREPROCESSING, labels=LABELS, **weights):
    return ModelRecord(SPEC, preprocessing, {"source": "tests/helpers/digits.py", "trained": True, **weights}, labels)


def unpacked(zipped, folder):
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(folder)
    return Path(folder)


def ours(path, photograph):
    """The output of a file for a photograph, by this package's own preprocessing and runner."""
    subject = subject_of(path)
    pixels = load_pixels([photograph], subject.record.preprocessing)
    runner = open_runner(path, subject.artifact.format, 1)
    runner.load()
    return runner.run(feed(pixels, subject.input.values, subject.record.preprocessing))[0]


def top_classes(logits, labels):
    shares = np.exp(logits.astype(np.float64) - logits.max())
    shares /= shares.sum()
    return [(labels[i] if labels else f"class {i}", shares[i]) for i in np.argsort(-shares, kind="stable")[:5]]


def described(format, kind, preprocessing, *, classes=10, labels=LABELS, quantized=False):
    """A file that is described alone: for code, which is made from numbers."""
    spec = toy_spec(num_classes=classes, image_size=preprocessing.image_size)
    dtype, numbers = KINDS[kind].dtype, {}
    if quantized:
        dtype, numbers = "int8", {"scale": 0.007843137718737125, "zero_point": -1}
    name = "features" if classes is None else "logits"
    return Subject(
        Artifact(
            path=f"toy.{format}",
            format=format,
            precision="int8" if quantized else "float32",
            inputs=(TensorSpec("images", (1, *spec.image_sides, 3), dtype, "NHWC", values=kind, **numbers),),
            outputs=(TensorSpec(name, (1, spec.output_size), "int8" if quantized else "float32", **numbers),),
            bytes=1,
            sha256="ab" * 32,
        ),
        ModelRecord(spec, preprocessing, {}, None if classes is None else labels),
        {"ai.onnx": 23, "ir": 10},
    )
