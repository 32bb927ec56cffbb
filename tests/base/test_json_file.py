"""JSON that somebody else wrote is read within limits, and what Python's parser lets pass is refused."""

import json
import os

import pytest

from vit_export.base.errors import InputError
from vit_export.base.json_file import MAX_DEPTH, MAX_JSON, json_text, parse_json, read_json, read_object


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it has the key 'c' twice"),
        (b'{"a": ' + b"9" * 400 + b"}", "it has a number of 400 digits"),
        (b'{"a": -' + b"9" * 5000 + b"}", "it has a number of 5000 digits"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), f"it is nested deeper than {MAX_DEPTH}"),
        (b"[" * 100_000, f"it is nested deeper than {MAX_DEPTH}"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, f"it is nested deeper than {MAX_DEPTH}"),
        (b"[" + b"[]," * 1_100_000 + b"[]]", "it has more than 1000000 lists and objects"),
        (b" " * (MAX_JSON + 1), f"it has more than {MAX_JSON} bytes"),
        (b'{"a": "\xff"}', "byte 7 is no UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is no UTF-8"),
        (b"{", "Expecting property name"),
    ],
)
def test_what_no_good_file_holds_is_refused(text, reason, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_good_files_hold_is_read():
    assert parse_json(b'\xef\xbb\xbf{"a": [1e30, 1000000000000000019884624838656, "\xc3\xa9", null]}') == {
        "a": [1e30, 1000000000000000019884624838656, "é", None]
    }
    assert parse_json('[NaN, -Infinity, "\\ud800"]', constant=str) == ["NaN", "-Infinity", "\ud800"]


def made(kind, path):
    match kind:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "link in a circle":
            path.symlink_to(path.name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "link in a circle", "nothing"])
def test_what_is_no_file_is_refused_and_not_opened(kind, tmp_path):
    made(kind, tmp_path / "config.json")
    with pytest.raises(InputError, match="There is no" if kind == "nothing" else "cannot be read as JSON"):
        read_json(tmp_path / "config.json")


def test_an_object_is_expected_where_one_is(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InputError, match="holds a JSON list, expected an object"):
        read_object(tmp_path / "a.json")


def test_what_is_written_is_the_same_json_and_drives_no_terminal():
    value = {"a\x1b[31m\u202e": ["\udcff", "é\x9b", 1.5], "b": {}}
    text = json_text(value)
    assert json.loads(text) == value
    assert text.encode().decode().replace("\n", "").isprintable()
    assert "é" in text
