"""Class names from files of every form, each mistake refused by one sentence that says where it is."""

import json
from pathlib import Path

import pytest

from vit_export.base.errors import InputError
from vit_export.model import labels as labels_module
from vit_export.model.labels import check_labels, labels_from_id2label, read_labels


@pytest.fixture
def write(tmp_path):
    def write(content, name="labels.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def refused(*arguments, match, call=read_labels):
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_imagenet():
    labels = read_labels("imagenet")
    assert len(labels) == 1000
    assert labels[0] == "tench, Tinca tinca"
    assert labels[281] == "tabby, tabby cat"
    assert labels[999] == "toilet tissue, toilet paper, bathroom tissue"
    assert labels[134] == labels[517] == "crane"  # the bird and the machine: no mistake
    assert (labels[638], labels[639]) == ("maillot", "maillot, tank suit")
    assert all(label == label.strip() and label.isascii() for label in labels)


@pytest.mark.parametrize(
    "content",
    [
        "cat\ndog, puppy\nflûte\n",
        "cat\ndog, puppy\nflûte",
        "\ufeffcat\r\ndog, puppy\r\nflûte\r\n",
        "  cat\ndog, puppy  \nflûte\n\n  \n",
    ],
)
def test_text(write, content):
    assert read_labels(write(content)) == ("cat", "dog, puppy", "flûte")


@pytest.mark.parametrize("name", ["labels.json", "labels.JSON", "labels.txt"])
@pytest.mark.parametrize(
    "content",
    [
        ["cat", "dog", "1"],
        {"0": "cat", "1": "dog", "2": "1"},
        {"2": "1", "0": "cat", "1": "dog"},
        {"dog": 1, "1": 2, "cat": 0},
    ],
)
def test_json(write, name, content):
    assert read_labels(write(json.dumps(content), name)) == ("cat", "dog", "1")


def test_json_with_a_byte_order_mark(write):
    assert read_labels(write(b'\xef\xbb\xbf["cat"]', "labels.json")) == ("cat",)


def test_labels_that_are_digits_may_name_their_index(write):
    assert read_labels(write('{"1": 0, "0": 1}', "digits.json")) == ("1", "0")


def test_text_may_start_with_a_bracket(write):
    assert read_labels(write("[unknown]\ncat\n")) == ("[unknown]", "cat")
    assert read_labels(write("{}x\ncat\n")) == ("{}x", "cat")


def test_labels_may_repeat(write):
    assert read_labels(write("crane\ncrane\n")) == ("crane", "crane")


def test_a_missing_file(tmp_path):
    refused(str(tmp_path / "no.txt"), match=r"There is no label file .*no\.txt: give .* or 'imagenet'")


def test_a_folder(tmp_path):
    refused(str(tmp_path), match="is not a regular file")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "holds no labels"),
        (b"\n \n", "holds no labels"),
        (b"cat\n\ndog\n", "has an empty label at line 2"),
        (b"cat\r\n  \r\ndog\r\n", "has an empty label at line 2"),
        (b"\ncat\n", "has an empty label at line 1"),
        (b"cat\ndo\tg\n", r"has a control character \(\\t\) at line 2"),
        (b"cat\rdog\r", r"has a control character \(\\r\) at line 1"),
        (b"cat\n\x1b[31mdog\n", r"has a control character \(\\x1b\) at line 2"),
        ("cat\u2028dog".encode(), r"has a control character \(\\u2028\) at line 1"),
        ("cat\x85".encode(), r"has a control character \(\\x85\) at line 1"),
        (b"cat\x00dog", "is a binary file"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "is a binary file"),
        ("cat\ndog".encode("utf-16"), "is UTF-16, expected UTF-8"),
        ("cat\nflûte\n".encode("latin-1"), r"is no UTF-8 text \(line 2\)"),
    ],
)
def test_text_that_is_refused(write, content, match):
    refused(write(content), match=match)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[]", "holds no labels"),
        ("{}", "holds no labels"),
        ('["cat"', r"is no valid JSON \(.*\)"),
        ("", "is no valid JSON"),
        ("[" * 100_000, "is no valid JSON"),
        ("1" * 5000, "is no valid JSON"),
        ('"cat"', "holds a value of type str, expected a list"),
        ('["cat", 3]', "holds a value of type int at index 1, expected text"),
        ('["cat", ""]', "has an empty label at index 1"),
        ('["cat", "a\\nb"]', r"has a control character \(\\n\) at index 1"),
        ('["\\ud800"]', r"has a control character \(\\ud800\) at index 0"),
        ('{"0": "cat", "2": "dog"}', "has no label for class index 1, expected every index from 0 to 1"),
        ('{"1": "cat", "2": "dog"}', "has no label for class index 0"),
        ('{"0": "cat", "0": "dog"}', "has the key '0' twice"),
        ('{"cat": 0, "dog": 0}', r"has class index 0 twice \('cat' and 'dog'\)"),
        ('{"cat": 0, "dog": 2}', "has no label for class index 1"),
        ('{"cat": 0, "dog": -1}', "has an entry for 'dog' without class index"),
        ('{"cat": 0, "dog": 1.5}', "has an entry for 'dog' without class index"),
        ('{"cat": true}', "has an entry for 'cat' without class index"),
        ('{"00": "cat"}', "has an entry for '00' without class index"),
        ('{"0": ["n01440764", "tench"]}', "holds a value of type list at index 0, expected text"),
    ],
)
def test_json_that_is_refused(write, content, match):
    refused(write(content, "labels.json"), match=match)


