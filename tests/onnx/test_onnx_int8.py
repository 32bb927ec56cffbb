"""int8 ONNX: the answers are kept, outliers or not, and the "qdq" form is what accelerators' runtimes look for."""

import json
import os
import weakref
from collections import Counter
from functools import lru_cache

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import RandomParameters, record_of, toy_spec
from helpers.digits import PREPROCESSING, SPEC, DigitsParameters, held_out, pictures
from helpers.outliers import Outliers, StreamOutliers

from vit_export.base.errors import InputError, OutputError
from vit_export.int8.equalize import Factors
from vit_export.int8.modes import full_float
from vit_export.int8.rounding import round_by_error
from vit_export.int8.tune import Tuning, tune
from vit_export.model.input_kinds import KINDS, feed
from vit_export.model.parameters import layer_name, parameter_specs
from vit_export.model.preprocessing import normalize
from vit_export.model.record import ModelRecord
from vit_export.onnx import pairs, qdq, write_int8_onnx, write_onnx
from vit_export.onnx import stream as weights
from vit_export.onnx.calibration import clipped, observe
from vit_export.onnx.smoothing import ranges_of

OPSETS = (13, 20, 23)


def session(path, level=None, optimized=None):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if level is not None:
        options.graph_optimization_level = level
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, images, **options):
    opened = session(path, **options)
    batch = opened.get_inputs()[0].shape[0]
    parts = [opened.run(None, {"images": images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    return np.concatenate(parts)


def signal_to_noise(found, wanted):
    return 10 * np.log10((wanted.astype(np.float64) ** 2).sum() / ((found.astype(np.float64) - wanted) ** 2).sum())


def operators(path):
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def batches_of(images, batch=1):
    return [images[i : i + batch] for i in range(0, len(images) - batch + 1, batch)]


@pytest.fixture(scope="module")
def reference(source, record, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "toy.onnx"
    write_onnx(source, record, path)
    return run(path, images)


@pytest.fixture(scope="module")
def exported(source, record, images, tmp_path_factory):
    """Path and Artifact of the toy in "qdq" form, written once for all tests that only read it."""

    @lru_cache
    def path_and_artifact(opset=20):
        path = tmp_path_factory.mktemp("exported") / f"{opset}.onnx"
        return path, write_int8_onnx(source, record, path, batches_of(images), opset=opset, scheme="qdq")

    return path_and_artifact


@pytest.fixture(scope="module")
def observed(source, record, images, tmp_path_factory):
    """What the toy reaches at every site of any scheme."""
    return observed_of(source, record, images, tmp_path_factory.mktemp("observed"), numbers=qdq.W8A16)


def observed_of(source, record, images, folder, **options):
    return observe(source, batches_of(images), len(images), folder, preprocessing=record.preprocessing, **options)


@pytest.fixture(scope="module")
def ranges(spec, observed):
    return ranges_of(observed, None, spec)


# Outliers


@pytest.mark.parametrize("factor", [1, 100])
@pytest.mark.parametrize("scheme", ["dynamic", "qdq", "symmetric"])
def test_outliers_that_change_nothing_in_float_cost_nothing(
    source, record, images, reference, scheme, factor, tmp_path
):
    path, parameters = tmp_path / "toy.onnx", Outliers(source, factor)
    write_int8_onnx(parameters, record, path, batches_of(images), scheme=scheme)
    assert signal_to_noise(run(path, images), reference) > (31.5 if scheme == "dynamic" else 30)


@pytest.mark.parametrize(("scheme", "least_db"), [("dynamic", 28), ("qdq", 27), ("symmetric", 27)])
def test_channels_of_the_residual_stream_far_above_the_rest(source, record, images, scheme, least_db, tmp_path):
    parameters = StreamOutliers(source)
    write_onnx(parameters, record, tmp_path / "float32.onnx")
    wanted = run(tmp_path / "float32.onnx", images)
    write_int8_onnx(parameters, record, tmp_path / "toy.onnx", batches_of(images), scheme=scheme)
    assert signal_to_noise(run(tmp_path / "toy.onnx", images), wanted) > least_db


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Held-out digits, the float model's logits of them, and digits to calibrate on."""
    folder, out = tmp_path_factory.mktemp("digits"), held_out()
    images, _ = pictures()
    record = ModelRecord(SPEC, PREPROCESSING, {"source": "tests/helpers/digits.py", "trained": True})
    write_onnx(DigitsParameters(), record, folder / "float32.onnx")
    shown = normalize(images[out], PREPROCESSING)
    chosen = normalize(images[np.flatnonzero(~out)[:128]], PREPROCESSING)
    return record, shown, run(folder / "float32.onnx", shown), chosen


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 30, 100])
@pytest.mark.parametrize(("scheme", "least_db"), [("dynamic", 39), ("qdq", 35), ("symmetric", 35), ("w8a16", 42)])
def test_trained_digits_keep_their_answers(digits, scheme, least_db, factor, tmp_path):
    record, shown, wanted, chosen = digits
    assert len(shown) == 449
    path, source = tmp_path / "digits.onnx", Outliers(DigitsParameters(), factor)
    tuning = tune(source, chosen[:16], full_float(SPEC)) if scheme == "w8a16" else None
    write_int8_onnx(source, record, path, batches_of(chosen), tuning, scheme=scheme)
    found = run(path, shown)
    print(f"{scheme}, outliers {factor}: {signal_to_noise(found, wanted):.2f} dB")
    assert signal_to_noise(found, wanted) > least_db
    assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.995


# The form


@pytest.mark.parametrize("opset", OPSETS)
def test_every_dense_and_product_is_integer(spec, exported, images, reference, opset, tmp_path):
    path, artifact = exported(opset)
    assert (artifact.precision, artifact.scheme) == ("int8", "qdq")
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    onnx.checker.check_model(str(path), full_check=True)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    found = Counter(node.op_type for node in model.graph.node)
    assert (found["Gemm"], found["MatMul"], found["Attention"]) == (6 * spec.num_layers + 2, 2 * spec.num_layers, 0)
    for node in model.graph.node:
        if node.op_type not in ("Gemm", "MatMul"):
            continue
        makers = [made_by[value] for value in node.input]
        if node.op_type == "MatMul" and makers[0].op_type == "Softmax":
            continue  # softmax(QKᵀ)V is float
        assert {step.op_type for step in makers} == {"DequantizeLinear"}
        activations = makers[:1] if node.op_type == "Gemm" else makers
        for step in activations:
            assert made_by[step.input[0]].op_type == "QuantizeLinear"
            assert list(made_by[step.input[0]].input[1:]) == list(step.input[1:])
            assert initializers[step.input[2]].data_type == onnx.TensorProto.UINT8
        if node.op_type == "Gemm":
            (kernel, scale, zero), (bias, *_) = ([initializers[v] for v in step.input] for step in makers[1:])
            assert (kernel.data_type, bias.data_type) == (onnx.TensorProto.INT8, onnx.TensorProto.INT32)
            assert tuple(scale.dims) == tuple(zero.dims) == (kernel.dims[1],)
            assert [a.i for a in makers[1].attribute if a.name == "axis"] == [1]
            assert not onnx.numpy_helper.to_array(zero).any()
            assert node.name == f"{kernel.name.removesuffix('/kernel_quantized')}/Gemm"
    assert Counter(made_by[n.input[0]].op_type for n in model.graph.node if n.op_type == "MatMul") == {
        "DequantizeLinear": spec.num_layers,
        "Softmax": spec.num_layers,
    }
    assert made_by["logits"].op_type == "Gemm"
    assert signal_to_noise(run(path, images), reference) > 30


@pytest.mark.parametrize("opset", OPSETS)
def test_runtime_multiplies_integers(spec, exported, opset, tmp_path):
    session(exported(opset)[0], optimized=tmp_path / "optimized.onnx")
    found = operators(tmp_path / "optimized.onnx")
    layers = spec.num_layers
    assert (found["QGemm"], found["MatMulIntegerToFloat"]) == (6 * layers + 2, layers)
    assert (found["Gemm"], found["MatMul"]) == (0, layers)  # softmax(QKᵀ)V


def test_metadata_and_names(spec, exported):
    path, artifact = exported()
    model = onnx.load(path)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    record = json.loads(facts["vit_export"])
    assert (record.pop("precision"), record.pop("scheme"), record.pop("input")) == ("int8", "qdq", "normalized")
    assert ModelRecord.from_dict(record) == record_of(spec)
    assert artifact.bytes == path.stat().st_size
    names = {tensor.name for tensor in model.graph.initializer}
    dense = "encoder/layer_1/mlp/dense_1"
    assert {f"{dense}/input_scale", f"{dense}/kernel_quantized", f"{dense}/bias_scale"} <= names
    assert {f"encoder/layer_0/attention/{name}/output_scale" for name in ("query", "key")} <= names
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert "encoder/layer_0/attention/key/Gemm" in nodes


def test_same_model_same_bytes_and_opset_20_unless_told_otherwise(source, record, images, exported, tmp_path):
    again = write_int8_onnx(source, record, tmp_path / "toy.onnx", batches_of(images), scheme="qdq")
    assert again.sha256 == exported()[1].sha256
    assert os.listdir(tmp_path) == ["toy.onnx"]


def test_one_tensor_in_memory_at_a_time(spec, source, record, ranges, tmp_path):
    alive, most = Counter(), 0

    class Counting:
        def read(self, name):
            nonlocal most
            value = source.read(name).copy()
            alive["now"] += value.nbytes
            weakref.finalize(value, alive.subtract, now=value.nbytes)
            most = max(most, alive["now"])
            return value

    counting = Counting()
    counting.spec = spec
    write_onnx(counting, record, tmp_path / "toy.onnx", precision="int8", scheme="qdq", ranges=ranges)
    # Query, key and value next to each other are what equalization looks at together.
    assert 0 < most <= 3 * max(4 * parameter.size for parameter in parameter_specs(spec))
    assert alive["now"] == 0


# For TensorRT


@pytest.mark.parametrize("opset", [None, 13, 23])
def test_symmetric_is_what_tensorrt_takes(spec, source, record, images, reference, opset, tmp_path):
    path = tmp_path / "toy.onnx"
    artifact = write_int8_onnx(source, record, path, batches_of(images), scheme="symmetric", opset=opset)
    assert (artifact.precision, artifact.scheme) == ("int8", "symmetric")
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset or 20)]
    constants = constants_of(path)
    made_by = {output: node for node in model.graph.node for output in node.output}
    read_by = {value: node for node in model.graph.node for value in node.input}
    found = Counter(node.op_type for node in model.graph.node)
    denses = 6 * spec.num_layers + 2
    assert (found["Gemm"], found["MatMul"], found["Attention"]) == (denses, 2 * spec.num_layers, 0)
    # What Dense layers read: query, key and value the same, but for the last query. And the products' queries and keys.
    assert found["QuantizeLinear"] == (4 * spec.num_layers + 3) + 2 * spec.num_layers
    assert found["DequantizeLinear"] == found["QuantizeLinear"] + denses
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero = (constants[value] for value in node.input[1:])
        assert (scale.dtype, zero.dtype) == (np.float32, np.int8)
        assert (scale > 0).all()
        assert not zero.any()
        assert scale.shape == zero.shape
        if node.input[0] in constants:  # a kernel
            kernel = constants[node.input[0]]
            assert kernel.dtype == np.int8
            assert scale.shape == kernel.shape[1:]
            assert kernel.min() >= -127
            assert [a.i for a in node.attribute if a.name == "axis"] == [1]
            dense = read_by[node.output[0]]
            assert dense.op_type == "Gemm"
            assert dense.input[1] == node.output[0]
            assert constants[dense.input[2]].dtype == np.float32
        else:
            assert scale.shape == ()
            if node.op_type == "DequantizeLinear":
                assert list(made_by[node.input[0]].input[1:]) == list(node.input[1:])
    assert signal_to_noise(as_written(path, images), reference) > 30
    assert signal_to_noise(run(path, images), reference) > 30


