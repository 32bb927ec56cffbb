"""`vit-export inspect`: what it shows of our files and of others, and that each fault is named."""

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import RandomParameters, record_of, toy_spec
from helpers import foreign
from helpers import verifier_toys as toys
from onnx import TensorProto, helper, numpy_helper

from vit_export.artifacts import flatbuffer
from vit_export.artifacts.read import read_facts
from vit_export.base.adapters.litert import schema
from vit_export.cli.main import main
from vit_export.inspection import mediapipe
from vit_export.inspection.inspect import inspect_file
from vit_export.onnx import stream as onnx_weights
from vit_export.onnx import write_onnx
from vit_export.report.content import write_report
from vit_export.tflite import stream as writer
from vit_export.tflite.write import write_tflite

ROOT = Path(__file__).resolve().parents[2]
LABELS = tuple(f"thing {index}" for index in range(10))
PROVIDED = {"no normalization", "no labels"}


@pytest.fixture(scope="module")
def ours(source, record, tmp_path_factory):
    """The Artifacts of float files of ours, one folder for all."""
    folder = tmp_path_factory.mktemp("ours")
    labelled = replace(record, labels=LABELS, fingerprint="f" * 64)
    found = {
        "tflite": write_tflite(source, labelled, folder / "x.tflite", input="uint8"),
        "float16": write_tflite(source, record, folder / "half.tflite", precision="float16"),
        "onnx": write_onnx(source, labelled, folder / "x.onnx"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_weights, "SINGLE_FILE_LIMIT", 0)
        patch.setattr(writer, "INLINE_LIMIT", 0)
        found["external"] = write_onnx(source, labelled, folder / "external.onnx")
        found["outside"] = write_tflite(source, labelled, folder / "outside.tflite")
    return found


def run(*arguments):
    return CliRunner().invoke(main, ["inspect", *map(str, arguments)])


def names(found):
    return {finding["name"] for finding in found["findings"]}


# Our own files


def test_a_file_of_ours_in_full(ours, record):
    found = inspect_file(ours["tflite"].path)
    assert found["format"] == "tflite"
    assert (found["bytes"], found["sha256"]) == (ours["tflite"].bytes, ours["tflite"].sha256)
    assert found["record"]["model"] == record.spec.to_dict()
    assert found["record"]["preprocessing"] == record.preprocessing.to_dict()
    assert found["record"]["labels"] == {"count": 10, "first": ["thing 0", "thing 1", "thing 2"]}
    assert (found["record"]["fingerprint"], found["record"]["input"]) == ("f" * 64, "uint8")
    (image,) = found["inputs"]
    assert (image["shape"], image["dtype"], image["layout"], image["values"]) == (
        (1, 32, 32, 3),
        "uint8",
        "NHWC",
        "uint8",
    )
    assert sum(found["operators"].values()) > 100
    assert found["minimum_runtime"] == "2.9.0"
    assert (found["findings"], found["checks"]) == ([], [])
    assert "delegates" not in found


def test_an_onnx_file_of_ours_in_full(ours):
    found = inspect_file(ours["onnx"].path)
    assert (found["format"], found["findings"]) == ("onnx", [])
    assert found["metadata_props"]["layout"] == "NHWC"
    assert "vit_export" not in found["metadata_props"]
    assert found["schema"]["ai.onnx"] == 23
    assert found["operators"]["Attention"] == 3
    assert found["minimum_runtime"] == "1.23"  # Attention
    assert "ONNX Runtime 1.23 or later" in " ".join(run("--no-sha256", ours["onnx"].path).output.split())


def test_external_weights_and_outside_buffers_are_told(ours):
    found = inspect_file(ours["external"].path)
    assert found["external_files"] == ["external.onnx.data"]
    assert found["bytes"] == ours["external"].bytes
    (finding,) = inspect_file(ours["outside"].path)["findings"]
    assert (finding["name"], finding["severity"]) == ("buffers outside the flatbuffer", "remark")
    assert finding["where"][0].endswith(" buffers")


def test_a_saved_model_of_ours(saved_model, spec):
    found = inspect_file(saved_model)
    assert (found["format"], names(found)) == ("saved_model", {"no labels"})
    assert found["weights"] == {"float32": 4 * spec.num_parameters}
    assert len(found["record"]["fingerprint"]) > 20
    assert found["inputs"][0]["shape"] == (None, 32, 32, 3)
    result = run("--no-sha256", saved_model)
    assert (result.exit_code, "SavedModel" in result.output) == (0, True)


def test_the_report_beside_a_file_is_held_against_it(ours, tmp_path):
    artifact = ours["onnx"]
    path = tmp_path / "x.onnx"
    path.write_bytes(Path(artifact.path).read_bytes())
    write_report({"artifacts": [replace(artifact, path="x.onnx").to_dict()]}, tmp_path / "report.json")
    checks = inspect_file(path)["checks"]
    assert [(check["what"], check["agrees"]) for check in checks] == [("bytes", True), ("sha256", True)]
    model = onnx.load(path)
    model.graph.initializer[0].doc_string = "another"
    onnx.save(model, path)
    assert not any(check["agrees"] for check in inspect_file(path)["checks"])
    assert "NOT as the report says" in run(path).output


def test_weights_are_not_read(source, record, tmp_path):
    big = toy_spec(num_classes=50_000)
    for path in (tmp_path / "x.tflite", tmp_path / "x.onnx"):
        write = write_tflite if path.suffix == ".tflite" else write_onnx
        write(RandomParameters(big), record_of(big), path)
        inspect_file(path, digest=False)  # what is imported counts once
        tracemalloc.start()
        found = inspect_file(path, digest=False)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found["sha256"] is None
        assert found["bytes"] > 9_000_000
        assert peak < 3_000_000


def test_tensorflow_is_not_imported(ours):
    code = (
        "import sys; from vit_export.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'tensorflow' not in sys.modules and 'onnxruntime' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "inspect", "--delegates", ours["tflite"].path, ours["onnx"].path]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "ops taken" in result.stdout


# The command


def test_the_table_fits_eighty_columns(ours, monkeypatch):
    monkeypatch.chdir(Path(ours["tflite"].path).parent)
    result = run("--delegates", *(Path(artifact.path).name for artifact in ours.values()))
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    for words in (
        "vit_toy, 32x32, float32",
        "thing 0, thing 1, thing 2",
        "f" * 64,
        "LiteRT GPU",
        "GPU delegate (legacy)",
        "runtime",
        "not run",
    ):
        assert words in result.output
    assert "images [1, 32, 32, 3] uint8 NHWC" in result.output


def test_json_has_everything(ours):
    result = run("--json", "--where", ours["onnx"].path, ours["float16"].path)
    first, second = json.loads(result.output)["files"]
    assert json.loads(json.dumps(inspect_file(ours["onnx"].path, delegates=True))) == first
    assert {verdict["target"] for verdict in second["delegates"]} >= {"CPU (XNNPACK)", "LiteRT GPU", "Qualcomm QNN"}
    assert {verdict["basis"] for verdict in first["delegates"]} == {
        "runtime",
        "source, not run",
        "documentation, not run",
    }


def test_a_folder_stands_for_its_files(ours):
    folder = Path(ours["tflite"].path).parent
    found = json.loads(run("--json", "--no-sha256", folder).output)["files"]
    assert sorted(Path(entry["path"]).name for entry in found) == sorted(Path(a.path).name for a in ours.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "There is no file"),
        (b"", "is empty"),
        (b"PK\x03\x04 and more", "a zip"),
        (b"\0\0\0\0TFL3 cut", "is damaged or cut off"),
        (b"\xff\xd8\xff\xe0 a photograph", "is an image, expected a .tflite or .onnx file: give the model first"),
        (b"\x89PNG\r\n\x1a\n", "is an image"),
        (b"hello", "of no format that vit-export knows"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content, said):
    path = tmp_path / "x.bin"
    if content is not None:
        path.write_bytes(content)
    result = run("--delegates", path)
    assert result.exit_code == 2
    assert result.output.startswith("Error: ")
    assert said in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("kind", ["tflite", "onnx"])
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_never_ends_in_a_traceback(ours, tmp_path, kind, seed):
    data, random = bytearray(Path(ours[kind].path).read_bytes()), np.random.default_rng(seed)
    structure = len(data) - 30_000 if kind == "tflite" else 0
    for place in random.integers(max(structure, 0), len(data), 200):
        data[place] = int(random.integers(256))
    path = tmp_path / f"x.{kind}"
    path.write_bytes(bytes(data[: len(data) - 1000 * (seed % 2)]))
    result = run("--no-sha256", path)
    assert result.exit_code in (0, 2), result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)


# Bad models, each made on purpose


def converted(path, function, shape, *, flex=False):
    import tensorflow as tf

    function = tf.function(function, [tf.TensorSpec(shape)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    if flex:
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    path.write_bytes(converter.convert())
    return path


def bad_tflite(name, path):
    import tensorflow as tf

    return {
        "dynamic shape": lambda: converted(path, lambda x: tf.nn.relu(tf.matmul(x, tf.ones([8, 4]))), [None, 8]),
        "strided slice with a mask": lambda: converted(path, lambda x: x[:, 0] * 2.0, [1, 4, 8]),
        "Flex operator": lambda: converted(path, lambda x: tf.linalg.logdet(x + tf.eye(4)), [1, 4, 4], flex=True),
        "rank above 4": lambda: converted(path, lambda x: tf.reshape(x, [1, 2, 2, 2, 4]) * 2.0, [1, 4, 8]),
        "BATCH_MATMUL with adj_x or adj_y": lambda: converted(
            path, lambda x: tf.linalg.matmul(x, tf.nn.relu(x), transpose_b=True), [1, 2, 4, 8]
        ),
        "int64 tensors": lambda: converted(path, lambda x: tf.argmax(x, -1) * 3, [1, 8]),
    }[name]()


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("dynamic shape", "serving_default_x:0 [?, 8] float32"),
        ("strided slice with a mask", "op 0 STRIDED_SLICE"),
        ("Flex operator", "op 1 FlexCholesky"),
        ("rank above 4", "[1, 2, 2, 2, 4] float32"),
        ("BATCH_MATMUL with adj_x or adj_y", "op 1 BATCH_MATMUL"),
        ("int64 tensors", "[1] int64"),
    ],
)
def test_each_fault_of_a_tflite_file_is_named(tmp_path, name, where):
    path = bad_tflite(name, tmp_path / "x.tflite")
    found = inspect_file(path)
    assert names(found) - PROVIDED == {name}
    (finding,) = (finding for finding in found["findings"] if finding["name"] == name)
    assert any(where in place for place in finding["where"]), finding["where"]
    assert finding["why"]
    assert finding["change"]
    result = run(path)
    assert result.exit_code == 0
    assert name in result.output


def edited(ours, path, change):
    """A file of ours with its object tree changed."""
    model = flatbuffer.unpack(Path(ours["float16"].path).read_bytes())
    change(model)
    path.write_bytes(foreign.packed(model))
    return path


def test_custom_operators_and_float64_are_named(ours, tmp_path):
    def change(model):
        code = model.operatorCodes[flatbuffer.operator_kinds(model).index("GELU")]
        code.deprecatedBuiltinCode = code.builtinCode = schema().BuiltinOperator.CUSTOM
        code.customCode = b"MyGelu"
        model.subgraphs[0].tensors[-1].type = schema().TensorType.FLOAT64

    found = inspect_file(edited(ours, tmp_path / "x.tflite", change))
    assert names(found) - PROVIDED == {"custom operator", "float64 tensors"}
    (custom,) = (finding for finding in found["findings"] if finding["name"] == "custom operator")
    assert custom["count"] == len(custom["where"]) == 3
    assert "MyGelu" in custom["where"][0]


def onnx_file(path, nodes, inputs, outputs, weights=(), opsets=(("", 20),)):
    info = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in some] for some in (inputs, outputs)
    ]
    constants = [numpy_helper.from_array(value, name) for name, value in weights]
    graph = helper.make_graph(nodes, "g", *info, constants)
    imports = [helper.make_opsetid(*opset) for opset in opsets]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=9).SerializeToString())
    return path


FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
NODE = helper.make_node
BAD_ONNX = {
    "dynamic shape": ([NODE("Relu", ["x"], ["y"])], FLOAT, ["n", 8], "x [?, 8] float32", ()),
    "operator outside ai.onnx": (
        [NODE("FastGelu", ["x"], ["y"], domain="com.microsoft")],
        FLOAT,
        [1, 8],
        "op 0 com.microsoft:FastGelu",
        (),
    ),
    "float64 tensors": ([NODE("Relu", ["x"], ["y"])], DOUBLE, [1, 8], "x [1, 8] float64", ()),
    "int64 tensors": (
        [NODE("ArgMax", ["x"], ["best"]), NODE("Cast", ["best"], ["y"], to=FLOAT)],
        FLOAT,
        [1, 8],
        "best [1, 8] int64",
        (),
    ),
    "rank above 4": ([NODE("Relu", ["x"], ["y"])], FLOAT, [1, 2, 2, 2, 2], "x [1, 2, 2, 2, 2] float32", ()),
}


@pytest.mark.parametrize("name", BAD_ONNX)
def test_each_fault_of_an_onnx_file_is_named(tmp_path, name):
    nodes, kind, shape, where, weights = BAD_ONNX[name]
    result_kind = FLOAT if nodes[-1].op_type == "Cast" else kind
    path = onnx_file(
        tmp_path / "x.onnx", nodes, [("x", kind, shape)], [("y", result_kind, shape)], weights,
        [("", 20), ("com.microsoft", 1)],
    )  # fmt: skip
    found = inspect_file(path)
    assert names(found) - PROVIDED == {name}
    assert any(where in place for finding in found["findings"] for place in finding["where"])
    assert name in run(path).output


