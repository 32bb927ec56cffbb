"""Files open in MediaPipe Tasks as they are, and answer what they answer with this package's own preprocessing."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, record_of, toy_spec
from helpers import digits

from vit_export.base.quiet import import_tensorflow
from vit_export.images.photographs import photographs_folder
from vit_export.images.read import load_pixels
from vit_export.inspection.inspect import inspect_file
from vit_export.model.input_kinds import KINDS, feed
from vit_export.model.preprocessing import Preprocessing
from vit_export.runtimes.runner import open_runner
from vit_export.tflite import stream as writer
from vit_export.tflite.quantize import calibrate, write_int8
from vit_export.tflite.write import write_tflite

pytestmark = pytest.mark.thorough

mediapipe = pytest.importorskip("mediapipe", reason="MediaPipe is not installed: pip install mediapipe")
import_tensorflow()

PRECISIONS = ("float32", "float16", "static", "dynamic")
HEADS = ("labels", "logits", "features")
LABELS = ("café", "crane", "crane", "a, b", "日本", "five", "six", "seven", "eight", "nine")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
MATRIX = list(product(PRECISIONS, HEADS, KINDS))
# Fast are three files of each precision: with every head, and three of the kinds.
FAST = {(p, HEADS[i], list(KINDS)[(i + j) % len(KINDS)]) for j, p in enumerate(PRECISIONS) for i in range(len(HEADS))}


@pytest.fixture(scope="module")
def photographs():
    """Photographs at the toy's size, uint8 [n, 32, 32, 3]: no resizing is left for MediaPipe."""
    names = ("chelsea.png", "astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg", "camera.png")
    return load_pixels([photographs_folder() / name for name in names], Preprocessing(32))


@pytest.fixture(scope="module")
def written(photographs, tmp_path_factory):
    """Writes files: (precision or scheme, head, input kind) -> path."""
    folder = tmp_path_factory.mktemp("mediapipe")

    def write(precision, head, kind, **options):
        spec = toy_spec(num_classes=None if head == "features" else len(LABELS))
        record = replace(record_of(spec), labels=LABELS if head == "labels" else None)
        if "preprocessing" in options:
            record = replace(record, preprocessing=options.pop("preprocessing"))
        path = folder / f"{precision}_{head}_{kind.replace('.', '')}_{len(list(folder.iterdir()))}.tflite"
        if precision in ("float32", "float16"):
            write_tflite(RandomParameters(spec), record, path, precision=precision, input=kind, **options)
            return path
        exact = folder / f"of_{path.name}"
        write_tflite(RandomParameters(spec), record, exact, input=kind, **options)
        batches = feed(photographs, kind, record.preprocessing)[:, np.newaxis]
        ranges = None if precision == "dynamic" else calibrate(exact, batches, len(batches))
        write_int8(exact, record, path, scheme=precision, ranges=ranges)
        return path

    return write


def image_of(pixels):
    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))


def base_options(path):
    return mediapipe.tasks.BaseOptions(model_asset_path=str(path))


def classified(path, photographs, **options):
    """What MediaPipe's ImageClassifier says of each photograph: the categories, best first."""
    vision = mediapipe.tasks.vision
    wanted = vision.ImageClassifierOptions(base_options=base_options(path), **options)
    with vision.ImageClassifier.create_from_options(wanted) as classifier:
        return [classifier.classify(image_of(pixels)).classifications[0].categories for pixels in photographs]


def embedded(path, photographs):
    """What MediaPipe's ImageEmbedder makes of each photograph, [n, width]."""
    vision = mediapipe.tasks.vision
    with vision.ImageEmbedder.create_from_options(vision.ImageEmbedderOptions(base_options(path))) as embedder:
        return np.array([embedder.embed(image_of(pixels)).embeddings[0].embedding for pixels in photographs])


def own(path, photographs, kind, preprocessing=None):
    return open_runner(Path(path), "tflite").run(feed(photographs, kind, preprocessing or Preprocessing(32)))


