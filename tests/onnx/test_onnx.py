"""ONNX export: the same outputs as the Keras model in every form, and the traps on the way there."""

import json
import os
import subprocess
import sys
import weakref
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import onnx
import onnxruntime
import tensorflow as tf

from vit_export.base.errors import InputError, OutputError, StructureError
from vit_export.deployment import graph, rewrites
from vit_export.model.parameters import parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import assign_parameters
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import Variant
from vit_export.onnx import DEFAULT_OPSET, quantize, structure, write_onnx
from vit_export.onnx import stream as weights
from vit_export.onnx.fusion import fuse

TOY = ViTSpec.of(Variant("vit_toy", 8, 3, 48, 96, 4, "tests"), image_size=32, num_classes=10)
FEATURES = TOY.with_(num_classes=None)
TANH = TOY.with_(gelu="tanh")
OPSETS = (13, 17, 20, 23)
# Worst difference from the Keras model as a part of the range of its outputs.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "int8": 0.06}


class RandomParameters:
    """Every parameter random, biases and LayerNorms included, so that no term can go missing unnoticed."""

    def __init__(self, spec, seed=0, **factors):
        self.spec = spec
        generator = np.random.default_rng(seed)
        self.values = {}
        for parameter in parameter_specs(spec):
            value = 0.15 * generator.standard_normal(parameter.shape).astype(np.float32)
            if parameter.name.endswith("scale"):
                value += 1
            if parameter.name in ("class_token", "position_embedding"):
                value *= 4
            for part, factor in factors.items():
                value = value * np.float32(factor) if parameter.name.startswith(part) else value
            self.values[parameter.name] = value

    def read(self, name):
        return self.values[name].copy()


def record_of(spec):
    return ModelRecord(spec, Preprocessing(spec.image_size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))


def export(source, path, **options):
    return write_onnx(source, record_of(source.spec), path, **options)


def images_for(spec, batch=1):
    shape = (batch, spec.image_size, spec.image_size, 3)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


@lru_cache
def keras_model(spec):
    from vit_export.model.keras_model import VisionTransformer

    return VisionTransformer(spec)


def reference(source, images):
    model = keras_model(source.spec)
    assign_parameters(model, source.read)
    return model.predict_output(images)


def session(path, **config):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if "optimized" in config:
        options.optimized_model_filepath = str(config["optimized"])
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path, images):
    return session(path).run(None, {"images": images})[0]


def difference(found, wanted):
    assert found.shape == wanted.shape
    assert found.dtype == np.float32
    return np.abs(found - wanted).max() / np.ptp(wanted)


def operators(path):
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def optimized_operators(path, tmp_path):
    """What ONNX Runtime makes of the file before it runs it."""
    session(path, optimized=tmp_path / "optimized.onnx")
    return operators(tmp_path / "optimized.onnx")


def signal_to_noise(found, wanted):
    return 10 * np.log10((wanted.astype(np.float64) ** 2).sum() / ((found.astype(np.float64) - wanted) ** 2).sum())


@pytest.fixture(scope="module")
def source():
    return RandomParameters(TOY)


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    """Path and Artifact of the toy in one form, written once for all tests that only read it."""

    @lru_cache
    def path_and_artifact(precision="float32", opset=DEFAULT_OPSET):
        path = tmp_path_factory.mktemp("exported") / f"{precision}_{opset}.onnx"
        return path, export(source, path, precision=precision, opset=opset)

    return path_and_artifact


@pytest.fixture(scope="module")
def unfused(source):
    """The structure of the toy as tf2onnx leaves it; tests copy what they change."""
    return structure.onnx_structure(TOY, rewrites.plain_parameters(source), opset=DEFAULT_OPSET)


# The same answer


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_outputs_equal_the_keras_model(source, exported, precision, opset):
    path, artifact = exported(precision, opset)
    onnx.checker.check_model(str(path), full_check=True)
    images = images_for(TOY)
    assert difference(run(path, images), reference(source, images)) < TOLERANCE[precision]
    assert [(entry.domain, entry.version) for entry in onnx.load(path).opset_import] == [("", opset)]
    assert artifact.scheme == ("dynamic" if precision == "int8" else None)
    assert bool(artifact.notes) == (precision == "float16")

    found = operators(path)
    layers = TOY.num_layers
    assert found["LayerNormalization"] == (2 * layers + 1 if opset >= 17 else 0)
    assert found["Gelu"] == (layers if opset >= 20 else 0)
    # Heads of 12 numbers: float16 Attention is wrong on arm64 there.
    assert found["Attention"] == (layers if opset >= 23 and precision != "float16" else 0)
    dense = "MatMulInteger" if precision == "int8" else "Gemm"
    assert found[dense] == 6 * layers + 2
    if opset == 23 and found["Attention"]:
        assert not set(found) & {"MatMul", "Softmax", "Erf", "ReduceMean", "Sqrt", "Identity"}
        assert found["Transpose"] == 1


