"""Names and addresses as they are shown: nothing drives a terminal, no password is told, no message is a novel."""

import pytest

from vit_export.base.errors import InputError, OutputError
from vit_export.base.text import MAX_MESSAGE, counted, message, shown, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:secret@host/x.npz", "https://host/x.npz"),
        ("https://user:se/cr@et@host/x", "https://host/x"),
        ("There is no https:/user:secret@host/x?token=secret : check", "There is no https:/host/x : check"),
        ("git+https://token@host/x and s3://a:secret@b/c", "git+https://host/x and s3://b/c"),
        ("'https://host/x?sig=secret'", "'https://host/x'"),
        ("https://host:8080/@name/x", "https://host:8080/@name/x"),
        ("mail a@b.c, C:/a@b/c, hf:owner/name@main", "mail a@b.c, C:/a@b/c, hf:owner/name@main"),
    ],
)
def test_addresses_tell_no_password(text, expected):
    assert without_secrets(text) == expected
    assert str(InputError(text)) == expected


@pytest.mark.parametrize("kind", [InputError, OutputError])
def test_an_error_is_one_line_of_a_few_hundred_characters(kind):
    said = str(kind("a\x1b[2J\nPASS \udcff" + "x" * 1_000_000 + " the end"))
    assert said.startswith("a\\u001b[2J\\nPASS \\udcff")
    assert said.endswith("the end")
    assert len(said) == MAX_MESSAGE


def test_the_longest_texts_take_no_time():
    assert len(message("https://" + "a:" * 5_000_000 + "@")) <= MAX_MESSAGE
    assert len(message("\x1b" * 10_000_000)) <= MAX_MESSAGE


def test_all_texts_of_a_record_are_shown():
    assert shown({"\x1b": ["\u202e", {"a": ("b\r", 1, None)}]}) == {"\\u001b": ["\\u202e", {"a": ["b\\r", 1, None]}]}
    assert len(shown("x" * 10_000)) == MAX_MESSAGE


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, "1 class"), (0, "0 classes"), (2000000, "2000000 classes"), (1.0, "1 class"), (float("inf"), "inf classes")],
)
def test_counts_have_their_number(count, shown):
    assert counted(count, "class") == shown
