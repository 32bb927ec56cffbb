"""Where a fault is inside a file: the layer that is named, in every format and precision; none in healthy files."""

import itertools
import math
from functools import lru_cache

import numpy as np
import onnx
import pytest
from conftest import RandomParameters, build, record_of, toy_spec
from onnx import helper, numpy_helper

from vit_export.base.errors import InputError, StructureError
from vit_export.int8.recipe import Recipe
from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import feed
from vit_export.model.saved_model import write_saved_model
from vit_export.onnx import stream as weights
from vit_export.onnx import write_int8_onnx, write_onnx
from vit_export.runtimes import onnx_interior
from vit_export.runtimes.runner import RunnerError
from vit_export.tflite.int8 import write_int8_tflite
from vit_export.tflite.quantize import modes_of
from vit_export.tflite.write import write_tflite
from vit_export.verification.checks import limits_of
from vit_export.verification.layers import follow, locate, matching, trail
from vit_export.verification.layers import onnx as onnx_files
from vit_export.verification.layers.judge import judge
from vit_export.verification.layers.reference import ReferenceStream, point_names
from vit_export.verification.layers.trail import Figures

pytestmark = pytest.mark.slow

SPEC = toy_spec().with_(num_layers=4)
SOURCE = RandomParameters(SPEC)
NAMES = point_names(4)
FORMS = (
    "tflite float32", "tflite float16", "tflite dynamic", "tflite static", "tflite full",
    "onnx float32", "onnx float16", "onnx dynamic", "onnx qdq",
)  # fmt: skip
BOTH = ("tflite static", "onnx float32")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "saved_model"
    write_saved_model(build(SOURCE), path, record_of(SPEC))
    return path


@pytest.fixture(scope="module", autouse=True)
def _opened_once(saved_model):
    """The one reference of these tests is read once; a locate of its own takes seconds to do so."""
    stream, runner = ReferenceStream(saved_model), follow.open_runner(saved_model, "saved_model")
    with pytest.MonkeyPatch.context() as patch:
        opened = follow.open_runner
        patch.setattr(follow, "ReferenceStream", lambda path: stream if path == saved_model else ReferenceStream(path))
        patch.setattr(follow, "open_runner", lambda path, *how: runner if path == saved_model else opened(path, *how))
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory, images):
    """The path and Artifact of a file of `source` in a form, written once."""

    @lru_cache
    def written(source, form, **options):
        file_format, kind = form.split()
        path = tmp_path_factory.mktemp("file") / f"toy.{file_format}"
        record, batches = record_of(source.spec), [image[None] for image in images]
        if kind in ("float32", "float16"):
            write = write_tflite if file_format == "tflite" else write_onnx
            return write(source, record, path, precision=kind, **options)
        if file_format == "tflite":
            recipe = Recipe(kind, modes_of(kind, source.spec))
            return write_int8_tflite(source, record, path, recipe, batches, **options)
        return write_int8_onnx(source, record, path, batches, scheme=kind, **options)

    return written


def changed(layer, name, change):
    name = f"encoder/layer_{layer}/{name}"
    return SOURCE.replaced(name, np.ascontiguousarray(change(SOURCE.read(name)), np.float32))


def swapped_queries_and_keys():
    names = [f"encoder/layer_1/attention/{part}/kernel" for part in ("query", "value")]
    first, second = (SOURCE.read(name) for name in names)
    return SOURCE.replaced(names[0], second).replaced(names[1], first)


def heads_permuted(kernel):
    return np.roll(kernel.reshape(len(kernel), SPEC.num_heads, -1), 1, axis=1).reshape(kernel.shape)


class Other:
    """The parameters of `source` in a model that computes otherwise."""

    def __init__(self, source, **changes):
        self.spec, self.read = source.spec.with_(**changes), source.read


def positions_rolled():
    return SOURCE.replaced("position_embedding", np.roll(SOURCE.read("position_embedding"), 1, axis=1))


def class_token_last():
    """As where tokens are concatenated the other way round: token 0 is a patch, and the last the class token."""
    shifted = positions_rolled()
    return shifted.replaced("class_token", SOURCE.read("class_token") + 1)


