"""What a model returns: names, shapes, order, what is no part of it, and what cannot be asked for."""

import numpy as np
import pytest
from conftest import RandomParameters, build, toy_spec
from helpers.returning import ALL_OF_A_CLASSIFIER, CASES, spec_of

from vit_export.base.errors import InputError
from vit_export.model.outputs import RETURNS
from vit_export.model.parameters import parameter_specs
from vit_export.model.spec import ViTSpec

CLIP = {"num_classes": None, "pre_logits_size": 20, "pre_logits_activation": "linear"}
SIGLIP = {"num_classes": None, "class_token": False, "pooling": "attention"}


@pytest.mark.parametrize(
    ("sizes", "name", "shape"),
    [
        ({}, "logits", (10,)),
        ({"num_classes": None}, "features", (48,)),
        (CLIP, "pooled", (20,)),
        (SIGLIP, "features", (48,)),
    ],
)
def test_the_usual_output_need_not_be_named(sizes, name, shape):
    spec = toy_spec(**sizes)
    assert spec.outputs == {name: shape}
    assert (spec.output_name, spec.output_size) == (name, shape[0])
    assert toy_spec(**sizes, returns=(name,)) == spec
    assert spec.returns == ()


def test_outputs_have_one_order_whoever_asks():
    spec = spec_of(ALL_OF_A_CLASSIFIER)
    assert spec.outputs == {"logits": (10,), "pooled": (20,), "features": (48,), "tokens": (17, 48)}
    assert list(spec.outputs) == list(RETURNS)
    assert spec.with_(returns=list(RETURNS)) == spec
    assert ViTSpec.from_dict(spec.to_dict()) == spec


def test_a_record_of_earlier_releases_names_no_outputs():
    values = toy_spec().to_dict()
    del values["returns"], values["l2_normalize"]
    assert ViTSpec.from_dict(values) == toy_spec()


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"returns": ("logit",)}, "Unknown output 'logit' in returns: did you mean 'logits'"),
        ({"returns": "logits"}, "returns is 'logits', expected a list"),
        ({"returns": ("tokens", "tokens")}, "give each once"),
        ({"returns": ("tokens",)}, "has no classifier: num_classes is 10"),
        ({"returns": ("logits",), "num_classes": None}, "no logits without a classifier"),
        ({"returns": ("pooled", "logits")}, "no pooled output without a pre-logits layer"),
        ({**CLIP, "returns": ("features",)}, "pre_logits_size is 20, expected None"),
        ({**SIGLIP, "returns": ("features", "pooled")}, "one and the same"),
        ({"l2_normalize": True}, "no embedding to be divided"),
        ({"l2_normalize": 1}, "l2_normalize is 1, expected true or false"),
    ],
)
def test_what_no_model_returns_is_refused_in_a_sentence(sizes, message):
    with pytest.raises(InputError, match=message):
        toy_spec(**sizes)


@pytest.mark.parametrize(
    ("sizes", "returns", "left_out"),
    [
        (SIGLIP, ("tokens",), "pooling/"),
        (CLIP, ("tokens", "features"), "pre_logits/"),
        ({}, ("features",), "head/"),
        ({"pooling": "mean_norm"}, ("tokens",), "encoder/norm/"),
    ],
)
def test_what_no_output_needs_is_no_part_of_the_model(sizes, returns, left_out):
    whole = toy_spec(**sizes)
    part = whole.returning(returns)
    names = {parameter.name for parameter in parameter_specs(part)}
    gone = {parameter.name for parameter in parameter_specs(whole)} - names
    assert gone
    assert all(name.startswith((left_out, "head/")) for name in gone)
    assert sum(parameter.size for parameter in parameter_specs(part)) == part.num_parameters
    assert part.num_macs <= whole.num_macs


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_outputs_of_the_reference_are_those_of_models_with_one(case, images):
    spec = spec_of(case)
    source = RandomParameters(spec)
    model = build(source)
    found = model.predict_outputs(images)
    assert {name: values.shape[1:] for name, values in found.items()} == spec.outputs
    np.testing.assert_array_equal(model.predict_output(images), found[spec.output_name])
    if "tokens" in found:
        np.testing.assert_allclose(found["tokens"], model.tokens(images), atol=1e-5)
    lengths = [np.linalg.norm(found[name], axis=1) for name in ("features", "pooled") if name in found]
    if spec.l2_normalize:
        np.testing.assert_allclose(lengths, 1, atol=1e-6)
    elif "features" in found:
        np.testing.assert_allclose(found["features"], model.extract_features(images), atol=1e-5)
    for name in found:
        alone = spec.returning([name], l2_normalize=spec.l2_normalize and name != "tokens")

        part = build(Part(source, alone))
        np.testing.assert_allclose(part.predict_output(images), found[name], atol=1e-5)


class Part:
    """The parameters of `whole` that `spec` has."""

    def __init__(self, whole, spec):
        self.read, self.spec = whole.read, spec
