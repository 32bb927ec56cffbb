"""What files say of themselves, against what was put into them: ours in every form, other tools', and hostile ones."""

import gzip
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import foreign
from helpers import verifier_toys as toys
from onnx import TensorProto, helper, numpy_helper

from vit_export.artifacts import flatbuffer
from vit_export.artifacts.identify import format_of
from vit_export.artifacts.layout import layout_of
from vit_export.artifacts.onnx_file import load_structure, require_own_data
from vit_export.artifacts.read import artifact_of, precision_found, read_facts
from vit_export.base.adapters import litert
from vit_export.base.errors import InputError
from vit_export.model.artifact import TensorSpec
from vit_export.model.parameters import layer_name
from vit_export.onnx import stream as onnx_weights
from vit_export.onnx import write_int8_onnx, write_onnx
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import open_runner
from vit_export.tflite import stream as writer
from vit_export.tflite.quantize import calibrate, write_int8
from vit_export.tflite.write import write_tflite

ROOT = Path(__file__).resolve().parents[2]
OURS = (
    "float32.tflite",
    "float16.tflite",
    "uint8.tflite",
    "dynamic.tflite",
    "static.tflite",
    "full.tflite",
    "offsets.tflite",
    "float32.onnx",
    "float16.onnx",
    "uint8.onnx",
    "int8.onnx",
    "qdq.onnx",
    "external.onnx",
)


@pytest.fixture(scope="module")
def ours(source, record, images, tmp_path_factory):
    """The Artifact of each of OURS as its writer gave it."""
    folder = tmp_path_factory.mktemp("ours")
    found = {}
    for precision in ("float32", "float16"):
        found[f"{precision}.tflite"] = write_tflite(source, record, folder / f"{precision}.tflite", precision=precision)
        found[f"{precision}.onnx"] = write_onnx(source, record, folder / f"{precision}.onnx", precision=precision)
    found["uint8.tflite"] = write_tflite(source, record, folder / "uint8.tflite", input="uint8", batch=2)
    found["uint8.onnx"] = write_onnx(source, record, folder / "uint8.onnx", input="uint8", batch=2)
    found["int8.onnx"] = write_onnx(source, record, folder / "int8.onnx", precision="int8")
    batches = [image[None] for image in images]
    found["qdq.onnx"] = write_int8_onnx(source, record, folder / "qdq.onnx", batches, scheme="qdq")
    exact = folder / "float32.tflite"
    ranges = calibrate(exact, batches, len(batches))
    for scheme in ("dynamic", "static", "full"):
        path = folder / f"{scheme}.tflite"
        found[path.name] = write_int8(exact, record, path, scheme=scheme, ranges=ranges)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_weights, "SINGLE_FILE_LIMIT", 0)
        patch.setattr(writer, "INLINE_LIMIT", 0)
        found["external.onnx"] = write_onnx(source, record, folder / "external.onnx")
        found["offsets.tflite"] = write_tflite(source, record, folder / "offsets.tflite")
    assert set(found) == set(OURS)
    return found


# Files of ours


@pytest.mark.parametrize("name", OURS)
def test_the_artifact_is_the_one_that_its_writer_gave(ours, name):
    written = ours[name]
    found = artifact_of(Path(written.path))
    extra = tuple(Path(path).name for path in written.extra_files)
    assert found == replace(written, extra_files=extra, notes=(), versions={}, quantization=None)
    assert bool(extra) == (name == "external.onnx")


@pytest.mark.parametrize("name", OURS)
def test_inputs_and_outputs_are_the_runtimes(ours, name):
    facts = read_facts(ours[name].path)
    runner = open_runner(Path(facts.path), facts.format, 1)
    assert tuple(replace(spec, values="") for spec in facts.inputs) == runner.inputs
    assert facts.outputs == runner.outputs
    assert facts.inputs[0].values == ("uint8" if "uint8" in name else "normalized")