FAULTS = {
    "transposed kernel": (changed(2, "attention/output/kernel", np.transpose), "encoder layer 2 attention"),
    "kernels swapped": (swapped_queries_and_keys(), "encoder layer 1 attention"),
    "heads permuted": (changed(1, "attention/value/kernel", heads_permuted), "encoder layer 1 attention"),
    "another kernel": (changed(2, "mlp/dense_2/kernel", lambda kernel: kernel[::-1]), "encoder layer 2 mlp"),
    "last attention": (changed(3, "attention/output/kernel", np.transpose), "encoder layer 3 attention"),
    "last mlp": (changed(3, "mlp/dense_1/kernel", lambda kernel: kernel[:, ::-1]), "encoder layer 3 mlp"),
    "positions rolled": (positions_rolled(), "embedding"),
    "class token": (class_token_last(), "embedding"),
    "classifier": (SOURCE.replaced("head/kernel", SOURCE.read("head/kernel")[::-1].copy()), "output"),
}
SUBTLE = {
    "no bias of an mlp": (changed(2, "mlp/dense_1/bias", np.zeros_like), "encoder layer 2 mlp"),
    "no bias of values": (changed(1, "attention/value/bias", np.zeros_like), "encoder layer 1 attention"),
    "epsilon": (Other(SOURCE, layer_norm_epsilon=1e-3), "encoder layer 0 attention"),
}


def by_name(location):
    return {point.name: point for point in location.points}


@pytest.mark.parametrize("form", FORMS)
def test_healthy_files_do_not_depart(form, files, saved_model, images):
    artifact = files(SOURCE, form)
    location = locate(saved_model, artifact, images, images)
    assert location.departs is None, location
    assert location.detail.startswith("no layer departs: the SQNR is at least ")
    assert [point.name for point in location.points] == list(NAMES)
    assert location.images == 4
    assert location.limit_db == limits_of(artifact).sqnr_db
    least = {"float32": 110, "float16": 50}.get(form.split()[1], 18)
    for point in location.points:
        if point.name == "encoder norm" and form in ("onnx dynamic", "onnx qdq"):
            # Equalized: its scale and shift are in other weights.
            assert point.sqnr_db is point.worst_relative is point.tensor is None
        else:
            assert point.sqnr_db > least, point
            assert point.worst_relative < 10 ** (-least / 20)
    tensors = [point.tensor for point in location.points if point.tensor]
    assert len(set(tensors)) == len(tensors)


@pytest.mark.parametrize(
    ("form", "fault"),
    [*itertools.product(BOTH, FAULTS), *((form, "transposed kernel") for form in FORMS if form not in BOTH)],
)
def test_the_layer_of_a_fault_is_named(form, fault, files, saved_model, images):
    source, where = FAULTS[fault]
    location = locate(saved_model, files(source, form), images[:2], images[:2])
    assert location.departs == where, location
    assert location.detail.startswith(f"departs at {where}: SQNR ")
    off = by_name(location)[where]
    assert off.sqnr_db < location.limit_db
    assert off.worst_relative > 0.02
    before = location.points[: NAMES.index(where)]
    assert all(point.sqnr_db is None or point.sqnr_db > location.limit_db for point in before)


@pytest.mark.parametrize("fault", SUBTLE)
@pytest.mark.parametrize("form", ["tflite float32", "onnx float32"])
def test_small_faults_are_named_in_exact_files(form, fault, files, saved_model, images):
    source, where = SUBTLE[fault]
    assert locate(saved_model, files(source, form), images[:2], images[:2]).departs == where


def test_another_gelu_is_found_where_it_begins(files, saved_model, images, monkeypatch):
    """Every mlp differs by little: the first of them is named."""
    monkeypatch.setattr(follow, "_agree", lambda *outputs: False)
    location = locate(saved_model, files(Other(SOURCE, gelu="tanh"), "onnx float32"), images[:2], images[:2])
    assert min(point.sqnr_db for point in location.points) > 70
    assert location.departs == "encoder layer 0 mlp"
    assert location.detail.startswith("departs at encoder layer 0 mlp: SQNR falls from ")


def test_what_stands_out_is_told_though_the_output_agrees(files, saved_model, images, monkeypatch):
    source, where = FAULTS["last mlp"]
    monkeypatch.setattr(follow, "_agree", lambda *outputs: True)
    location = locate(saved_model, files(source, "onnx dynamic"), images[:2], images[:2])
    assert location.departs is None
    assert f"; {where} by itself has " in location.detail


