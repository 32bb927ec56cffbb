import numpy as np
import pytest
from conftest import RandomParameters, build, toy_spec
from helpers import returning

from vit_export.base.quiet import import_tensorflow
from vit_export.deployment.graph import (
    ONNX,
    TFLITE,
    argument_name,
    deployment_graph,
    deployment_outputs,
    parameter_name,
    trace,
)
from vit_export.deployment.rewrites import folded_parameters, plain_parameters, shapes_of

CASES = {
    "default": {},
    "features": {"num_classes": None},
    "tanh": {"gelu": "tanh"},
    "epsilon": {"layer_norm_epsilon": 1e-2},
    "one_layer": {},
    "size": {"image_size": 40},
    "wide": {"image_size": (24, 40)},
    "pre_logits": {"pre_logits_size": 20},
    "pooled": {"pre_logits_size": 20, "num_classes": None},
}


@pytest.mark.parametrize(
    ("dialect", "make"), [(TFLITE, folded_parameters), (ONNX, plain_parameters)], ids=["tflite", "onnx"]
)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_reference(dialect, make, case, batch, images):
    import_tensorflow()
    import tensorflow as tf

    spec = toy_spec(**CASES[case])
    if case == "one_layer":
        spec = spec.with_(num_layers=1)
    source = RandomParameters(spec)
    images = np.resize(images, (batch, *spec.image_sides, 3))
    expected = build(source).predict_output(images)
    weights = {name: tf.constant(p.read()) for name, p in make(source).items()}
    found = deployment_graph(spec, tf.constant(images), weights, dialect).numpy()
    assert np.abs(found - expected).max() < 1e-5 * np.ptp(expected)


@pytest.mark.parametrize(
    ("dialect", "make"), [(TFLITE, folded_parameters), (ONNX, plain_parameters)], ids=["tflite", "onnx"]
)
@pytest.mark.parametrize(
    ("case", "batch"),
    [pytest.param(case, 1 + i % 2, marks=pytest.mark.thorough) for i, case in enumerate(returning.CASES)],
)
def test_every_output_equals_the_reference(dialect, make, case, batch, images):
    import_tensorflow()
    import tensorflow as tf

    spec = returning.spec_of(case)
    source = RandomParameters(spec)
    expected = build(source).predict_outputs(images[:batch])
    parameters = make(source)
    weights = Read({name: tf.constant(p.read()) for name, p in parameters.items()})
    found = deployment_outputs(spec, tf.constant(images[:batch]), weights, dialect)
    assert list(found) == list(spec.outputs)
    for name, wanted in expected.items():
        assert np.abs(found[name].numpy() - wanted).max() < 1e-5 * np.ptp(wanted), name
    assert weights.read == set(parameters)  # nothing is stored that no output needs


class Read(dict):
    """Weights that remember which were read."""

    def __init__(self, weights):
        super().__init__(weights)
        self.read = set()

    def __getitem__(self, name):
        self.read.add(name)
        return super().__getitem__(name)


@pytest.mark.parametrize(("dtype", "casts"), [("float32", 0), ("uint8", 1)])
def test_integer_images_are_cast_once_and_first(dtype, casts, source, spec):
    import_tensorflow()
    function = trace(spec, shapes_of(folded_parameters(source)), TFLITE, dtype=dtype)
    assert function.inputs[0].dtype == dtype
    found = [operation for operation in function.graph.get_operations() if operation.type == "Cast"]
    assert len(found) == casts
    assert all(operation.inputs[0] is function.inputs[0] for operation in found)


def test_trace_takes_every_parameter_by_name(source, spec):
    import_tensorflow()
    parameters = folded_parameters(source)
    function = trace(spec, shapes_of(parameters), TFLITE, batch=2)
    names = [tensor.op.name for tensor in function.inputs]
    assert names == ["images", *map(argument_name, parameters)]
    assert [parameter_name(n) for n in names[1:]] == list(parameters)
    assert function.outputs[0].shape == (2, 10)
