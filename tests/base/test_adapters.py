"""What the package relies on of private interfaces: a release that changes one fails here, not in an export."""

import ast
import struct
from pathlib import Path

import numpy as np
import pytest

from vit_export.base.adapters import keras as keras_adapter
from vit_export.base.adapters import litert
from vit_export.base.adapters.quantizer import open_quantizer
from vit_export.base.quiet import import_tensorflow, quiet

import_tensorflow()

PACKAGE = Path(__file__).parents[2] / "vit_export"
ADAPTERS = PACKAGE / "base" / "adapters"
OF_PYTHON = {"_exit", "_asdict", "_replace"}
"""Documented by Python, underscore or not."""

FIRST = np.array([[1, -2], [3, 4], [-5, 6], [0, 1]], np.float32)
SECOND = np.array([[1, 0.5, -1], [2, -3, 4]], np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A .tflite file of [1, 4] -> two matrices with ReLU after each and a REVERSE_V2, which XNNPACK leaves, between."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
    def serve(x):
        hidden = tf.reverse(tf.nn.relu(x @ tf.constant(FIRST)), [1])
        return {"y": tf.nn.relu(hidden @ tf.constant(SECOND))}

    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], tf.Module())
        data = converter.convert()
    path = tmp_path_factory.mktemp("adapters") / "toy.tflite"
    path.write_bytes(data)
    return path


def interpreter_of(path, **options):
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(str(path), num_threads=1, **options)
        interpreter.allocate_tensors()
    return interpreter


def test_nothing_private_is_used_outside_the_adapters():
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in PACKAGE.rglob("*.py")}
    nodes = [(file, node) for file, tree in trees.items() if file.parent != ADAPTERS for node in ast.walk(tree)]
    ours, used = set(OF_PYTHON), []
    for file, node in nodes:
        if isinstance(node, ast.FunctionDef):
            ours.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            ours.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.Attribute):
            used.append((file.name, node.attr))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            module = getattr(node, "module", "") or ""
            if not module.startswith("vit_export"):
                used += [(file.name, part) for name in (*names, module) for part in name.split(".")]
    private = [(file, name) for file, name in used if name.startswith("_") and not name.startswith("__")]
    wrong = [f"{file}: {name}" for file, name in private if name not in ours]
    wrong += [f"{file}: {name}" for file, name in used if name == "schema_py_generated"]
    assert not wrong


def test_the_schema_unpacks_a_file(path):
    schema = litert.schema()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    weights = {bytes(b.data) for b in model.buffers if b.data is not None and len(b.data) == FIRST.nbytes}
    assert FIRST.T.tobytes() in weights  # FULLY_CONNECTED has the output first
    assert {buffer.offset for buffer in model.buffers} == {0}  # the fields of schema 3c


def test_enumerations_have_names():
    types = litert.names_of("TensorType")
    assert (types[0], types[1], types[9]) == ("FLOAT32", "FLOAT16", "INT8")
    assert litert.names_of("BuiltinOperator")[9] == "FULLY_CONNECTED"
    assert litert.names_of("BuiltinOptions")[8] == "FullyConnectedOptions"
    assert all(isinstance(name, str) and isinstance(code, int) for code, name in types.items())


def test_a_vector_that_is_missing_is_the_number_0(path):
    graph = litert.schema().Model.GetRootAs(path.read_bytes(), 0).Subgraphs(0)
    assert litert.integers(graph.InputsAsNumpy()) == (graph.Inputs(0),)
    assert graph.Tensors(graph.Inputs(0)).ShapeSignatureAsNumpy() == 0
    assert litert.integers(0) == ()


def test_a_table_tells_where_a_field_lies(path):
    data = bytearray(path.read_bytes())
    root = litert.schema().Model.GetRootAs(data, 0)
    (index,) = (i for i in range(root.BuffersLength()) if root.Buffers(i).DataLength() == SECOND.nbytes)
    table = litert.table_of(root.Buffers(index))
    start = table.Vector(table.Offset(4))  # the field `data`
    assert table.Offset(6) == 0  # `offset`, which is not stored
    assert np.array_equal(np.frombuffer(data, np.float32, SECOND.size, start).reshape(3, 2), SECOND.T)
    struct.pack_into("<I", data, table.Pos + table.Offset(4), start - 4 - table.Pos - table.Offset(4))
    assert root.Buffers(index).DataAsNumpy().tobytes() == SECOND.T.tobytes()


