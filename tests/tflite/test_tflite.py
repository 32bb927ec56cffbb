import json
import struct
from collections import Counter

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.adapters.litert import schema, table_of
from vit_export.base.errors import InputError, OutputError, StructureError
from vit_export.base.quiet import import_tensorflow
from vit_export.deployment.rewrites import rounded_to_float16
from vit_export.int8.arithmetic import HEADROOM
from vit_export.int8.modes import SCHEMES
from vit_export.tflite import stream as writer
from vit_export.tflite import structure
from vit_export.tflite.quantize import calibrate, modes_of, write_int8
from vit_export.tflite.structure import get_metadata
from vit_export.tflite.write import write_tflite

import_tensorflow()


def run(path, images):
    """Outputs as real numbers; integer inputs and outputs through the file's own scale and zero point."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    batch, results = entry["shape"][0], []
    for start in range(0, len(images), batch):
        x = images[start : start + batch]
        if entry["dtype"] != np.float32:
            scale, zero = entry["quantization"]
            limits = np.iinfo(entry["dtype"])
            x = np.clip(np.round(x / scale + zero), limits.min, limits.max).astype(entry["dtype"])
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        y = interpreter.get_tensor(exit_["index"]).astype(np.float32)
        if exit_["dtype"] != np.float32:
            y = (y - exit_["quantization"][1]) * exit_["quantization"][0]
        results.append(y)
    return np.concatenate(results)


def operators(path):
    model = MappedModel(path).model
    codes = operator_kinds(model)
    return Counter(codes[o.opcodeIndex] for o in model.subgraphs[0].operators)


def sqnr(expected, found):
    return 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())


def relative(expected, found):
    return np.abs(expected - found).max() / np.ptp(expected)


@pytest.fixture(scope="module")
def float_file(source, record, tmp_path_factory):
    path = tmp_path_factory.mktemp("tflite") / "toy.tflite"
    write_tflite(source, record, path)
    return path


@pytest.fixture(scope="module")
def ranges(float_file, images):
    return calibrate(float_file, (image[np.newaxis] for image in images), len(images))


CASES = {
    "logits": ({}, 1),
    "features": ({"num_classes": None}, 1),
    "batch": ({}, 3),
    "tanh": ({"gelu": "tanh"}, 1),
    "epsilon": ({"layer_norm_epsilon": 1e-12}, 1),
    "size": ({"image_size": 48}, 1),
    "wide": ({"image_size": (24, 40)}, 1),
    "pre_logits": ({"pre_logits_size": 24}, 2),
    "pooled": ({"pre_logits_size": 24, "num_classes": None}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_float32_equals_the_reference(case, images, tmp_path):
    changes, batch = CASES[case]
    # Three layers are converted all over this file: here the last one and another are enough.
    spec = toy_spec(**changes).with_(num_layers=2)
    source = RandomParameters(spec)
    images = np.resize(images, (6, *spec.image_sides, 3))
    artifact = write_tflite(source, record_of(spec), tmp_path / "toy.tflite", batch=batch)
    expected = build(source).predict_output(images)
    assert relative(expected, run(tmp_path / "toy.tflite", images)) < 1e-5
    assert artifact.inputs[0].shape == (batch, *spec.image_sides, 3)
    assert (artifact.outputs[0].name, artifact.outputs[0].shape) == (spec.output_name, (batch, spec.output_size))
    assert operators(tmp_path / "toy.tflite")["GELU"] == spec.num_layers


def test_float16(source, record, images, expected, float_file, tmp_path):
    artifact = write_tflite(source, record, tmp_path / "half.tflite", precision="float16")
    found = run(tmp_path / "half.tflite", images)
    assert relative(expected, found) < 5e-3
    assert relative(run(float_file, images), found) > 0  # it is not the float32 file under another name
    kernels = sum(p.read().nbytes for n, p in _parameters(source).items() if n.endswith("/kernel"))
    assert artifact.bytes < float_file.stat().st_size - 0.45 * kernels


def _parameters(source):
    from vit_export.deployment.rewrites import folded_parameters

    return folded_parameters(source)


def test_float16_refuses_what_would_become_infinite():
    with pytest.raises(InputError, match="head/kernel contains 100000, which float16 cannot hold"):
        rounded_to_float16(np.float32([1, 1e5]), "head/kernel")


@pytest.mark.parametrize(("scheme", "least"), [("dynamic", 28), ("static", 24), ("full", 10), ("w8a16", 30)])
def test_int8(scheme, least, float_file, record, ranges, images, expected, tmp_path):
    path = tmp_path / "int8.tflite"
    artifact = write_int8(float_file, record, path, scheme=scheme, ranges=ranges)
    found = run(path, images)
    assert sqnr(expected, found) > least
    assert sqnr(expected, found) < 60  # it is quantized
    assert path.stat().st_size < 0.5 * float_file.stat().st_size
    kind = "int8" if scheme == "full" else "float32"
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == kind
    assert (artifact.inputs[0].scale is None) == (kind == "float32")
    assert (artifact.precision, artifact.scheme) == ("int8", scheme)


def test_static_int8_keeps_what_needs_float(float_file, record, ranges, spec, tmp_path):
    path = tmp_path / "int8.tflite"
    write_int8(float_file, record, path, scheme="static", ranges=ranges)
    model = MappedModel(path).model
    graph, types = model.subgraphs[0], schema().TensorType
    kinds = operator_kinds(model)
    input_types = {
        kind: {graph.tensors[o.inputs[0]].type for o in graph.operators if kinds[o.opcodeIndex] == kind}
        for kind in ("BATCH_MATMUL", "SOFTMAX", "GELU", "RSQRT", "ADD", "MEAN", "TRANSPOSE")
    }
    assert input_types["BATCH_MATMUL"] == {types.INT8}
    # Float are the patches alone: pixels fall between the levels of a range as often as not, so that Dense is dynamic.
    moved = [graph.tensors[o.inputs[0]] for o in graph.operators if kinds[o.opcodeIndex] == "TRANSPOSE"]
    assert {t.name.decode() for t in moved if t.type != types.INT8} == {"images/reshape"}
    for kind in ("SOFTMAX", "GELU", "RSQRT", "ADD", "MEAN"):
        assert input_types[kind] == {types.FLOAT32}, kind
    for operator in graph.operators:
        kind = kinds[operator.opcodeIndex]
        if kind == "FULLY_CONNECTED":
            kernel = graph.tensors[operator.inputs[1]]
            assert kernel.type == types.INT8
            assert len(kernel.quantization.scale) == kernel.shape[0]  # per channel
        if kind == "BATCH_MATMUL":  # XNNPACK wants zero point 0 on the right
            assert list(graph.tensors[operator.inputs[1]].quantization.zeroPoint) == [0]
    # Nothing between query, key, value and the output projection is quantized a second time.
    # A layer's four: both normed inputs, softmax, GELU. The other one: the last layer's single query.
    assert operators(path)["QUANTIZE"] == 4 * spec.num_layers + 1


def test_w8a16_has_sixteen_bits_everywhere_but_in_variances(float_file, record, ranges, spec, tmp_path):
    path = tmp_path / "int8.tflite"
    artifact = write_int8(float_file, record, path, scheme="w8a16", ranges=ranges)
    assert any("accelerators" in note for note in artifact.notes)
    model = MappedModel(path).model
    graph, types = model.subgraphs[0], schema().TensorType
    kinds = operator_kinds(model)
    seen = Counter()
    for operator in graph.operators:
        kind = kinds[operator.opcodeIndex]
        read, made = graph.tensors[operator.inputs[0]], graph.tensors[operator.outputs[0]]
        seen[kind, read.type, made.type] += 1
        if kind == "FULLY_CONNECTED":
            kernel, bias = (graph.tensors[i] for i in operator.inputs[1:])
            assert (kernel.type, bias.type) == (types.INT8, types.INT64)
            assert len(kernel.quantization.scale) == kernel.shape[0]  # per channel
        for tensor in (read, made):
            assert tensor.type != types.INT16 or list(tensor.quantization.zeroPoint) == [0]
    norms = 2 * spec.num_layers + 1
    for kind in ("MUL", "MEAN", "ADD", "RSQRT"):
        assert seen.pop((kind, types.FLOAT32, types.FLOAT32)) == norms
    # One each for the image and the answer.
    assert seen.pop(("QUANTIZE", types.FLOAT32, types.INT16)) == norms + 1
    assert seen.pop(("DEQUANTIZE", types.INT16, types.FLOAT32)) == norms + 1
    assert {(read, made) for _, read, made in seen} == {(types.INT16, types.INT16)}
    assert {"FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "GELU", "ADD", "SUB", "MUL", "MEAN"} <= {k for k, *_ in seen}


def test_ranges_of_sixteen_bits_have_headroom(float_file, record, ranges, tmp_path):
    write_int8(float_file, record, tmp_path / "int8.tflite", scheme="w8a16", ranges=ranges)
    scales = {
        tensor.name.decode(): float(tensor.quantization.scale[0])
        for tensor in MappedModel(tmp_path / "int8.tflite").model.subgraphs[0].tensors
        if tensor.type == schema().TensorType.INT16
    }
    name = "encoder/layer_1/mlp/dense_1"
    assert scales[name] == pytest.approx(HEADROOM * max(map(abs, ranges[name])) / 32767, rel=1e-5)


def test_ranges_are_the_true_minimum_and_maximum(float_file, images, ranges, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    with pytest.warns(UserWarning, match="preserve_all_tensors"):
        interpreter = Interpreter(str(float_file), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    index = {d["name"]: d["index"] for d in interpreter.get_tensor_details()}
    name = "encoder/layer_1/mlp/dense_1"
    seen = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
        interpreter.invoke()
        seen.append(interpreter.get_tensor(index[name]))
    assert ranges[name] == pytest.approx((np.min(seen), np.max(seen)), rel=1e-5)
    # The order of images does not matter, as it would for a moving average.
    again = calibrate(float_file, (image[np.newaxis] for image in images[::-1]), len(images))
    assert again == ranges


def test_only_builtins_static_shapes_rank_four(float_file):
    assert operators(float_file)["CUSTOM"] == 0
    for tensor in MappedModel(float_file).model.subgraphs[0].tensors:
        assert len(tensor.shape) <= 4
        assert all(n > 0 for n in tensor.shape)


def test_biases_are_fused_and_norms_folded(float_file, spec):
    counts = operators(float_file)
    dense = 6 * spec.num_layers + 2
    assert counts["FULLY_CONNECTED"] == dense
    # Residuals, position embedding, and the epsilon of each LayerNorm: no bias, no shift.
    assert counts["ADD"] == 2 * spec.num_layers + 1 + 2 * spec.num_layers + 1
    assert counts["MUL"] == 2 * (2 * spec.num_layers + 1)


def test_tensors_have_readable_names(float_file, spec):
    names = {t.name.decode() for t in MappedModel(float_file).model.subgraphs[0].tensors}
    assert {"images", "logits", "class_token", "encoder/layer_0/attention/query/kernel"} <= names
    assert {
        f"encoder/layer_{i}/attention/{part}" for i in range(spec.num_layers) for part in ("scores", "mixed")
    } <= names
    assert {f"encoder/layer_{i}/mlp/dense_1/gelu" for i in range(spec.num_layers)} <= names


def test_record_travels_in_the_file(float_file, record, ranges, tmp_path):
    facts = {"precision": "float32", "scheme": None, "input": "normalized"}
    assert json.loads(get_metadata(float_file)) == {**record.to_dict(), **facts}
    write_int8(float_file, record, tmp_path / "int8.tflite", ranges=ranges)
    assert json.loads(get_metadata(tmp_path / "int8.tflite"))["scheme"] == "static"


def _addressed_outside(path):
    """How many buffers a file keeps outside the flatbuffer."""
    data = path.read_bytes()
    root = schema().Model.GetRootAs(data, 0)
    return sum(root.Buffers(i).Offset() > 1 for i in range(root.BuffersLength()))


def test_every_buffer_is_inline(float_file, record, ranges, tmp_path):
    write_int8(float_file, record, tmp_path / "int8.tflite", ranges=ranges)
    for path in (float_file, tmp_path / "int8.tflite"):
        assert _addressed_outside(path) == 0
        # A reader that knows nothing of offsets finds every weight.
        root = schema().Model.GetRootAs(path.read_bytes(), 0)
        inline = sum(root.Buffers(i).DataLength() for i in range(root.BuffersLength()))
        assert inline > 0.9 * path.stat().st_size - 60_000


def test_weights_are_aligned(float_file):
    data = float_file.read_bytes()
    root = schema().Model.GetRootAs(data, 0)
    for index in range(root.BuffersLength()):
        table = table_of(root.Buffers(index))
        if (field := table.Offset(4)) and root.Buffers(index).DataLength() >= 1024:
            assert table.Vector(field) % 16 == 0


def test_large_files_keep_weights_behind_the_flatbuffer(source, record, images, expected, tmp_path, monkeypatch):
    """Above 2 GB buffers are addressed by offset; the limit is lowered so that a toy takes the same path."""
    monkeypatch.setattr(writer, "INLINE_LIMIT", 10_000)
    path = tmp_path / "large.tflite"
    write_tflite(source, record, path)
    assert _addressed_outside(path) > 20
    assert relative(expected, run(path, images)) < 1e-5
    # It is still a file to quantize from.
    write_int8(path, record, tmp_path / "int8.tflite", scheme="dynamic")
    assert sqnr(expected, run(tmp_path / "int8.tflite", images)) > 28


def test_batch_keeps_images_apart(source, record, images, tmp_path):
    write_tflite(source, record, tmp_path / "batch.tflite", batch=6)
    forwards = run(tmp_path / "batch.tflite", images)
    np.testing.assert_allclose(run(tmp_path / "batch.tflite", images[::-1])[::-1], forwards, atol=1e-5)


def test_existing_file_is_refused_and_untouched(source, record, tmp_path):
    path = tmp_path / "toy.tflite"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_tflite(source, record, path)
    assert path.read_text() == "mine"


def test_failure_leaves_nothing(source, record, float_file, tmp_path):
    broken = source.replaced("encoder/layer_2/mlp/dense_2/kernel", np.zeros((1, 1), np.float32))
    with pytest.raises(StructureError, match="announced"):
        write_tflite(broken, record, tmp_path / "toy.tflite")
    with pytest.raises(InputError, match="needs a representative dataset"):
        write_int8(float_file, record, tmp_path / "int8.tflite", scheme="static")
    with pytest.raises(InputError, match="Unknown int8 scheme 'best'"):
        write_int8(float_file, record, tmp_path / "int8.tflite", scheme="best")
    assert list(tmp_path.iterdir()) == []


def test_structure_of_another_model_is_refused(source, spec):
    model, _ = structure.convert_structure(spec, _parameters(source))
    with pytest.raises(StructureError, match="Batch is 1, expected 2"):
        structure.Structure(model).check(2)
    model.subgraphs[0].tensors[3].shape = [1, 2, 3, 4, 5]
    with pytest.raises(StructureError, match="rank 5"):
        structure.Structure(model).check(1)


@pytest.mark.parametrize("content", [b"", b"short", struct.pack("<I4s", 8, b"ELF2") + b"\0" * 64])
def test_not_a_tflite_file(content, tmp_path):
    path = tmp_path / "file.tflite"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"file\.tflite"):
        MappedModel(path)


def test_schemes_know_whether_they_need_ranges(spec):
    assert [s for s in SCHEMES if SCHEMES[s](spec).need_ranges] == ["static", "full"]
    assert modes_of("w8a16", spec) is None  # every operator, so every range


def test_what_gelu_reads_has_no_levels_far_below_zero(float_file, record, ranges, tmp_path):
    name = "encoder/layer_1/mlp/dense_1"
    write_int8(float_file, record, tmp_path / "int8.tflite", ranges={**ranges, name: (-30.0, 5.0)})
    tensors = MappedModel(tmp_path / "int8.tflite").model.subgraphs[0].tensors
    (found,) = (t for t in tensors if t.name.decode() == name)
    assert float(found.quantization.scale[0]) == pytest.approx(10 / 255, rel=1e-3)


def test_nothing_that_the_gpu_delegate_refuses(float_file):
    """No strided slice that drops or adds an axis, no adjoint matmul, no softmax with another beta."""
    model = MappedModel(float_file).model
    kinds = operator_kinds(model)
    seen = Counter()
    for operator in model.subgraphs[0].operators:
        kind, options = kinds[operator.opcodeIndex], operator.builtinOptions
        seen[kind] += 1
        if kind == "STRIDED_SLICE":
            assert options.shrinkAxisMask == options.newAxisMask == options.ellipsisMask == 0
        if kind == "BATCH_MATMUL":
            assert not options.adjX
            assert not options.adjY
        if kind == "SOFTMAX":
            assert options.beta == 1.0
    assert seen["STRIDED_SLICE"] == 2
    assert seen["BATCH_MATMUL"] == 6
    assert seen["SOFTMAX"] == 3


@pytest.mark.parametrize("scheme", [None, "static", "full", "w8a16"])
def test_the_signature_runs_by_name(scheme, float_file, record, ranges, images, expected, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    path = float_file
    if scheme:
        path = tmp_path / "int8.tflite"
        write_int8(float_file, record, path, scheme=scheme, ranges=ranges)
    runner = Interpreter(str(path)).get_signature_runner("serving_default")
    image = images[:1]
    detail = runner.get_input_details()["images"]
    if scheme == "full":
        scale, zero = detail["quantization"]
        image = np.clip(np.round(image / scale + zero), -128, 127).astype(np.int8)
    found = runner(images=image)["logits"]
    assert found.shape == (1, 10)
    assert found.dtype == (np.int8 if scheme == "full" else np.float32)
    if scheme != "full":
        assert relative(expected[:1], found) < (1e-5 if scheme is None else 0.2)


def test_a_missing_range_is_an_error(float_file, record, ranges, tmp_path):
    some = {name: ends for name, ends in ranges.items() if name != "encoder/layer_1/mlp/dense_1"}
    with pytest.raises(Exception, match="dense_1"):
        write_int8(float_file, record, tmp_path / "int8.tflite", ranges=some)
    assert list(tmp_path.iterdir()) == []