def test_symmetric_levels_reach_as_far_down_as_up():
    for low, high, end in ((-2.0, 3.0, 3.0), (-4.0, 1.0, 4.0), (0.0, 1.0, 1.0)):
        scale, zero = qdq.activation_step("head:input", low, high, qdq.SYMMETRIC)
        assert (float(scale), int(zero), zero.dtype) == (pytest.approx(end / 127), 0, np.int8)


def test_symmetric_kernels_are_rounded_by_error_and_not_in_pairs(source, record, images, tmp_path, monkeypatch):
    path = tmp_path / "toy.onnx"
    write_int8_onnx(source, record, path, batches_of(images), scheme="symmetric")
    found = constants_of(path)
    monkeypatch.setattr("vit_export.onnx.int8.rounded_kernels", lambda *_, **__: {})
    write_int8_onnx(source, record, path, batches_of(images), scheme="symmetric", overwrite=True)
    plain = constants_of(path)
    kernel = f"{layer_name(0)}/mlp/dense_1/kernel"
    np.testing.assert_allclose(found[f"{kernel}_scale"], plain[f"{kernel}_scale"], rtol=1e-6)
    moved = np.abs(found[f"{kernel}_quantized"].astype(int) - plain[f"{kernel}_quantized"])
    assert 0 < moved.mean() < 3
    positive = np.maximum(found[f"{kernel}_quantized"].astype(int), 0)
    assert (positive[::2] + positive[1::2]).max() > 128


