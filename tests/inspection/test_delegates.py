"""What delegates take of our files and of others: by the runtime where there is one here, else by the tables."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import RandomParameters, build, record_of, toy_spec, write_pictures
from onnx import TensorProto, helper, numpy_helper

from vit_export.inspection.delegates import assess, installed, partitions, targets
from vit_export.inspection.inspect import verdicts
from vit_export.inspection.onnx_graph import graphs_of, read_onnx_graphs
from vit_export.inspection.operators import Graph, Node, Tensor, is_folded, macs_of
from vit_export.inspection.runtimes import ask_cpu, taken_by_delegates
from vit_export.inspection.tflite_graph import read_tflite_graphs
from vit_export.model.saved_model import write_saved_model
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import get_variant
from vit_export.onnx import write_onnx
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.tflite.write import write_tflite

FLOATS = ("toy_float32", "toy_float16", "ti16_float32", "ti16_float16")
INTEGERS = ("toy_static", "toy_dynamic")
_, GPU, NNAPI, CORE_ML, QNN = targets("tflite")
TI16 = ViTSpec.of(get_variant("vit_ti16"), image_size=224, num_classes=1000)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Default exports to TFLite, by name."""
    folder = tmp_path_factory.mktemp("ours")
    found = {}
    for name, spec in (("toy", toy_spec()), ("ti16", TI16)):
        source, record = RandomParameters(spec), record_of(spec)
        for precision in ("float32", "float16"):
            path = folder / f"{name}_{precision}.tflite"
            found[path.stem] = write_tflite(source, record, path, precision=precision)
    small = toy_spec().with_(num_layers=1)
    write_saved_model(build(RandomParameters(small)), folder / "saved_model", record_of(small))
    photos = write_pictures(folder / "photos", 16, (32, 32))
    for scheme in ("static", "dynamic"):
        request = ExportRequest(
            None, folder / scheme, ("tflite",), ("int8",), scheme, weights=folder / "saved_model", calibration=photos,
            verify=False,
        )  # fmt: skip
        found[f"toy_{scheme}"] = export(request).artifacts[-1]
    return {name: Path(artifact.path) for name, artifact in found.items()}


@pytest.fixture(scope="module")
def float32_onnx(tmp_path_factory):
    spec = toy_spec()
    path = tmp_path_factory.mktemp("ours") / "x.onnx"
    write_onnx(RandomParameters(spec), record_of(spec), path)
    return path


def main_graph(path):
    return (read_tflite_graphs if path.suffix == ".tflite" else read_onnx_graphs)(path)[0]


# Our own files


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_the_cpu_takes_every_operator_in_one_piece(files, name):
    verdict = ask_cpu(files[name], main_graph(files[name]))
    assert (verdict.error, verdict.refusals, verdict.basis) == (None, (), "runtime")
    assert verdict.supported == verdict.total > 40
    assert (verdict.partitions, verdict.macs) == (1, 1.0)


@pytest.mark.parametrize("name", FLOATS)
def test_the_gpu_delegate_takes_every_operator_in_one_piece(files, name):
    verdict = assess(GPU, main_graph(files[name]))
    assert (verdict.refusals, verdict.partitions) == ((), 1)


@pytest.mark.parametrize("name", INTEGERS)
def test_of_int8_the_gpu_delegate_refuses_dense_layers_quantized_per_channel_alone(files, name):
    """By their version, which is what such a layer needs; the GPU would compute in float all the same."""
    (refusal,) = assess(GPU, main_graph(files[name])).refusals
    assert (refusal.op, refusal.reason) == ("FULLY_CONNECTED", "version 12, at most 9 is taken")
    assert "--float16" in refusal.change


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_qualcomms_compiler_takes_every_operator(files, name):
    verdict = assess(QNN, main_graph(files[name]))
    assert (verdict.refusals, verdict.partitions) == ((), 1)


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_no_flex_and_no_custom_operator_ships(files, name):
    for graph in read_tflite_graphs(files[name]):
        assert [node.op for node in graph.nodes if node.custom or node.op.startswith(("Flex", "CUSTOM"))] == []


def test_nnapi_lacks_gelu_alone(files):
    verdict = assess(NNAPI, main_graph(files["ti16_float16"]))
    assert [(refusal.op, refusal.count) for refusal in verdict.refusals] == [("GELU", 12)]
    assert verdict.partitions == 13
    assert verdict.supported == verdict.total - 12