def test_too_many_and_too_large(write, monkeypatch):
    monkeypatch.setattr(labels_module, "MAX_CLASSES", 2)
    assert len(read_labels(write("a\nb\n"))) == 2
    refused(write("a\nb\nc\n"), match="holds 3 labels, expected at most 2")
    monkeypatch.setattr(labels_module, "MAX_BYTES", 4)
    assert len(read_labels(write("a\nb\n"))) == 2
    refused(write("a\nb\n\n"), match="is larger than")


def test_id2label():
    assert labels_from_id2label({1: "dog", 0: "cat"}) == ("cat", "dog")
    assert labels_from_id2label({"10": "k", **{str(i): "abcdefghij"[i] for i in range(10)}}) == tuple("abcdefghijk")


@pytest.mark.parametrize("mapping", [None, {}, {0: "LABEL_0", 1: "LABEL_1"}, {"1": "LABEL_1", "0": "LABEL_0"}])
def test_placeholders_are_no_labels(mapping):
    assert labels_from_id2label(mapping) is None


def test_a_label_that_looks_like_a_placeholder_among_others_is_one():
    assert labels_from_id2label({0: "LABEL_0", 1: "dog"}) == ("LABEL_0", "dog")


@pytest.mark.parametrize(
    ("mapping", "match"),
    [
        ({0: "cat", 2: "dog"}, "The id2label of the configuration has no label for class index 1"),
        ({0: "cat", "0": "dog"}, "has class index 0 twice"),
        ({0: "cat", "one": "dog"}, "has an entry for 'dog' without class index"),
        ({0: None}, "holds a value of type NoneType at index 0"),
        ({0: " "}, "has an empty label at index 0"),
        (["cat"], "is of type list, expected an object"),
    ],
)
def test_id2label_that_is_refused(mapping, match):
    refused(mapping, match=match, call=labels_from_id2label)


def test_check_labels():
    check_labels(("cat", "dog"), 2)
    refused(
        ("x",) * 999, 1000, "labels.txt", call=check_labels, match="labels.txt holds 999 labels, the model has 1000 c"
    )
    refused(("cat",), 2, call=check_labels, match="The label list holds 1 label, the model has 2 classes: give")
    refused(("cat",), None, call=check_labels, match="a model without classifier has no classes")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ("cat", "of type str, expected a list"),
        ({"cat": 0, "dog": 1, "owl": 2}, "of type dict, expected a list"),
        (None, "of type NoneType, expected a list"),
        ((), "holds no labels"),
        (("cat", 1, "owl"), "type int at index 1"),
        (("cat", " ", "owl"), "empty label at index 1"),
        (("cat", "\u3000\u00a0", "owl"), "empty label at index 1"),
        (("cat", "do\ng", "owl"), r"control character \(\\n\) at index 1"),
        (("cat", "\t", "owl"), r"control character \(\\t\) at index 1"),
        (("cat", "\ud800", "owl"), r"control character \(\\ud800\) at index 1"),
    ],
    ids=ascii,
)
def test_what_is_no_list_of_labels(labels, match):
    refused(labels, 3, call=check_labels, match=match)


def test_files_that_cannot_be_looked_at(tmp_path, monkeypatch):
    refused(f"{tmp_path}/{'x' * 300}.txt", match="Cannot read the label file .*: file name too long")
    refused(f"{tmp_path}/a\0b", match="There is no label file")
    (tmp_path / "file").write_text("a")
    refused(str(tmp_path / "file" / "labels.txt"), match="There is no label file")

    def denied(path, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", denied)
    refused(str(tmp_path / "file"), match="Cannot read the label file .*: permission denied")


def test_a_list_with_a_background_class_is_recognised():
    labels = ("background", *read_labels("imagenet"))
    refused(
        labels, 1000, call=check_labels, match=r"1001 labels, .* background class .* remove the first \('background'\)"
    )
