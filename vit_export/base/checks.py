"""Whether what a caller or a file gave is a number in its range, and the one sentence where it is not."""

from typing import Any

from vit_export.base.errors import InputError


def is_whole(value: Any, least: float = float("-inf")) -> bool:
    """Whether `value` is an int of at least `least`; True and False are none, nor is 1.0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float; True and False are neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole_number(name: str, value: Any, least: int, most: int | None = None, *, of: str = "", advice: str = "") -> None:
    """Raise InputError unless `value`, called `name`, is a whole number from `least` to `most` (None: without end).

    `of` says of what there are so many ("images"), and `advice` ends the sentence.
    """
    if not is_whole(value, least) or (most is not None and value > most):
        what = f"a whole number of {of}" if of else "a whole number"
        ends = f", at least {least}" if most is None else f" from {least} to {most}"
        raise InputError(f"{name} is {value!r:.40}, expected {what}{ends}{advice}.")


def number(name: str, value: Any, least: float, most: float) -> None:
    """Raise InputError unless `value`, called `name`, is a number from `least` to `most`."""
    if not is_number(value) or not least <= value <= most:
        raise InputError(f"{name} is {value!r:.40}, expected a number from {least:g} to {most:g}.")