def test_every_table_has_a_verdict_with_its_source(files, float32_onnx, monkeypatch):
    monkeypatch.setattr("vit_export.runtimes.gpu.available", lambda: "not here")  # where it is, it is asked
    for path, count in ((files["toy_float32"], 1 + len(targets("tflite"))), (float32_onnx, 1 + len(targets("onnx")))):
        found = verdicts(path, (main_graph(path),))
        assert len({verdict.target for verdict in found}) == len(found) == count
        assert [verdict.basis for verdict in found].count("runtime") == 1
        for verdict in found:
            refused = sum(refusal.count for refusal in verdict.refusals)
            assert verdict.supported + refused == verdict.total == len(main_graph(path).nodes)
            assert any(word in verdict.source for word in ("read 20", "run 20")) or "this machine" in verdict.source
            assert all(refusal.reason and refusal.change and refusal.where for refusal in verdict.refusals)


def test_multiply_accumulates_are_those_of_the_model(files):
    counted = sum(macs_of(node) for node in main_graph(files["ti16_float32"]).nodes)
    # The last layer computes the class token alone, which the formula for whole models does not know.
    assert 0.9 * TI16.num_macs < counted <= TI16.num_macs


def test_attention_counts_as_the_products_it_is(tmp_path):
    spec = toy_spec()
    counts = []
    for opset in (23, 20):
        path = tmp_path / f"{opset}.onnx"
        write_onnx(RandomParameters(spec), record_of(spec), path, opset=opset)
        nodes = main_graph(path).nodes
        counts.append(sum(macs_of(node) for node in nodes))
        assert any(node.op == "Attention" for node in nodes) == (opset == 23)
    assert counts[0] == counts[1]


# ONNX Runtime's own checker of the installed tables


def test_the_installed_tables_are_read():
    for name in ("nnapi", "coreml_neuralnetwork", "coreml_mlprogram"):
        first, _, rest = name.partition("_")
        found = installed(f"{first}_supported{'_' if rest else ''}{rest}_ops.md")
        assert {"Add", "Conv", "Softmax"} <= set(found)
    assert installed("another.md") == {}


@pytest.mark.thorough
def test_pieces_are_those_of_onnxruntimes_usability_checker(float32_onnx, tmp_path):
    from onnxruntime.tools.mobile_helpers.usability_checker import check_coreml_partitions, check_nnapi_partitions

    model = onnx.shape_inference.infer_shapes(onnx.load(float32_onnx))
    theirs = {
        "NNAPI": check_nnapi_partitions(model, True),
        "Core ML (NeuralNetwork)": check_coreml_partitions(model, True, "coreml_supported_neuralnetwork_ops.md"),
        "Core ML (ML Program)": check_coreml_partitions(model, True, "coreml_supported_mlprogram_ops.md"),
    }
    (graph,) = graphs_of(model)
    ours = {target.name: assess(target, graph) for target in targets("onnx") if target.name in theirs}
    for name, info in theirs.items():
        assert (ours[name].supported, ours[name].partitions) == (info.num_supported_nodes, info.num_partitions), name
        assert info.num_partitions > 1


def test_the_lower_opset_is_what_core_ml_and_qnn_want(tmp_path):
    spec = toy_spec()
    path = tmp_path / "x.onnx"
    write_onnx(RandomParameters(spec), record_of(spec), path, opset=22)
    found = {target.name: assess(target, main_graph(path)) for target in targets("onnx")}
    for name in ("Core ML (ML Program)", "QNN"):
        assert (found[name].refusals, found[name].partitions) == ((), 1), name
    (advice,) = {
        refusal.change
        for target in targets("onnx")
        for refusal in assess(target, graphs_of(attention())[0]).refusals
        if refusal.op == "Attention" and target.name != "XNNPACK"
    }
    assert "--opset 22" in advice


def attention():
    shape = [1, 4, 6]
    value = helper.make_tensor_value_info
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=2, kv_num_heads=2)
    graph = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, shape)], [value("y", 1, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def test_quantized_weights_are_constants_where_pairs_are_read(tmp_path):
    """NNAPI and QNN read a weight and its DequantizeLinear as one; Core ML and XNNPACK look for the weight itself."""
    value, zero = helper.make_tensor_value_info, np.zeros((), np.int8)
    weights = {"q": np.ones((8, 8), np.int8), "s": np.ones((), np.float32), "z": zero}
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"]),
        helper.make_node("Gemm", ["x", "w"], ["y"]),
    ]
    given = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1, 8])], [value("y", 1, [1, 8])], given)
    (read,) = graphs_of(helper.make_model(graph))
    refused = {
        target.name
        for target in targets("onnx")
        if any(refusal.op == "Gemm" for refusal in assess(target, read).refusals)
    }
    assert refused == {"XNNPACK", "Core ML (NeuralNetwork)", "Core ML (ML Program)"}