@pytest.mark.parametrize("opset", [12, 24])
def test_symmetric_refuses_an_opset_that_is_none(source, record, images, opset, tmp_path):
    with pytest.raises(InputError, match=f"opset.*{opset}"):
        write_int8_onnx(source, record, tmp_path / "toy.onnx", batches_of(images), scheme="symmetric", opset=opset)
    assert os.listdir(tmp_path) == []


# Activations of 16 bits


def constants_of(path):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def as_written(path, images):
    """The outputs of the graph one operator at a time: float between pairs, as no session optimizes it."""
    return run(path, images, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)


@pytest.mark.parametrize("opset", [None, 23])
def test_w8a16_is_qdq_with_activations_of_sixteen_bits(
    spec, source, record, images, reference, exported, opset, tmp_path
):
    path = tmp_path / "toy.onnx"
    artifact = write_int8_onnx(source, record, path, batches_of(images), scheme="w8a16", opset=opset)
    assert (artifact.precision, artifact.scheme, len(artifact.notes)) == ("int8", "w8a16", 1)
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == "float32"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset or 21)]
    # A pair at every Dense's input and output, and at each operand of attention's products.
    found = operators(path)
    assert (found["Gemm"], found["MatMul"]) == (6 * spec.num_layers + 2, 2 * spec.num_layers)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    quantized = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantized) >= 8 * spec.num_layers
    assert {types[value] for value in quantized} == {onnx.TensorProto.UINT16}
    constants = constants_of(path)
    kernels = {name: value for name, value in constants.items() if name.endswith("/kernel_quantized")}
    assert len(kernels) == 6 * spec.num_layers + 2
    for name, kernel in kernels.items():
        assert kernel.dtype == np.int8
        assert (np.abs(kernel.astype(int)).max(axis=0) == 127).all()  # no room is left for sums in 16 bits
        assert constants[name.replace("kernel", "bias")].dtype == np.int32
    assert signal_to_noise(as_written(path, images), reference) > 37
    # ONNX Runtime makes MatMulNBits of a Dense, and that rounds what it reads to 8 bits by blocks.
    assert signal_to_noise(run(path, images), reference) > 33


