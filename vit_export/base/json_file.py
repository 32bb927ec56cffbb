"""JSON that somebody else wrote: configs, labels, reports, headers, records. All of it is parsed here, within limits.

What Python's parser lets pass is refused: a key twice (the last one would win in silence), whole numbers that no float
holds, nesting and numbers of parts that no such file has.
"""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.base.text import visible

MAX_JSON = 16 << 20
"""Longest JSON that is parsed, in bytes; the longest that describe a Vision Transformer have some 100 KB."""

MAX_PARTS = 1_000_000
"""Most lists and objects in one JSON; an empty list takes 2 bytes of a file and 64 of memory."""

MAX_DEPTH = 100
"""Deepest nesting: what walks through the values afterwards is recursive."""

_TOO_LONG = f"it has more than {MAX_JSON} bytes"
_MAX_DIGITS = 100  # of a whole number: a product of three of them is still within the range of floats


def parse_json(text: bytes | str, *, constant: Callable[[str], Any] = float) -> Any:
    """The value that `text` describes, which is UTF-8 with or without byte order mark.

    `constant` makes the values of NaN and the infinities, which JSON lacks.

    Raises:
        json.JSONDecodeError: it is no JSON.
        ValueError: (which that is too) it is no UTF-8, too long, too deep, has too many parts, a number with too many
            digits or a key twice; the text says which.
    """
    if len(text) > MAX_JSON:
        raise ValueError(_TOO_LONG)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {error.start} is no UTF-8") from error
    if text.count("[") + text.count("{") > MAX_PARTS:
        raise ValueError(f"it has more than {MAX_PARTS} lists and objects")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_constant=constant)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from error
    level, depth = [value], 0
    while level := [inner for outer in level for inner in _inside(outer) if isinstance(inner, list | dict)]:
        if (depth := depth + 1) > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    return value


def json_bytes(path: Path) -> bytes:
    """The bytes of the JSON file `path`, for `parse_json`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is a folder, a pipe or a device, or too long.
    """
    # Asked before it is opened: a pipe would block for ever, and some devices never end.
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is a pipe or a device")
    if status.st_size > MAX_JSON:
        raise ValueError(_TOO_LONG)
    with open(path, "rb") as file:
        return file.read(MAX_JSON + 1)


def read_json(path: Path) -> Any:
    """The value in the JSON file `path`.

    Raises:
        InputError: there is no such file; it is a folder, a pipe or a device; it cannot be read, or not parsed.
    """
    try:
        return parse_json(json_bytes(path))
    except FileNotFoundError as error:
        raise InputError(f"There is no {shortened(path)}: check the path.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{shortened(path)} cannot be read as JSON ({reason}): correct it or take it away.") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`; InputError for any other value too (see `read_json`)."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError(f"{shortened(path)} holds a JSON {type(value).__name__}, expected an object.")
    return value


def json_text(value: Any) -> str:
    """`value` as indented JSON for people: letters as they are, but nothing that drives a terminal or is no UTF-8.

    It holds no NaN and no infinity (see `signal.json_ready`).
    """
    return visible(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), keep="\n")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {twice[:80]!r} twice")
    return result


def _whole(digits: str) -> int:
    if len(digits.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"it has a number of {len(digits.lstrip('-'))} digits")
    return int(digits)


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
