"""Heads of one's own around a VisionTransformer: which models are taken apart, and which are refused by layer."""

import keras
import numpy as np
import pytest
from helpers.heads import BARE, REFUSED, TAKEN, backbone, dense, pooled, sequential, shaken
from keras import layers

from vit_export.base.errors import InputError
from vit_export.model.functional import as_vision_transformer
from vit_export.model.head import Step
from vit_export.model.spec import ViTSpec

QUICK = ("old readme", "all tokens", "ensemble", "softmax within")


def cases(names):
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.thorough) for n in names]


@pytest.mark.parametrize("name", cases(TAKEN))
def test_models_are_rebuilt_as_one(name):
    """They are compared with themselves on random images."""
    rebuilt, notes = as_vision_transformer(shaken(TAKEN[name]()))
    assert rebuilt.spec == ViTSpec.from_dict(rebuilt.spec.to_dict())
    assert any("softmax" in note or "sigmoid" in note for note in notes) == (
        name in ("old readme", "norm, sigmoid", "layers", "nested", "classifier, softmax")
    )
    assert any("scaling" in note for note in notes) == (
        name in ("sequential", "augmented, normalized") or "resc" in name
    )


@pytest.mark.thorough
def test_what_a_head_says_of_its_answers():
    readme, notes = as_vision_transformer(TAKEN["old readme"]())
    assert readme.spec.head == (Step("dense", 24), Step("relu"))
    assert notes == ("The softmax at the end of the model is left out: the files return logits.",)
    labels, (note,) = as_vision_transformer(pooled(dense(5, "sigmoid")))
    assert note == "The sigmoid at the end of the model is left out: the files return logits."
    assert (labels.record.answers, labels.spec.head) == ("multi_label_classification", ())
    assert not labels.record.trained
    number, _ = as_vision_transformer(pooled(dense(2, "tanh")))
    assert number.record.answers == "regression"


@pytest.mark.thorough
def test_scaling_becomes_preprocessing():
    for name, mean, std in (
        ("rescaling", (0.5,) * 3, (0.5,) * 3),
        ("rescaling to 1", (0,) * 3, (1,) * 3),
        ("augmented, normalized", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ):
        pixels = as_vision_transformer(TAKEN[name]())[0].record.preprocessing
        np.testing.assert_allclose((pixels.mean, pixels.std), (mean, std), rtol=1e-8)


@pytest.mark.parametrize("name", cases(REFUSED))
def test_others_are_refused_by_layer(name):
    build, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as refused:
        as_vision_transformer(build())
    assert len(str(refused.value)) < 400


class ClassToken(layers.Layer):
    def call(self, tokens):
        return tokens[:, 0]


class Twice(layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.thorough
def test_code_in_memory_is_tried_where_it_pools():
    for layer, pooling in (
        (layers.Lambda(lambda x: x[:, 0]), "class"),
        (ClassToken(), "class"),
        (layers.Lambda(lambda x: keras.ops.mean(x, axis=1)), "mean_all"),
    ):
        assert as_vision_transformer(sequential(backbone(), layer, dense()))[0].spec.pooling == pooling
    for layer, message in (
        (layers.Lambda(lambda x: 2 * x, name="code"), r"code \(Lambda\) cannot be taken apart"),
        (Twice(name="mine"), r"mine \(Twice\) cannot be taken apart"),
        (layers.Dense(3, activation=lambda x: x * x, name="square"), r"square .* ends in a function of its own"),
    ):
        with pytest.raises(InputError, match=message):
            as_vision_transformer(pooled(layer))


def test_a_head_that_was_quantized_is_refused():
    model = pooled(dense(name="few"))
    model.get_layer("few").quantize("int8")
    with pytest.raises(InputError, match=r"few .* was quantized in Keras"):
        as_vision_transformer(model)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ((("dense", 0),), "width of a Dense of the head is 0"),
        ((("dense", 3, 4),), "expected a pair"),
        ((("norm", 2),), "epsilon of a LayerNorm of the head is 2"),
        ((("swish", None),), "'swish', expected dense, norm or one of relu"),
        ((("relu", 1),), "relu has the number 1, expected none"),
        ((("leaky_relu", None),), "number of the head's leaky_relu is None"),
        ((("relu", None),) * 33, "33 steps, expected 32 at most"),
        ("dense", "expected a list of steps"),
    ],
)
def test_heads_that_no_model_has(head, message):
    with pytest.raises(InputError, match=message):
        BARE.with_(num_classes=3, head=head)


def test_a_head_goes_with_its_classifier():
    spec = BARE.with_(num_classes=3, head=[["dense", 8], ["relu", None]])
    assert spec.head == (Step("dense", 8), Step("relu", None))
    assert spec.to_dict()["head"] == [["dense", 8], ["relu", None]]
    assert spec.with_(num_classes=None) == BARE
    older = {key: value for key, value in spec.to_dict().items() if key != "head"}
    assert ViTSpec.from_dict(older).head == ()