@pytest.mark.parametrize("form", ["tflite float32", "onnx float32"])
def test_pixels_and_batches(form, files, saved_model, images):
    record, source = record_of(SPEC), FAULTS["another kernel"][0]
    pixels = np.rint((images + 1) * 127.5).astype(np.uint8)
    normalized = feed(pixels, "normalized", record.preprocessing)
    for own, where in ((SOURCE, None), (source, "encoder layer 2 mlp")):
        artifact = files(own, form, batch=3, input="uint8")
        assert locate(saved_model, artifact, normalized[:2], pixels[:2]).departs == where


def test_features(files, images, tmp_path):
    source = RandomParameters(SPEC.with_(num_classes=None, num_layers=2))
    write_saved_model(build(source), tmp_path / "saved_model", record_of(source.spec))
    name = "encoder/norm/bias"
    wrong = source.replaced(name, source.read(name) + 1)
    for form, where in (("tflite float32", "output"), ("onnx float32", "encoder norm")):
        assert locate(tmp_path / "saved_model", files(source, form), images[:1], images[:1]).departs is None
        # The scale and shift of the norm are operators of their own in a .tflite file: before them nothing is wrong.
        assert locate(tmp_path / "saved_model", files(wrong, form), images[:1], images[:1]).departs == where


def test_a_large_file_and_one_with_external_data(files, saved_model, images, tmp_path, monkeypatch):
    source, where = FAULTS["another kernel"]
    with monkeypatch.context() as patch:
        patch.setattr(weights, "SINGLE_FILE_LIMIT", 0)
        external = write_onnx(source, record_of(SPEC), tmp_path / "external.onnx")
    assert len(external.extra_files) == 1
    assert locate(saved_model, external, images[:1], images[:1]).departs == where
    monkeypatch.setattr(onnx_interior, "IN_MEMORY", 0)
    monkeypatch.setattr(onnx_files, "AT_ONCE", 1 << 16)  # so that there are several sessions
    assert locate(saved_model, files(source, "onnx float32"), images[:1], images[:1]).departs == where


# A file of another tool


