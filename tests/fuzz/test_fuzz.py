"""A minute of spoilt files for every reader, new ones each time; and each way of spoiling, once."""

import time

import pytest

from fuzz.__main__ import case, fuzz
from fuzz.readers import READERS, SEEDS


@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_file_is_read_or_refused(name):
    told = [case(name, number) for number in range(3)]
    assert not [text for word, text in told if word == "find"]


def test_seeds_are_small():
    assert SEEDS.stat().st_size < 300_000


@pytest.mark.slow
def test_a_minute_without_a_find():
    counts, finds = fuzz(list(READERS), 60.0, first=int(time.time()))
    assert not finds
    assert counts["refused"] > 100