@pytest.mark.thorough
@pytest.mark.parametrize("opset", [13, 23])
@pytest.mark.parametrize(
    ("spec", "batch"),
    [
        (FEATURES, 1),
        (TANH, 1),
        (TOY, 4),
        (TANH.with_(num_classes=None), 2),
        (TOY.with_(pre_logits_size=24), 2),
        (FEATURES.with_(pre_logits_size=24), 1),
    ],
    ids=["features", "tanh", "batch-4", "tanh-features-batch-2", "pre-logits", "pooled"],
)
def test_other_models_and_batches(tmp_path, spec, batch, opset):
    spec = spec.with_(num_layers=2)  # the last one and another: three are exported in the test above
    source, path = RandomParameters(spec), tmp_path / "toy.onnx"
    artifact = export(source, path, opset=opset, batch=batch)
    images = images_for(spec, batch)
    assert difference(run(path, images), reference(source, images)) < TOLERANCE["float32"]
    assert artifact.inputs[0].shape == (batch, 32, 32, 3)
    assert (artifact.outputs[0].name, artifact.outputs[0].shape) == (spec.output_name, (batch, spec.output_size))
    if opset == 23:
        wanted = b"tanh" if spec.gelu == "tanh" else b"none"
        gelus = [node for node in onnx.load(path).graph.node if node.op_type == "Gelu"]
        assert {attribute.s for node in gelus for attribute in node.attribute} == {wanted}


@pytest.mark.parametrize("opset", [13, 23])
def test_epsilon_is_the_models_own(tmp_path, opset):
    # Tokens so small that their variance is that of 1e-6: with the wrong epsilon everything changes.
    source = RandomParameters(
        TOY.with_(layer_norm_epsilon=1e-12), patch_embedding=1e-4, position=1e-4, class_token=1e-4
    )
    path = tmp_path / "toy.onnx"
    export(source, path, opset=opset)
    images = images_for(TOY)
    wanted = reference(source, images)
    assert difference(run(path, images), wanted) < 1e-4
    other = RandomParameters(TOY, patch_embedding=1e-4, position=1e-4, class_token=1e-4)
    assert difference(reference(other, images), wanted) > 1e-3


@pytest.mark.parametrize(("heads", "fused"), [(3, True), (4, False)])
def test_float16_attention_is_fused_where_arm64_computes_it_right(tmp_path, heads, fused):
    """Not for heads of 8n + 4 numbers (48 / 4 = 12): runtimes/test_emulation.py shows what ONNX Runtime makes of it."""
    source = RandomParameters(TOY.with_(num_heads=heads, num_layers=1))
    export(source, tmp_path / "half.onnx", precision="float16")
    assert operators(tmp_path / "half.onnx")["Attention"] == fused


@pytest.mark.parametrize("opset", [13, 23])
def test_float16_holds_large_activations(tmp_path, opset):
    # Squared in a LayerNorm this is beyond float16's 65,504.
    source, path = RandomParameters(TOY), tmp_path / "toy.onnx"
    images = images_for(TOY)
    source.values["position_embedding"][:, :, 0] = 1000
    export(source, path, precision="float16", opset=opset)
    assert difference(run(path, images), reference(source, images)) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["vit_ti16", "vit_s32"])
def test_full_size(tmp_path, variant):
    spec = ViTSpec.of(variant)
    generator = np.random.default_rng(0)
    source = RandomParameters(spec)
    for parameter in parameter_specs(spec):
        if parameter.name.endswith("kernel"):
            fan_in = np.prod(parameter.shape[:-1])
            source.values[parameter.name] = (generator.standard_normal(parameter.shape) / fan_in**0.5).astype(
                np.float32
            )
    images = images_for(spec)
    wanted = reference(source, images)
    for precision, tolerance in {"float32": 1e-5, "float16": 1e-2, "int8": 0.1}.items():
        path = tmp_path / f"{precision}.onnx"
        artifact = export(source, path, precision=precision)
        assert difference(run(path, images), wanted) < tolerance
        size = {"float32": 4, "float16": 2, "int8": 1.1}[precision] * spec.num_parameters
        assert artifact.bytes == pytest.approx(size, rel=0.07)