def scores_of(categories):
    """The scores in the order of the classes."""
    return np.array([c.score for c in sorted(categories, key=lambda c: c.index)])


def agree(expected, found, tolerance):
    """MediaPipe has a TFLite of its own, whose int8 kernels round otherwise."""
    return np.abs(expected - found).max() < tolerance * np.ptp(expected)


@pytest.mark.parametrize(
    ("precision", "head", "kind"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow, id="-".join(case)) for case in MATRIX],
)
def test_the_answers_are_ours(precision, head, kind, written, photographs):
    path = written(precision, head, kind)
    expected = own(path, photographs, kind)
    tolerance = 1e-4 if precision in ("float32", "float16") else 0.05
    if head == "features":
        assert agree(expected, embedded(path, photographs), tolerance)
        return
    for ours, theirs in zip(expected, classified(path, photographs), strict=True):
        assert len(theirs) == len(LABELS)  # those with a negative logit, too
        assert agree(ours, scores_of(theirs), tolerance)
        top = [category.index for category in theirs[:5]]
        # The same five in the same order, but for scores that are equal within the tolerance.
        assert np.all(np.diff(ours[top]) < tolerance * np.ptp(ours))
        assert ours[top].min() > np.sort(ours)[-5] - tolerance * np.ptp(ours)
        if tolerance < 0.01:
            assert top == list(np.argsort(-ours)[:5])
        names = [LABELS[index] if head == "labels" else None for index in top]
        assert [category.category_name for category in theirs[:5]] == names


CLIP = {"num_classes": None, "pre_logits_size": 20, "pre_logits_activation": "linear", "embedding_norm": True}
EMBEDDERS = {
    "features": {"num_classes": None},
    "pooled": CLIP,
    "of length 1": {**CLIP, "l2_normalize": True},
    "attention": {"num_classes": None, "class_token": False, "pooling": "attention", "returns": ("pooled",)},
    "both": {**CLIP, "returns": ("features", "pooled")},
    "beside tokens": {"num_classes": None, "returns": ("features", "tokens")},
    "beside logits": {"returns": ("features", "logits")},
}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_the_embedder_gives_each_output_by_its_name(name, photographs, tmp_path):
    spec = toy_spec(**EMBEDDERS[name])
    path = tmp_path / "embedder.tflite"
    write_tflite(RandomParameters(spec), record_of(spec), path)
    expected = open_runner(path, "tflite").run_all(feed(photographs, "normalized", Preprocessing(32)))
    vision = mediapipe.tasks.vision
    with vision.ImageEmbedder.create_from_options(vision.ImageEmbedderOptions(base_options(path))) as embedder:
        found = [embedder.embed(image_of(pixels)).embeddings for pixels in photographs]
    for place, output in enumerate(spec.outputs):
        assert {embeddings[place].head_name for embeddings in found} == {output}
        theirs = np.array([embeddings[place].embedding for embeddings in found])
        ours = expected[output].reshape(theirs.shape)
        cosine = (theirs * ours).sum(1) / np.linalg.norm(theirs, axis=1) / np.linalg.norm(ours, axis=1)
        assert cosine.min() > 0.9999, output
        assert agree(ours, theirs, 1e-4), output


def test_labels_choose_categories(written, photographs):
    path = written("float32", "labels", "normalized")
    (only,) = classified(path, photographs[:1], category_allowlist=["café"])
    assert [(category.index, category.category_name) for category in only] == [(0, "café")]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "normalized"])
def test_pixels_take_a_mean_of_each_channel(kind, written, photographs):
    preprocessing = Preprocessing(32, **IMAGENET)
    path = written("float32", "labels", kind, preprocessing=preprocessing)
    expected = own(path, photographs, kind, preprocessing)
    for ours, theirs in zip(expected, classified(path, photographs), strict=True):
        assert agree(ours, scores_of(theirs), 1e-4)