class Rounded:
    """Kernels that int8 holds exactly: LayerNorms leave nothing to fold, 1/√d of heads of 16 is a power of 2."""

    def __init__(self, source):
        self.spec, self._source = source.spec, source

    def read(self, name):
        values = self._source.read(name)
        if name.rpartition("/")[0].endswith("norm"):
            return np.full_like(values, name.endswith("/scale"))
        if not name.endswith("/kernel"):
            return values
        return qdq.W8A16.through(values.reshape(-1, values.shape[-1])).reshape(values.shape)


@pytest.mark.thorough
def test_sixteen_bits_lose_next_to_nothing(images, tmp_path):
    source = Rounded(RandomParameters(toy_spec().with_(num_heads=3)))
    record, found = record_of(source.spec), {}
    write_onnx(source, record, tmp_path / "float32.onnx")
    wanted = run(tmp_path / "float32.onnx", images)
    for scheme in ("qdq", "w8a16"):
        path = tmp_path / f"{scheme}.onnx"
        write_int8_onnx(source, record, path, batches_of(images), scheme=scheme)
        found[scheme] = signal_to_noise(as_written(path, images), wanted)
    assert found["qdq"] < 40
    assert found["w8a16"] > 75


def test_ranges_of_sixteen_bits_have_headroom(source, record, images, ranges, tmp_path):
    fed = feed(np.round((images + 1) * 127.5).astype(np.uint8), "0..255", record.preprocessing)
    path = tmp_path / "toy.onnx"
    write_int8_onnx(source, record, path, batches_of(fed), scheme="w8a16", input="0..255")
    constants = constants_of(path)
    assert float(constants["patch_embedding/input_scale"]) == pytest.approx(255 / 65535)  # each pixel is a level
    low, high = qdq.W8A16.headroom * np.array([-2.0, 3.0])
    scale, zero = qdq.activation_step("head:input", -2.0, 3.0, qdq.W8A16)
    assert (float(scale), int(zero)) == (pytest.approx((high - low) / 65535), round(-low / (high - low) * 65535))


