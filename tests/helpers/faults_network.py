"""Faults inside the network: its weights and its architecture."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers.faults_bench import Bench
from helpers.faults_edits import (
    after,
    change_tensor,
    described_again,
    edited_onnx,
    edited_tflite,
    node_of,
    respecified,
    reweighted,
    set_attribute,
)
from helpers.faults_table import FIGURES, HEAD_SIZE, HEADS, LAYER, SPEC, Fault, kernel, only, rolled, zeros
from helpers.faults_weights import exchanged, heads_permuted, parameters, repeated


def _transposed(array: np.ndarray) -> np.ndarray:
    return array.T if array.ndim == 2 else array


def _times(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array * factor


def _post_norm(graph) -> None:
    """LayerNorm after the residual sum of layer 1's attention instead of before its projections."""
    norm = node_of(graph, f"{LAYER}1/attention_norm/LayerNormalization")
    residual = node_of(graph, f"{LAYER}1/attention/output/Add").output[0]
    tokens, normed = norm.input[0], norm.output[0]
    for node in graph.node:
        if node.name != norm.name:
            swap = {normed: tokens, residual: normed}
            node.input[:] = [swap.get(value, value) for value in node.input]
    norm.input[0] = residual


def _skipped(graph) -> None:
    """What read the tokens after layer 1 reads those after layer 0."""
    for node in graph.node:
        node.input[:] = [f"{LAYER}0/Add" if value == f"{LAYER}1/Add" else value for value in node.input]


def _extra_input(graph) -> None:
    from onnx import TensorProto, helper

    graph.input.append(helper.make_tensor_value_info("training", TensorProto.FLOAT, [1]))
    after(("Add", [], {}))(graph)
    next(node for node in graph.node if node.name == "spoilt/Add_1").input.append("training")


def _concat_reversed(file) -> None:
    operator = file.operator("CONCATENATION")
    operator.inputs = list(operator.inputs)[::-1]


def _concat_reversed_onnx(graph) -> None:
    node = node_of(graph, "patch_embedding/Concat")
    node.input[:] = list(node.input)[::-1]


def _flipped_bits(array: np.ndarray) -> np.ndarray:
    """A high bit of the exponent of five weights."""
    bits = array.reshape(-1).view(np.uint32)
    bits[[5, 700, 1300, 1900, 2200]] ^= 1 << 26
    return array


def _hole(array: np.ndarray) -> np.ndarray:
    array.reshape(-1)[100] = np.nan
    return array


def _features(bench: Bench, path: Path):
    return respecified("onnx float32", num_classes=None)(bench, path)


def _stock_trap(bench: Bench, path: Path):
    """What the stock converter makes of a plain tf.function over the Keras model: most weights are not in the file."""
    import tensorflow as tf
    from conftest import build

    from vit_export.base.quiet import quiet

    model = build(bench.source)

    @tf.function(input_signature=[tf.TensorSpec((1, SPEC.image_size, SPEC.image_size, 3), tf.float32)])
    def serve(images):
        return {"logits": model(images, training=False)}

    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], model)
        path.write_bytes(converter.convert())
    return described_again(bench.good("tflite float32"), path)


