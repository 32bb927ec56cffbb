"""Small files that say they are large: each is refused in a sentence, before anybody walks through it."""

import io
import struct
import time
import zipfile

import flatbuffers
import pytest

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.artifacts.read import artifact_of, read_facts
from vit_export.artifacts.tflite_metadata import read_tflite_metadata
from vit_export.base.adapters.litert import schema
from vit_export.base.errors import InputError

SHARED = "names more parts than it has room for"


@pytest.fixture(autouse=True)
def in_little_time():
    began = time.process_time()
    yield
    assert time.process_time() - began < 5


# .tflite: vectors all of whose entries are one table


def vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def numbers(builder, values):
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return builder.EndVector()


def tflite(subgraphs=1, tensors=1, operators=0, operands=1, rank=1, name="t", metadata=None, ends=1):
    s, builder = schema(), flatbuffers.Builder(1 << 16)
    text, shape, one = builder.CreateString(name), numbers(builder, [1] * rank), numbers(builder, [0] * operands)
    inputs = numbers(builder, [0] * ends)
    s.TensorStart(builder)
    s.TensorAddShape(builder, shape)
    s.TensorAddName(builder, text)
    known = vector(builder, [s.TensorEnd(builder)] * tensors)
    s.OperatorStart(builder)
    s.OperatorAddInputs(builder, one)
    s.OperatorAddOutputs(builder, one)
    run = vector(builder, [s.OperatorEnd(builder)] * operators)
    s.SubGraphStart(builder)
    s.SubGraphAddTensors(builder, known)
    s.SubGraphAddOperators(builder, run)
    s.SubGraphAddInputs(builder, inputs)
    s.SubGraphAddOutputs(builder, one)
    graphs = vector(builder, [s.SubGraphEnd(builder)] * subgraphs)
    s.OperatorCodeStart(builder)
    codes = vector(builder, [s.OperatorCodeEnd(builder)])
    data = builder.CreateByteVector(metadata or b"\0")
    s.BufferStart(builder)
    buffers = [s.BufferEnd(builder)]
    s.BufferStart(builder)
    s.BufferAddData(builder, data)
    buffers = vector(builder, [*buffers, s.BufferEnd(builder)])
    called = builder.CreateString("TFLITE_METADATA")
    s.MetadataStart(builder)
    s.MetadataAddName(builder, called)
    s.MetadataAddBuffer(builder, 1)
    entries = vector(builder, [s.MetadataEnd(builder)])
    s.ModelStart(builder)
    s.ModelAddVersion(builder, 3)
    s.ModelAddOperatorCodes(builder, codes)
    s.ModelAddSubgraphs(builder, graphs)
    s.ModelAddBuffers(builder, buffers)
    if metadata:
        s.ModelAddMetadata(builder, entries)
    builder.Finish(s.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def labels_of(outputs, files=1):
    """TFLite Metadata of so many outputs, each with so many files of labels, all of them one table."""
    builder = flatbuffers.Builder(1 << 16)

    def table(fields, slot, value, kind=None):
        builder.StartObject(fields)
        builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        if kind is not None:
            builder.PrependInt8Slot(2, kind, 0)
        return builder.EndObject()

    file = table(5, 0, builder.CreateString("l.txt"), 2)
    tensor = table(7, 6, vector(builder, [file] * files))
    graph = table(5, 3, vector(builder, [tensor] * outputs))
    builder.Finish(table(8, 3, vector(builder, [graph])), b"M001")
    return bytes(builder.Output())


def with_labels(model, content):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("l.txt", content)
    return model + packed.getvalue()


@pytest.mark.parametrize(
    "made",
    [
        {"subgraphs": 5000, "tensors": 5000},
        {"subgraphs": 3000, "operators": 3000},
        {"operators": 5000, "operands": 5000},
        {"tensors": 5000, "rank": 5000},
        {"tensors": 5000, "name": "t" * 10_000},
    ],
)
def test_tables_that_are_shared_do_not_count_a_thousand_times(made, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite(**made))
    for read in (read_facts, MappedModel):
        with pytest.raises(InputError, match=SHARED):
            read(path)


def test_what_a_good_file_holds_has_room(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(with_labels(tflite(metadata=labels_of(1)), "cat\ndog\n"))
    assert read_facts(path).format == "tflite"
    assert read_tflite_metadata(path)["outputs"][0]["labels"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("outputs", "files", "content", "message"),
    [
        (4000, 4000, "cat\n", SHARED),
        (4, 1, "a" * 5_000_000, "with its label files, names more parts"),
        (1, 1, "\n" * 1_000_001, "damaged or cut off"),
    ],
)
def test_labels_are_bounded_over_all_outputs(outputs, files, content, message, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(with_labels(tflite(metadata=labels_of(outputs, files)), content))
    with pytest.raises(InputError, match=message):
        read_tflite_metadata(path)


def test_a_directory_of_a_zip_is_bounded(tmp_path):
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 0, 20, *(0,) * 8, 1, *(0,) * 6) + b"a"
    count = 400_000
    body = entry * count
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(body), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(body), 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite(metadata=labels_of(1)) + body + end64 + locator + end)
    with pytest.raises(InputError, match="lists far more than 100000 members"):
        read_tflite_metadata(path)


def test_thousands_of_inputs_are_refused(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite(ends=5000))
    with pytest.raises(InputError, match="5,001 inputs and outputs"):
        read_facts(path)


# .onnx: fields by hand, for no writer would write so many empty ones


def varint(number):
    found = b""
    while number > 0x7F:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])