def test_ranges_are_those_of_every_tensor(path):
    interpreter = interpreter_of(
        path, experimental_disable_delegate_node_fusion=True, experimental_force_delegate_node_profiling=True
    )
    x = np.array([[1, 2, -0.5, 3]], np.float32)
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], x)
    ranges = litert.invoke_for_ranges(interpreter)
    hidden = np.maximum(x @ FIRST, 0)
    made = [x, hidden, hidden[:, ::-1], np.maximum(hidden[:, ::-1] @ SECOND, 0)]
    changing = [
        entry["index"],
        *(row["outputs"][0] for row in litert.operators_of(interpreter) if row["op_name"] != "DELEGATE"),
    ]
    names = {detail["index"]: detail["name"] for detail in interpreter.get_tensor_details()}
    assert ranges == {names[index]: (x.min(), x.max()) for index, x in zip(changing, made, strict=True)}
    # Each call for itself: nothing is carried over from the one before.
    interpreter.set_tensor(entry["index"], 0 * x)
    assert litert.invoke_for_ranges(interpreter)[entry["name"]] == (0, 0)


def test_what_a_delegate_took_stays_in_the_list(path):
    rows = litert.operators_of(interpreter_of(path))
    kinds = [row["op_name"] for row in rows]
    assert [kind for kind in kinds if kind != "DELEGATE"] == ["FULLY_CONNECTED", "REVERSE_V2", "FULLY_CONNECTED"]
    assert kinds.count("DELEGATE") == 2
    assert [row["index"] for row in rows] == list(range(len(rows)))
    first, last = (row for row in rows if row["op_name"] == "FULLY_CONNECTED")
    delegates = [row for row in rows if row["op_name"] == "DELEGATE"]
    assert [list(row["outputs"]) for row in delegates] == [list(first["outputs"]), list(last["outputs"])]
    assert [first["inputs"][0] in delegates[0]["inputs"], last["inputs"][0] in delegates[1]["inputs"]] == [True, True]


def test_the_quantizer_does_without_its_check(path, tmp_path, monkeypatch):
    from ai_edge_quantizer import algorithm_manager, qtyping
    from ai_edge_quantizer.quantizer import Quantizer

    def quantize(made, ranges, name):
        weights = qtyping.TensorQuantizationConfig(num_bits=8, symmetric=True)
        activations = qtyping.TensorQuantizationConfig(num_bits=8, symmetric=False)
        operation = qtyping.OpQuantizationConfig(activations, weights, qtyping.ComputePrecision.INTEGER)
        kind = qtyping.TFLOperationName.FULLY_CONNECTED
        made.update_quantization_recipe(".*", kind, operation, algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT)
        with quiet():
            made.quantize(
                ranges,
                serialize_to_path=str(tmp_path / name),
                enable_progress_bar=False,
                enable_progress_report=False,
            )
        return (tmp_path / name).read_bytes()

    interpreter = interpreter_of(path)
    ends = {"min": np.full((1, 1), -8, np.float32), "max": np.full((1, 1), 8, np.float32)}
    ranges = {detail["name"]: ends for detail in interpreter.get_tensor_details()}
    checked, stock = [], Quantizer._ensure_model_qsv_sufficient
    monkeypatch.setattr(
        Quantizer, "_ensure_model_qsv_sufficient", lambda self, given: (checked.append(given), stock(self, given))
    )
    one = quantize(Quantizer(str(path)), ranges, "stock.tflite")
    assert checked == [ranges]  # what there is to leave out
    assert quantize(open_quantizer(path), ranges, "ours.tflite") == one
    assert checked == [ranges]
    # And what is not there is still an error.
    del ranges[interpreter.get_input_details()[0]["name"]]
    with pytest.raises(ValueError, match="not found in tensor_name_to_qsv"):
        quantize(open_quantizer(path), ranges, "incomplete.tflite")


def test_layers_at_any_depth():
    import keras

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = [keras.layers.Dense(2), keras.layers.LayerNormalization()]

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.outer, self.head = Outer(), keras.layers.Dense(3)

    model = Model()
    found = keras_adapter.layers_of(model)
    assert len(found) == 5
    assert {id(layer) for layer in found} == {id(x) for x in (model, model.outer, *model.outer.inner, model.head)}
    assert [id(layer) for layer in model.layers] == [id(model.outer), id(model.head)]  # why it is needed