_POSITIONS = parameters("position_embedding", rolled(1, axis=1))
_ROTATED = heads_permuted(f"{LAYER}0/attention", ("query", "key", "value"), HEADS)
_ROTATED_2 = heads_permuted(f"{LAYER}2/attention", ("query", "key", "value"), HEADS)
WEIGHTS = (
    Fault(
        "the stock converter's file of a plain function: weights uninitialised, tflite float32",
        _stock_trap,
        # What the memory of a variable holds that nobody wrote is not known: a runtime refuses it, or computes with it.
        only(),
        says="cannot be|NaN or infinite|of the range",
        may=FIGURES | only("runs", "finite", "varies", "deterministic", "order"),
        slow=True,
    ),
    Fault(
        "weights of an MLP all zero, tflite float32",
        edited_tflite(lambda file: file.change(kernel(1, "mlp/dense_1"), "f4", zeros)),
        FIGURES,
        departs="encoder layer 1 mlp",
    ),
    Fault(
        "weights of attention never loaded, onnx float32",
        edited_onnx(lambda graph: change_tensor(graph, kernel(2, "attention/value"), zeros)),
        FIGURES,
        departs="encoder layer 2 attention",
        slow=True,
    ),
    Fault(
        "a square kernel transposed, onnx float32",
        reweighted("onnx float32", parameters(kernel(2, "attention/output"), _transposed)),
        FIGURES,
        departs="encoder layer 2 attention",
    ),
    Fault(
        "a square kernel transposed, tflite float32",
        edited_tflite(lambda file: file.change(kernel(0, "attention/value"), "f4", _transposed)),
        FIGURES,
        departs="encoder layer 0 attention",
        slow=True,
    ),
    Fault(
        "a square kernel transposed, tflite int8 static",
        reweighted("tflite int8 static", parameters(kernel(1, "attention/output"), _transposed)),
        FIGURES,
        departs="encoder layer 1 attention",
        slow=True,
    ),
    Fault(
        "query and key exchanged, onnx float32",
        reweighted("onnx float32", exchanged(f"{LAYER}1/attention/query", f"{LAYER}1/attention/key")),
        FIGURES,
        departs="encoder layer 1 attention",
    ),
    Fault(
        "query and key exchanged, tflite float16",
        reweighted("tflite float16", exchanged(f"{LAYER}1/attention/query", f"{LAYER}1/attention/key")),
        FIGURES,
        departs="encoder layer 1 attention",
        slow=True,
    ),
    Fault(
        "query and key exchanged, tflite int8 dynamic",
        reweighted("tflite int8 dynamic", exchanged(f"{LAYER}1/attention/query", f"{LAYER}1/attention/key")),
        FIGURES,
        departs="encoder layer 1 attention",
    ),
    Fault(
        "a bias dropped, tflite float32",
        reweighted("tflite float32", parameters(f"{LAYER}0/mlp/dense_2/bias", zeros)),
        FIGURES,
        departs="encoder layer 0 mlp",
    ),
    Fault(
        "a bias dropped, onnx float16",
        reweighted("onnx float16", parameters(f"{LAYER}3/attention/output/bias", zeros)),
        FIGURES,
        departs="encoder layer 3 attention",
        slow=True,
    ),
    Fault(
        "query and key exchanged in a trained model, tflite int8 full",
        reweighted("tflite int8 full", exchanged(f"{LAYER}3/attention/query", f"{LAYER}3/attention/key")),
        only("constants"),  # its figures are those of good files of DINOv2-S/14
        may=FIGURES | only("agreement"),
        says=r"encoder/layer_3/attention/(query|key)/(kernel|bias)",
        bench="digits",
        slow=True,
    ),
    Fault(
        "a bias dropped in a trained model, tflite int8 static",
        reweighted("tflite int8 static", parameters(f"{LAYER}0/attention/query/bias", zeros)),
        only("constants"),
        may=FIGURES,
        says=r"encoder/layer_0/attention/query/bias\[\d+\] is ",
        bench="digits",
        slow=True,
    ),
    Fault(
        "heads permuted but for the output projection, onnx float32",
        reweighted("onnx float32", _ROTATED),
        FIGURES,
        departs="encoder layer 0 attention",
    ),
    Fault(
        "heads permuted but for the output projection, tflite float16",
        reweighted("tflite float16", _ROTATED_2),
        FIGURES,
        departs="encoder layer 2 attention",
        slow=True,
    ),
    Fault(
        "position embedding off by one row, onnx float32",
        reweighted("onnx float32", _POSITIONS),
        FIGURES,
        departs="embedding",
    ),
    Fault(
        "position embedding off by one row, tflite int8 static",
        reweighted("tflite int8 static", _POSITIONS),
        FIGURES,
        departs="embedding",
        slow=True,
    ),
    Fault(
        "class token last, onnx float32",
        edited_onnx(_concat_reversed_onnx),
        FIGURES,
        departs="embedding",
        slow=True,
    ),
    Fault(
        "class token last, tflite float32",
        edited_tflite(_concat_reversed),
        FIGURES,
        departs="embedding",
    ),
    Fault(
        "patches column by column, onnx float32",
        edited_onnx(lambda graph: set_attribute(graph, "patch_embedding/Transpose", perm=[2, 0, 1, 3])),
        FIGURES,
        departs="embedding",
        slow=True,
    ),
    Fault(
        "weights of a layer repeated, onnx float32",
        reweighted("onnx float32", repeated(f"{LAYER}1", f"{LAYER}2")),
        FIGURES,
        departs="encoder layer 2 attention",
    ),
    Fault(
        "two layers exchanged, tflite float16",
        reweighted("tflite float16", exchanged(f"{LAYER}1", f"{LAYER}2")),
        FIGURES,
        departs="encoder layer 1 attention",
        slow=True,
    ),
    Fault(
        "scale of a LayerNorm not loaded, onnx float32",
        reweighted("onnx float32", parameters(f"{LAYER}1/mlp_norm/scale", np.ones_like)),
        FIGURES,
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "head of another model, tflite float32",
        reweighted("tflite float32", parameters("head/kernel", lambda kernel: kernel[::-1])),
        FIGURES,
        departs="output",
    ),
    Fault(
        "a weight that is NaN, onnx float32",
        edited_onnx(lambda graph: change_tensor(graph, kernel(2, "mlp/dense_2"), _hole)),
        only("finite"),
        departs="encoder layer 2 mlp",
    ),
    Fault(
        "a weight that is NaN, tflite float32",
        edited_tflite(lambda file: file.change(kernel(1, "mlp/dense_2"), "f4", _hole)),
        only("finite"),
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "bits of weights flipped before they were recorded, tflite float32",
        edited_tflite(lambda file: file.change(kernel(1, "attention/output"), "f4", _flipped_bits)),
        FIGURES,
        departs="encoder layer 1 attention",
        slow=True,
    ),
)