@pytest.mark.parametrize("name", OURS)
def test_the_record_is_the_one_inside(ours, record, name):
    facts = read_facts(ours[name].path)
    written = ours[name]
    # By images: what is written without has its weights at their nearest levels.
    dense = (*(f"attention/{part}" for part in ("key", "output", "query", "value")), "mlp/dense_1", "mlp/dense_2")
    rounded = [f"{layer_name(i)}/{part}/kernel" for i in range(record.spec.num_layers) for part in dense]
    tuned = {"key_means": {}, "value_means": {}, "corrections": {}, "outliers": {}}
    tuned["rounded_by_error"] = rounded if name == "qdq.onnx" else []
    assert facts.record == {
        **json.loads(json.dumps(record.to_dict())),
        "precision": written.precision,
        "scheme": written.scheme,
        "input": written.inputs[0].values,
        **({"tuned": tuned} if written.precision == "int8" else {}),
    }
    assert facts.producer.startswith("vit-export")
    assert facts.notes == ()
    assert json.loads(json.dumps(facts.to_dict()))["weights"] == facts.weights


@pytest.mark.parametrize("name", OURS)
def test_the_precision_is_found_without_the_record(ours, name):
    facts = read_facts(ours[name].path)
    assert precision_found(replace(facts, record=None)) == ours[name].precision


def tflite_constants(path):
    """Bytes by dtype, and by dtype of the matrices, from the unpacked model."""
    mapped = flatbuffer.MappedModel(path)
    types = {code: name.lower() for code, name in litert.names_of("TensorType").items()}
    all_of, matrices = Counter(), Counter()
    for tensor in mapped.model.subgraphs[0].tensors:
        if size := len(mapped.data(tensor.buffer)):
            all_of[types[tensor.type]] += size
            matrices[types[tensor.type]] += size if sum(n > 1 for n in tensor.shape) > 1 else 0
    operators = Counter(
        flatbuffer.operator_kinds(mapped.model)[o.opcodeIndex] for o in mapped.model.subgraphs[0].operators
    )
    return all_of, +matrices, operators


def onnx_constants(path):
    model = onnx.load(path)
    all_of, matrices = Counter(), Counter()
    for array in map(numpy_helper.to_array, model.graph.initializer):
        all_of[array.dtype.name] += array.nbytes
        matrices[array.dtype.name] += array.nbytes if sum(n > 1 for n in array.shape) > 1 else 0
    assert not any(node.op_type == "Constant" for node in model.graph.node)
    return all_of, +matrices, Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize("name", OURS)
def test_weights_and_operators_are_counted(ours, spec, name):
    facts = read_facts(ours[name].path)
    truth = tflite_constants if facts.format == "tflite" else onnx_constants
    assert (facts.weights, facts.matrices, facts.operators) == truth(Path(facts.path))
    elements = sum(
        size // {"float32": 4, "float16": 2, "int8": 1, "uint8": 1}.get(dtype, 4)
        for dtype, size in facts.weights.items()
    )
    assert 0.95 * spec.num_parameters < elements < 1.1 * spec.num_parameters
    if facts.format == "tflite":
        assert facts.schema == {"schema": 3}
    else:
        assert facts.schema["ai.onnx"] == (20 if name == "qdq.onnx" else 23)
        assert facts.schema["ir"] == onnx.load(facts.path, load_external_data=False).ir_version


def test_what_is_given_goes_before_the_record(ours):
    path = ours["static.tflite"].path
    assert artifact_of(path, scheme="another").scheme == "another"
    assert artifact_of(path, precision="int8").scheme == "static"
    found = artifact_of(path, precision="float16")
    assert (found.precision, found.scheme) == ("float16", None)
    with pytest.raises(InputError, match="Unknown precision 'int4': expected one of float32, float16, int8"):
        artifact_of(path, precision="int4")


def with_record(source, path, change):
    """A copy of an .onnx file with another text under vit_export."""
    model = onnx.load(source)
    (entry,) = (e for e in model.metadata_props if e.key == "vit_export")
    entry.value = change(entry.value)
    onnx.save(model, path)
    return path


def changed(**values):
    return lambda text: json.dumps({**json.loads(text), **values})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:-5], "damaged"),
        (lambda text: "[" * 100_000, "damaged"),
        (lambda text: "[1, 2]", "is a list, expected an object"),
        (lambda text: "", "damaged"),
        (changed(record_version=99), "version 99"),
        (changed(spec=None), "spec is a NoneType"),
        (changed(precision="int7"), "precision is 'int7', expected one of float32"),
        (changed(precision=None), "precision is None"),
        (changed(scheme=["static"]), "scheme is "),
        (changed(input="raw"), "input is 'raw', expected one of normalized"),
        (changed(input=[]), "damaged"),
    ],
)
def test_a_record_that_cannot_be_used_is_a_note(ours, tmp_path, change, said):
    path = with_record(ours["int8.onnx"].path, tmp_path / "x.onnx", change)
    facts = read_facts(path)
    assert facts.record is None
    (note,) = facts.notes
    assert note.startswith("The vit-export record in the file")
    assert said in note
    assert facts.inputs[0].values == ""
    found = artifact_of(path)
    assert (found.precision, found.scheme, found.notes) == ("int8", None, ())


