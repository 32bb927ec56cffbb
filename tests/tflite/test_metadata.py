"""What a file says of itself to others: TFLite Metadata, operator versions, ONNX metadata_props."""

import json
import re
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import RandomParameters, record_of, toy_spec

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds, unpack
from vit_export.artifacts.operator_versions import RULES
from vit_export.artifacts.read import read_facts
from vit_export.artifacts.runtime_versions import MIN_RUNTIME, needs_of, runtime_of
from vit_export.artifacts.tflite_metadata import METADATA_NAME, read_tflite_metadata
from vit_export.base.adapters.litert import schema, table_of
from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file
from vit_export.base.quiet import import_tensorflow, quiet
from vit_export.inspection.inspect import inspect_file
from vit_export.inspection.tflite_findings import VERSION
from vit_export.model.input_kinds import feed
from vit_export.model.preprocessing import Preprocessing
from vit_export.onnx import write_onnx
from vit_export.tflite import operator_versions
from vit_export.tflite import stream as writer
from vit_export.tflite.quantize import calibrate, write_int8
from vit_export.tflite.write import write_tflite

import_tensorflow()

LABELS = ("café", "crane", "crane", "a, b", "日本", "five", "six", "seven", "eight", "nine")
INT8 = ("dynamic", "static", "full", "w8a16")
IMAGENET = Preprocessing(
    32,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize="shortest",
    crop_fraction=0.875,
    interpolation="bicubic",
)


@pytest.fixture(scope="module")
def labelled(record):
    weights = {**record.weights, "author": "A. Uthor", "license": "Apache-2.0"}
    return replace(record, labels=LABELS, preprocessing=IMAGENET, weights=weights)


@pytest.fixture(scope="module")
def files(source, labelled, images, tmp_path_factory):
    """A file of each precision and scheme, of normalized images."""
    folder = tmp_path_factory.mktemp("metadata")
    paths = {name: folder / f"{name}.tflite" for name in ("float32", "float16", *INT8)}
    for name in ("float32", "float16"):
        write_tflite(source, labelled, paths[name], precision=name)
    ranges = calibrate(paths["float32"], images[:, np.newaxis], len(images))
    for name in INT8:
        write_int8(paths["float32"], labelled, paths[name], scheme=name, ranges=ranges)
    return paths


def versions_in(model):
    return {kind: code.version for kind, code in zip(operator_kinds(model), model.operatorCodes, strict=True)}


def metadata_of(model, name):
    (entry,) = (entry for entry in model.metadata if entry.name == name)
    return bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8))


def place_of(path, name):
    """Where in the file the metadata called `name` begins."""
    root = schema().Model.GetRootAs(path.read_bytes(), 0)
    entries = (root.Metadata(i) for i in range(root.MetadataLength()))
    (index,) = (entry.Buffer() for entry in entries if entry.Name() == name)
    table = table_of(root.Buffers(index))
    return table.Vector(table.Offset(4))


def test_the_model_is_described(files):
    found = read_tflite_metadata(files["static"])
    assert (found["name"], found["author"], found["license"]) == ("vit_toy", "A. Uthor", "Apache-2.0")
    assert found["min_parser_version"] == "1.0.0"
    assert "int8 (static)" in found["description"]
    assert "shortest side resized to 36 pixels (bicubic), the central 32x32 pixels cut out" in found["description"]
    (image,), (answer,) = found["inputs"], found["outputs"]
    assert (image["name"], image["colors"]) == ("images", "RGB")
    assert (answer["name"], tuple(answer["labels"])) == ("logits", LABELS)
    assert answer["files"][0]["type"] == "axis labels"
    assert found["files"] == ["labels.txt"]


def test_nothing_is_said_that_is_not_known(source, record, tmp_path):
    write_tflite(source, record, tmp_path / "toy.tflite")
    found = read_tflite_metadata(tmp_path / "toy.tflite")
    assert found["author"] is found["license"] is None
    assert "labels" not in found["outputs"][0]
    assert found["files"] == found["outputs"][0]["files"] == []
    assert not zipfile.is_zipfile(tmp_path / "toy.tflite")
    assert "resized to 32x32 pixels whatever their shape (bilinear)" in found["description"]


