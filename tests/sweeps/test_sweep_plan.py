"""What a sweep goes over: the plan's keys, what cannot be told in one sentence, and the grid that is left."""

from dataclasses import fields
from pathlib import Path

import pytest

from vit_export.base.errors import InputError
from vit_export.sweeps.plan import SweepRequest, read_plan

WHOLE = """
models = ["vit_s32", "runs/best.npz", "hf:facebook/dinov2-small"]
tflite = true
onnx = false
int8 = true
int8-scheme = ["auto", "dynamic"]
image-size = [224, "224x384"]
features = true
input = "uint8"
calibration = "photos"
calibration-images = 64
held-out-images = 8
data = "s3://bucket/val-{0000..0003}.tar"
labels = "sorted"
knn = 20
train = "train"
max-ms = 20
max-drop = 0.5
max-mb = 25.5
output = "out"
workers = 4
ray = "auto"
threads = 2
"""


def plan(folder, text):
    path = folder / "plan.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_of_a_plan_is_an_argument(tmp_path):
    arguments = read_plan(plan(tmp_path, WHOLE))
    request = SweepRequest(**arguments)
    assert {*arguments} == {field.name for field in fields(SweepRequest)}
    assert request.models == ("vit_s32", str(tmp_path / "runs/best.npz"), "hf:facebook/dinov2-small")
    assert (request.formats, request.precisions) == (("tflite",), ("int8",))
    assert request.image_sizes == (224, (224, 384))
    assert (request.data, request.train) == ("s3://bucket/val-{0000..0003}.tar", str(tmp_path / "train"))
    assert (request.calibration, request.output) == (tmp_path / "photos", tmp_path / "out")
    assert (request.labels, request.max_ms, request.max_mb, request.workers) == ("sorted", 20, 25.5, 4)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("modles = ['vit_s32']", "has the key 'modles', which no sweep has: did you mean 'models'?"),
        ("models = 'vit_s32'\ntflite = 'yes'", "has 'yes' as tflite, expected true or false."),
        ("models = [1]", "has [1] as models, expected a list of variants and checkpoints."),
        ("models = ['vit_s32']\nimage-size = '224 pixels'", "has '224 pixels' as image-size, expected a list of sizes"),
        ("models = ['vit_s32']\nworkers = true", "has True as workers, expected a whole number."),
        ("models = ['vit_s32']\nmax-ms = '20'", "has '20' as max-ms, expected a number."),
        ("models = [", "cannot be read as TOML"),
        ("[export]\nthreads = 2", "has the key 'export', which no sweep has: "),
    ],
)
def test_a_plan_that_is_none_is_one_sentence(text, told, tmp_path):
    with pytest.raises(InputError) as caught:
        read_plan(plan(tmp_path, text))
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"models": ()}, "There are no models to go over"),
        ({"models": "vit_s32"}, "models is 'vit_s32', expected a list of models: give ['vit_s32']"),
        ({"models": [3]}, "models has 3, expected text."),
        ({"formats": ["tflite", "saved_model"]}, "Unknown entry 'saved_model' in formats"),
        ({"formats": "tflite"}, "formats is 'tflite', expected a list"),
        ({"int8_schemes": ["auto"], "precisions": ["float32"]}, "'int8' in precisions"),
        ({"int8_schemes": ["qdq"], "formats": ["tflite"]}, "No format of this sweep has the int8 scheme 'qdq'"),
        ({"int8_schemes": ["qdq", "symmetric"]}, "TFLite has none of the int8 schemes qdq, symmetric: add one of"),
        ({"image_sizes": [0]}, "image_size is 0, expected a whole number of pixels"),
        ({"image_sizes": 224}, "image_sizes is 224, expected a list of sizes."),
        ({"max_drop": 0.5}, "max_drop is about accuracy, which data measures: give data"),
        ({"knn": 20, "data": "val"}, "knn is the number of neighbours among the images of train: give both"),
        ({"workers": 0}, "workers is 0, expected a whole number from 1 to 256."),
        ({"max_ms": "20"}, "max_ms is '20', expected a number"),
        ({"input": "bgr"}, "Unknown input 'bgr'"),
        ({"calibration": ""}, "calibration is '', expected the path of a folder."),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_made(arguments, told):
    with pytest.raises(InputError) as caught:
        SweepRequest(**{"models": ["vit_s32"], **arguments})
    assert told in str(caught.value)


def test_each_scheme_goes_to_the_formats_that_have_it_and_what_is_twice_is_once():
    request = SweepRequest(
        models=["vit_s32", Path("vit_s32"), "vit_s32"],
        precisions=["int8", "float32", "int8"],
        int8_schemes=["dynamic", "qdq", "auto", "dynamic"],
        image_sizes=[224, (224, 224)],
    )
    assert (request.models, request.image_sizes) == (("vit_s32",), (224,))
    assert request.files == (
        ("tflite", "float32", None),
        ("tflite", "int8", "dynamic"),
        ("tflite", "int8", "auto"),
        ("onnx", "float32", None),
        ("onnx", "int8", "dynamic"),
        ("onnx", "int8", "qdq"),
    )


def test_accuracy_has_something_to_be_counted_against():
    request = SweepRequest(models=["vit_s32"], precisions=["int8"], data="val")
    assert request.files[0] == ("tflite", "float32", None)
    assert request.adds_reference
    assert not SweepRequest(models=["vit_s32"], precisions=["int8"]).adds_reference
