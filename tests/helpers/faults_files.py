"""Faults of quantization, of files and of what is recorded of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from helpers.faults_bench import LABELS, Bench, Changed
from helpers.faults_edits import (
    Maker,
    change_tensor,
    edited_bytes,
    edited_onnx,
    edited_tflite,
    node_of,
    outdated,
    recorded,
    reweighted,
)
from helpers.faults_table import FIGURES, LAYER, SPEC, Fault, kernel, only, rolled
from helpers.faults_weights import fine_tuned, parameters


def _own_zero_point(graph) -> None:
    """int8 weights of one kernel with a zero point, which they were not made for."""
    from onnx import numpy_helper

    graph.initializer.append(numpy_helper.from_array(np.int8(60).reshape(()), "spoilt/zero_point"))
    node_of(graph, f"{LAYER}1/mlp/dense_2/MatMulInteger").input.append("spoilt/zero_point")


def _scales_rolled(file) -> None:
    quantization = file.tensor(kernel(0, "attention/value")).quantization
    quantization.scale = np.roll(quantization.scale, 1)


def _output_scale(factor: float, shift: int) -> Callable:
    """Another scale and zero point of the output, which the operator that computes it believes too."""

    def edit(file) -> None:
        quantization = file.tensor("logits").quantization
        quantization.scale = np.asarray(quantization.scale) * np.float32(factor)
        quantization.zeroPoint = np.asarray(quantization.zeroPoint) + shift

    return edit


def _other_zero_point(graph) -> None:
    """What an MLP's second Dense reads is dequantized with another zero point than it was quantized with."""
    from onnx import numpy_helper

    right = next(t for t in graph.initializer if t.name == f"{LAYER}1/mlp/dense_2/input_zero_point")
    wrong = np.asarray(90, numpy_helper.to_array(right).dtype)
    graph.initializer.append(numpy_helper.from_array(wrong, "spoilt/zero_point"))
    shared = f"{LAYER}1/mlp/dense_2/input_zero_point"
    node = next(n for n in graph.node if n.op_type == "DequantizeLinear" and shared in n.input)
    node.input[2] = "spoilt/zero_point"


def _flipped_byte(data: bytearray) -> bytearray:
    """The last bit of the first of the head's biases, which end the file."""
    data[-4 * SPEC.num_classes] ^= 1
    return data