@pytest.mark.parametrize("text", [b'["record_version"', b'{\xff\xfe\xfd\xfcord_version"'])
def test_a_damaged_record_in_a_tflite_file_is_a_note(ours, tmp_path, text):
    data = Path(ours["float16.tflite"].path).read_bytes()
    old = b'{"record_version"'
    assert data.count(old) == 1
    assert len(text) == len(old)
    path = tmp_path / "x.tflite"
    path.write_bytes(data.replace(old, text))
    facts = read_facts(path)
    assert (facts.record, len(facts.notes)) == (None, 1)
    assert precision_found(facts) == "float16"


# Files of other tools


def save(path, model):
    path.write_bytes(model.SerializeToString())
    return path


def test_another_tools_onnx_file(tmp_path):
    path = foreign.write_onnx(tmp_path / "x.onnx", ("n", 3, "h", "w"), outputs=("features", "logits"))
    facts = read_facts(path)
    assert facts.inputs == (TensorSpec("images", (None, 3, None, None), "float32", "NCHW"),)
    assert [spec.name for spec in facts.outputs] == ["features", "logits"]
    assert facts.outputs[1].shape == (None, toys.CLASSES)
    w = toys.weights()
    assert facts.weights == {"float32": sum(value.nbytes for value in w.values())}
    assert facts.matrices == {"float32": w["kernel"].nbytes + w["head"].nbytes}
    assert facts.operators == {"Cast": 1, "Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert (facts.schema, facts.producer) == ({"ir": 9, "ai.onnx": 17}, "another")
    found = artifact_of(path)
    assert (found.precision, found.scheme, found.bytes) == ("float32", None, path.stat().st_size)
    assert artifact_of(path, precision="int8", scheme="qdq").scheme == "qdq"


@pytest.mark.parametrize("name", ["both", "nchw", "open", "bare"])
def test_another_tools_tflite_file(signatures, name):
    facts = read_facts(signatures[name])
    runner = open_runner(signatures[name], "tflite", 1)
    assert (facts.inputs, facts.outputs) == (runner.inputs, runner.outputs)
    assert facts.inputs[0].layout == ("NCHW" if name == "nchw" else "NHWC")
    assert facts.operators["CONV_2D"] == (2 if name == "both" else 1)
    # Two signatures share one copy of the weights.
    assert toys.weights()["kernel"].nbytes + toys.weights()["head"].nbytes <= facts.weights["float32"] < 2200
    assert facts.record is None
    assert facts.producer == "MLIR Converted."


@pytest.fixture(scope="module")
def signatures(tmp_path_factory):
    return foreign.two_signatures(tmp_path_factory.mktemp("signatures"))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_precision_of_the_stock_converters_files(tmp_path, precision):
    # Large enough for the converter to quantize.
    w = {**toys.weights(), "head": np.ones((toys.WIDTH, 400), np.float32), "bias": np.zeros(400, np.float32)}
    path = toys.write_tflite(tmp_path / "x.tflite", w, precision=precision)
    facts = read_facts(path)
    assert precision_found(facts) == precision
    runner = open_runner(path, "tflite", 1)
    assert (facts.inputs, facts.outputs) == (runner.inputs, runner.outputs)
    assert (facts.inputs[0].scale is not None) == (precision == "int8")


def test_custom_operators_go_by_their_own_names(ours, tmp_path):
    model = flatbuffer.unpack(Path(ours["float32.tflite"].path).read_bytes())
    softmax = flatbuffer.operator_kinds(model).index("SOFTMAX")
    code = model.operatorCodes[softmax]
    code.deprecatedBuiltinCode = code.builtinCode = litert.schema().BuiltinOperator.CUSTOM
    code.customCode = b"FlexSoftmax"
    path = tmp_path / "x.tflite"
    path.write_bytes(foreign.packed(model))
    assert read_facts(path).operators["FlexSoftmax"] == 3

    model = foreign.onnx_model()
    model.graph.node[2].domain, model.graph.node[1].domain = "com.example", "ai.onnx"
    facts = read_facts(save(tmp_path / "x.onnx", model))
    assert (facts.operators["com.example:Relu"], facts.operators["Conv"]) == (1, 1)


def test_constants_are_found_wherever_onnx_keeps_them(tmp_path):
    big, small = np.zeros((64, 64), np.float32), np.zeros((3, 5), np.float16)
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(big))],
        "then",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [64, 64])],
        [numpy_helper.from_array(small, "s")],
    )
    four = helper.make_tensor("q", TensorProto.INT4, [3, 3], b"\0" * 5, raw=True)
    typed = helper.make_tensor("f", TensorProto.FLOAT, [40, 40], np.zeros(1600))  # float_data, not raw_data
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [2], [1.0, 2.0])
    indices = helper.make_tensor("places", TensorProto.INT64, [2], [0, 7])
    graph = helper.make_graph(
        [helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner)],
        "g",
        [helper.make_tensor_value_info("b", TensorProto.BOOL, []), helper.make_tensor_value_info("f", 1, [40, 40])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 64])],
        [four, typed],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [10])],
    )
    facts = read_facts(save(tmp_path / "x.onnx", helper.make_model(graph)))
    # Both branches hold one; the indices of a sparse tensor are no weights.
    assert facts.weights == {"float32": 2 * big.nbytes + 6400 + 8, "float16": 2 * small.nbytes, "int4": 5}
    assert facts.operators == {"If": 1, "Constant": 2}
    assert [spec.name for spec in facts.inputs] == ["b"]  # f is a weight that is listed as an input
    assert len(load_structure(tmp_path / "x.onnx").SerializeToString()) < 1500


