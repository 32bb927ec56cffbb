"""What a caller sees of an .onnx file: the layout of its input, and how many images a call takes."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import RandomParameters, record_of, toy_spec
from onnx import helper, numpy_helper

from vit_export.artifacts.read import read_facts
from vit_export.base.errors import InputError, StructureError
from vit_export.onnx import write_int8_onnx, write_onnx
from vit_export.onnx.interface import open_batch
from vit_export.runtimes.runner import open_runner

PLAIN = toy_spec()
REGISTERS = PLAIN.with_(num_registers=2, pooling="class_and_mean")
DISTILLED = PLAIN.with_(num_registers=1, pooling="class_and_distillation")
ATTENTION = PLAIN.with_(class_token=False, pooling="attention", gelu="tanh", num_classes=None)
ROTARY = PLAIN.with_(positions="rotary", num_registers=2)

KINDS = [(PLAIN, "float32", None, 23), (PLAIN, "int8", "dynamic", 23)]
MORE_KINDS = [
    (PLAIN, "float32", None, 13),
    (PLAIN, "float16", None, 23),
    (PLAIN, "int8", "qdq", 20),
    (REGISTERS, "float32", None, 23),
    (DISTILLED, "float16", None, 17),
    (ATTENTION, "float32", None, 13),
    (ATTENTION, "int8", "qdq", 20),
    (ROTARY, "float32", None, 23),
]
KINDS += [pytest.param(*kind, marks=pytest.mark.thorough) for kind in MORE_KINDS]


def images_for(spec, count=3):
    return np.random.default_rng(2).uniform(-1, 1, (count, *spec.image_sides, 3)).astype(np.float32)


def run(artifact, images):
    return open_runner(Path(artifact.path), "onnx").run(images)


def write(spec, path, precision="float32", scheme=None, opset=None, **options):
    source = RandomParameters(spec)
    if precision == "int8":
        images = images_for(spec, 6)
        batches = [images[i : i + 1] for i in range(6)]
        return write_int8_onnx(source, record_of(spec), path, batches, scheme=scheme, opset=opset, **options)
    return write_onnx(source, record_of(spec), path, precision=precision, opset=opset, **options)


@pytest.mark.parametrize(("spec", "precision", "scheme", "opset"), KINDS)
def test_nchw_and_any_number_of_images_change_no_answer(spec, precision, scheme, opset, tmp_path):
    images = images_for(spec)
    wanted = run(write(spec, tmp_path / "fixed.onnx", precision, scheme, opset), images)
    artifact = write(spec, tmp_path / "any.onnx", precision, scheme, opset, batch=None, layout="NCHW")
    session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    (entry,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (entry.name, entry.shape) == ("pixel_values", ["batch", 3, 32, 32])
    assert answer.shape == ["batch", spec.output_size]
    nchw = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    alone = np.concatenate([session.run(None, {"pixel_values": nchw[i : i + 1]})[0] for i in range(len(nchw))])
    (together,) = session.run(None, {"pixel_values": nchw})
    scale = np.ptp(wanted)
    exact = 1e-5 if precision == "float16" else 1e-6
    assert np.abs(alone - wanted).max() <= exact * scale
    # What a file rounds by the range of the whole batch depends on all of its images.
    assert np.abs(together - wanted).max() <= (0.03 if scheme == "dynamic" else exact) * scale


def test_files_that_take_other_images_hold_the_same_weights(tmp_path):
    nhwc, nchw = (write(PLAIN, tmp_path / f"{layout}.onnx", layout=layout) for layout in ("NHWC", "NCHW"))
    models = [onnx.load(artifact.path) for artifact in (nhwc, nchw)]
    large = [{t.name: t.raw_data for t in model.graph.initializer if len(t.raw_data) > 64} for model in models]
    assert large[0] == large[1]


def test_an_open_batch_leaves_the_operators_as_they_are(tmp_path):
    fixed, anything = (onnx.load(write(PLAIN, tmp_path / f"{b}.onnx", batch=b).path) for b in (1, None))
    kinds = [node.op_type for node in fixed.graph.node]
    left = [node.op_type for node in anything.graph.node]
    for more in ("Shape", "Gather", "Concat", "Expand"):
        left.remove(more)
    assert sorted(left) == sorted(kinds)
    assert kinds.count("Attention") == PLAIN.num_layers


@pytest.mark.parametrize("input", ["normalized", "0..255", "uint8"])
def test_every_kind_of_input_may_be_nchw(input, tmp_path):
    artifact = write(PLAIN, tmp_path / "toy.onnx", layout="NCHW", input=input)
    facts = read_facts(tmp_path / "toy.onnx")
    assert artifact.inputs == facts.inputs
    (entry,) = facts.inputs
    assert (entry.name, entry.shape, entry.layout) == ("pixel_values", (1, 3, 32, 32), "NCHW")
    assert entry.values == input
    model = onnx.load(artifact.path)
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert told["layout"] == "NCHW"
    assert json.loads(told["vit_export"])["input"] == input
    words = [dimension.denotation for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    assert words == ["DATA_BATCH", "DATA_CHANNEL", "DATA_FEATURE", "DATA_FEATURE"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    fed = pixels if input == "uint8" else pixels.astype(np.float32)
    wanted = run(write(PLAIN, tmp_path / "nhwc.onnx", input=input), fed)
    np.testing.assert_array_equal(run(artifact, fed), wanted)


def test_a_layout_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match="layout is 'NWHC', expected NHWC or NCHW"):
        write(PLAIN, tmp_path / "toy.onnx", layout="NWHC")
    assert list(tmp_path.iterdir()) == []


def graph_of(*nodes, **constants):
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.array(elements), name) for name, elements in constants.items()]
    images, answer = (value(name, 1, [1, 4]) for name in ("images", "answer"))
    return helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes], "g", [images], [answer], tensors
    )


def test_graphs_whose_batch_cannot_be_opened():
    shaped = graph_of(("Reshape", ["images", "shape"], ["answer"], {}), shape=[4, -1])
    with pytest.raises(StructureError, match="answer is reshaped to"):
        open_batch(shaped)
    joined = graph_of(("Concat", ["images", "more"], ["answer"], {"axis": 0}), more=np.float32([[1, 2, 3, 4]]))
    with pytest.raises(StructureError, match="answer puts constants between images"):
        open_batch(joined)