# The file


def test_names_are_readable(source, exported):
    path, _ = exported()
    model = onnx.load(path)
    initializers = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for name, parameter in rewrites.plain_parameters(source).items():
        assert initializers.pop(name) == parameter.shape
    assert all(name.startswith("constant/") for name in initializers)
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert "encoder/layer_1/attention/query/Gemm" in nodes
    assert "encoder/layer_1/attention/Attention" in nodes
    assert "encoder/norm/LayerNormalization" in nodes
    assert not any("__" in text for node in model.graph.node for text in (node.name, *node.input, *node.output))
    assert [value.name for value in model.graph.input] == ["images"]


def test_int8_names_and_types(exported):
    path, _ = exported("int8")
    found = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    kernel, scale = (found[f"encoder/layer_0/mlp/dense_1/kernel_{part}"] for part in ("quantized", "scale"))
    assert (kernel.data_type, tuple(kernel.dims)) == (onnx.TensorProto.INT8, (48, 96))
    assert found["patch_embedding/kernel_quantized"].data_type == onnx.TensorProto.UINT8
    assert (scale.data_type, tuple(scale.dims)) == (onnx.TensorProto.FLOAT, (96,))
    assert "encoder/layer_0/mlp/dense_1/kernel" not in found


def test_metadata_says_what_the_model_is(exported):
    path, artifact = exported("int8")
    model = onnx.load(path)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    record = json.loads(facts["vit_export"])
    assert (record.pop("precision"), record.pop("scheme")) == ("int8", "dynamic")
    assert ModelRecord.from_dict(record) == record_of(TOY)
    assert json.loads(facts["mean"]) == [0.485, 0.456, 0.406]
    assert (facts["image_size"], facts["channel_order"], facts["layout"]) == ("32", "RGB", "NHWC")
    assert model.producer_name == "vit-export"
    assert model.graph.name == "vit_toy"
    assert session(path).get_modelmeta().custom_metadata_map == facts
    assert (artifact.format, artifact.precision, artifact.bytes) == ("onnx", "int8", path.stat().st_size)
    assert artifact.versions["tf2onnx"] == "1.17.0"


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_dimensions_of_input_and_output_have_a_size_and_a_name(precision, exported):
    graph = onnx.load(exported(precision)[0]).graph
    found = [
        [(dimension.dim_value, dimension.denotation) for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    ]
    height, width = (32, "DATA_FEATURE"), (32, "DATA_FEATURE")
    classes = TOY.output_size
    assert found == [
        [(1, "DATA_BATCH"), height, width, (3, "DATA_CHANNEL")],
        [(1, "DATA_BATCH"), (classes, "DATA_FEATURE")],
    ]


def test_every_value_has_a_static_shape(exported):
    path, _ = exported()
    model = onnx.load(path)
    known = {v.name for v in (*model.graph.value_info, *model.graph.output)}
    assert {value for node in model.graph.node for value in node.output} == known


def test_streamed_file_is_one_plain_protobuf_message(source, exported):
    path, artifact = exported()
    model = onnx.load(path)
    # Parsers that do not merge a message that occurs twice read it too: nothing occurs twice.
    assert len(model.SerializeToString()) == artifact.bytes == path.stat().st_size
    for tensor in model.graph.initializer:
        if not tensor.name.startswith("constant/"):
            wanted = rewrites.plain_parameters(source)[tensor.name].read()
            np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), wanted)


def test_same_model_same_bytes(source, exported, tmp_path):
    assert export(source, tmp_path / "toy.onnx").sha256 == exported()[1].sha256


@pytest.mark.slow
def test_same_bytes_whatever_the_hash_seed(tmp_path):
    code = (
        "import os, sys, pathlib; sys.path[:0] = sys.argv[1].split(os.pathsep); import test_onnx as t;"
        "print(t.export(t.RandomParameters(t.TOY), pathlib.Path(sys.argv[2]), overwrite=True).sha256)"
    )
    arguments = [
        sys.executable,
        "-c",
        code,
        os.pathsep.join(map(str, Path(__file__).parents[:2])),
        str(tmp_path / "toy.onnx"),
    ]
    digests = set()
    for seed in "12":
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout.strip().splitlines()[-1])
    assert len(digests) == 1


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_one_tensor_in_memory_at_a_time(tmp_path, precision):
    alive, most = Counter(), 0

    class Counting(RandomParameters):
        def read(self, name):
            nonlocal most
            value = super().read(name)
            alive["now"] += value.nbytes
            weakref.finalize(value, lambda: alive.subtract(now=value_bytes))
            value_bytes = value.nbytes
            most = max(most, alive["now"])
            return value

    source = Counting(TOY)
    export(source, tmp_path / "toy.onnx", precision=precision)
    largest = max(4 * parameter.size for parameter in parameter_specs(TOY))
    # Query, key and value next to each other are what balancing looks at together.
    assert most <= 3 * largest
    assert alive["now"] == 0


