"""What the tests of bundled code share: every text that templates make, pictures, and what Python makes of them."""

import re
import textwrap
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from skimage import data

from helpers.bundles import CROPPED, LABELS, WIDE, described
from helpers.digits import PREPROCESSING
from vit_export.bundles.code import code_files
from vit_export.bundles.targets import row_of
from vit_export.images.read import resize_and_crop
from vit_export.model.input_kinds import KINDS, feed
from vit_export.model.preprocessing import Preprocessing

RESAMPLING = (
    PREPROCESSING,
    CROPPED,
    Preprocessing(32, CROPPED.mean, CROPPED.std, "squash", 1.0, "bicubic"),
    Preprocessing(32, CROPPED.mean, CROPPED.std, "shortest", 0.875, "bilinear"),
    WIDE,
    Preprocessing((40, 24)),
)
GUIDES = Path(__file__).parents[2] / "docs" / "guides"
STAND_INS = Path(__file__).parents[1] / "stand_ins"


@cache
def variants(target):
    """Files described alone and their code: every text that a template can become is in one of them at least."""
    seen, found = set(), []
    outputs = ((10, LABELS), (10, None), (None, None))
    for format, done, kind, (classes, labels), quantized in product(
        ("tflite", "onnx"), RESAMPLING, KINDS, outputs, (False, True)
    ):
        if quantized and (format == "onnx" or KINDS[kind].dtype == "uint8"):
            continue
        subject = described(format, kind, done, classes=classes, labels=labels, quantized=quantized)
        code = code_files(subject, row_of(target, subject), subject.model_name)
        if not seen.issuperset(code.values()):
            seen.update(code.values())
            found.append((subject, code))
    return tuple(found)


def pictures():
    """Photographs of many shapes, uint8 [height, width, 3]; the last is the first, turned clockwise by a quarter."""
    sizes = [(200, 75), (32, 32), (75, 200), (7, 9), (32, 100), (33, 31), (1, 40), (320, 240), (36, 36), (37, 50)]
    found = [data.astronaut()[100 : 100 + height, 150 : 150 + width] for width, height in sizes]
    found.append(data.chelsea())
    random = np.random.default_rng(0)
    found.append((random.integers(0, 2, (50, 75, 3)) * 255).astype(np.uint8))  # which bicubic overshoots
    return [*found, np.rot90(found[0], -1)]


def assert_inputs(read, subject):
    """The input that foreign code made of picture number n, `read(n)` as bytes, is the one that Python makes of it."""
    done, entry = subject.record.preprocessing, subject.input
    for number, picture in enumerate(pictures()):
        pixels = resize_and_crop(picture, done)
        found = np.frombuffer(read(number), entry.dtype).reshape(*done.image_sides, 3)
        # A picture that is much wider than high is resampled by its rows first, here and by every release of Pillow.
        # With others Pillow's order differs from release to release: a level of 255 here and there, up to three where
        # bicubic overshoots and is cut off in between.
        if picture.shape[1] >= 1.25 * picture.shape[0]:
            np.testing.assert_array_equal(found, numbers(pixels, subject), str(picture.shape))
            continue
        table = numbers(np.arange(256, dtype=np.uint8)[:, None] + np.zeros((1, 3), np.uint8), subject)
        near = [numbers(np.clip(pixels.astype(int) + by, 0, 255).astype(np.uint8), subject) for by in range(-3, 4)]
        assert np.any([found == one for one in near], axis=0).all(), picture.shape
        assert all(np.isin(found[..., c], table[:, c]).all() for c in range(3))
        assert (found != near[3]).mean() < 0.3, picture.shape


def numbers(pixels, subject):
    """What the model takes as the pixels [..., 3], quantized where its input is."""
    entry = subject.input
    values = feed(pixels, entry.values, subject.record.preprocessing)
    if entry.dtype != "int8":
        return values
    return np.clip(np.rint(values / entry.scale) + entry.zero_point, -128, 127).astype(np.int8)


def outputs_of(subject, seed):
    """Outputs of a model as its runtime gives them, and as numbers."""
    entry = subject.output
    random = np.random.default_rng(seed)
    if entry.dtype == "int8":
        raw = random.permutation(np.arange(-128, 128, dtype=np.int16))[: entry.shape[1]].astype(np.int8)
        return raw, ((raw.astype(np.float64) - entry.zero_point) * entry.scale).astype(np.float32)
    raw = random.normal(0, 3, entry.shape[1]).astype(np.float32)
    return raw, raw


def assert_answer(text, subject, values):
    """What foreign code said, a line for each, is the five likeliest classes, or the features."""
    lines = text.splitlines()
    if not subject.classifies:
        np.testing.assert_array_equal(np.array(lines, np.float32), values)
        return
    shares = np.exp(values.astype(np.float64) - values.max())
    shares /= shares.sum()
    best = np.argsort(-shares, kind="stable")[:5]
    labels = subject.record.labels or [f"class {n}" for n in range(len(shares))]
    assert [line.partition(" ")[2] for line in lines] == [labels[n] for n in best]
    np.testing.assert_allclose([float(line.partition(" ")[0]) for line in lines], shares[best], rtol=1e-6)


def fenced(text, language):
    """The fenced blocks of one language in Markdown, in their order."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]