def test_float16_weights_are_constants_to_delegates(files):
    """Their DEQUANTIZE is done when the delegate is built."""
    for name in ("toy_float16", "toy_float32"):
        products = [node for node in main_graph(files[name]).nodes if node.op == "FULLY_CONNECTED"]
        assert products
        assert all(len(node.changing) == 1 for node in products)
        assert not any("no constant" in r.reason for r in assess(CORE_ML, main_graph(files[name])).refusals)


# Conditions, one node at a time


def tensor(key, shape=(1, 4, 8), dtype="float32", *, constant=False, values=None):
    return Tensor(key, str(key), shape, dtype, constant, 4 if constant else 0, values)


X = tensor("x")
W = tensor("w", (8, 8), constant=True)
AXES = tensor("axes", (1,), "int32", constant=True, values=(-1,))


def node(op, *inputs, out=(1, 4, 8), dtype="float32", version=1, index=0, **attributes):
    return Node(index, op, inputs, (tensor(f"out{index}", out, dtype),), version, attributes)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (node("STRIDED_SLICE", X, AXES, AXES, AXES), ""),
        (node("STRIDED_SLICE", X, AXES, AXES, AXES, shrinkAxisMask=2), "shrink_axis_mask is set"),
        (node("STRIDED_SLICE", X, AXES, AXES, AXES, newAxisMask=1), "new_axis_mask is set"),
        (node("STRIDED_SLICE", tensor("x", (4, 8)), AXES, AXES, AXES), "the input has rank 2, 3 or 4 is taken"),
        (node("RESHAPE", X, AXES, out=(1, 1, 2, 2, 8)), "a tensor has rank 5, at most 4 is taken"),
        (node("BATCH_MATMUL", X, X), ""),
        (node("BATCH_MATMUL", X, X, adjY=True), "taken, but adj_x and adj_y are not read: wrong results"),
        (node("CAST", tensor("x", dtype="uint8")), "from uint8 to float32, between float32, int32 and bool is taken"),
        (node("CAST", tensor("x", dtype="int32")), ""),
        (node("MEAN", X, AXES), ""),
        (node("MEAN", X, X), "2 changing inputs and 0 constants"),
        (node("GELU", tensor("x", dtype="int64"), dtype="int64"), "computes in int64"),
        (node("GELU", X, version=3), "version 3, at most 2 is taken"),
        (node("SOFTMAX", X, beta=2.0), "beta is 2, 1 is taken"),
        (node("ADD", X, tensor("y", (4, 8))), "cannot combine shapes [1, 4, 8] and [4, 8]"),
        (node("ADD", tensor("x", (1, 2, 4, 8)), X), ""),
        (node("FULLY_CONNECTED", X, W, None), ""),
        (node("FULLY_CONNECTED", X, W, weightsFormat=1), "weights_format is set"),
        (node("DEQUANTIZE", tensor("w", dtype="float16", constant=True)), ""),
        (node("DEQUANTIZE", tensor("x", dtype="int16")), "computes in int16"),
        (node("FlexErf", X), "not in the list of supported operators"),
    ],
)
def test_the_gpu_delegates_conditions(given, reason):
    assert GPU.refusal(given).startswith(reason)
    assert bool(GPU.refusal(given)) == bool(reason)


@pytest.mark.parametrize(
    ("target", "given", "taken"),
    [
        (NNAPI, node("BATCH_MATMUL", X, X), True),
        (NNAPI, node("BATCH_MATMUL", X, tensor("y", (2, 8, 4))), False),
        (NNAPI, node("RESHAPE", X, tensor("shape", dtype="int32")), False),
        (CORE_ML, node("FULLY_CONNECTED", tensor("x", (1, 8)), W), True),
        (CORE_ML, node("FULLY_CONNECTED", tensor("x", (4, 8)), W), False),
        (CORE_ML, node("RESHAPE", X, AXES), False),
        (CORE_ML, node("MUL", X, tensor("y", (2, 4, 8))), False),
        (CORE_ML, node("MUL", X, X), True),
        (CORE_ML, node("CONCATENATION", X, X, axis=2), True),
        (CORE_ML, node("CONCATENATION", X, X, axis=1), False),
        (CORE_ML, node("MEAN", tensor("x", (1, 4, 4, 8)), replace(AXES, values=(1, 2)), keepDims=True), True),
        (CORE_ML, node("MEAN", X, AXES, keepDims=True), False),
        (QNN, node("GELU", X), True),
    ],
)
def test_the_other_tables_conditions(target, given, taken):
    assert bool(target.refusal(given)) != taken


