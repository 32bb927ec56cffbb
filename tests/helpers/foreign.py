"""The network of verifier_toys as other tools write it: NCHW, other input types, open sizes, several outputs."""

from pathlib import Path

import numpy as np

from helpers import verifier_toys as toys
from vit_export.artifacts.flatbuffer import unpack

OUTPUTS = {
    "logits": ["n", toys.CLASSES],
    "features": ["n", toys.WIDTH],
    "pooled": ["n", toys.WIDTH, 1, 1],
    "mean": [toys.CLASSES],
    "answer": ["n"],
}


def onnx_model(dimensions=(1, 3, toys.SIZE, toys.SIZE), *, dtype="float32", outputs=("logits",), opset=17, ir=9):
    """A ModelProto that takes `images` as NCHW; `mean` is their mean logits, `answer` the top class."""
    import onnx
    from onnx import helper, numpy_helper

    w = toys.weights()
    constants = {"kernel": w["kernel"].transpose(3, 2, 0, 1), "head": w["head"], "bias": w["bias"]}
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Conv", ["x", "kernel"], ["patches"], strides=[toys.PATCH] * 2),
        helper.make_node("Relu", ["patches"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "head", "bias"], ["logits"]),
    ]
    if "mean" in outputs:
        nodes.append(helper.make_node("ReduceMean", ["logits"], ["mean"], axes=[0], keepdims=0))
    if "answer" in outputs:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["answer"], axis=1, keepdims=0))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    kinds = {"answer": onnx.TensorProto.INT64}
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("images", element, dimensions)],
        [helper.make_tensor_value_info(n, kinds.get(n, onnx.TensorProto.FLOAT), OUTPUTS[n]) for n in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir, producer_name="another"
    )


def write_onnx(path: Path, *arguments, **options) -> Path:
    path.write_bytes(onnx_model(*arguments, **options).SerializeToString())
    return path


def two_signatures(folder: Path) -> dict[str, Path]:
    """TFLite files of a SavedModel with the signatures `a_first`, NCHW, and `serving_default` with two outputs.

    `both` has both, and `serving_default` is not its first subgraph; `nchw` has the other alone; `bare` has none but
    takes what `open`, `serving_default` alone with open batch and size, takes.
    """
    import tensorflow as tf

    w = toys.weights()

    class Network(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = {name: tf.Variable(value) for name, value in w.items()}

        def features(self, images):
            x = tf.nn.relu(tf.nn.conv2d(images, self.w["kernel"], toys.PATCH, "VALID"))
            return tf.reduce_mean(x, [1, 2])

        def logits(self, features):
            return tf.matmul(features, self.w["head"]) + self.w["bias"]

    network = Network()

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, name="images")])
    def serve(images):
        features = network.features(images)
        return {"logits": network.logits(features), "features": features}

    @tf.function(input_signature=[tf.TensorSpec([1, 3, toys.SIZE, toys.SIZE], tf.float32, name="pixels")])
    def nchw(pixels):
        return {"output_0": network.logits(network.features(tf.transpose(pixels, [0, 2, 3, 1])))}

    source = str(folder / "saved_model")
    tf.saved_model.save(network, source, signatures={"a_first": nchw, "serving_default": serve})
    files = {}
    for name, keys in {
        "both": ["a_first", "serving_default"],
        "nchw": ["a_first"],
        "open": ["serving_default"],
    }.items():
        files[name] = folder / f"{name}.tflite"
        files[name].write_bytes(tf.lite.TFLiteConverter.from_saved_model(source, signature_keys=keys).convert())
    bare = unpack(files["open"].read_bytes())
    bare.signatureDefs = None
    files["bare"] = folder / "bare.tflite"
    files["bare"].write_bytes(packed(bare))
    return files


def packed(model) -> bytes:
    """A serialized ModelT."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def stubborn_tflite(path: Path) -> Path:
    """A file that claims to take any number of images but holds a shape for one."""
    import tensorflow as tf

    w = tf.constant(np.ones((toys.SIZE * toys.SIZE * 3, toys.CLASSES), np.float32))

    @tf.function(input_signature=[tf.TensorSpec([None, toys.SIZE, toys.SIZE, 3], tf.float32, name="images")])
    def serve(images):
        return {"logits": tf.reshape(images, [1, toys.SIZE * toys.SIZE * 3]) @ w}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([serve.get_concrete_function()], tf.Module())
    path.write_bytes(converter.convert())
    return path
