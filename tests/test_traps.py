"""What the pinned packages do today that would break an export silently (docs/traps.md). A release that changes one of
these may let a workaround go: then this is the test that says so."""

import numpy as np
import pytest

from vit_export.base.quiet import import_tensorflow, quiet

import_tensorflow()

import tensorflow as tf  # noqa: E402


def _interpreter(data):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=data)
    interpreter.allocate_tensors()
    return interpreter


def _run(interpreter, images):
    details = interpreter.get_input_details()[0]
    results = []
    for image in images:
        interpreter.set_tensor(details["index"], image[np.newaxis])
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    return np.concatenate(results)


def _operators(data):
    from collections import Counter

    from vit_export.artifacts.flatbuffer import operator_kinds, unpack

    model = unpack(data)
    codes = operator_kinds(model)
    return Counter(codes[o.opcodeIndex] for o in model.subgraphs[0].operators)


@pytest.fixture(scope="module")
def small():
    """A Keras model of one layer: the stock converters' time goes by the number of layers."""
    from conftest import RandomParameters, build, toy_spec

    return build(RandomParameters(toy_spec().with_(num_layers=1)))


@pytest.mark.thorough
def test_a_plain_function_over_a_keras_model_loses_its_weights(small, images):
    """The stock way goes wrong without raising; ours, on the same model, does not (test_tflite)."""

    @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 3), tf.float32)])
    def serve(x):
        return small(x, training=False)

    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], small)
        data = converter.convert()
    assert len(data) < 4 * small.spec.num_parameters / 2  # most weights are not in the file
    try:
        found = _run(_interpreter(data), images)
    except RuntimeError:
        return  # some runtimes refuse the uninitialised variables: better
    expected = small.predict_output(images)
    assert not np.abs(found - expected).max() < 0.1 * np.ptp(expected)


@pytest.mark.thorough
def test_dynamic_batch_adds_shape_operators(small):
    @tf.function(input_signature=[tf.TensorSpec((None, 32, 32, 3), tf.float32)])
    def serve(x):
        return small(x, training=False)

    module = tf.Module()
    module.variables_ = [v.value for v in small.variables]
    with quiet():
        data = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], module).convert()
    assert {"SHAPE", "PACK"} <= set(_operators(data))


def test_stock_gelu_is_not_what_tf2onnx_converts():
    def nodes(function):
        graph = tf.function(function, input_signature=[tf.TensorSpec((4,), tf.float32)]).get_concrete_function().graph
        return {operation.type for operation in graph.get_operations()}

    assert "Erfc" in nodes(lambda x: tf.nn.gelu(x, approximate=False))
    assert "Erfc" not in nodes(lambda x: 0.5 * x * (1.0 + tf.math.erf(x * 0.5**0.5)))


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["erf", "tanh"])
def test_tflite_fuses_the_gelu_we_write(form):
    from conftest import RandomParameters, toy_spec

    from vit_export.deployment.rewrites import folded_parameters
    from vit_export.tflite.structure import Structure, convert_structure

    spec = toy_spec(gelu=form)
    model, _ = convert_structure(spec, folded_parameters(RandomParameters(spec)))
    structure = Structure(model)
    kinds = [structure.kind(o) for o in model.subgraphs[0].operators]
    assert kinds.count("GELU") == spec.num_layers
    assert not {"ERF", "TANH", "POW"} & set(kinds)


@pytest.mark.thorough
def test_the_quantizer_writes_buffers_outside_the_flatbuffer(tmp_path):
    """From 256 KB on, where old runtimes do not look: why quantized files are written a second time."""
    from conftest import RandomParameters, record_of

    from vit_export.artifacts.flatbuffer import MappedModel
    from vit_export.base.adapters.litert import schema
    from vit_export.model.spec import ViTSpec
    from vit_export.model.variants import Variant
    from vit_export.tflite.quantize import _quantizer, modes_of, rules_of, write_int8
    from vit_export.tflite.write import write_tflite

    def outside(path):
        root = schema().Model.GetRootAs(path.read_bytes(), 0)
        return sum(root.Buffers(i).Offset() > 1 for i in range(root.BuffersLength()))

    spec = ViTSpec.of(Variant("vit_wide", 8, 2, 160, 640, 4, "tests"), image_size=32)
    floating, raw, ours = tmp_path / "float.tflite", tmp_path / "raw.tflite", tmp_path / "ours.tflite"
    write_tflite(RandomParameters(spec), record_of(spec), floating)
    with quiet():
        made = _quantizer(floating, rules_of("dynamic", modes_of("dynamic", spec)))
        made.quantize(serialize_to_path=str(raw), enable_progress_bar=False, enable_progress_report=False)
    write_int8(floating, record_of(spec), ours, scheme="dynamic")
    assert outside(raw) > 10
    assert outside(ours) == 0
    weights = [sum(p.nbytes for p in MappedModel(path).buffers.values()) for path in (raw, ours)]
    assert weights[0] == weights[1] > 400_000


@pytest.fixture(scope="module")
def float_file(source, record, tmp_path_factory):
    from vit_export.tflite.write import write_tflite

    path = tmp_path_factory.mktemp("traps") / "float.tflite"
    write_tflite(source, record, path)
    return path


def _recipe(float_file):
    from ai_edge_quantizer.recipe_manager import RecipeManager

    from vit_export.tflite.quantize import _quantizer, rules_of

    recipe = RecipeManager()
    recipe.load_quantization_recipe(_quantizer(float_file, rules_of("full", None)).get_quantization_recipe())
    return recipe


def test_the_quantizers_own_calibration_is_a_moving_average(float_file, images):
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    with quiet():
        made = calibrator.Calibrator(str(float_file))
        feeds = [{"images": factor * np.ones_like(images[:1])} for factor in (1, 10)]
        made.calibrate({"serving_default": feeds}, _recipe(float_file))
    assert made.get_model_qsvs()["images"]["max"].item() == pytest.approx(1.45)
    narrow, wide = ({"min": np.float32(-a), "max": np.float32(a)} for a in (1, 10))
    assert qsv_utils.moving_average_update(narrow, wide)["max"] == pytest.approx(1.45)
    assert qsv_utils.min_max_update(narrow, wide)["max"] == 10


def test_the_calibrator_exhausts_a_generator(float_file, images):
    from ai_edge_quantizer import calibrator

    with quiet():
        mode = calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED
        made = calibrator.Calibrator(str(float_file), mode=mode)
        made.calibrate({"serving_default": ({"images": image[np.newaxis]} for image in images)}, _recipe(float_file))
    assert made.get_model_qsvs() == {}