@pytest.mark.parametrize(
    ("dimensions", "usual", "expected"),
    [
        ((1, 224, 224, 3), "NCHW", "NHWC"),
        ((1, 3, 224, 224), "NHWC", "NCHW"),
        ((1, 3, 224, 3), "NCHW", "NHWC"),
        ((None, 3, None, None), "NHWC", "NCHW"),
        (("b", "num_channels", "height", "width"), "NHWC", "NCHW"),
        (("b", "height", "width", "channels"), "NCHW", "NHWC"),
        ((None, None, None, None), "NHWC", "NHWC"),
        (("a", "b", "c1", "d"), "NCHW", "NCHW"),
        ((1, 1, 28, 28), "NCHW", ""),
        ((1, 28, 28, 1), "NHWC", ""),
        ((1, 3, 224), "NCHW", ""),
        ((), "NCHW", ""),
    ],
)
def test_layouts(dimensions, usual, expected):
    assert layout_of(dimensions, usual) == expected


@pytest.mark.parametrize(
    ("matrices", "expected"),
    [
        ({}, "float32"),
        ({"int64": 900, "bool": 900}, "float32"),
        ({"float32": 100, "int8": 101}, "int8"),
        ({"float32": 100, "uint8": 60, "int4": 60}, "int8"),
        ({"float32": 100, "int8": 100}, "float32"),
        ({"float16": 100, "int8": 100, "float32": 99}, "float16"),
        ({"bfloat16": 100}, "float16"),
        ({"float8_e4m3fn": 100}, "int8"),
    ],
)
def test_most_bytes_decide_the_precision(tmp_path, matrices, expected):
    facts = read_facts(foreign.write_onnx(tmp_path / "x.onnx"))
    assert precision_found(replace(facts, matrices=matrices)) == expected


# Formats by content


def test_formats_go_by_content_not_by_name(ours, saved_model, tmp_path):
    assert format_of(saved_model) == "saved_model"
    with pytest.raises(InputError, match="is a SavedModel, expected"):
        read_facts(saved_model)
    for name in ("float32.tflite", "float32.onnx"):
        other = tmp_path / ("x.onnx" if name.endswith("tflite") else "x.tflite")
        other.write_bytes(Path(ours[name].path).read_bytes())
        assert format_of(str(other)) == ours[name].format
        (note,) = read_facts(other).notes
        assert note.startswith(f"{other.name} is a")
        assert artifact_of(other).sha256 == ours[name].sha256
        anyhow = tmp_path / "model.bin"
        anyhow.write_bytes(Path(ours[name].path).read_bytes())
        assert read_facts(anyhow).notes == ()