def foreign(source, path, *, transposed=False, fused=False):
    """A ViT with an open batch, channels first, a convolution, [batch, tokens, width] and all rows to the end.

    With `transposed` the stream is summed as [batch, width, tokens]; with `fused` what attention's sum makes is never
    stored: an operator normalizes it at once, and another adds both branches to the stream.
    """
    spec, nodes, constants, count = source.spec, [], {}, itertools.count()
    d, h = spec.hidden_size, spec.num_heads

    def constant(value, dtype=np.float32):
        name = f"c{next(count)}"
        constants[name] = np.asarray(value, dtype)
        return name

    def node(kind, *inputs, **attributes):
        name = f"v{next(count)}"
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def read(name, prefix=""):
        return constant(source.read(f"{prefix}{name}"))

    def dense(x, prefix):
        return node("Add", node("MatMul", x, read(f"{prefix}/kernel")), read(f"{prefix}/bias"))

    def norm(x, prefix):
        scale, shift = read(f"{prefix}/scale"), read(f"{prefix}/bias")
        return node("LayerNormalization", x, scale, shift, epsilon=spec.layer_norm_epsilon)

    def heads(x, *order):
        return node("Transpose", node("Reshape", x, constant([0, 0, h, d // h], np.int64)), perm=order)

    def added(*terms):
        if not transposed:
            return node("Sum", *terms)
        return node("Transpose", node("Sum", *(node("Transpose", x, perm=[0, 2, 1]) for x in terms)), perm=[0, 2, 1])

    kernel = constant(source.read("patch_embedding/kernel").transpose(3, 2, 0, 1))
    strides = [spec.patch_size] * 2
    patches = node("Conv", "pixel_values", kernel, read("patch_embedding/bias"), strides=strides)
    patches = node("Transpose", node("Reshape", patches, constant([0, d, -1], np.int64)), perm=[0, 2, 1])
    first = node("Mul", node("Slice", patches, *(constant(v, np.int64) for v in ([0], [1], [1]))), constant([0.0]))
    x = node("Concat", node("Add", first, read("class_token")), patches, axis=1)
    x = node("Add", x, read("position_embedding"))
    for index in range(spec.num_layers):
        prefix = f"encoder/layer_{index}"
        normed, attention = norm(x, f"{prefix}/attention_norm"), f"{prefix}/attention"
        query = heads(dense(normed, f"{attention}/query"), 0, 2, 1, 3)
        key = heads(dense(normed, f"{attention}/key"), 0, 2, 3, 1)
        value = heads(dense(normed, f"{attention}/value"), 0, 2, 1, 3)
        scores = node("Mul", node("MatMul", query, key), constant((d // h) ** -0.5))
        mixed = node("Transpose", node("MatMul", node("Softmax", scores, axis=-1), value), perm=[0, 2, 1, 3])
        branch = dense(node("Reshape", mixed, constant([0, 0, d], np.int64)), f"{attention}/output")
        if fused:
            shared = [read(f"{prefix}/mlp_norm/{part}") for part in ("scale", "bias")]
            how = {"epsilon": spec.layer_norm_epsilon, "domain": "com.microsoft"}
            normed, terms = node("SkipLayerNormalization", x, branch, *shared, **how), (x, branch)
        else:
            terms = (added(x, branch),)
            normed = norm(terms[0], f"{prefix}/mlp_norm")
        x = added(*terms, dense(node("Gelu", dense(normed, f"{prefix}/mlp/dense_1")), f"{prefix}/mlp/dense_2"))
    token = node("Gather", norm(x, "encoder/norm"), constant(0, np.int64), axis=1)
    nodes.append(helper.make_node("Gemm", [token, read("head/kernel"), read("head/bias")], ["answer"]))
    size = spec.image_size
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("answer", onnx.TensorProto.FLOAT, ["batch", spec.num_classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)], ir_version=9
    )
    path.write_bytes(model.SerializeToString())
    return Artifact(str(path), "onnx", "float32", (), (), path.stat().st_size, "")


@pytest.mark.parametrize("how", [{}, {"transposed": True}, {"fused": True}], ids=str)
def test_files_of_other_tools(how, saved_model, images, tmp_path):
    healthy = locate(saved_model, foreign(SOURCE, tmp_path / "healthy.onnx", **how), images[:2], images[:2])
    assert healthy.departs is None, healthy
    unseen = [point.name for point in healthy.points if point.sqnr_db is None]
    assert unseen == ([name for name in NAMES if "attention" in name] if "fused" in how else [])
    assert all(point.sqnr_db > 110 for point in healthy.points if point.name not in unseen)
    for fault in ("transposed kernel", "another kernel", "positions rolled", "classifier"):
        source, where = FAULTS[fault]
        if "fused" in how and where == "encoder layer 2 attention":
            where = "encoder layer 2 mlp"  # the first place behind it that can be seen
        location = locate(saved_model, foreign(source, tmp_path / "file.onnx", **how), images[:2], images[:2])
        assert location.departs == where, location


# The parts


def stream(*decibels, **changes):
    """Figures of a file of 4 layers without final norm: SQNR, and by itself, of every point."""
    figures = [Figures(name, name, *pair) for name, pair in zip((*NAMES[:-2], "output"), decibels, strict=True)]
    figures.insert(-1, Figures("encoder norm"))
    return figures


STEADY = [(44, 44), (40, 38), (37, 36), (35, 37), (34, 38), (33, 36), (32, 37), (31, 36), (30, 36), (30, 40)]


def judged(figures, precision="int8", limit=20.0, *, agrees=False, hidden=False):
    return judge(figures, limit, precision, 2, agrees=agrees, hidden=hidden)


def test_a_sudden_fall_is_told_from_a_slow_one():
    sudden = [*STEADY[:5], (24, 9), (23, 36), (22, 37), (18, 36), (17, 40)]
    location = judged(stream(*sudden))
    assert location.departs == "encoder layer 2 attention"
    assert location.detail == (
        "departs at encoder layer 2 attention: SQNR falls from 34 dB to 24 dB; "
        "encoder layer 2 attention by itself has 9 dB, where 37 dB is usual"
    )
    slow = [(s - 12, a) for s, a in STEADY]
    location = judged(stream(*slow))
    assert location.departs == "encoder layer 3 attention"
    assert location.detail == (
        "SQNR falls little by little, from 32 dB at embedding to 19 dB at encoder layer 3 attention: "
        "no layer stands out"
    )
    gross = [*STEADY[:5], (9, 3), *[(8, 36)] * 4]
    assert judged(stream(*gross)).detail == "departs at encoder layer 2 attention: SQNR falls from 34 dB to 9 dB"
    assert judged(stream(*sudden), agrees=True).departs is None
    assert "encoder layer 2 attention by itself has 9 dB" in judged(stream(*sudden), agrees=True).detail


def test_the_output_departs_where_every_layer_agrees():
    wrong = [*STEADY[:-1], (3, 3)]
    assert judged(stream(*wrong)).detail == "departs at output: SQNR falls from 30 dB to 3 dB"
    location = judged(stream(*wrong), hidden=True)
    assert location.departs == "output"
    assert location.detail.endswith("it is operators fused by the runtime that depart")
    figures = stream(*STEADY)
    figures[-1] = Figures("output")
    assert judged(figures).departs == "output"
    assert judged(figures).points[-1].sqnr_db is None


def test_rounding_of_the_stream_is_no_fault():
    """A stream of huge values is rounded by more than a branch that adds little: nothing is wrong with the branch."""
    figures = stream(*[(60, 60)] * 9, (20, 60))
    for f in figures:
        f.rounding_db = 70.0
    figures[3].alone_db = 30.0
    assert judged(figures, "float16", 35.0).departs == "output"
    figures[3].rounding_db = 50.0
    assert judged(figures, "float16", 35.0).departs == figures[3].name


def test_numbers_that_are_none_are_the_worst():
    truth, found = np.ones((2, 3)), np.ones((2, 3))
    figures = Figures("embedding", "x")
    figures.compare(trail.Pair(truth, found))
    assert figures.sqnr_db == math.inf
    found[1, 1] = np.nan
    figures.compare(trail.Pair(truth, found))
    assert figures.sqnr_db == -math.inf
    assert figures.worst_relative == math.inf


def test_order_is_kept_and_every_point_takes_what_is_left():
    scores = np.array([[90.0, 20, 5, 0], [80.0, 25, 10, 0], [0.0, 30, 10, 5]])
    assert matching._ordered(scores) == [0, 1, 2]
    assert matching._ordered(np.full((2, 3), -np.inf)) == [None, None]
    assert matching._ordered(np.array([[-np.inf, 3.0], [5.0, -np.inf]])) == [None, 0]


def test_a_file_that_overflows(files, saved_model, images):
    """Infinities and NaN are no figures, but they begin somewhere."""
    source, where = changed(1, "mlp/dense_2/bias", lambda bias: bias + np.inf), "encoder layer 1 mlp"
    location = locate(saved_model, files(source, "onnx float32"), images[:1], images[:1])
    assert location.departs == where
    assert by_name(location)["output"].sqnr_db == -math.inf


def test_the_runtimes_own_fault_is_not_a_layers(files, saved_model, images, monkeypatch):
    """The file is right while tensors are kept, and wrong as it is run."""
    outputs = follow._outputs

    def spoilt(runner, fed):
        return outputs(runner, fed)[:, :: -1 if runner.runtime == "onnxruntime" else 1]

    monkeypatch.setattr(follow, "_outputs", spoilt)
    location = locate(saved_model, files(SOURCE, "onnx float32"), images[:1], images[:1])
    assert location.departs == "output"
    assert location.detail.endswith("it is operators fused by the runtime that depart")


# Errors


def test_bad_calls_get_one_sentence(files, saved_model, images, tmp_path, monkeypatch):
    artifact = files(SOURCE, "tflite float32")
    with pytest.raises(InputError, match="expected the same"):
        locate(saved_model, artifact, images, images[:1])
    with pytest.raises(InputError, match="Layers of a saved_model cannot be compared"):
        locate(saved_model, Artifact("x", "saved_model", "float32", (), (), 0, ""), images, images)
    with pytest.raises(RunnerError, match="none does not exist"):
        locate(tmp_path / "none", artifact, images, images)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), {"available": 1000}))
    with pytest.raises(RunnerError, match=r"interior tensors of toy.tflite take 0.0 GB"):
        locate(saved_model, artifact, images[:1], images[:1])


def test_a_saved_model_that_is_not_its_parameters(files, saved_model, images, monkeypatch):
    outputs = follow._outputs
    monkeypatch.setattr(follow, "_outputs", lambda runner, fed: outputs(runner, fed) + 1)
    with pytest.raises(StructureError, match="its graph does not belong to its parameters"):
        locate(saved_model, files(SOURCE, "tflite float32"), images[:1], images[:1])


def test_what_is_no_onnx_file(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"\x3f" * 100)
    with pytest.raises(InputError, match=r"is not an .onnx file"):
        onnx_files.OnnxInterior(tmp_path / "bad.onnx", None, 0)