def test_a_provider_that_wants_fixed_sizes_refuses_an_open_one(tmp_path):
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "g", [value("x", 1, ["n", 8])], [value("y", 1, ["n", 8])], [weight])
    (read,) = graphs_of(helper.make_model(graph))
    found = {target.name: assess(target, read) for target in targets("onnx")}
    assert {n: [r.reason for r in found[n].refusals] for n in ("NNAPI", "QNN")} == {
        "NNAPI": ["a size is open"],
        "QNN": ["a size is open"],
    }
    assert found["Core ML (ML Program)"].refusals == ()
    assert found["XNNPACK"].refusals == ()


# Pieces


def chain(*pairs):
    """A graph of nodes, each given by what it reads; node i makes tensor i."""
    nodes = tuple(
        Node(index, "RELU", tuple(tensor(key) for key in reads), (tensor(index),)) for index, reads in enumerate(pairs)
    )
    return Graph("tflite", nodes, ("x",))


@pytest.mark.parametrize(
    ("reads", "taken", "pieces"),
    [
        ([["x"], [0], [1]], {0, 1, 2}, [[0, 1, 2]]),
        ([["x"], [0], [1]], set(), []),
        ([["x"], [0], [1]], {0, 2}, [[0], [2]]),
        ([["x"], [0], [1]], {1}, [[1]]),
        # Two branches, one refused operator in each: what does not depend on them stays in one piece.
        ([["x"], [0], [0], [1], [2], [3, 4]], {0, 1, 2, 5}, [[0, 1, 2], [5]]),
        ([["x"], ["x"], [1], [0, 2]], {0, 2, 3}, [[0], [2, 3]]),
        ([[1], [0]], {0, 1}, []),
    ],
)
def test_pieces_are_cut_greedily(reads, taken, pieces):
    assert partitions(chain(*reads), taken) == pieces


def test_small_pieces_stay_on_the_cpu():
    graph = chain(["x"], [0], [1], [2])
    softmax = replace(graph.nodes[1], op="GELU")
    verdict = assess(CORE_ML, replace(graph, nodes=(graph.nodes[0], softmax, *graph.nodes[2:])))
    assert (verdict.supported, verdict.partitions) == (2, 1)
    assert {refusal.reason for refusal in verdict.refusals} >= {"in a piece of fewer than 2 operators"}


def test_what_a_delegate_took_is_what_lies_between_its_ends():
    rows = [
        {"index": 0, "op_name": "CAST", "inputs": [0], "outputs": [1]},
        {"index": 1, "op_name": "RELU", "inputs": [1, 9], "outputs": [2]},
        {"index": 2, "op_name": "RELU", "inputs": [2], "outputs": [3]},
        {"index": 3, "op_name": "GELU", "inputs": [3], "outputs": [4]},
        {"index": 4, "op_name": "DELEGATE", "inputs": [1, 9], "outputs": [3]},
    ]
    assert taken_by_delegates(rows) == [1, 2]
    assert taken_by_delegates(rows[:4]) == []


def test_widened_weights_count_as_taken():
    assert is_folded(node("DEQUANTIZE", tensor("w", dtype="float16", constant=True)))
    assert not is_folded(node("DEQUANTIZE", tensor("w", dtype="int8", constant=True)))
    assert not is_folded(node("DEQUANTIZE", tensor("x", dtype="float16")))


# Runtimes


def test_a_file_that_the_runtime_does_not_open_has_its_words(tmp_path):
    value = helper.make_tensor_value_info
    strange = helper.make_node("Strange", ["x"], ["y"], domain="com.example")
    graph = helper.make_graph([strange], "g", [value("x", 1, [1])], [value("y", 1, [1])])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    path = tmp_path / "x.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    verdict = ask_cpu(path, main_graph(path))
    assert verdict.supported == verdict.partitions == 0
    assert verdict.error.startswith("it is not opened: ")
    assert "Strange" in verdict.error


def test_the_stock_gpu_checkers_call_everything_compatible(tmp_path):
    """Why they are not asked; the day they work again, they should be."""
    import tensorflow as tf
    from ai_edge_litert import _pywrap_analyzer_wrapper as litert

    function = tf.function(lambda x: tf.reshape(x[:, 0], [1, 1, 2, 2, 2]) * 2.0, [tf.TensorSpec([1, 4, 8])])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    path = tmp_path / "x.tflite"
    path.write_bytes(converter.convert())
    refused = {refusal.reason for refusal in assess(GPU, main_graph(path)).refusals}
    assert refused == {"shrink_axis_mask is set", "a tensor has rank 5, at most 4 is taken"}
    assert "looks compatible with GPU delegate" in litert.ModelAnalyzer(str(path), True, True)