def test_w8a16_needs_the_opset_that_has_its_types(source, record, ranges, tmp_path):
    with pytest.raises(InputError, match="'w8a16' needs opset 21 or above, given 20"):
        write_onnx(source, record, tmp_path / "toy.onnx", precision="int8", scheme="w8a16", ranges=ranges, opset=20)
    assert os.listdir(tmp_path) == []


# Weights


def test_pairs_of_weights_stay_within_sixteen_bits():
    random = np.random.default_rng(0)
    kernel = random.standard_t(3, (255, 40)).astype(np.float32)
    kernel[:, 0] = 0
    kernel[:2, 1], kernel[2:, 1] = (3, 3), 0  # the worst pair: both at the end of the range
    kernel[1:3, 2], kernel[3:, 2], kernel[0, 2] = (3, 3), 0, 0  # neighbours, but of two pairs
    values, scale = pairs.quantize_by_pairs(kernel)
    assert values.dtype == np.int8
    assert np.isfinite(scale).all()
    assert np.abs(values * scale - kernel).max() <= scale.max() / 2 + 1e-6
    padded = np.concatenate([values, np.zeros((1, 40), np.int8)]).astype(int).reshape(-1, 2, 40)
    for sign in (1, -1):
        assert (255 * np.maximum(sign * padded, 0).sum(1)).max() < 2**15
    assert values[:2, 1].tolist() == [64, 64]
    assert values[1:3, 2].tolist() == [127, 127]
    np.testing.assert_array_equal(qdq.QDQ.through(kernel), values.astype(np.float32) * scale)


@pytest.mark.parametrize("scheme", ["dynamic", "qdq"])
def test_no_sum_of_two_products_leaves_sixteen_bits(source, record, images, exported, scheme, tmp_path):
    path = exported()[0] if scheme == "qdq" else tmp_path / "toy.onnx"
    if scheme == "dynamic":
        write_int8_onnx(source, record, path, batches_of(images), scheme="dynamic")
    tensors = [t for t in onnx.load(path).graph.initializer if t.name.endswith("/kernel_quantized")]
    kernels = [onnx.numpy_helper.to_array(t).astype(int) for t in tensors if t.data_type == onnx.TensorProto.INT8]
    assert len(kernels) == len(tensors) - (scheme == "dynamic")  # the patch embedding is uint8, which is exact
    for kernel in kernels:
        for part in (np.maximum(kernel, 0), np.maximum(-kernel, 0)):
            assert 255 * (part[::2] + part[1::2]).max() < 2**15


def test_reordered_channels_are_the_same_model_with_finer_levels(source, record, images, reference, tmp_path):
    reordered = pairs.PairedParameters(source)
    write_onnx(reordered, record, tmp_path / "toy.onnx")
    assert signal_to_noise(run(tmp_path / "toy.onnx", images), reference) > 100
    for index in range(source.spec.num_layers):
        for name in ("attention/output", "mlp/dense_2"):
            kernel = f"{layer_name(index)}/{name}/kernel"
            before, after = (pairs.quantize_by_pairs(p.read(kernel))[1] for p in (source, reordered))
            assert np.square(after).mean() < np.square(before).mean()