def test_features(tmp_path):
    spec = toy_spec(num_classes=None)
    write_tflite(RandomParameters(spec), record_of(spec), tmp_path / "toy.tflite")
    assert read_tflite_metadata(tmp_path / "toy.tflite")["outputs"][0]["name"] == "features"


@pytest.mark.parametrize(
    ("kind", "mean", "std"),
    [
        ("normalized", [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ("0..1", [0, 0, 0], [255, 255, 255]),
        ("0..255", [0, 0, 0], [1, 1, 1]),
        ("uint8", [0, 0, 0], [1, 1, 1]),
    ],
)
def test_normalization_makes_pixels_the_input(kind, mean, std, source, labelled, tmp_path):
    write_tflite(source, labelled, tmp_path / "toy.tflite", input=kind)
    (image,) = read_tflite_metadata(tmp_path / "toy.tflite")["inputs"]
    assert image["mean"] == pytest.approx(mean)
    assert image["std"] == pytest.approx(std)
    pixels = np.arange(256, dtype=np.uint8)[:, np.newaxis].repeat(3, 1)
    values = feed(pixels, kind, IMAGENET)
    np.testing.assert_allclose((pixels - np.array(image["mean"])) / image["std"], values, atol=1e-6)
    np.testing.assert_allclose([image["min"], image["max"]], [values.min(0), values.max(0)], atol=1e-6)


def test_an_int8_input_has_its_own_ends(files):
    (image,) = read_tflite_metadata(files["full"])["inputs"]
    assert (image["min"], image["max"]) == ([-128] * 3, [127] * 3)
    assert image["mean"] == pytest.approx([123.675, 116.28, 103.53])


def test_mediapipes_own_schema_reads_it(files):
    pytest.importorskip("mediapipe", reason="MediaPipe is not installed: pip install mediapipe")
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema

    for path in files.values():
        data = metadata_of(unpack(path.read_bytes()), METADATA_NAME)
        model = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAs(data, 0))
        assert (model.name, model.author, model.license) == (b"vit_toy", b"A. Uthor", b"Apache-2.0")
        (graph,) = model.subgraphMetadata
        (image,), (answer,) = graph.inputTensorMetadata, graph.outputTensorMetadata
        assert image.content.contentPropertiesType == schema.ContentProperties.ImageProperties
        assert image.content.contentProperties.colorSpace == schema.ColorSpaceType.RGB
        size = image.content.contentProperties.defaultSize
        assert (size.width, size.height) == (32, 32)
        (unit,) = image.processUnits
        assert unit.optionsType == schema.ProcessUnitOptions.NormalizationOptions
        np.testing.assert_allclose(unit.options.mean, [123.675, 116.28, 103.53], rtol=1e-6)
        np.testing.assert_allclose(unit.options.std, [58.395, 57.12, 57.375], rtol=1e-6)
        assert answer.content.contentPropertiesType == schema.ContentProperties.FeatureProperties
        (file,) = answer.associatedFiles
        assert (file.name, file.type) == (b"labels.txt", schema.AssociatedFileType.TENSOR_AXIS_LABELS)
        assert model.minParserVersion == b"1.0.0"


def test_the_zip_is_as_readers_want_it(files):
    """Stored, so that a map of the file is enough; offsets of the whole file; nothing that changes with the clock."""
    with zipfile.ZipFile(files["float32"]) as archive:
        (entry,) = archive.infolist()
        assert entry.compress_type == zipfile.ZIP_STORED
        assert files["float32"].read_bytes()[entry.header_offset :][:4] == b"PK\x03\x04"
        assert archive.read("labels.txt").decode() == "".join(f"{label}\n" for label in LABELS)


def test_the_same_model_is_the_same_file(source, labelled, files, tmp_path):
    artifact = write_tflite(source, labelled, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == files["float32"].read_bytes()
    assert artifact.sha256 == digest_of_file(files["float32"])
    assert artifact.bytes == files["float32"].stat().st_size


def test_facts_are_read_as_before(files, labelled):
    facts = read_facts(files["static"])
    assert (facts.format, facts.producer) == ("tflite", "vit-export")
    assert tuple(facts.record["labels"]) == LABELS
    assert facts.bytes == files["static"].stat().st_size


@pytest.mark.parametrize("limit", [None, 10_000], ids=["inline", "behind"])
def test_metadata_is_inline_and_aligned(limit, source, labelled, tmp_path, monkeypatch):
    if limit:
        monkeypatch.setattr(writer, "INLINE_LIMIT", limit)
    path = tmp_path / "toy.tflite"
    write_tflite(source, labelled, path)
    place = place_of(path, METADATA_NAME)
    assert path.read_bytes()[place:][4:8] == b"M001"
    assert place % 16 == 0
    assert read_tflite_metadata(path)["outputs"][0]["labels"] == list(LABELS)
    assert needs_of(path).release == ("2.14.0" if limit else "2.9.0")
    assert metadata_of(unpack(path.read_bytes()), MIN_RUNTIME).rstrip(b"\0").decode() == needs_of(path).release


def test_quantization_leaves_no_earlier_record_behind(files):
    for name in INT8:
        content = files[name].read_bytes()
        assert content.count(b'"record_version"') == 1
        assert content.count(b"M001") == 1
        names = [entry.name for entry in MappedModel(files[name]).model.metadata]
        assert len(names) == len(set(names))


def test_other_files(files, tmp_path):
    model = unpack(files["float32"].read_bytes())
    model.metadata = []
    writer.write_model(model, {}, tmp_path / "bare.tflite")
    assert read_tflite_metadata(tmp_path / "bare.tflite") is None


def test_damage_is_told(files, tmp_path):
    content = files["float32"].read_bytes()
    place = content.index(b"M001") - 4
    path = tmp_path / "broken.tflite"
    random = np.random.default_rng(0)
    messages = []
    for _ in range(200):
        broken = bytearray(content)
        for offset in random.integers(0, 300, 4):
            broken[place + offset] = random.integers(256)
        path.write_bytes(broken)
        try:  # whatever else is raised fails
            read_tflite_metadata(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(re.search("is damaged or cut off|is not in the zip behind", message) for message in messages)
    path.write_bytes(content[: content.rindex(b"PK\x05\x06")])  # the labels are named, their zip has no end
    with pytest.raises(InputError, match=r"'labels\.txt', which is not in the zip behind the model: export it again"):
        read_tflite_metadata(path)


# Versions.


@pytest.mark.parametrize(
    ("name", "runtime", "some"),
    [
        ("float32", "2.9.0", {"FULLY_CONNECTED": 1, "GELU": 1, "BATCH_MATMUL": 1}),
        ("float16", "2.9.0", {"FULLY_CONNECTED": 1, "DEQUANTIZE": 3}),
        ("dynamic", "2.17.0", {"FULLY_CONNECTED": 12, "GELU": 1}),
        ("static", "2.17.0", {"FULLY_CONNECTED": 12, "BATCH_MATMUL": 2, "TRANSPOSE": 2, "DEQUANTIZE": 2}),
        (
            "w8a16",
            "2.20.0",
            {"FULLY_CONNECTED": 1, "GELU": 1, "BATCH_MATMUL": 3, "ADD": 3, "SUB": 5, "MUL": 4, "MEAN": 3},
        ),
        ("full", "2.9.0", {"FULLY_CONNECTED": 4, "GELU": 2, "SOFTMAX": 2, "ADD": 1, "MEAN": 1, "STRIDED_SLICE": 1}),
    ],
)
def test_each_file_asks_for_the_runtime_that_has_its_operators(name, runtime, some, files):
    model = unpack(files[name].read_bytes())
    assert versions_in(model).items() >= some.items()
    assert needs_of(files[name]).release == runtime
    assert metadata_of(model, MIN_RUNTIME) == runtime.encode().ljust(16, b"\0")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["float32", "float16", "dynamic", "full"])
def test_versions_are_those_of_tensorflows_converter(case, saved_model, images, tmp_path):
    """Its own files, their versions forgotten: the rules give each back that they are for, and the release follows."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    if case != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if case == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if case == "full":
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with quiet():
        data = converter.convert()
    (tmp_path / "theirs.tflite").write_bytes(data)
    theirs, ours = unpack(data), unpack(data)
    said = metadata_of(theirs, MIN_RUNTIME)
    forgotten = [code for kind, code in zip(operator_kinds(ours), ours.operatorCodes, strict=True) if kind in RULES]
    assert len(forgotten) >= 10
    for code in forgotten:
        code.version = 0
    operator_versions.set_versions(ours)
    assert versions_in(ours) == versions_in(theirs)
    assert metadata_of(ours, MIN_RUNTIME) == said
    assert needs_of(tmp_path / "theirs.tflite").release == said.rstrip(b"\0").decode()


def test_versions_of_the_float_file_do_not_hide_what_int8_needs(files, tmp_path):
    """AI Edge Quantizer leaves the versions of the float file that it was given."""
    model = unpack(files["dynamic"].read_bytes())
    assert needs_of(files["dynamic"]).understated == ()
    for kind, code in zip(operator_kinds(model), model.operatorCodes, strict=True):
        code.version = min(code.version, 5) if kind == "FULLY_CONNECTED" else code.version
    model.metadata = []
    writer.write_model(model, {}, tmp_path / "low.tflite")
    assert needs_of(tmp_path / "low.tflite").understated == (("FULLY_CONNECTED", 5, 12),)
    assert needs_of(tmp_path / "low.tflite").release == needs_of(files["dynamic"]).release == "2.17.0"
    (finding,) = [f for f in inspect_file(tmp_path / "low.tflite")["findings"] if f["name"] == VERSION.name]
    assert finding["where"] == ("FULLY_CONNECTED, version 5, needs 12",)


def test_operators_that_are_not_in_the_table(files, tmp_path):
    assert runtime_of([("ADD", 1), ("ADD", 2)]) == "1.14.0"
    assert runtime_of([("ADD", 1), ("ADD", 99)]) is None
    assert runtime_of([("MEAN", 2), ("TRANSPOSE", 7), ("GELU", 1)]) == "2.14.4"  # by number, not by text
    assert runtime_of([]) is None
    model = unpack(files["float32"].read_bytes())
    model.operatorCodes[0].version = 99
    writer.write_model(model, {}, tmp_path / "newer.tflite")
    assert needs_of(tmp_path / "newer.tflite").release == "2.9.0"  # what it says itself
    model.metadata = []
    writer.write_model(model, {}, tmp_path / "silent.tflite")
    assert needs_of(tmp_path / "silent.tflite").release is None


def test_a_damaged_file_has_no_runtime(files, tmp_path):
    (tmp_path / "cut.tflite").write_bytes(files["float32"].read_bytes()[:3000])
    with pytest.raises(InputError, match="is damaged or cut off"):
        needs_of(tmp_path / "cut.tflite")


# ONNX.


def test_onnx_says_the_same(source, labelled, record, tmp_path):
    import onnx

    write_onnx(source, labelled, tmp_path / "toy.onnx")
    facts = {entry.key: entry.value for entry in onnx.load(tmp_path / "toy.onnx").metadata_props}
    assert json.loads(facts["labels"]) == list(LABELS)
    assert (facts["name"], facts["author"], facts["license"]) == ("vit_toy", "A. Uthor", "Apache-2.0")
    assert facts["output"] == "logits"
    assert "float32" in facts["description"]
    write_onnx(source, record, tmp_path / "bare.onnx")
    facts = {entry.key for entry in onnx.load(tmp_path / "bare.onnx").metadata_props}
    assert not facts & {"labels", "author", "license"}