# External data


@pytest.fixture
def external(monkeypatch):
    monkeypatch.setattr(weights, "SINGLE_FILE_LIMIT", 1000)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_external_data(source, tmp_path, external, precision):
    path, data = tmp_path / "toy.onnx", tmp_path / "toy.onnx.data"
    artifact = export(source, path, precision=precision)
    assert artifact.extra_files == (str(data),)
    assert artifact.bytes == path.stat().st_size + data.stat().st_size
    assert sorted(os.listdir(tmp_path)) == ["toy.onnx", "toy.onnx.data"]
    onnx.checker.check_model(str(path), full_check=True)
    images = images_for(TOY)
    assert difference(run(path, images), reference(source, images)) < TOLERANCE[precision]
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries["location"] == "toy.onnx.data"
            assert int(entries["offset"]) % 4096 == 0


def test_single_file_replaces_a_pair(source, tmp_path, monkeypatch):
    path, data = tmp_path / "toy.onnx", tmp_path / "toy.onnx.data"
    with monkeypatch.context() as patch:
        patch.setattr(weights, "SINGLE_FILE_LIMIT", 1000)
        export(source, path)
        export(source, path, overwrite=True)
    assert data.exists()
    export(source, path, overwrite=True)
    assert os.listdir(tmp_path) == ["toy.onnx"]


def test_existing_data_file_is_refused(source, tmp_path, external):
    (tmp_path / "toy.onnx.data").write_text("someone else's")
    with pytest.raises(OutputError, match=r"toy\.onnx\.data exists"):
        export(source, tmp_path / "toy.onnx")
    assert os.listdir(tmp_path) == ["toy.onnx.data"]
    assert (tmp_path / "toy.onnx.data").read_text() == "someone else's"


def test_data_file_goes_when_the_model_file_fails(source, tmp_path, external, monkeypatch):
    path, rename = tmp_path / "toy.onnx", os.rename

    def failing(old, new):
        if os.fspath(new) == str(path):
            raise OSError(28, "No space left on device")
        rename(old, new)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="No space left"):
        export(source, path)
    assert os.listdir(tmp_path) == []


# Failures


@pytest.mark.parametrize("limit", [10**9, 1000])
def test_failed_write_leaves_nothing(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(weights, "SINGLE_FILE_LIMIT", limit)

    class Breaking(RandomParameters):
        def read(self, name):
            if name == "head/bias":
                raise OSError(5, "Input/output error")
            return super().read(name)

    with pytest.raises(OutputError):
        export(Breaking(TOY), tmp_path / "toy.onnx")
    assert os.listdir(tmp_path) == []


def test_wrong_shape_is_noticed(source, tmp_path):
    broken = RandomParameters(TOY)
    broken.values["head/bias"] = np.zeros(11, np.float32)
    with pytest.raises((StructureError, ValueError)):
        export(broken, tmp_path / "toy.onnx")
    assert os.listdir(tmp_path) == []


def test_existing_output_is_refused_before_any_work(source, tmp_path, monkeypatch):
    path = tmp_path / "toy.onnx"
    path.write_text("mine")
    monkeypatch.setattr(graph, "trace", lambda *_: pytest.fail("converted before looking"))
    with pytest.raises(OutputError, match="exists"):
        export(source, path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 12}, "13 to 23"),
        ({"opset": 24}, "13 to 23"),
        ({"opset": True}, "13 to 23"),
        ({"opset": "23"}, "13 to 23"),
        ({"batch": 0}, "batch size"),
        ({"precision": "bfloat16"}, "float32, float16, int8"),
        ({"precision": "int8", "scheme": "qdq"}, "'dynamic'"),
        ({"precision": "float32", "scheme": "dynamic"}, "no scheme"),
    ],
)
def test_calls_that_make_no_sense(source, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        export(source, tmp_path / "toy.onnx", **options)


def test_record_of_another_model_is_refused(source, tmp_path):
    with pytest.raises(InputError, match="record"):
        write_onnx(source, record_of(FEATURES), tmp_path / "toy.onnx")


def test_weight_beyond_float16_is_refused(tmp_path):
    source = RandomParameters(TOY)
    source.values["head/kernel"][3, 4] = 70_000
    with pytest.raises(InputError, match="head/kernel contains 70000"):
        export(source, tmp_path / "toy.onnx", precision="float16")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change", [{"gelu": "tanh"}, {"layer_norm_epsilon": 1e-5}, {"num_heads": 3}, {"num_layers": 2}], ids=str
)
def test_pattern_that_is_not_there_is_an_error(unfused, change):
    model = onnx.ModelProto()
    model.CopyFrom(unfused)
    with pytest.raises(StructureError, match="ONNX"):
        fuse(model, TOY.with_(**change), batch=1)


