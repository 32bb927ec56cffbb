"""Indices of checkpoints that would end the process, were TensorFlow asked to open them."""

import random
import shutil
import struct

import numpy as np
import pytest

from vit_export.base.errors import InputError
from vit_export.base.quiet import import_tensorflow
from vit_export.model.checkpoint_index import _rows, require_sound
from vit_export.model.saved_model import SavedModelParameters

import_tensorflow()

from tensorflow.core.protobuf import tensor_bundle_pb2  # noqa: E402

KEY = b"parameters/head.Sbias/.ATTRIBUTES/VARIABLE_VALUE"


def checksum(data: bytes) -> bytes:
    """CRC-32C, masked as LevelDB does."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def table(rows, spoilt=lambda block: block) -> bytes:
    """An index of `rows`, (key, value), in one block."""

    def block(entries):
        body = b"".join(b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
        return body + struct.pack("<II", 0, 1)

    made, handles = b"", []

    def add(content):
        nonlocal made
        handles.append(varint(len(made)) + varint(len(content)))
        made += content + b"\0" + checksum(content + b"\0")

    add(spoilt(block(rows)))
    add(block([]))
    add(block([(b"~", handles[0])]))
    return made + (handles[1] + handles[2]).ljust(40, b"\0") + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"


@pytest.fixture
def copy(saved_model, tmp_path):
    return shutil.copytree(saved_model, tmp_path / "saved_model")


@pytest.fixture
def rows(copy):
    return list(_rows((copy / "variables" / "variables.index").read_bytes()))


def write(copy, content):
    (copy / "variables" / "variables.index").write_bytes(content)
    return SavedModelParameters(copy)


def test_what_tensorflow_writes_is_sound(copy, rows, source):
    require_sound(copy / "variables" / "variables")
    again = write(copy, table(rows))
    np.testing.assert_array_equal(again.read("head/bias"), source.read("head/bias"))


def changed(**fields):
    def change(value):
        entry = tensor_bundle_pb2.BundleEntryProto.FromString(value)
        for name, number in fields.items():
            if name == "sides":
                del entry.shape.dim[:]
                for side in number:
                    entry.shape.dim.add(size=side)
            else:
                setattr(entry, name, number)
        return entry.SerializeToString()

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value[:-1],
        lambda value: b"\xff" * 8,
        changed(dtype=0),
        changed(dtype=21),
        changed(dtype=9),
        changed(sides=[-10]),
        changed(sides=[2**40, 2**40]),
        changed(sides=[1] * 300),
        changed(size=39),
        changed(offset=2**40),
        changed(offset=-4),
        changed(shard_id=3),
    ],
)
def test_entries_that_tensorflow_does_not_survive_are_one_sentence(change, copy, rows):
    edited = [(key, change(value) if key == KEY else value) for key, value in rows]
    assert edited != rows
    with pytest.raises(InputError, match=r"^The weights of .* cannot be read \(.*\): export the model again\.$"):
        write(copy, table(edited))


def test_a_parameter_of_another_type_is_missing(copy, rows):
    edited = [(key, changed(dtype=7)(value) if key == KEY else value) for key, value in rows]  # texts, of any length
    with pytest.raises(InputError, match="missing head/bias"):
        write(copy, table(edited))


def test_tables_that_are_none_are_one_sentence(copy, rows):
    header = tensor_bundle_pb2.BundleHeaderProto(num_shards=2).SerializeToString()
    good = table(rows)
    for content in (
        b"",
        good[-48:],
        good[:-1],
        table([]),
        table(rows[1:]),
        table([(b"", header), *rows[1:]]),
        table([*rows, *rows[-1:]]),
        table(rows, lambda block: block[:-4] + struct.pack("<I", 2**31)),
        table(rows, lambda block: block[:-8] + struct.pack("<II", 7, 1)),
        table(rows, lambda block: b"\x05" + block[1:]),
        good[: len(good) - 48] + varint(2**31) + varint(9) + good[-46:],
    ):
        with pytest.raises(InputError, match=r"cannot be read \("):
            write(copy, content)


def test_random_damage_under_right_checksums_is_refused_or_read(copy, rows):
    chance, refused = random.Random(4), 0
    for _ in range(60):

        def spoil(block):
            spoilt = bytearray(block)
            for _ in range(chance.choice((1, 1, 2, 4))):
                spoilt[chance.randrange(len(spoilt))] = chance.choice((0, 255, chance.randrange(256)))
            return bytes(spoilt)

        try:
            found = write(copy, table(rows, spoil))
            found.read("head/bias")
        except InputError:
            refused += 1
    assert refused > 40