@pytest.mark.parametrize(("channels", "group"), [(7, 7), (200, 200), (24, 8)])
def test_order_of_pairs_keeps_every_channel_in_its_group(channels, group):
    kernel = np.random.default_rng(0).standard_t(3, (channels, 5)).astype(np.float32)
    order = pairs.order_of_pairs(kernel, group)
    for start in range(0, channels, group):
        assert sorted(order[start : start + group]) == list(range(start, start + group))


def test_rounding_by_error_in_pairs_beats_plain_rounding_and_keeps_them():
    random = np.random.default_rng(0)
    kernel = random.standard_t(3, (64, 24)).astype(np.float32)
    inputs = (random.normal(size=(500, 8)) @ random.normal(size=(8, 64)) + 0.1 * random.normal(size=(500, 64))).astype(
        np.float32
    )
    plain, scale = pairs.quantize_by_pairs(kernel)
    found = round_by_error(np.ascontiguousarray(kernel.T), inputs.T @ inputs, scale)
    np.testing.assert_array_equal(found.scale, scale)
    levels = found.levels.T.astype(int)
    for part in (np.maximum(levels, 0), np.maximum(-levels, 0)):
        assert 255 * (part[::2] + part[1::2]).max() < 2**15
    errors = [np.square(inputs @ (values - kernel)).sum() for values in (levels * scale, plain * scale)]
    assert errors[0] < 0.5 * errors[1]


def test_large_weights_of_one_sign_are_kept_apart():
    kernel = np.ones((6, 1), np.float32) * [[1], [1], [0.1], [0.1], [-1], [0.1]]
    pairs_of = {frozenset(pair) for pair in pairs.order_of_pairs(kernel, 6).reshape(3, 2).tolist()}
    assert frozenset((0, 1)) not in pairs_of
    assert pairs.quantize_by_pairs(kernel)[1] > 1.5 / 127
    assert pairs.quantize_by_pairs(kernel[pairs.order_of_pairs(kernel, 6)])[1] < 1.2 / 127


def test_integer_products_are_exact_on_this_processor(exported, images):
    """Trap: with plain int8 weights, sums of two products in 16 bits saturate on x86 without VNNI."""
    path, _ = exported()
    exact = run(path, images, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)  # in float, a step at a time
    assert signal_to_noise(run(path, images), exact) > 45


@pytest.mark.parametrize("scheme", ["qdq", "symmetric"])
def test_channel_of_next_to_no_weights_keeps_its_bias(source, record, images, scheme, tmp_path):
    kernel, bias = source.read("head/kernel").copy(), source.read("head/bias").copy()
    kernel[:, 4], bias[4] = 1e-12, 3.5
    kernel[:, 5] = 0
    parameters = source.replaced("head/kernel", kernel).replaced("head/bias", bias)
    write_int8_onnx(parameters, record, tmp_path / "toy.onnx", batches_of(images), scheme=scheme)
    found = run(tmp_path / "toy.onnx", images)
    # The shift of the last LayerNorm goes into this bias too, times weights of nearly nothing.
    np.testing.assert_allclose(found[:, 4], 3.5, rtol=1e-3)
    np.testing.assert_allclose(found[:, 5], bias[5], rtol=1e-3, atol=1e-3)


# Ranges


def test_ranges_are_the_true_extremes(spec, source, record, images, ranges, exported, tmp_path):
    layers = spec.num_layers
    inputs, outputs, softmax = 6 * layers + 2, 6 * layers + 1, layers
    assert len(ranges) == inputs + outputs + softmax
    assert ranges[qdq.PIXELS] == (-1.0, 1.0)
    first = layer_name(0)
    assert ranges[f"{first}/attention/query:input"] == ranges[f"{first}/attention/key:input"]
    low, high = ranges[f"{first}/attention/scores/softmax"]
    assert 0 <= low < high <= 1
    low, high = ranges[f"{first}/mlp/dense_2:input"]
    assert low == pytest.approx(-0.17, abs=0.01)  # as far down as GELU goes
    one = ranges_of(observed_of(source, record, images[:1], tmp_path), None, spec)
    assert len(one) == inputs + 2 * layers  # what "qdq" rounds: besides, queries and keys
    assert all(ranges[site][0] <= low and high <= ranges[site][1] for site, (low, high) in one.items())
    assert one != ranges
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(exported()[0]).graph.initializer}
    low, high = ranges[f"{first}/attention/key"]
    assert 1 <= scales[f"{first}/attention/key/output_scale"] / ((high - low) / 255) < 2  # and a margin


