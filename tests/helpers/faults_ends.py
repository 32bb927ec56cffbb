"""Faults at the ends of the network: what it takes for an image, and what it makes of its answer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from helpers.faults_bench import Bench
from helpers.faults_edits import after, before, edited_onnx, edited_tflite, respecified, reweighted
from helpers.faults_table import FIGURES, LAYER, SPEC, Fault, only, rolled, zeros
from helpers.faults_weights import parameters


def _noisy(graph) -> None:
    from onnx import helper

    after(("Add", [], {}))(graph)
    add = next(node for node in graph.node if node.name == "spoilt/Add_1")
    graph.node.append(
        helper.make_node("RandomNormalLike", [add.input[0]], ["spoilt/noise"], name="spoilt/noise", scale=1e-6)
    )
    add.input.append("spoilt/noise")


def _neighbours_leak(graph) -> None:
    """A hundredth of the mean over the batch is taken off."""
    from onnx import helper, numpy_helper

    after(("Sub", [], {}))(graph)
    sub = next(node for node in graph.node if node.name == "spoilt/Sub_1")
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "spoilt/axes"))
    graph.initializer.append(numpy_helper.from_array(np.float32([0.01]), "spoilt/part"))
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [sub.input[0], "spoilt/axes"], ["spoilt/mean"], name="spoilt/mean"),
            helper.make_node("Mul", ["spoilt/mean", "spoilt/part"], ["spoilt/leak"], name="spoilt/leak"),
        ]
    )
    sub.input.append("spoilt/leak")


def _first_answers_for_all(graph) -> None:
    """The answer of the first image, as often as there are images."""
    from onnx import helper, numpy_helper

    after(("Expand", [], {}))(graph)
    expand = next(node for node in graph.node if node.op_type == "Expand" and node.name.startswith("spoilt"))
    graph.initializer.append(numpy_helper.from_array(np.array([0]), "spoilt/first"))
    answers = expand.input[0]
    graph.node.extend(
        [
            helper.make_node("Shape", [answers], ["spoilt/shape"], name="spoilt/shape"),
            helper.make_node("Gather", [answers, "spoilt/first"], ["spoilt/row"], name="spoilt/row", axis=0),
        ]
    )
    expand.input[:] = ["spoilt/row", "spoilt/shape"]


def _reshaped_for_one(graph) -> None:
    """One Reshape that was left with a batch of 1."""
    from onnx import numpy_helper

    node = next(node for node in graph.node if node.name == f"{LAYER}1/attention/query/Reshape")
    shape = next(tensor for tensor in graph.initializer if tensor.name == node.input[1])
    sizes = numpy_helper.to_array(shape).copy()
    sizes[0] = 1
    graph.initializer.append(numpy_helper.from_array(sizes, "spoilt/sizes"))
    node.input[1] = "spoilt/sizes"


def _normalizes_first(bench_mean, bench_std) -> Callable:
    return before(("Sub", [np.float32(bench_mean)], {}), ("Mul", [1 / np.float32(bench_std)], {}))


def _requantized(factor: float, shift: int) -> Callable:
    """The output as integers and back, but not with the scale and zero point that made them."""
    scale, zero = np.float32(0.05).reshape(()), np.uint8(100).reshape(())
    other = (np.float32(scale * factor).reshape(()), np.uint8(zero + shift).reshape(()))
    return after(("QuantizeLinear", [scale, zero], {}), ("DequantizeLinear", [*other], {}))


def _swapped(first: int, second: int) -> Callable[[np.ndarray], np.ndarray]:
    def edit(array):
        array = array.copy()
        array[..., [first, second]] = array[..., [second, first]]
        return array

    return edit


def _background(array: np.ndarray) -> np.ndarray:
    return np.concatenate([0.1 * array[..., :1], array], axis=-1)


def _normalized_twice(bench: Bench, path: Path):
    pixels = bench.record.preprocessing
    return edited_onnx(_normalizes_first(pixels.mean, pixels.std), input="0..1")(bench, path)


_NCHW = (
    ("Reshape", [np.array([1, 3, SPEC.image_size, SPEC.image_size])], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
)
_NHWC = (
    ("Reshape", [np.array([1, SPEC.image_size, SPEC.image_size, 3])], {}),
    ("Transpose", [], {"perm": [0, 3, 1, 2]}),
)
_REVERSED = np.arange(SPEC.image_size)[::-1].copy()
_BGR = parameters("patch_embedding/kernel", lambda kernel: kernel[:, :, ::-1])
_CONSTANT = parameters("patch_embedding/kernel", zeros)

INPUTS = (
    Fault(
        "takes pixels from 0 to 255 but is said to take normalized ones, onnx float32",
        respecified("onnx float32", input="0..255", declared="normalized"),
        FIGURES,
        cause="takes_0_255",
        may=only("metadata_pixels"),
    ),
    Fault(
        "takes values from 0 to 1 but is said to take normalized ones, tflite float32",
        respecified("tflite float32", input="0..1", declared="normalized"),
        FIGURES,
        cause="takes_0_1",
        may=only("metadata_pixels"),
    ),
    Fault(
        "takes values from 0 to 1 but is said to take normalized ones, tflite int8 static",
        respecified("tflite int8 static", input="0..1", declared="normalized"),
        FIGURES,
        cause="takes_0_1",
        may=only("metadata_pixels"),
        slow=True,
    ),
    Fault(
        "does not normalize the pixels it takes, onnx float32",
        respecified("onnx float32", input="normalized", declared="0..255"),
        FIGURES,
        cause="takes_normalized",
        may=only("metadata_pixels"),
    ),
    Fault(
        "takes pixels from 0 to 255 but is said to take 0 to 1, tflite float16",
        respecified("tflite float16", input="0..255", declared="0..1"),
        FIGURES,
        cause="takes_0_255",
        may=only("metadata_pixels"),
    ),
    Fault("normalizes twice, onnx float32", _normalized_twice, FIGURES, cause="normalized_twice"),
    Fault("blue first, onnx float32", reweighted("onnx float32", _BGR), FIGURES, cause="channels_reversed"),
    Fault("blue first, tflite float16", reweighted("tflite float16", _BGR), FIGURES, cause="channels_reversed"),
    Fault(
        "blue first, tflite int8 static",
        reweighted("tflite int8 static", _BGR),
        FIGURES,
        cause="channels_reversed",
        slow=True,
    ),
    Fault(
        "blue first, onnx float32 of uint8 pixels",
        edited_onnx(before(("Gather", [np.array([2, 1, 0])], {"axis": 3})), input="uint8"),
        FIGURES,
        cause="channels_reversed",
        slow=True,
    ),
    Fault(
        "height and width exchanged, onnx float32",
        edited_onnx(before(("Transpose", [], {"perm": [0, 2, 1, 3]}))),
        FIGURES,
        cause="height_width_swapped",
    ),
    Fault(
        "height and width exchanged, onnx int8 dynamic",
        edited_onnx(before(("Transpose", [], {"perm": [0, 2, 1, 3]})), "onnx int8 dynamic"),
        FIGURES,
        cause="height_width_swapped",
    ),
    Fault(
        "channels-last data read as channels-first, onnx float32",
        edited_onnx(before(*_NCHW)),
        FIGURES,
        cause="layout_mixed_up",
    ),
    Fault(
        "channels-first data read as channels-last, onnx float32 that takes NCHW",
        edited_onnx(before(*_NHWC), layout="NCHW"),
        FIGURES,
        cause="layout_mixed_up",
    ),
    Fault(
        "height and width exchanged, onnx float32 that takes NCHW",
        edited_onnx(before(("Transpose", [], {"perm": [0, 1, 3, 2]})), layout="NCHW"),
        FIGURES,
        cause="height_width_swapped",
        slow=True,
    ),
    Fault(
        "rows from the bottom up, onnx float16",
        edited_onnx(before(("Gather", [_REVERSED], {"axis": 1})), "onnx float16"),
        FIGURES,
        cause="upside_down",
    ),
    Fault(
        "columns from right to left, onnx float32",
        edited_onnx(before(("Gather", [_REVERSED], {"axis": 2}))),
        FIGURES,
        cause="mirrored",
        slow=True,
    ),
    Fault(
        "made for another image size, onnx float32",
        respecified(
            "onnx float32",
            lambda source: {"position_embedding": source.read("position_embedding")[:, [*range(17), *range(1, 10)]]},
            image_size=40,
            honest=True,
        ),
        only("runs", "same_model", "same_weights", "same_pixels"),
        says=r"takes images of \[1, 40, 40, 3\], given \[1, 32, 32, 3\]",
    ),
)

OUTPUTS = (
    Fault(
        "softmax at the end, onnx float32",
        edited_onnx(after(("Softmax", [], {"axis": 1}))),
        FIGURES,
        cause="probabilities",
    ),
    Fault(
        "softmax at the end, tflite float32",
        edited_tflite(lambda file: file.append("SOFTMAX")),
        FIGURES,
        cause="probabilities",
    ),
    Fault(
        "softmax twice, onnx float32",
        edited_onnx(after(("Softmax", [], {"axis": 1}), ("Softmax", [], {"axis": 1}))),
        FIGURES,
        cause="softmax_twice",
        may=only("varies"),
    ),
    Fault(
        "logits halved, onnx float32",
        edited_onnx(after(("Mul", [np.float32([0.5])], {}))),
        only("worst_difference", "sqnr"),
        cause="scaled",
    ),
    Fault(
        "output dequantized by a wrong scale, onnx int8 qdq",
        edited_onnx(_requantized(2.0, 0), "onnx int8 qdq"),
        only("worst_difference", "sqnr"),
        cause="scaled",
        may=FIGURES,
    ),
    Fault(
        "output dequantized by a wrong zero point, onnx int8 qdq",
        edited_onnx(_requantized(1.0, 40), "onnx int8 qdq"),
        FIGURES,
        cause="scaled",
    ),
    Fault(
        "classes shifted by one, onnx float32",
        edited_onnx(after(("Gather", [(np.arange(10) - 1) % 10], {"axis": 1}))),
        FIGURES,
        cause="classes_shifted",
    ),
    Fault(
        "classes shifted by one, tflite int8 dynamic",
        reweighted("tflite int8 dynamic", parameters("head/", rolled(-1, axis=-1))),
        FIGURES,
        cause="classes_shifted",
        slow=True,
    ),
    Fault(
        "a background class in front, onnx float32",
        respecified("onnx float32", parameters("head/", _background), num_classes=11),
        only("outputs", "output_shape"),
        may=only("metadata_labels"),
        cause="classes_shifted",
    ),
    Fault(
        "a class missing, tflite float32",
        respecified("tflite float32", parameters("head/", lambda a: np.delete(a, 4, axis=-1)), num_classes=9),
        only("outputs", "output_shape"),
        may=only("metadata_labels"),
        cause="classes_shifted",
        slow=True,
    ),
    Fault(
        "two classes exchanged, tflite float32",
        reweighted("tflite float32", parameters("head/", _swapped(2, 7))),
        FIGURES | only("class_order"),
        says="2 is the reference's 7, 7 is the reference's 2",
    ),
    Fault(
        "two classes exchanged, onnx int8 dynamic",
        reweighted("onnx int8 dynamic", parameters("head/", _swapped(2, 7))),
        FIGURES | only("class_order"),
        says="2 is the reference's 7, 7 is the reference's 2",
    ),
    Fault(
        "the same answer for every image, onnx float32",
        reweighted("onnx float32", _CONSTANT),
        FIGURES | only("varies"),
        cause="constant",
    ),
    Fault(
        "the same answer for every image, tflite int8 dynamic",
        reweighted("tflite int8 dynamic", _CONSTANT),
        FIGURES | only("varies"),
        cause="constant",
        slow=True,
    ),
    Fault(
        "random numbers in the network, onnx float32",
        edited_onnx(_noisy, opset=17),  # ONNX Runtime has no kernel for a later one
        only("deterministic", "order"),
        says="gives different outputs when it is run again",
    ),
    Fault(
        "images of a batch mixed up, onnx float32",
        edited_onnx(after(("Gather", [np.array([1, 0, 3, 2])], {"axis": 0})), batch=4),
        FIGURES | only("order", "batch"),
        cause="images_mixed_up",
    ),
    Fault(
        "right for one image and wrong for the next ones of a batch, onnx float32 with an open batch",
        edited_onnx(_first_answers_for_all, batch=None),
        only("batch"),
        says="differs by .* when run in one batch of 3",
    ),
    Fault(
        "a Reshape for one image, onnx float32 with an open batch",
        edited_onnx(_reshaped_for_one, batch=None),
        only("batch"),
        says="takes an open batch but fails on 3 images",
    ),
    Fault(
        "images of a batch leak into each other, onnx float32",
        edited_onnx(_neighbours_leak, batch=4),
        FIGURES | only("order", "batch"),
        says="differs by .* when fed in reverse order",
    ),
)