def _cut(data: bytearray) -> bytearray:
    return data[: len(data) * 3 // 4]


def _other_data(kind: str, change: Callable) -> Maker:
    """A model file beside the data file of other weights, of the same sizes."""

    def make(bench: Bench, path: Path):
        from vit_export.onnx import stream as weights

        other = path.with_name(f"other_{path.name}")
        with mock.patch.object(weights, "SINGLE_FILE_LIMIT", 0):
            artifact = bench.export(kind, path)
            bench.export(kind, other, Changed(bench.source, change(bench.source)))
        weights.data_path(path).write_bytes(weights.data_path(other).read_bytes())
        return artifact

    return make


def _missing(bench: Bench, path: Path):
    return replace(bench.good("onnx float32"), path=str(path))


def _missing_data(bench: Bench, path: Path):
    from vit_export.onnx import stream as weights

    with mock.patch.object(weights, "SINGLE_FILE_LIMIT", 0):
        artifact = bench.export("onnx float32", path)
    weights.data_path(path).unlink()
    return artifact


QUANTIZATION = (
    Fault(
        "range of the output too small, tflite int8 full",
        reweighted("tflite int8 full", lambda source: {}, clips={"logits": (0.3, 0.3)}),
        FIGURES,
        cause="saturated",
    ),
    Fault(
        "scale of the output too small, tflite int8 full",
        edited_tflite(_output_scale(0.25, 0), "tflite int8 full"),
        FIGURES,
        cause="saturated",
        slow=True,
    ),
    Fault(
        "zero point of the output off, tflite int8 full",
        edited_tflite(_output_scale(1, 90), "tflite int8 full"),
        FIGURES,
        cause="saturated",
        slow=True,
    ),
    Fault(
        "range of an activation too small, tflite int8 static",
        reweighted("tflite int8 static", lambda source: {}, clips={f"{LAYER}1/mlp/dense_2:input": (0.03, 0.03)}),
        FIGURES,
        departs="encoder layer 1 mlp",
    ),
    Fault(
        "range of an activation too small, onnx int8 qdq",
        reweighted("onnx int8 qdq", lambda source: {}, clips={f"{LAYER}1/mlp/dense_2:input": (0.03, 0.03)}),
        FIGURES,
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "range of an activation too small, onnx int8 symmetric",
        reweighted("onnx int8 symmetric", lambda source: {}, clips={f"{LAYER}1/mlp/dense_2:input": (0.03, 0.03)}),
        FIGURES,
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "range of an activation too small, tflite int8 w8a16",
        reweighted("tflite int8 w8a16", lambda source: {}, clips={f"{LAYER}1/mlp/dense_2:input": (0.03, 0.03)}),
        FIGURES,
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "range of an activation too small, onnx int8 w8a16",
        reweighted("onnx int8 w8a16", lambda source: {}, clips={f"{LAYER}1/mlp/dense_2:input": (0.03, 0.03)}),
        FIGURES,
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "ranges of black pictures, tflite int8 full",
        reweighted("tflite int8 full", lambda source: {}, calibration=np.zeros((8, 32, 32, 3), np.uint8)),
        FIGURES,
        departs="embedding",
        slow=True,
    ),
    Fault(
        "scales of the channels of a kernel off by one, onnx int8 dynamic",
        edited_onnx(
            lambda graph: change_tensor(graph, f"{LAYER}0/attention/output/kernel_scale", rolled(1, 0)),
            "onnx int8 dynamic",
        ),
        only("sqnr"),
        may=FIGURES,
        departs="encoder layer 0 attention",
        slow=True,
    ),
    Fault(
        "scales of the channels of a kernel off by one in a trained model, onnx int8 dynamic",
        edited_onnx(
            lambda graph: change_tensor(graph, f"{LAYER}1/mlp/dense_1/kernel_scale", rolled(1, 0)),
            "onnx int8 dynamic",
        ),
        only("constants"),
        may=FIGURES,
        says="encoder/layer_1/mlp/dense_1/kernel",
        bench="digits",
        slow=True,
    ),
    Fault(
        "scales of the channels of a kernel off by one, tflite int8 dynamic",
        edited_tflite(_scales_rolled, "tflite int8 dynamic"),
        only("sqnr"),
        may=FIGURES,
        departs="encoder layer 0 attention",
    ),
    Fault(
        "zero point of a kernel that has none, onnx int8 dynamic",
        edited_onnx(_own_zero_point, "onnx int8 dynamic"),
        FIGURES,
        departs="encoder layer 1 mlp",
        slow=True,
    ),
    Fault(
        "zero point of an activation off, onnx int8 qdq",
        edited_onnx(_other_zero_point, "onnx int8 qdq"),
        FIGURES,
        departs="encoder layer 1 mlp",
    ),
    Fault(
        "zero point of an activation off, onnx int8 symmetric",
        edited_onnx(_other_zero_point, "onnx int8 symmetric"),
        FIGURES,
        departs="encoder layer 1 mlp",
    ),
    Fault(
        "int8 weights read as float: a float32 file that is called int8, onnx",
        recorded("onnx float32", precision="int8", scheme="dynamic"),
        only("precision"),
        says="goes by int8 but its weights are float32",
    ),
    Fault(
        "a float32 file that is called float16, tflite",
        recorded("tflite float32", {"precision": "float16"}, precision="float16"),
        only("precision"),
        says="goes by float16 but its weights are float32",
    ),
    Fault(
        "an int8 file that is called float32, tflite",
        recorded("tflite int8 static", {"precision": "float32", "scheme": None}, precision="float32", scheme=None),
        FIGURES | only("precision"),
        says="goes by float32 but its weights are int8",
        slow=True,
    ),
)

FILES = (
    Fault(
        "cut off, tflite float32",
        edited_bytes(_cut, "tflite float32"),
        only("bytes", "sha256", "runs"),
        says="cannot be loaded by ai-edge-litert",
        may=only("same_model", "precision"),
    ),
    Fault(
        "cut off, onnx float32",
        edited_bytes(_cut, "onnx float32"),
        only("bytes", "sha256", "runs"),
        says="cannot be loaded by onnxruntime",
        may=only("same_model", "precision"),
    ),
    Fault(
        "a bit flipped since it was recorded, onnx int8 dynamic",
        edited_bytes(_flipped_byte, "onnx int8 dynamic"),
        only("sha256"),
        says="the file has changed",
    ),
    Fault("not there, onnx float32", _missing, only("exists"), says="does not exist"),
    Fault("data file not there, onnx float32", _missing_data, only("exists"), says=r"\.onnx\.data does not exist"),
    Fault(
        "data file of another model, onnx float32",
        _other_data("onnx float32", fine_tuned(0.1)),
        FIGURES | only("data"),
        departs="embedding",
        slow=True,
    ),
    Fault(
        "data file of an older checkpoint, onnx int8 dynamic",
        _other_data("onnx int8 dynamic", fine_tuned(1e-3)),
        only("data"),
        says=r"\.onnx\.data is not the data that it was written with",
    ),
    Fault(
        "made of an older checkpoint, onnx float32",
        outdated("onnx float32", fine_tuned(1e-3)),
        FIGURES | only("same_weights"),
        says="older or another checkpoint",
    ),
    Fault(
        "made of an older checkpoint, tflite int8 dynamic",
        outdated("tflite int8 dynamic", fine_tuned(1e-3)),
        only("same_weights"),
        says="older or another checkpoint",
    ),
    Fault(
        "made of an older checkpoint, onnx int8 dynamic",
        outdated("onnx int8 dynamic", fine_tuned(1e-3)),
        only("same_weights"),
        says="older or another checkpoint",
        bench="digits",
        slow=True,
    ),
    Fault(
        "made of an older checkpoint, tflite int8 static",
        outdated("tflite int8 static", fine_tuned(1e-3)),
        only("same_weights"),
        says="older or another checkpoint",
        bench="digits",
        slow=True,
    ),
    Fault(
        "labels shifted by one, onnx float32",
        recorded("onnx float32", {"labels": ["background", *LABELS[:-1]]}),
        only("same_labels"),
        says="labels are not the reference's: shifted by 1",
    ),
    Fault(
        "made for pixels of another mean, tflite float32",
        recorded(
            "tflite float32",
            {
                "preprocessing": {
                    "image_size": 32,
                    "mean": [0.5] * 3,
                    "std": [0.5] * 3,
                    "resize": "squash",
                    "crop_fraction": 1.0,
                    "interpolation": "bilinear",
                }
            },
        ),
        only("same_pixels"),
        says=r"other pixels than the reference: mean",
    ),
    Fault(
        "one class favoured, tflite int8 full",
        reweighted(
            "tflite int8 full", parameters("head/bias", lambda bias: bias + 8 * (np.arange(10) == 8).astype(np.float32))
        ),
        FIGURES | only("agreement"),
        says="top class agrees on 0",
        bench="digits",
        slow=True,
    ),
)