def test_clips_draw_ranges_in():
    found = clipped(
        {"a/attention/scores/softmax": (0.0, 0.8), "a/attention/output:input": (-2.0, 4.0), "head:input": (-1.0, 1.0)},
        {"a/attention/scores/softmax": (1.0, 0.5), "a/attention/mixed": (0.9, 0.8), "a/mlp/dense_2": (0.5, 0.5)},
    )
    assert found["a/attention/scores/softmax"] == (0.0, 0.4)
    assert found["a/attention/output:input"] == pytest.approx((-1.8, 3.2))
    assert found["head:input"] == (-1.0, 1.0)


def test_a_tuning_is_applied(source, record, images, exported, tmp_path):
    shift = np.full(10, 0.5, np.float32)
    tuning = Tuning(Factors(corrections={"head": shift}), {f"{layer_name(0)}/mlp/dense_2:input": (1.0, 0.5)})
    write_int8_onnx(source, record, tmp_path / "toy.onnx", batches_of(images), tuning, scheme="qdq")
    name = f"{layer_name(0)}/mlp/dense_2/input_scale"
    before, after = (
        next(float(onnx.numpy_helper.to_array(t)) for t in onnx.load(path).graph.initializer if t.name == name)
        for path in (exported()[0], tmp_path / "toy.onnx")
    )
    assert 0.5 * before < after < 0.6 * before
    found, plain = run(tmp_path / "toy.onnx", images), run(exported()[0], images)
    assert (found - plain).mean() == pytest.approx(0.5, abs=0.15)


def test_w8a16_holds_the_levels_of_the_tflite_file(source, record, images, tmp_path):
    tuning = tune(source, images, full_float(source.spec))
    assert len(tuning.kernels) == 6 * source.spec.num_layers
    write_int8_onnx(source, record, tmp_path / "toy.onnx", batches_of(images), tuning, scheme="w8a16")
    constants = constants_of(tmp_path / "toy.onnx")
    for name, levels in tuning.kernels.items():
        np.testing.assert_array_equal(constants[f"{name}_quantized"], levels.levels.T)
        # 1/√d is in the queries of both.
        np.testing.assert_allclose(constants[f"{name}_scale"], levels.scale, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["dynamic", "qdq", "symmetric", "w8a16"])
def test_channels_that_are_always_zero(record, images, scheme, tmp_path):
    source = RandomParameters(toy_spec())
    for name, channels in (
        ("encoder/layer_0/mlp_norm/scale", 5),
        ("encoder/layer_0/attention/value/kernel", 3),
        ("encoder/layer_0/attention/value/bias", 3),
        ("encoder/layer_1/mlp_norm/scale", slice(None)),
    ):
        values = source.read(name).copy()
        values[..., channels] = 0
        source = source.replaced(name, values)
    write_onnx(source, record, tmp_path / "float32.onnx")
    tuning = tune(source, images, full_float(source.spec)) if scheme == "w8a16" else None
    write_int8_onnx(source, record, tmp_path / "toy.onnx", batches_of(images), tuning, scheme=scheme)
    assert signal_to_noise(run(tmp_path / "toy.onnx", images), run(tmp_path / "float32.onnx", images)) > 28


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("scheme", "levels"), [("qdq", 255), ("symmetric", 127)])
def test_every_input_kind_and_a_batch(kind, scheme, levels, source, record, images, tmp_path):
    pixels = np.round((images + 1) * 127.5).astype(np.uint8)
    fed = feed(pixels, kind, record.preprocessing)
    path, plain = tmp_path / "qdq.onnx", tmp_path / "float32.onnx"
    artifact = write_int8_onnx(source, record, path, batches_of(fed, 2), batch=2, input=kind, scheme=scheme)
    write_onnx(source, record, plain, batch=2, input=kind)
    assert artifact.inputs[0].shape == (2, 32, 32, 3)
    assert artifact.inputs[0].dtype == KINDS[kind].dtype
    assert signal_to_noise(run(path, fed), run(plain, fed)) > 30
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    step, zero = (constants[f"patch_embedding/input_{part}"] for part in ("scale", "zero_point"))
    if KINDS[kind].per_pixel is not None:  # each pixel value is a level, or each other one
        assert (float(step), int(zero)) == (pytest.approx(KINDS[kind].per_pixel * 255 / levels), 0)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [{"num_classes": None}, {"pre_logits_size": 24}, {"gelu": "tanh"}],
    ids=["features", "pre-logits", "tanh"],
)
@pytest.mark.parametrize("scheme", ["qdq", "symmetric"])
def test_other_models(changes, scheme, images, tmp_path):
    spec = toy_spec(**changes)
    source = RandomParameters(spec)
    write_int8_onnx(source, record_of(spec), tmp_path / "int8.onnx", batches_of(images), scheme=scheme)
    write_onnx(source, record_of(spec), tmp_path / "float32.onnx")
    wanted = run(tmp_path / "float32.onnx", images)
    assert signal_to_noise(run(tmp_path / "int8.onnx", images), wanted) > 28