def a_zip(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", "{}")


OTHERS = {
    "zip.keras": (a_zip, "is a zip"),
    "weights.h5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "model.pt": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "a pickle, which can run any code"),
    "x.safetensors": (lambda p: p.write_bytes(struct.pack("<Q", 2) + b'{"a":1}'), "safetensors"),
    "lfs.tflite": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "git lfs pull",
    ),
    "x.ort": (lambda p: p.write_bytes(b"\x1c\0\0\0ORTM" + bytes(99)), r"\.ort format"),
    "page.onnx": (lambda p: p.write_text("\n<!doctype html><html></html>"), "a web page"),
    "x.gz": (lambda p: p.write_bytes(gzip.compress(b"abc")), "an archive"),
    "empty.onnx": (lambda p: p.touch(), "is empty"),
    "x.onnx.data": (lambda p: p.write_bytes(np.ones(99, np.float32).tobytes()), r"weights of an .* give \S+x\.onnx"),
    "x.onnx_data": (lambda p: p.write_bytes(np.ones(99, np.float32).tobytes()), r"weights of an .* give \S+x\.onnx"),
    "saved_model.pb": (lambda p: p.write_bytes(b"\x08\x01\x12\x02\x0a\x00"), "the graph of a SavedModel"),
    "text.txt": (lambda p: p.write_text("hello, this is text"), "of no format that vit-export knows"),
    "text.onnx": (lambda p: p.write_text("hello, this is text"), "damaged or cut off, expected a complete .onnx"),
    "text.tflite": (lambda p: p.write_text("hello, this is text"), "damaged or cut off, expected a complete .tflite"),
    "folder": (lambda p: p.mkdir(), "a folder without saved_model.pb"),
    "missing.onnx": (lambda p: None, "does not exist"),
    "no_graph.onnx": (lambda p: save(p, onnx.ModelProto(ir_version=9)), "damaged or cut off"),
    "nothing_in_it.onnx": (lambda p: save(p, helper.make_model(onnx.GraphProto(name="g"))), "damaged or cut off"),
    "loop.onnx": (lambda p: p.symlink_to(p), r"cannot be read|does not exist"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_everything_else_is_told_in_one_sentence(tmp_path, name):
    make, said = OTHERS[name]
    make(tmp_path / name)
    for function in (format_of, read_facts, artifact_of):
        with pytest.raises(InputError, match=said) as error:
            function(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(str(tmp_path / name))
        assert error.value.exit_code == 2


# Damage and malice


@pytest.mark.parametrize("name", ["float32.tflite", "static.tflite", "offsets.tflite", "float32.onnx", "external.onnx"])
def test_a_file_that_is_cut_off_anywhere_is_an_input_error(ours, tmp_path, name):
    data = Path(ours[name].path).read_bytes()
    path = tmp_path / name
    for file in ours[name].extra_files:
        shutil.copy(file, tmp_path)
    ends = {*range(0, 64, 3), *np.linspace(64, len(data) - 1, 150).astype(int).tolist(), len(data) - 1}
    for end in sorted(ends):
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"damaged or cut off|is empty") as error:
            artifact_of(path)
        assert "\n" not in str(error.value)
    path.write_bytes(data)
    assert read_facts(path).record is not None


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["static.tflite", "offsets.tflite", "qdq.onnx", "external.onnx"])
def test_changed_bytes_are_read_or_refused(ours, tmp_path, name):
    """Whatever is in it, a file has facts or is an InputError, soon."""
    data = bytearray(Path(ours[name].path).read_bytes())
    path = tmp_path / name
    for file in ours[name].extra_files:
        shutil.copy(file, tmp_path)
    random = np.random.default_rng(11)
    refused = []
    for _ in range(120):
        spoilt = bytearray(data)
        for place in random.integers(0, min(len(data), 40_000), random.integers(1, 30)):
            spoilt[place] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
        path.write_bytes(spoilt)
        try:
            facts = read_facts(path)
        except InputError as error:
            refused.append(str(error))
        else:
            json.dumps(facts.to_dict())
            precision_found(facts)
    assert len(refused) > 5
    assert not any("\n" in sentence for sentence in refused)


def test_a_vector_of_a_billion_entries_is_damage(ours, tmp_path):
    data = bytearray(Path(ours["float32.tflite"].path).read_bytes())
    model = litert.schema().Model.GetRootAs(data, 0)
    table = litert.table_of(model.Subgraphs(0))
    for field in (4, 10):  # tensors, operators
        spoilt = bytearray(data)
        struct.pack_into("<I", spoilt, table.Vector(table.Offset(field)) - 4, 10**9)
        path = tmp_path / "x.tflite"
        path.write_bytes(spoilt)
        with pytest.raises(InputError, match="damaged or cut off"):
            read_facts(path)


def test_graphs_nested_too_deeply_are_damage(tmp_path):
    graph = helper.make_graph([], "g" * 5000, [], [helper.make_tensor_value_info("y", 1, [1])])
    data = graph.SerializeToString()
    for _ in range(400):  # graph in an attribute in a node in a graph
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            data = tag + onnx_weights._varint(len(data)) + data
    path = tmp_path / "x.onnx"
    path.write_bytes(b"\x08\x09\x3a" + onnx_weights._varint(len(data)) + data)
    with pytest.raises(InputError, match="damaged or cut off"):
        read_facts(path)


def with_external(folder, location, *, length=None, offset=0):
    """x.onnx whose kernel is in the file `location` says."""
    folder.mkdir(exist_ok=True)
    model = foreign.onnx_model()
    tensor = model.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(length or size)}.items():
        tensor.external_data.add(key=key, value=value)
    return save(folder / "x.onnx", model), size


