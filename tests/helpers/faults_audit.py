"""Faults of stored constants and attributes that int8's own rounding hides from whoever looks at answers alone."""

from collections.abc import Callable

import numpy as np

from helpers.faults_edits import (
    TFLiteFile,
    change_tensor,
    edited_onnx,
    edited_tflite,
    node_of,
    reweighted,
    set_attribute,
)
from helpers.faults_table import FIGURES, LAYER, Fault, kernel, only, zeros
from helpers.faults_weights import all_of, parameters

_CONSTANTS, _ATTRIBUTES = only("constants"), only("attributes")
_SEEN = FIGURES | only("agreement", "class_order")
"""What may show it besides: these files are of toys, whose answers hang on little."""


def _one(place: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """`change` of the elements at `place` alone."""

    def edit(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[place] = change(array[place])
        return array

    return edit


def _exchanged(axis: int, first: int, second: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(array: np.ndarray) -> np.ndarray:
        order = np.arange(array.shape[axis])
        order[[first, second]] = second, first
        return array.take(order, axis=axis)

    return edit


def _another_epsilon(file: TFLiteFile) -> None:
    names = [t.name.decode() for t in file.graph.tensors if t.shape is None or not len(t.shape)]
    for name in names:
        data = file.mapped.data(file.tensor(name).buffer)
        if len(data) == 4 and np.isclose(data.view("f4")[0], 1e-6):
            file.model.buffers[file.tensor(name).buffer].data = np.float32([1e-5]).view(np.uint8)


def _approximate(file: TFLiteFile) -> None:
    file.operator("GELU").builtinOptions.approximate = True


def _scale_off(file: TFLiteFile) -> None:
    quantization = file.tensor(kernel(0, "mlp/dense_2")).quantization
    quantization.scale = _one((5,), lambda scale: scale * 1.04)(np.asarray(quantization.scale))


def _another_step(graph) -> None:
    """What a Dense reads is dequantized with a slightly larger scale than it was quantized with."""
    from onnx import numpy_helper

    shared = f"{LAYER}1/mlp/dense_2/input_scale"
    right = next(t for t in graph.initializer if t.name == shared)
    graph.initializer.append(
        numpy_helper.from_array(numpy_helper.to_array(right) * np.float32(1.01), "spoilt/input_scale")
    )
    node = next(n for n in graph.node if n.op_type == "DequantizeLinear" and shared in n.input)
    node.input[1] = "spoilt/input_scale"


def _divided_by_more(graph) -> None:
    (name,) = (t.name for t in graph.initializer if t.name.startswith("constant/0.28"))
    change_tensor(graph, name, lambda factor: factor * np.float32(0.99))


def _older_class_token(source) -> dict:
    return parameters("class_token", lambda token: token * np.float32(1.001))(source)


def _rolled_names(graph) -> None:
    """Two Dense of one shape read each other's bias."""
    first, second = (node_of(graph, f"{LAYER}{i}/attention/output/Add") for i in (0, 1))
    for a, b in zip(first.input, second.input, strict=True):
        if a.endswith("/bias"):
            first.input[list(first.input).index(a)], second.input[list(second.input).index(b)] = b, a
            return


AUDIT = (
    Fault(
        "a query bias dropped, onnx int8 qdq",
        reweighted("onnx int8 qdq", parameters(f"{LAYER}0/attention/query/bias", zeros)),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_0/attention/query/bias\[\d+\] is \S+, expected \S+ to rounding",
    ),
    Fault(
        "a key bias dropped, tflite int8 static",
        reweighted("tflite int8 static", parameters(f"{LAYER}2/attention/key/bias", zeros)),
        _CONSTANTS,
        says=r"encoder/layer_2/attention/key/bias\[\d+\] is ",
    ),
    Fault(
        "a value bias dropped, tflite int8 static and tuned",
        reweighted("tflite int8 static", parameters(f"{LAYER}1/attention/value/bias", zeros), tuned=True),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_1/attention/(value|output)/bias",
        slow=True,
    ),
    Fault(
        "one class moved a little, tflite int8 dynamic",
        reweighted("tflite int8 dynamic", parameters("head/bias", _one((3,), lambda bias: bias + 0.1))),
        _CONSTANTS,
        may=_SEEN,
        says=r"head/bias\[3\] is ",
    ),
    Fault(
        "one class moved a little, onnx int8 symmetric",
        reweighted("onnx int8 symmetric", parameters("head/bias", _one((3,), lambda bias: bias + 0.1))),
        _CONSTANTS,
        may=_SEEN,
        says=r"head/bias\[3\] is ",
    ),
    Fault(
        "one weight at another level, tflite int8 dynamic",
        edited_tflite(
            lambda file: file.change(kernel(1, "mlp/dense_1"), "i1", _one((7, 11), lambda level: level // 2 - 9)),
            "tflite int8 dynamic",
        ),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_1/mlp/dense_1/kernel\[11, 7\] is .*0\.\d+ % of its values are off",
    ),
    Fault(
        "the scale of one output off, tflite int8 static",
        edited_tflite(_scale_off, "tflite int8 static"),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_0/mlp/dense_2/",
    ),
    Fault(
        "the zero point of a kernel off by one, onnx int8 dynamic",
        edited_onnx(lambda graph: change_tensor(graph, "constant/128", lambda zero: zero - 1), "onnx int8 dynamic"),
        _CONSTANTS,
        may=_SEEN,
        says="patch_embedding/kernel",
    ),
    Fault(
        "a value projection scaled without its counterpart, onnx int8 qdq",
        reweighted(
            "onnx int8 qdq",
            all_of(
                parameters(f"{LAYER}1/attention/value/kernel", _one((..., 7), lambda column: column * 1.1)),
                parameters(f"{LAYER}1/attention/value/bias", _one((7,), lambda bias: bias * 1.1)),
            ),
        ),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_1/attention/output/kernel",
    ),
    Fault(
        "hidden channels of an MLP exchanged without their counterpart, onnx int8 dynamic",
        reweighted("onnx int8 dynamic", parameters(f"{LAYER}2/mlp/dense_1/", _exchanged(-1, 3, 4))),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_2/mlp/dense_[12]/",
    ),
    Fault(
        "channels that are set apart exchanged without their counterpart, tflite int8 dynamic and tuned",
        edited_tflite(
            lambda file: file.change(kernel(1, "mlp/outliers/dense_2"), "i1", _exchanged(1, 3, 4)),
            "tflite int8 dynamic",
            tuned=True,
        ),
        _CONSTANTS,
        may=_SEEN,
        says=r"encoder/layer_1/mlp/outliers/dense_2/kernel is off by up to",
    ),
    Fault(
        "positions exchanged, onnx int8 w8a16",
        reweighted("onnx int8 w8a16", parameters("position_embedding", _exchanged(1, 5, 6))),
        _CONSTANTS,
        may=_SEEN,
        says=r"position_embedding\[0, [56], \d+\]",
    ),
    Fault(
        "the class token of an older checkpoint, tflite int8 w8a16",
        reweighted("onnx int8 w8a16", _older_class_token),
        _CONSTANTS,
        says=r"class_token\[0, 0, \d+\] is ",
    ),
    Fault(
        "a bias of another layer, onnx int8 dynamic",
        edited_onnx(_rolled_names, "onnx int8 dynamic"),
        _ATTRIBUTES,
        may=_SEEN,
        says="encoder/layer_1/attention/output and of encoder/layer_0|encoder/layer_0/.* is read behind its layer|"
        "parameters of encoder/layer_0/attention/output and of encoder/layer_1/attention/output",
    ),
    Fault(
        "another epsilon, tflite int8 static",
        edited_tflite(_another_epsilon, "tflite int8 static"),
        _ATTRIBUTES,
        says="a LayerNorm has epsilon 1e-05, expected 1e-06",
    ),
    Fault(
        "another epsilon in one LayerNorm, onnx int8 qdq",
        edited_onnx(
            lambda graph: set_attribute(graph, f"{LAYER}1/mlp_norm/LayerNormalization", epsilon=1e-5), "onnx int8 qdq"
        ),
        _ATTRIBUTES,
        says="a LayerNorm has epsilon 1e-05, expected 1e-06",
    ),
    Fault(
        "a GELU that is approximate, tflite int8 dynamic",
        edited_tflite(_approximate, "tflite int8 dynamic"),
        _ATTRIBUTES,
        says="a GELU of the form tanh, expected erf",
    ),
    Fault(
        "scores divided by a little more, onnx int8 dynamic",
        edited_onnx(_divided_by_more, "onnx int8 dynamic", opset=20),
        _ATTRIBUTES,
        may=_SEEN,
        says="the number 'constant/.* is 0.28.*, which no operator of this model needs",
    ),
    Fault(
        "the scale of an activation off by a hundredth, onnx int8 qdq",
        edited_onnx(_another_step, "onnx int8 qdq"),
        _ATTRIBUTES,
        may=_SEEN,
        says="reads integers with another scale than they were made with",
    ),
)
