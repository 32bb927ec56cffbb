"""Every switch of the architecture: reference, parameters and deployment graphs say the same of it."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.switches import SWITCHES, images_for, model_of, spec_of

from vit_export.base.errors import InputError
from vit_export.deployment.graph import ONNX, TFLITE, deployment_graph
from vit_export.deployment.rewrites import folded_parameters, plain_parameters
from vit_export.model.parameters import parameter_specs
from vit_export.model.rotary import rotary_tables
from vit_export.model.saved_model import ModelParameters
from vit_export.model.spec import ViTSpec

# Of a head the image's size is nothing.
SIZES = [(name, size) for name in SWITCHES for size in ((16,) if "head" in name else (16, (16, 24)))]


@pytest.mark.thorough
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("name", "size"), SIZES, ids=str)
def test_the_graphs_are_the_reference(name, size, batch):
    more = {} if "image_size" in SWITCHES[name] else {"image_size": size}
    model = model_of(name, **more)
    spec, source, images = model.spec, ModelParameters(model), images_for(model.spec, batch)
    wanted = model.predict_output(images)
    assert wanted.shape == (batch, spec.output_size)
    for dialect, parameters in ((TFLITE, folded_parameters(source)), (ONNX, plain_parameters(source))):
        weights = {key: parameter.read() for key, parameter in parameters.items()}
        assert {key: values.shape for key, values in weights.items()} == {
            key: parameter.shape for key, parameter in parameters.items()
        }
        constants = {key: tf.constant(values) for key, values in weights.items()}
        found = deployment_graph(spec, tf.constant(images), constants, dialect).numpy()
        assert np.abs(found - wanted).max() <= 2e-6 * np.ptp(wanted), dialect.name


@pytest.mark.parametrize("name", SWITCHES)
def test_parameters_are_the_models_variables(name):
    model = model_of(name)
    wanted = {parameter.name: parameter.shape for parameter in parameter_specs(model.spec)}
    assert {key: tuple(variable.shape) for key, variable in model.parameters().items()} == wanted
    assert sum(int(np.prod(shape)) for shape in wanted.values()) == model.spec.num_parameters == model.count_params()
    assert ViTSpec.from_dict(model.spec.to_dict()) == model.spec


def test_registers_and_distillation_tokens_are_part_of_the_answer():
    for name in ("registers", "rotary", "distilled", "mean_norm, registers alone"):
        model = model_of(name)
        images = images_for(model.spec)
        before = model.predict_output(images)
        model.embedding.register_tokens.assign(-model.embedding.register_tokens)
        assert np.abs(model.predict_output(images) - before).max() > 0.01 * np.ptp(before), name


def test_rotary_positions_tell_rows_from_columns_and_leave_the_prefix_alone():
    spec = spec_of("rotary", image_size=(16, 24))
    cosines, sines = rotary_tables(spec)
    assert cosines.shape == sines.shape == (spec.num_tokens, spec.head_size)
    np.testing.assert_array_equal(cosines[: spec.num_prefix_tokens], 1)
    np.testing.assert_array_equal(sines[: spec.num_prefix_tokens], 0)
    grid = cosines[spec.num_prefix_tokens :].reshape(4, 6, 2, 2, spec.head_size // 4)
    np.testing.assert_array_equal(grid[:, :, :, 0], np.broadcast_to(grid[:, :1, :, 0], grid[:, :, :, 0].shape))
    np.testing.assert_array_equal(grid[:, :, :, 1], np.broadcast_to(grid[:1, :, :, 1], grid[:, :, :, 1].shape))
    # The first period is 1: the angle is 2π times the centre of the patch on the scale from -1 to 1.
    np.testing.assert_allclose(grid[:, 0, 0, 0, 0], np.cos(2 * np.pi * np.array([-0.75, -0.25, 0.25, 0.75])), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gelu": "relu"}, "gelu is 'relu', expected 'erf' or 'tanh' or 'quick'"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"class_token": False}, "without class token cannot have pooling 'class'"),
        ({"pooling": "class_and_distillation"}, "has 0 registers, expected 1"),
        ({"num_registers": 65}, "num_registers"),
        ({"positions": "rotary", "hidden_size": 36}, "Heads of 18 channels cannot be rotated"),
        ({"image_size": (16, 18)}, "its width 18 is not a multiple of toy's patch size 4: use 16x16 or 16x20"),
        ({"image_size": (16, 16, 3)}, "expected one number of pixels, or height and width"),
        ({"class_token": 1}, "class_token is 1, expected true or false"),
    ],
)
def test_models_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        spec_of("plain", **change)


def test_a_square_has_one_size():
    assert spec_of("plain", image_size=(24, 24)).image_size == 24
    assert spec_of("plain", image_size=[16, 24]).image_size == (16, 24)