@pytest.mark.parametrize(
    "location",
    [
        *(
            "../secret",
            "a/../../secret",
            "/etc/passwd",
            "..",
            "C:\\secret",
            "\\\\host\\share",
            "..\\secret",
            "",
            "a\0b",
        ),
        *("a\nb", "\x1b[31m", "*/_ORT_MEM_ADDR_/*", "link", "linked/secret"),
    ],
)
def test_external_data_outside_the_folder_is_refused(tmp_path, location):
    (tmp_path / "secret").write_bytes(bytes(10_000))
    path, _ = with_external(tmp_path / "model", location)
    os.symlink("../secret", tmp_path / "model" / "link")
    os.symlink("..", tmp_path / "model" / "linked")
    with pytest.raises(InputError, match="expected the name of a file in its own folder or below") as error:
        artifact_of(path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError), RunnerProcess(path, "onnx"):  # which does not start
        pass


def hidden_at(model, tensor, place):
    """`model` with the external `tensor` where a reader of the main graph's weights alone does not look."""
    inner = helper.make_graph([helper.make_node("Identity", ["t"], ["c"])], "g", [], [], [tensor])
    body = helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "e", [], []))
    if place == "node of a function":
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        model.functions.append(helper.make_function("f", "F", ["b"], ["y"], [node], []))
    elif place == "graph in a function":
        model.functions.append(helper.make_function("f", "F", ["b"], ["y"], [body], []))
    elif place == "sparse values":
        model.graph.sparse_initializer.add(dims=[9]).values.CopyFrom(tensor)
    elif place == "sparse indices":
        model.graph.sparse_initializer.add(dims=[9]).indices.CopyFrom(tensor)
    else:
        model.graph.node.add(op_type="Constant").attribute.add(
            name="sparse_value", type=11
        ).sparse_tensor.values.CopyFrom(tensor)
    return model


@pytest.mark.parametrize(
    "place", ["node of a function", "graph in a function", "sparse values", "sparse indices", "sparse constant"]
)
def test_external_data_outside_the_folder_is_found_wherever_it_hides(tmp_path, place):
    tensor = TensorProto(name="t", dims=[2], data_type=1, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    path = save(tmp_path / "x.onnx", hidden_at(foreign.onnx_model(), tensor, place))
    for asked in (read_facts, require_own_data):
        with pytest.raises(InputError, match="expected the name of a file in its own folder or below"):
            asked(path)


def test_links_are_followed_where_both_files_lie_in_one_place(tmp_path):
    """As in the cache of a hub, whose folders hold links alone."""
    path, size = with_external(tmp_path / "blobs", "data")
    (tmp_path / "blobs" / "data").write_bytes(bytes(size))
    (tmp_path / "snapshot").mkdir()
    for file in ("x.onnx", "data"):
        os.symlink(f"../blobs/{file}", tmp_path / "snapshot" / file)
    assert read_facts(tmp_path / "snapshot" / path.name).extra_files == ("data",)


def test_a_location_given_twice_is_refused(tmp_path):
    path, _ = with_external(tmp_path, "data")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="other")
    with pytest.raises(InputError, match="expected the name of a file in its own folder or below"):
        read_facts(save(path, model))