@pytest.mark.parametrize(
    ("opset", "expected"),
    [(23, set()), (20, set()), (17, {"GELU in pieces"}), (13, {"GELU in pieces", "LayerNorm in pieces"})],
)
def test_operators_in_pieces_are_counted(source, record, tmp_path, opset, expected):
    path = tmp_path / "x.onnx"
    write_onnx(source, record, path, opset=opset)
    found = inspect_file(path)
    assert names(found) - PROVIDED == expected
    counts = {finding["name"]: finding["count"] for finding in found["findings"]}
    if "GELU in pieces" in expected:
        assert counts["GELU in pieces"] == record.spec.num_layers
    if "LayerNorm in pieces" in expected:
        assert counts["LayerNorm in pieces"] == 2 * record.spec.num_layers + 1


def test_what_an_app_has_to_know_is_missed(tmp_path):
    path = foreign.write_onnx(tmp_path / "x.onnx")
    assert names(inspect_file(path)) == PROVIDED
    flat = toys.write_tflite(tmp_path / "x.tflite", toys.weights())
    assert names(inspect_file(flat)) >= PROVIDED
    assert "mean and std" in run(path).output


def test_a_file_is_named_as_given(ours, monkeypatch):
    path = Path(ours["onnx"].path)
    monkeypatch.chdir(path.parent)
    assert run(path.name).output.splitlines()[0] == path.name
    assert os.sep not in json.loads(run("--json", path.name).output)["files"][0]["path"]


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, None),
        ({"dtype": "uint8", "mean": (1.0, 2.0, 3.0)}, None),
        ({"dtype": "int8"}, "dtype"),
        ({"shape": (2, 32, 32, 3)}, "batch"),
        ({"mean": (1.0, 2.0, 3.0)}, "mean"),
        ({"bytes": 1 << 31}, "size"),
    ],
)
def test_what_mediapipe_would_refuse_is_told(changes, cause, ours):
    """tests/tflite/test_mediapipe.py holds the same to MediaPipe itself, where that is installed."""
    facts = read_facts(Path(ours["tflite"].path))
    image = {"dtype": "float32", "shape": (1, 32, 32, 3)} | {
        k: v for k, v in changes.items() if k in ("dtype", "shape")
    }
    facts = replace(facts, inputs=(replace(facts.inputs[0], **image),), bytes=changes.get("bytes", facts.bytes))
    metadata = {"inputs": [{"mean": changes.get("mean", (127.5,) * 3), "std": (127.5,) * 3}]}
    found = [finding.name for finding in mediapipe.findings_in(facts, metadata)]
    assert found == ([] if cause is None else [f"not for MediaPipe: {cause}"])
    assert mediapipe.findings_in(replace(facts, inputs=facts.inputs * 2), metadata) == []