def test_the_whole_image_is_stretched(written):
    """A wide image and the same one squashed are the same to MediaPipe; its middle is not."""
    path = written("float32", "labels", "uint8")
    random = np.random.default_rng(3)
    stripes = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    square = stripes.repeat(4, 0).repeat(4, 1)
    wide = stripes.repeat(8, 0).repeat(16, 1)
    first, second, cut = (scores_of(found) for found in classified_each(path, square, wide, wide[:, 32:96]))
    span = np.ptp(first)
    assert np.abs(first - second).max() < 0.1 * span
    assert np.abs(first - cut).max() > 0.2 * span


def classified_each(path, *images):
    return [classified(path, [image])[0] for image in images]


def test_a_file_with_its_weights_behind_the_flatbuffer(written, photographs, monkeypatch):
    monkeypatch.setattr(writer, "INLINE_LIMIT", 10_000)
    path = written("float32", "labels", "normalized")
    ours = own(path, photographs[:1], "normalized")[0]
    (theirs,) = classified(path, photographs[:1])
    assert agree(ours, scores_of(theirs), 1e-4)
    assert theirs[0].category_name == LABELS[ours.argmax()]


@pytest.mark.parametrize(
    ("options", "message", "finding"),
    [
        ({"precision": "full"}, "uint8/float32, got INT8", "dtype"),
        ({"batch": 2}, "should have dimensions 1 x height x width", "batch"),
        ({"preprocessing": Preprocessing(32, **IMAGENET)}, "Per-channel image normalization is not available", "mean"),
    ],
    ids=["int8 in and out", "batch", "mean of each channel"],
)
def test_what_mediapipe_refuses_is_what_inspect_tells(options, message, finding, written, photographs):
    """docs/mediapipe.md says so; when one of these opens, that has changed."""
    path = written(**{"precision": "float32", "head": "labels", "kind": "normalized", **options})
    with pytest.raises(Exception, match=message):
        classified(path, photographs[:1])
    assert [found["name"] for found in inspect_file(path)["findings"]] == [f"not for MediaPipe: {finding}"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inspect_finds_nothing_in_what_mediapipe_opens(precision, written):
    assert (
        inspect_file(written(precision, "labels", "uint8", preprocessing=Preprocessing(32, **IMAGENET)))["findings"]
        == []
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_trained_model_answers_alike_on_what_it_has_not_seen(precision, tmp_path):
    """On random weights int8's rounding swaps classes that are equally likely; here one class is the answer."""
    record = replace(record_of(digits.SPEC), preprocessing=digits.PREPROCESSING)
    path, exact = tmp_path / "digits.tflite", tmp_path / "exact.tflite"
    held_out = digits.held_out()
    pictures, classes = digits.pictures()
    if precision in ("float32", "float16"):
        write_tflite(digits.DigitsParameters(), record, path, precision=precision)
    else:
        write_tflite(digits.DigitsParameters(), record, exact)
        batches = feed(pictures[~held_out][:128], "normalized", digits.PREPROCESSING)[:, np.newaxis]
        ranges = None if precision == "dynamic" else calibrate(exact, batches, len(batches))
        write_int8(exact, record, path, scheme=precision, ranges=ranges)
    unseen = pictures[held_out]
    theirs = np.array([scores_of(categories) for categories in classified(path, unseen)])
    expected = own(path, unseen, "normalized", digits.PREPROCESSING)
    assert (theirs.argmax(1) == expected.argmax(1)).mean() >= 0.995
    assert (theirs.argmax(1) == classes[held_out]).mean() >= 0.97
    five, ours = (np.sort(np.argsort(-scores, 1)[:, :5], 1) for scores in (theirs, expected))
    same = (five == ours).all(1).mean()
    print(f"\n{precision}: top class alike {(theirs.argmax(1) == expected.argmax(1)).mean():.1%}, top five {same:.1%}")
    assert same >= (1 if precision in ("float32", "float16") else 0.95)
