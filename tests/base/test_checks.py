import re

import pytest

from vit_export.base.checks import is_number, is_whole, number, whole_number
from vit_export.base.errors import InputError


@pytest.mark.parametrize("value", [0, 257, 1.0, "1", True, None, float("nan")])
def test_what_is_no_whole_number_in_range(value):
    with pytest.raises(InputError, match=re.escape(f"threads is {value!r}, expected a whole number from 1 to 256.")):
        whole_number("threads", value, 1, 256)


@pytest.mark.parametrize("value", [-1, 151, "40", False, None, float("nan"), float("inf")])
def test_what_is_no_number_in_range(value):
    with pytest.raises(InputError, match=re.escape(f"min_sqnr is {value!r}, expected a number from 0 to 150.")):
        number("min_sqnr", value, 0, 150)


def test_the_ends_belong_to_the_range():
    for value in (1, 256):
        whole_number("threads", value, 1, 256)
    whole_number("count", 10**30, 1)
    for value in (0, 0.1, 1, 1.0):
        number("share", value, 0, 1)


def test_what_is_counted_and_what_to_do_are_told():
    with pytest.raises(InputError) as caught:
        whole_number("limit", 0, 1, of="images", advice="; None for all")
    assert str(caught.value) == "limit is 0, expected a whole number of images, at least 1; None for all."


def test_a_long_value_does_not_push_the_rest_out_of_the_line():
    with pytest.raises(InputError) as caught:
        whole_number("limit", "x" * 10_000, 1)
    assert len(str(caught.value)) < 120


def test_numbers_are_known_by_type_not_by_value():
    assert [is_whole(v) for v in (0, -3, True, 1.0, "1")] == [True, True, False, False, False]
    assert [is_number(v) for v in (0, 1.5, True, "1", None)] == [True, True, False, False, False]