# int8


def test_quantize_kernel():
    kernel = np.array([[0.5, 0.0, -3.0], [-1.0, 0.0, 1.5]], np.float32)
    values, scale = quantize.quantize_kernel(kernel)
    assert values.dtype == np.uint8
    np.testing.assert_allclose((values - 128.0) * scale, kernel, atol=float(scale.max()) / 2)
    assert values.tolist() == [[192, 128, 1], [1, 128, 192]]
    assert np.isfinite(scale).all()


def test_runtime_fuses_the_integer_products(exported, tmp_path):
    found = optimized_operators(exported("int8")[0], tmp_path)
    assert found["DynamicQuantizeMatMul"] + found["MatMulIntegerToFloat"] == 6 * TOY.num_layers + 2
    assert not found["MatMulInteger"]


def test_unsigned_weights_multiply_exactly(tmp_path):
    """Trap: on x86 without VNNI int8 weights saturate (sums of two products in 16 bits); uint8 weights never do."""
    path = tmp_path / "product.onnx"
    a, b = np.full((4, 64), 255, np.uint8), np.full((64, 32), 255, np.uint8)
    nodes = [onnx.helper.make_node("MatMulInteger", ["a", "b", "", "z"], ["c"])]
    info = onnx.helper.make_tensor_value_info
    inputs, outputs = [info("a", onnx.TensorProto.UINT8, a.shape)], [info("c", onnx.TensorProto.INT32, (4, 32))]
    constants = [onnx.numpy_helper.from_array(b, "b"), onnx.numpy_helper.from_array(np.array(128, np.uint8), "z")]
    opsets = [onnx.helper.make_opsetid("", 13)]
    product = onnx.helper.make_graph(nodes, "product", inputs, outputs, constants)
    onnx.save(onnx.helper.make_model(product, opset_imports=opsets, ir_version=8), path)
    assert (session(path).run(None, {"a": a})[0] == 64 * 255 * 127).all()


# What tf2onnx and ONNX Runtime do today; a failure here means that a workaround may go


def test_trap_exact_gelu_of_tensorflow_cannot_be_translated():
    @tf.function(input_signature=[tf.TensorSpec((2, 3), tf.float32)])
    def gelu(x):
        return tf.nn.gelu(x, approximate=False)

    function = gelu.get_concrete_function()
    assert "Erfc" in {operation.type for operation in function.graph.get_operations()}
    with pytest.raises(StructureError, match="tf2onnx cannot translate"):
        structure.translate(function, ["x"], "y", opset=18)


def test_trap_tf2onnx_ends_at_opset_18():
    from tf2onnx import constants

    assert max(constants.OPSET_TO_IR_VERSION) == structure.TRANSLATOR_MAX_OPSET


def test_trap_runtime_fuses_no_decomposed_layer_norm_or_attention(exported, tmp_path):
    found = optimized_operators(exported("float32", 13)[0], tmp_path)
    assert not {name for name in found if "LayerNorm" in name or "Attention" in name}
    assert found["ReduceMean"] == 2 * (2 * TOY.num_layers + 1)


def test_trap_a_redefined_operator_is_no_formal_bump(source):
    # Opset 18 made the axes of ReduceMean an input: declaring 23 over a graph of 17 would change its meaning.
    model = structure.onnx_structure(TOY, rewrites.plain_parameters(source), opset=17)
    with pytest.raises(StructureError, match="redefines ReduceMean"):
        structure.raise_opset(model, 23)


def test_structure_is_small_and_holds_no_weights(source, unfused):
    assert len(unfused.SerializeToString()) < 50_000
    assert all(tensor.ByteSize() < 100 for tensor in unfused.graph.initializer)
    assert [value.name for value in unfused.graph.input] == ["images", *rewrites.plain_parameters(source)]