def test_external_data_has_to_be_there_and_whole(tmp_path):
    path, size = with_external(tmp_path / "model", "weights/kernel.bin", offset=100)
    data = path.parent / "weights" / "kernel.bin"
    with pytest.raises(InputError, match=r"keeps weights in weights/kernel\.bin, which is not there"):
        read_facts(path)
    data.mkdir(parents=True)
    with pytest.raises(InputError, match="which is not there"):
        read_facts(path)
    data.rmdir()
    data.write_bytes(bytes(size + 99))
    with pytest.raises(InputError, match=rf"has {size + 99} bytes, but x\.onnx expects {size + 100} or more"):
        read_facts(path)
    data.write_bytes(bytes(size + 100))
    facts = read_facts(path)
    assert facts.extra_files == ("weights/kernel.bin",)
    assert facts.bytes == path.stat().st_size + size + 100
    assert facts.weights == {"float32": sum(value.nbytes for value in toys.weights().values())}


@pytest.mark.parametrize(("length", "offset"), [(None, -1), (-5, 0), (None, "x"), ("1e9", 0)])
def test_places_that_cannot_be_are_refused(tmp_path, length, offset):
    (tmp_path / "data").write_bytes(bytes(10**6))
    path, _ = with_external(tmp_path, "data", length=length, offset=offset)
    with pytest.raises(InputError, match=r"damaged or cut off|belongs to another file"):
        read_facts(path)


# What reading costs


def test_three_gigabytes_cost_nothing(tmp_path):
    """Buffers behind the flatbuffer, and external data, in files that are mostly holes."""
    size = 3 << 30
    schema = litert.schema()
    model = flatbuffer.unpack(toys.write_tflite(tmp_path / "small.tflite", toys.weights()).read_bytes())
    model.buffers.append(schema.BufferT(offset=1 << 20, size=size))
    tensor = schema.TensorT(name=b"huge", shape=[3 << 10, 1 << 20], type=schema.TensorType.INT8)
    tensor.buffer = len(model.buffers) - 1
    model.subgraphs[0].tensors.append(tensor)
    huge = tmp_path / "huge.tflite"
    huge.write_bytes(foreign.packed(model))
    os.truncate(huge, (1 << 20) + size)

    path, _ = with_external(tmp_path / "model", "x.onnx.data", length=size)
    (path.parent / "x.onnx.data").touch()
    os.truncate(path.parent / "x.onnx.data", size)
    tracemalloc.start()
    try:
        assert read_facts(huge).matrices["int8"] == size
        assert precision_found(read_facts(huge)) == "int8"
        assert read_facts(path).bytes == path.stat().st_size + size
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    os.truncate(huge, (1 << 20) + size - 1)
    with pytest.raises(InputError, match="damaged or cut off"):
        read_facts(huge)


def test_the_weights_of_an_onnx_file_are_left_out(ours):
    path = Path(ours["float32.onnx"].path)
    structure = load_structure(path)
    assert len(structure.SerializeToString()) < 0.5 * path.stat().st_size
    whole = onnx.load(path)
    for tensor in (*structure.graph.initializer, *whole.graph.initializer):
        if len(tensor.raw_data) >= 4096 or tensor.name in {
            t.name for t in structure.graph.initializer if not t.raw_data
        }:
            tensor.ClearField("raw_data")
    # Nothing else is missing, and all is in its order but for what was looked into.
    for graph in (structure.graph, whole.graph):
        graph.initializer.sort(key=lambda tensor: tensor.name)
    assert structure == whole


def test_a_large_node_keeps_its_place(tmp_path):
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(5000, np.float32)))
    nodes = [helper.make_node("Neg", ["x"], ["a"]), constant, helper.make_node("Add", ["a", "c"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5000]) for name in "xy"]
    path = save(tmp_path / "x.onnx", helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])))
    assert [node.op_type for node in load_structure(path).graph.node] == ["Neg", "Constant", "Add"]


def test_no_runtime_is_imported(ours):
    code = (
        "import sys\n"
        "from vit_export.artifacts.read import artifact_of\n"
        f"for path in {[ours[name].path for name in OURS]!r}: artifact_of(path)\n"
        "runtimes = {'tensorflow', 'keras', 'onnxruntime', 'ai_edge_litert.interpreter', 'tf2onnx'}\n"
        "print(sorted(runtimes & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert done.stdout.strip() == "[]"
