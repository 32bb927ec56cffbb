"""Every input kind: the same answers on the same pictures, at no cost, from every form of file."""

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from conftest import toy_spec
from PIL import Image

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.errors import InputError
from vit_export.images.read import load_batch, load_pixels
from vit_export.model.artifact import InputKind
from vit_export.model.input_kinds import KINDS, affine, feed, kind_of, left_to_do, notes_on
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.onnx import DEFAULT_OPSET, write_onnx
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError, open_runner
from vit_export.tflite.quantize import calibrate, write_int8
from vit_export.tflite.structure import get_metadata
from vit_export.tflite.write import write_tflite

pytestmark = pytest.mark.thorough

PREPROCESSING = Preprocessing(32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.3, 0.225))
RECORD = ModelRecord(toy_spec(), PREPROCESSING, {"source": "test", "trained": False})
INT8 = {"static": 27, "dynamic": 31, "full": 24, "w8a16": 33}  # least signal to noise, dB


@pytest.fixture(scope="module")
def pictures():
    """Ten smooth pictures, uint8 [n, 32, 32, 3], around middle grey as photographs are."""
    random = np.random.default_rng(7)
    coarse = random.uniform(-80, 80, (10, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(128 + coarse + random.uniform(-40, 40, (10, 32, 32, 3)), 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def truth(model, pictures):
    return model.predict_output(normalize(pictures, PREPROCESSING))


@pytest.fixture(scope="module")
def tflite(source, pictures, tmp_path_factory):
    """Every .tflite file of a kind, by precision or int8 scheme: its Artifact."""
    made = {}

    def files(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("tflite")
            floats = {
                p: write_tflite(source, RECORD, folder / f"{p}.tflite", precision=p, input=kind)
                for p in ("float32", "float16")
            }
            path = folder / "float32.tflite"
            ranges = calibrate(path, (feed(p[None], kind, PREPROCESSING) for p in pictures), len(pictures))
            int8 = {s: write_int8(path, RECORD, folder / f"{s}.tflite", scheme=s, ranges=ranges) for s in INT8}
            made[kind] = {**floats, **int8}
        return made[kind]

    return files


@pytest.fixture(scope="module")
def onnx_file(source, tmp_path_factory):
    """The ONNX file of a kind, precision and opset, written once for all tests that only read it: its Artifact."""

    @lru_cache
    def file(kind, precision="float32", opset=DEFAULT_OPSET):
        path = tmp_path_factory.mktemp("onnx") / f"{precision}.onnx"
        return write_onnx(source, RECORD, path, precision=precision, input=kind, opset=opset)

    return file


def opened(artifact):
    return open_runner(Path(artifact.path), artifact.format, 1)


def answers(artifact, pictures):
    return opened(artifact).run(feed(pictures, artifact.inputs[0].values, PREPROCESSING))


def sqnr(expected, found):
    return 10 * np.log10((expected**2).sum() / ((expected - found) ** 2).sum())


def relative(expected, found):
    return np.abs(expected - found).max() / np.ptp(expected)


# The table


def test_the_table_has_every_kind():
    assert tuple(KINDS) == get_args(InputKind)
    assert [kind.dtype for kind in KINDS.values()] == ["float32", "float32", "float32", "uint8"]


@pytest.mark.parametrize("kind", KINDS)
def test_feed_affine_and_what_is_left_to_do_agree(kind, pictures):
    fed = feed(pictures, kind, PREPROCESSING)
    assert (fed.dtype, fed.shape) == (KINDS[kind].dtype, pictures.shape)
    factor, centre = affine(kind, PREPROCESSING)
    np.testing.assert_allclose(factor * (fed - centre), normalize(pictures, PREPROCESSING), atol=1e-5)
    mean, std = left_to_do(kind, PREPROCESSING)
    np.testing.assert_allclose((pictures / 255 - np.array(mean)) / np.array(std), fed, atol=1e-5)


def test_feed_in_numbers():
    pixels = np.array([[0, 51, 255]], np.uint8)
    assert feed(pixels, "uint8", PREPROCESSING) is pixels
    assert feed(pixels, "0..255", PREPROCESSING).tolist() == [[0, 51, 255]]
    np.testing.assert_array_equal(feed(pixels, "0..1", PREPROCESSING), np.float32([[0, 0.2, 1]]))
    with pytest.raises(InputError, match="float64, expected uint8"):
        feed(pixels / 255, "0..1", PREPROCESSING)
    with pytest.raises(InputError, match=r"Unknown input 'rgb': choose one of normalized, 0\.\.1, 0\.\.255, uint8"):
        kind_of("rgb")


def test_load_pixels_are_what_load_batch_normalizes(tmp_path):
    random = np.random.default_rng(0)
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for file in files:
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(file)
    pixels = load_pixels(files, PREPROCESSING)
    assert pixels.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(feed(pixels, "normalized", PREPROCESSING), load_batch(files, PREPROCESSING))
    assert load_pixels([], PREPROCESSING).shape == (0, 32, 32, 3)


# The same answers


@pytest.mark.parametrize("kind", KINDS)
def test_tflite_files_equal_the_reference(kind, tflite, pictures, truth):
    files = tflite(kind)
    assert relative(truth, answers(files["float32"], pictures)) < 1e-5
    assert relative(truth, answers(files["float16"], pictures)) < 5e-3
    for scheme, least in INT8.items():
        assert sqnr(truth, answers(files[scheme], pictures)) > least, scheme
    for name, artifact in files.items():
        assert artifact.inputs[0].values == kind
        quantized = name == "full" and kind != "uint8"
        assert artifact.inputs[0].dtype == ("int8" if quantized else KINDS[kind].dtype)
        assert (artifact.inputs[0].scale is None) == (not quantized)
        assert json.loads(get_metadata(Path(artifact.path)))["input"] == kind


@pytest.mark.parametrize(("kind", "opset"), [*((kind, DEFAULT_OPSET) for kind in KINDS), ("0..255", 13), ("uint8", 13)])
def test_onnx_files_equal_the_reference(kind, opset, onnx_file, pictures, truth):
    for precision, close in {"float32": 1e-5, "float16": 5e-3, "int8": 0.06}.items():
        artifact = onnx_file(kind, precision, opset)
        path = Path(artifact.path)
        onnx.checker.check_model(str(path), full_check=True)
        assert relative(truth, answers(artifact, pictures)) < close, precision
        assert (artifact.inputs[0].dtype, artifact.inputs[0].values) == (KINDS[kind].dtype, kind)
        facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
        assert facts["input"] == json.loads(facts["vit_export"])["input"] == kind
        mean, std = left_to_do(kind, PREPROCESSING)
        assert (json.loads(facts["mean"]), json.loads(facts["std"])) == (list(mean), list(std))


@pytest.mark.parametrize("write", [write_tflite, write_onnx])
def test_batches_of_pixels(write, source, pictures, truth, tmp_path):
    artifact = write(source, RECORD, tmp_path / f"toy.{write.__name__[6:]}", batch=4, input="uint8")
    assert artifact.inputs[0].shape == (4, 32, 32, 3)
    assert relative(truth, answers(artifact, pictures)) < 1e-5


def test_rounding_costs_pixels_no_more_than_normalized_images(source, tflite, pictures, truth, tmp_path):
    """The bias is that of the rounded kernel: without that, 3 dB less in each of these."""
    for name in ("float16", "dynamic"):
        normalized = sqnr(truth, answers(tflite("normalized")[name], pictures))
        for kind in ("0..1", "0..255"):
            assert sqnr(truth, answers(tflite(kind)[name], pictures)) > normalized - 1.5, (name, kind)


# At no cost


def test_tflite_operators(tflite):
    def operators(kind, name="float32"):
        model = MappedModel(Path(tflite(kind)[name].path)).model
        kinds = operator_kinds(model)
        return Counter(kinds[operator.opcodeIndex] for operator in model.subgraphs[0].operators)

    for name in tflite("normalized"):
        assert operators("normalized", name) == operators("0..255", name) == operators("0..1", name)
        added = operators("uint8", name) - operators("normalized", name)
        # An integer model quantizes what was cast; the static one quantizes its image anyway.
        assert added == Counter({"CAST": 1} | ({"QUANTIZE": 1} if name == "full" else {}))
        assert not operators("normalized", name) - operators("uint8", name)


def test_tflite_pixels_are_cast_and_nothing_more(tflite):
    """The patch embedding finds the range of each patch itself: nothing quantizes the image before."""
    model = MappedModel(Path(tflite("uint8")["static"].path)).model
    graph, kinds = model.subgraphs[0], operator_kinds(model)
    names = [graph.tensors[operator.outputs[0]].name.decode() for operator in graph.operators[:5]]
    assert [kinds[operator.opcodeIndex] for operator in graph.operators[:5]] == [
        "CAST", "RESHAPE", "TRANSPOSE", "RESHAPE", "FULLY_CONNECTED",
    ]  # fmt: skip
    assert names[0] == "images/cast"
    assert names[3] == "images/cast/reshape/transpose/reshape"
    image = graph.tensors[graph.inputs[0]]
    assert image.quantization is None or not len(image.quantization.scale or [])


def test_onnx_operators(onnx_file):
    def operators(kind, precision):
        nodes = onnx.load(onnx_file(kind, precision).path).graph.node
        return Counter(node.op_type for node in nodes), nodes[0].name

    for precision in ("float32", "float16", "int8"):
        normalized, _ = operators("normalized", precision)
        assert operators("0..255", precision)[0] == normalized
        pixels, first = operators("uint8", precision)
        # In float16 images are cast anyway: pixels directly to float16.
        assert pixels - normalized == Counter([] if precision == "float16" else ["Cast"])
        assert not normalized - pixels
        assert first == "patch_embedding/Cast"


def test_pixels_keep_their_256_levels_whatever_was_calibrated(tflite, pictures, tmp_path):
    floats = Path(tflite("0..255")["float32"].path)
    dark = (feed(picture[None] // 4, "0..255", PREPROCESSING) for picture in pictures)
    ranges = calibrate(floats, dark, len(pictures))
    (image,) = write_int8(floats, RECORD, tmp_path / "full.tflite", scheme="full", ranges=ranges).inputs
    assert (image.scale, image.zero_point) == (1, -128)


# Faults


def test_calibration_images_must_be_the_files(tflite, pictures):
    path = Path(tflite("uint8")["float32"].path)
    with pytest.raises(InputError, match=r"are float32 \[1, 32, 32, 3\], float32\.tflite takes uint8 \[1, 32, 32, 3\]"):
        calibrate(path, [normalize(pictures[:1], PREPROCESSING)], 1)
    with pytest.raises(InputError, match=r"are uint8 \[2, 32, 32, 3\], float32\.tflite takes"):
        calibrate(path, [pictures[:2]], 1)


@pytest.mark.parametrize("write", [write_tflite, write_onnx])
def test_an_unknown_kind_is_refused(write, source, tmp_path):
    with pytest.raises(InputError, match="Unknown input 'rgb'"):
        write(source, RECORD, tmp_path / "file", input="rgb")
    assert not list(tmp_path.iterdir())


def test_runners_take_what_the_file_takes(tflite, onnx_file, pictures, truth):
    files = [tflite("uint8")["float32"], onnx_file("uint8")]
    for artifact in files:
        with pytest.raises(RunnerError, match="takes uint8 pixels from 0 to 255, given float32 images"):
            opened(artifact).run(normalize(pictures, PREPROCESSING))
        with RunnerProcess(Path(artifact.path), artifact.format) as process:
            assert relative(truth, process.run(pictures)) < 1e-5
            assert len(process.time(2, pictures[0])) == 2
    with pytest.raises(RunnerError, match="takes float32 images, given uint8 pixels"):
        opened(tflite("0..255")["float32"]).run(pictures)


def test_subnormal_float16_is_noted(tflite):
    for kind in KINDS:
        noted = kind in ("0..255", "uint8")
        assert [bool(notes_on(kind, p)) for p in ("float32", "float16", "int8")] == [False, noted, False]
        assert any("subnormal" in note for note in tflite(kind)["float16"].notes) == noted