def test_external_data(source, record, images, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "SINGLE_FILE_LIMIT", 1000)
    path = tmp_path / "toy.onnx"
    artifact = write_int8_onnx(source, record, path, batches_of(images), scheme="qdq")
    assert sorted(os.listdir(tmp_path)) == ["toy.onnx", "toy.onnx.data"]
    assert artifact.extra_files == (str(tmp_path / "toy.onnx.data"),)
    onnx.checker.check_model(str(path), full_check=True)
    assert signal_to_noise(run(path, images), reference) > 30
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        assert (tensor.data_location == onnx.TensorProto.EXTERNAL) == (len(tensor.raw_data) == 0)
        assert tensor.dims or tensor.raw_data  # a scale is not worth a page of the data file


# Failures


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda ranges: None, "needs the ranges of a representative dataset"),
        (lambda ranges: {k: v for k, v in ranges.items() if k != "head:input"}, "lack head:input"),
        (lambda ranges: {**ranges, "head:input": (0.0, float("nan"))}, "range of head:input is 0.0 to nan"),
        (lambda ranges: {**ranges, "head:input": (1.0, -1.0)}, "two finite numbers in order"),
    ],
    ids=["none", "missing", "nan", "reversed"],
)
def test_ranges_that_do_not_do(source, record, ranges, given, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_onnx(source, record, tmp_path / "toy.onnx", precision="int8", scheme="qdq", ranges=given(ranges))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("precision", "scheme"), [("float32", None), ("int8", "dynamic")])
def test_ranges_for_a_form_without_are_refused(source, record, ranges, precision, scheme, tmp_path):
    with pytest.raises(InputError, match="takes no ranges"):
        write_onnx(source, record, tmp_path / "toy.onnx", precision=precision, scheme=scheme, ranges=ranges)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda images: [], "no images to calibrate on"),
        (lambda images: [images[:2]], r"float32 \[2, 32, 32, 3\], expected float32 \[1, 32, 32, 3\]"),
        (lambda images: [images[:1].astype(np.float64)], "are float64"),
    ],
    ids=["none", "batch", "dtype"],
)
def test_images_that_do_not_do(source, record, images, wrong, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_int8_onnx(source, record, tmp_path / "toy.onnx", wrong(images), scheme="qdq")
    assert os.listdir(tmp_path) == []


def test_existing_file_is_refused_before_any_work(source, record, images, tmp_path, monkeypatch):
    (tmp_path / "toy.onnx").write_text("mine")
    monkeypatch.setattr("vit_export.onnx.int8.observe", lambda *_, **__: pytest.fail("calibrated before looking"))
    with pytest.raises(OutputError, match="exists"):
        write_int8_onnx(source, record, tmp_path / "toy.onnx", batches_of(images), scheme="qdq")
    assert (tmp_path / "toy.onnx").read_text() == "mine"