ARCHITECTURE = (
    Fault(
        "scores divided by the head size, onnx float32",
        edited_onnx(
            lambda graph: [
                set_attribute(graph, f"{LAYER}{i}/attention/Attention", scale=1 / HEAD_SIZE) for i in range(4)
            ]
        ),
        FIGURES,
        departs="encoder layer 0 attention",
    ),
    Fault(
        "scores not divided at all, onnx float32",
        edited_onnx(lambda graph: set_attribute(graph, f"{LAYER}2/attention/Attention", scale=1.0)),
        FIGURES,
        departs="encoder layer 2 attention",
        slow=True,
    ),
    Fault(
        "scores not divided at all, tflite float32",
        reweighted("tflite float32", parameters(f"{LAYER}1/attention/query", _times(HEAD_SIZE**0.5))),
        FIGURES,
        departs="encoder layer 1 attention",
        slow=True,
    ),
    Fault(
        "LayerNorm after the sum instead of before, onnx float32",
        edited_onnx(_post_norm),
        FIGURES,
        departs="encoder layer 1 attention",
    ),
    Fault(
        "GELU by tanh, onnx float32",
        respecified("onnx float32", gelu="tanh"),
        only("worst_difference", "sqnr"),
        departs="encoder layer 0 mlp",
        may=FIGURES,
        slow=True,
    ),
    Fault(
        "GELU by tanh, tflite float32",
        respecified("tflite float32", gelu="tanh"),
        only("worst_difference", "sqnr"),
        departs="encoder layer 0 mlp",
        may=FIGURES,
        slow=True,
    ),
    Fault(
        "LayerNorm of PyTorch's epsilon, onnx float32",
        respecified("onnx float32", layer_norm_epsilon=1e-5),
        FIGURES,
        departs="encoder layer 0 attention",
        bench="dark",
        slow=True,
    ),
    Fault(
        "LayerNorm of PyTorch's epsilon, tflite int8 static",
        respecified("tflite int8 static", layer_norm_epsilon=1e-5),
        only("sqnr"),
        departs="encoder layer 0 attention",
        may=FIGURES,
        bench="dark",
        slow=True,
    ),
    Fault(
        "a layer skipped, onnx float32",
        edited_onnx(_skipped),
        FIGURES,
        departs="encoder layer 1 attention",
    ),
    Fault(
        "the last layer skipped, onnx float32",
        respecified("onnx float32", num_layers=3),
        FIGURES,
        departs="encoder layer 3 attention",
        missed="the layer before, now the last, computes one row only: it is called the first that departs",
        slow=True,
    ),
    Fault(
        "a file of fewer layers that says so, onnx float16",
        respecified("onnx float16", num_layers=3, honest=True),
        FIGURES | only("same_model", "same_weights"),
        says="num_layers 3, expected 4",
        slow=True,
    ),
    Fault(
        "a file of another GELU that says so, onnx int8 dynamic",
        respecified("onnx int8 dynamic", gelu="tanh", honest=True),
        only("same_model"),
        says="gelu 'tanh', expected 'erf'",
    ),
    Fault(
        "features instead of logits, onnx float32",
        _features,
        only("outputs", "output_shape"),
        may=only("metadata_labels"),
        cause="told_no_labels",
        says=r"output is features \[1, 48\], the reference's logits \[None, 10\]",
    ),
    Fault(
        "an input more, onnx float32",
        edited_onnx(_extra_input),
        only("inputs"),
        says=r"2 inputs, expected one",
    ),
)
