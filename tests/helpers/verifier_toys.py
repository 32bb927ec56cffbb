"""A small network in all three formats, written without this package's converters, and ways to spoil it."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.files import digest_of_file, digest_of_folder, size_of
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.runtimes.runner import open_runner

SIZE, PATCH, WIDTH, CLASSES = 16, 4, 8, 10
NAMES = tuple(f"held_out/{name}.jpg" for name in ("coffee_1", "coffee_2", "coffee_3", "cat", "rocket", "coins"))


def images(count: int = 6) -> np.ndarray:
    """Random pixels of a different colour and contrast per image, float32 [n, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(1)
    colour = rng.uniform(-1, 1, size=(count, 1, 1, 3))
    pixels = colour + rng.uniform(0.1, 1, size=(count, 1, 1, 1)) * rng.normal(size=(count, SIZE, SIZE, 3))
    return np.clip(pixels, -1, 1).astype(np.float32)


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "kernel": rng.normal(size=(PATCH, PATCH, 3, WIDTH)).astype(np.float32) / 7,
        "head": rng.normal(size=(WIDTH, CLASSES)).astype(np.float32),
        "bias": rng.normal(size=CLASSES).astype(np.float32) / 10,
    }


def network(w: dict[str, np.ndarray]):
    """The network as a tf.Module with a function `serve`."""
    import tensorflow as tf

    class Network(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = {name: tf.Variable(value) for name, value in w.items()}

        @tf.function(input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32, name="images")])
        def serve(self, images):
            x = tf.nn.relu(tf.nn.conv2d(images, self.w["kernel"], PATCH, "VALID"))
            return {"logits": tf.matmul(tf.reduce_mean(x, [1, 2]), self.w["head"]) + self.w["bias"]}

    return Network()


def write_saved_model(path: Path, w: dict[str, np.ndarray]) -> Path:
    import tensorflow as tf

    module = network(w)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.serve})
    return path


def write_tflite(path: Path, w: dict[str, np.ndarray], *, batch: int = 1, precision: str = "float32") -> Path:
    """By the stock converter; int8 means everything int8, input and output included."""
    import tensorflow as tf

    module = network(w)

    @tf.function(input_signature=[tf.TensorSpec([batch, SIZE, SIZE, 3], tf.float32, name="images")])
    def fixed(images):
        return module.serve(images)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([fixed.get_concrete_function()], module)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        data = images(24)
        converter.representative_dataset = lambda: ([data[i : i + batch]] for i in range(0, 24, batch))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    path.write_bytes(converter.convert())
    return path


def write_onnx(
    path: Path,
    w: dict[str, np.ndarray],
    *,
    batch: int | str = 1,
    precision: str = "float32",
    tail: tuple = (),
    extra: dict[str, np.ndarray] | None = None,
    outputs: tuple[tuple[str, list], ...] = (("logits", [None, CLASSES]),),
) -> Path:
    """By onnx.helper. `tail` nodes turn 'raw' into 'logits', with the further initializers `extra`."""
    import onnx
    from onnx import helper, numpy_helper

    dtype = {"float32": np.float32, "float16": np.float16}[precision]
    element = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16}[precision]
    constants = {
        "kernel": w["kernel"].transpose(3, 2, 0, 1).astype(dtype),
        "head": w["head"].astype(dtype),
        "bias": w["bias"].astype(dtype),
        **(extra or {}),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "kernel"], ["patches"], strides=[PATCH, PATCH]),
        helper.make_node("Relu", ["patches"], ["active"]),
        helper.make_node("ReduceMean", ["active"], ["pooled"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["pooled", "head", "bias"], ["raw" if tail else "logits"]),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", element, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(n, element, [batch if d is None else d for d in s]) for n, s in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def replace_scale(source: Path, path: Path, scale: float, factor: float) -> Path:
    """A copy of a TFLite file whose quantization scale `scale` is multiplied by `factor`."""
    old, new = struct.pack("<f", scale), struct.pack("<f", np.float32(scale * factor))
    data = source.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    return path


def artifact_of(path: Path, precision: str = "float32", scheme: str | None = None, **changes) -> Artifact:
    """The Artifact of a good file, as a converter would record it, with `changes`."""
    format = {"": "saved_model", ".tflite": "tflite", ".onnx": "onnx"}[path.suffix]
    try:
        runner = open_runner(path, format)
        inputs, outputs = runner.inputs, runner.outputs
    except Exception:
        inputs = (TensorSpec("images", (1, SIZE, SIZE, 3), "float32"),)
        outputs = (TensorSpec("logits", (1, CLASSES), "float32"),)
    folder = path.is_dir()
    artifact = Artifact(
        path=str(path),
        format=format,
        precision=precision,
        inputs=inputs,
        outputs=outputs,
        bytes=size_of(path) if folder else path.stat().st_size,
        sha256=digest_of_folder(path) if folder else digest_of_file(path),
        scheme=scheme,
    )
    return replace(artifact, **changes)