def message(field, data=b""):
    return varint(field << 3 | 2) + varint(len(data)) + data


def number(field, value):
    return varint(field << 3) + varint(value)


def value(name, *sizes):
    shape = b"".join(message(1, number(1, size)) for size in sizes)
    return message(1, name) + message(2, message(1, number(1, 1) + message(2, shape)))


IMAGES, LOGITS = message(11, value(b"images", 1, 3, 32, 32)), message(12, value(b"logits", 1, 3, 32, 32))
NODE = message(1, message(1, b"images") + message(2, b"logits") + message(4, b"Relu"))
NODES, INITIALIZER, ATTRIBUTE, GRAPH, DIMS, PROPERTIES = 1, 5, 5, 6, 1, 14


def onnx(graph=b"", rest=b""):
    whole = IMAGES + LOGITS + NODE + graph
    return number(1, 9) + message(7, whole) + message(8, message(1) + number(2, 17)) + rest


def weight(dims):
    return message(INITIALIZER, dims + number(2, 1) + message(8, b"w"))


BOUNDED = {
    "a million empty nodes": (onnx(message(NODES) * 1_000_000), "more than 150,000 nodes"),
    "a million empty properties": (onnx(rest=message(PROPERTIES) * 1_000_000), "more than 150,000 nodes"),
    "a million strings in one node": (onnx(message(NODES, message(1) * 1_000_000)), "more than 150,000 nodes"),
    "20,000 graphs in one node": (
        onnx(message(NODES, message(4, b"If") + message(ATTRIBUTE, message(GRAPH)) * 20_000)),
        "more than 10,000 graphs",
    ),
    "a tensor of a million dimensions": (onnx(weight(message(DIMS, b"\2" * 1_000_000))), "damaged or cut off"),
    "a tensor of 100 dimensions": (onnx(weight(message(DIMS, b"\2" * 100))), "w has 100 dimensions"),
    "a tensor of 17 dimensions of 2^62": (onnx(weight(number(DIMS, 1 << 62) * 17)), "w has 17 dimensions"),
    "an input of 2^62 pixels": (onnx(message(11, value(b"x", 1 << 62, 3))), "x has 2 dimensions"),
    "an input of 10,000 dimensions": (onnx(message(11, value(b"x", *[1] * 10_000))), "x has 10000 dimensions"),
    "5000 inputs": (onnx(message(11, value(b"x", 1)) * 5000), "5,002 inputs and outputs"),
}


@pytest.mark.parametrize("what", BOUNDED)
def test_what_no_onnx_file_holds_is_refused(what, tmp_path):
    data, sentence = BOUNDED[what]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_facts(path)
    assert sentence in str(caught.value)


def test_what_a_good_onnx_file_holds_is_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx(NODE * 20_000 + weight(message(DIMS, b"\2" * 8)) * 100))
    assert read_facts(path).operators == {"Relu": 20_001}


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        ((1, 3, 60_000, 60_000), (1, 10), "images has 10,800,000,000 numbers, at most 67,108,864"),
        ((1, 3, 32, 32), (1, 400_000_000), "logits has 400,000,000 numbers, at most 33,554,432"),
    ],
)
def test_what_cannot_be_run_is_refused_before_it_is(inputs, outputs, sentence, tmp_path):
    path = tmp_path / "m.onnx"
    graph = message(11, value(b"images", *inputs)) + message(12, value(b"logits", *outputs)) + NODE
    path.write_bytes(number(1, 9) + message(7, graph) + message(8, message(1) + number(2, 17)))
    read_facts(path)  # it can be looked at
    with pytest.raises(InputError, match=sentence):
        artifact_of(path)
