"""Each explanation is found where it is true, and none where a file is merely worse than its limits allow."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.shown import pictures_of

from vit_export.base.signal import softmax
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.places import CPU
from vit_export.runtimes.runner import RunnerError
from vit_export.verification.causes import INPUT_HYPOTHESES, OUTPUT_HYPOTHESES, find_causes
from vit_export.verification.options import VerifyOptions
from vit_export.verification.told import Told
from vit_export.verification.told_causes import TOLD_HYPOTHESES
from vit_export.verification.trial import Trial

SIZE, CLASSES, IMAGES = 8, 12, 8
PREPROCESSING = Preprocessing(SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.3, 0.225))
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (IMAGES, SIZE, SIZE, 3), np.uint8)
WEIGHTS = RANDOM.normal(size=(SIZE * SIZE * 3, CLASSES)) / 8


def network(images):
    """The reference: a matrix product, which every change of its input shows in."""
    return (images.reshape(len(images), -1).astype(np.float64) @ WEIGHTS).astype(np.float32)


def trial(run=network, *, kind="normalized", outputs=None, limits=("onnx", "float32", None), runs=True):
    pictures = pictures_of(PIXELS, map(str, range(IMAGES)), PREPROCESSING)
    images, fed = pictures.normalized(), pictures.fed(kind)
    spec = TensorSpec("images", (None, SIZE, SIZE, 3), str(fed.dtype), "NHWC", values=kind)
    logits = TensorSpec("logits", (None, CLASSES), "float32")
    format, precision, scheme = limits

    def refused(numbers):
        raise RunnerError("it does not run")

    return Trial(
        artifact=Artifact("x", format, precision, (spec,), (logits,), 1, "", scheme=scheme),
        process=SimpleNamespace(run=run if runs else refused, place=CPU),
        pictures=pictures,
        images=images,
        fed=fed,
        expected=network(images),
        output=logits,
        options=VerifyOptions(trained=True),
        reference=network,
        outputs=run(fed) if outputs is None else outputs,
    )


def normalized(numbers):
    return ((numbers / 255 - PREPROCESSING.mean) / PREPROCESSING.std).astype(np.float32)


EXPECTED = network(normalize(PIXELS, PREPROCESSING))
ORDER = np.array([1, 0, *range(2, IMAGES)])


OUTPUTS = (
    ("probabilities", softmax(EXPECTED), "probabilities"),
    ("softmax_twice", softmax(softmax(EXPECTED)), "twice"),
    ("scaled", 0.5 * EXPECTED + 3, r"0\.5 times the reference's plus 3"),
    ("scaled", -EXPECTED, "-1 times"),
    ("classes_shifted", np.roll(EXPECTED, 1, axis=1), "shifted by 1: output 1 is the reference's 0"),
    ("classes_shifted", np.roll(EXPECTED, -1, axis=1), "shifted by -1: output 0 is the reference's 1"),
    ("classes_shifted", np.insert(EXPECTED, 0, -4, axis=1), "output 0 .* background class"),
    ("classes_shifted", np.insert(EXPECTED, 7, 1, axis=1), "output 7 is one that the reference does not have"),
    ("classes_shifted", np.delete(EXPECTED, 4, axis=1), "the reference's output 4 is missing"),
    ("saturated", np.clip(EXPECTED, -1, 1.5), r"ends of their range, -1 and 1\.5"),
    ("images_mixed_up", EXPECTED[ORDER], "the outputs of image 0 are those of image 1"),
    ("constant", np.repeat(EXPECTED[:1], IMAGES, axis=0), "every image gives the same"),
)


@pytest.mark.parametrize(("name", "outputs", "says"), OUTPUTS)
def test_what_was_done_to_the_outputs_is_named(name, outputs, says):
    (found,) = find_causes(trial(outputs=outputs.astype(np.float32), runs=False))
    assert found.name == name
    assert re.search(says, found.detail), found.detail


def test_a_missing_output_that_makes_a_column_ambiguous_is_still_found():
    doubled = EXPECTED.copy()
    doubled[:, 5] = doubled[:, 4]
    wanted = trial(outputs=np.delete(doubled, 5, axis=1))
    (found,) = find_causes(replace(wanted, expected=doubled))
    assert found.name == "classes_shifted"


INPUTS = (
    ("channels_reversed", lambda x: network(x[..., ::-1]), "normalized"),
    ("channels_reversed", lambda x: network(normalized(x[..., ::-1])), "uint8"),
    ("channels_reversed", lambda x: network(normalized(x)[..., ::-1]), "uint8"),
    ("channels_reversed", lambda x: network(normalized(x)[..., ::-1]), "0..255"),
    ("takes_0_255", lambda x: network(normalized(x)), "normalized"),
    ("takes_0_1", lambda x: network(normalized(255 * x)), "normalized"),
    ("takes_normalized", network, "0..255"),
    ("takes_0_1", lambda x: network(normalized(255 * x)), "0..255"),
    ("not_normalized", lambda x: network(x.astype(np.float32)), "uint8"),
    ("not_normalized", lambda x: network(x / 255), "uint8"),
    ("normalized_twice", lambda x: network(normalized(255 * normalized(x))), "0..255"),
    ("normalized_twice", lambda x: network(normalized(normalized(x))), "0..255"),
    ("height_width_swapped", lambda x: network(x.transpose(0, 2, 1, 3)), "normalized"),
    ("layout_mixed_up", lambda x: network(x.reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)), "normalized"),
    ("upside_down", lambda x: network(x[:, ::-1]), "normalized"),
    ("mirrored", lambda x: network(x[:, :, ::-1]), "0..1"),
)


@pytest.mark.parametrize(("name", "run", "kind"), INPUTS)
def test_what_is_wrong_with_the_input_is_named(name, run, kind):
    if kind == "0..1":
        original = run

        def run(x):
            return original(normalized(255 * x))

    found = find_causes(trial(run, kind=kind))
    assert [cause.name for cause in found] == [name], found


MEAN, STD = ([255 * value for value in part] for part in (PREPROCESSING.mean, PREPROCESSING.std))
NAMES = ("ant", "bee", "cat")
WANTED = {"mean": MEAN, "std": STD, "labels": NAMES}
TOLD = (
    ("told_bgr", {"mean": MEAN[::-1], "std": STD[::-1]}, "BGR order"),
    ("told_other_pixels", {"mean": list(PREPROCESSING.mean), "std": list(PREPROCESSING.std)}, "values from 0 to 1"),
    ("told_other_pixels", {"mean": [0.0], "std": [255.0]}, r"a file that takes 0\.\.1 images"),
    ("told_other_pixels", {"mean": [0.0], "std": [1.0]}, r"a file that takes 0\.\.255 images"),
    ("told_background", {"labels": ["none", *NAMES]}, "begin with a background class"),
    ("told_exchanged_labels", {"labels": ["bee", "ant", "cat"]}, "in another order"),
    ("told_no_labels", {"labels": []}, "no labels, though the model has them"),
    ("told_another_tensor", {}, "the first output of the file's main graph is another tensor"),
)


@pytest.mark.parametrize(("name", "said", "says"), TOLD)
def test_what_is_wrong_with_what_a_file_tells_is_named(name, said, says):
    first = {"output": ("hidden", "logits")} if name == "told_another_tensor" else {}
    told = Told({**WANTED, "labels": list(NAMES), **said}, WANTED, first=first)
    spec = ViTSpec("toy", 4, 1, 8, 16, 2, image_size=SIZE, num_classes=CLASSES)
    (found,) = find_causes(replace(trial(), told=told, record=ModelRecord(spec, PREPROCESSING)))
    assert found.name == name
    assert re.search(says, found.detail), found.detail


def test_what_is_told_rightly_has_no_cause():
    told = Told({**WANTED, "labels": list(NAMES)}, WANTED, first={"output": ("logits", "logits")})
    assert find_causes(replace(trial(), told=told)) == ()


def test_every_explanation_is_tried_above():
    tested = {row[0] for row in (*OUTPUTS, *INPUTS, *TOLD)}
    assert {*OUTPUT_HYPOTHESES, *INPUT_HYPOTHESES, *TOLD_HYPOTHESES} == tested


@pytest.mark.parametrize("noise", [1e-3, 0.05, 0.5, 5.0])
@pytest.mark.parametrize("scheme", ["static", "full"])
def test_noise_is_no_cause(noise, scheme):
    random = np.random.default_rng(2)
    outputs = EXPECTED + noise * EXPECTED.std() * random.normal(size=EXPECTED.shape).astype(np.float32)
    limits = ("tflite", "int8", scheme)
    assert find_causes(trial(lambda x: outputs[: len(x)], outputs=outputs, limits=limits)) == ()


def test_images_whose_answers_hardly_differ_are_not_said_to_be_mixed_up():
    random = np.random.default_rng(3)
    flat = np.repeat(EXPECTED[:1], IMAGES, axis=0) + 0.001 * random.normal(size=EXPECTED.shape).astype(np.float32)
    outputs = flat + 0.2 * random.normal(size=flat.shape).astype(np.float32)
    wanted = trial(lambda x: outputs[: len(x)], outputs=outputs, limits=("tflite", "int8", "full"))
    assert find_causes(replace(wanted, expected=flat)) == ()


def test_a_file_that_refuses_other_numbers_has_no_cause():
    assert find_causes(trial(lambda x: network(x[..., ::-1]), runs=False)) == ()
