"""The names of a model's classes: the ImageNet list, a text or JSON file, or what a Hugging Face configuration says."""

import re
import stat
from collections.abc import Mapping, Sequence
from importlib import resources
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from vit_export.base.checks import is_whole
from vit_export.base.errors import InputError
from vit_export.base.json_file import parse_json
from vit_export.base.text import counted
from vit_export.model.spec import MAX_CLASSES

IMAGENET = "imagenet"
_ALIKE = 0.9
"""The part of the labels that have to be ImageNet's, each in its place, for a list to be of its classes."""
"""Stands for the built-in list where a label file is expected."""

MAX_BYTES = 64 * 1024**2

# Control characters (tabs too) and line separators break every format that keeps a label a line; surrogates, which
# JSON can spell, have no UTF-8.
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def read_labels(text: str) -> tuple[str, ...]:
    """Read the labels that `text` names, in the order of the classes.

    - "imagenet": the 1000 classes of ILSVRC-2012 by WordNet id, each with its synonyms ('tench, Tinca tinca' first),
      as in the configuration of google/vit-base-patch16-224. A file of that name is './imagenet'.
    - A text file, one label a line: UTF-8 with or without byte order mark, LF or CRLF; blanks around a label and empty
      lines at the end are ignored.
    - A JSON file (by its suffix, or by its content where that is a list or an object): a list of labels,
      {"0": label, ...} or {label: 0, ...} over 0..n-1 without holes.

    Raises:
        InputError: the file is missing, unreadable, larger than `MAX_BYTES`, no UTF-8 text; a label is empty or holds a
            control character; there are none or more than a million; an index is missing or there twice.

    """
    if text == IMAGENET:
        return _imagenet()
    path = Path(text)
    content = _decode(_read(path), path)
    is_json = path.suffix.lower() == ".json"
    if is_json or content.lstrip().startswith(("[", "{")):
        try:
            return _from_json(parse_json(content), str(path))
        except ValueError as error:
            if is_json or not isinstance(error, JSONDecodeError):  # else a text whose first label starts with a bracket
                reason = " ".join(str(error).split())[:120]
                raise InputError(
                    f"The label file {path} is no valid JSON ({reason}): correct it, or give a text file with one "
                    "label a line."
                ) from error
    lines = content.replace("\r\n", "\n").rstrip(" \n").split("\n")
    return _checked(lines, str(path), "line", first=1)


def labels_from_id2label(
    mapping: Mapping[Any, Any] | None, source: str = "The id2label of the configuration"
) -> tuple[str, ...] | None:
    """Turn the `id2label` of a Hugging Face configuration into labels in the order of the classes.

    Keys may be whole numbers or their decimal text. None when there are no names: no mapping, an empty one, or
    transformers' placeholders LABEL_0, LABEL_1... `source` is what messages call the mapping.

    Raises:
        InputError: indices other than 0..n-1, values other than text, labels that `read_labels` refuses too.

    """
    if not mapping:
        return None
    if not isinstance(mapping, Mapping):
        raise InputError(f"{source} is of type {type(mapping).__name__}, expected an object from class index to label.")
    labels = _ordered([(value, _index(key)) for key, value in mapping.items()], source)
    if all(label == f"LABEL_{index}" for index, label in enumerate(labels)):
        return None
    return _checked(labels, source, "index", first=0)


def check_labels(labels: Sequence[str], num_classes: int | None, source: str = "The label list") -> None:
    """Raise InputError unless there is one label for each of `num_classes`; `source` is what the message calls them.

    Raises:
        InputError: no list or an empty one, an entry that is no text, empty or with a control character; the counts
            differ, or the model has no classifier (`num_classes` is None).

    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Sequence):
        raise InputError(
            f"{source} is of type {type(labels).__name__}, expected a list with the name of each class "
            "(labels.read_labels reads one from a file)."
        )
    _checked(labels, source, "index", first=0)
    count = len(labels)
    if count == num_classes:
        return
    if num_classes is None:
        raise InputError(
            f"{source} holds {counted(count, 'label')}, but a model without classifier has no classes: leave it out."
        )
    if count == num_classes + 1:
        advice = (
            "lists with an extra entry often start with a background class that the model does not have, "
            f"so remove the first ({labels[0]!r}) if that is one"
        )
    else:
        advice = "give the labels of the data that this classifier was trained on, one for each class"
    raise InputError(
        f"{source} holds {counted(count, 'label')}, the model has {counted(num_classes, 'class')}: {advice}."
    )


def wordnet_of(labels: Sequence[str]) -> tuple[str, ...]:
    """WordNet's numbers of ImageNet's classes ("n01440764"), as its folders are called; none where `labels` are others.

    Lists of these labels differ in some words, and hardly any in which class comes where.
    """
    known = _imagenet()
    if len(labels) != len(known):
        return ()
    first = (label.partition(",")[0] for label in labels)
    alike = sum(own == label.partition(",")[0] for own, label in zip(first, known, strict=True))
    return _lines("imagenet_1k_wordnet.txt") if alike >= _ALIKE * len(known) else ()


def _imagenet() -> tuple[str, ...]:
    return _lines("imagenet_1k.txt")


def _lines(name: str) -> tuple[str, ...]:
    return tuple((resources.files("vit_export") / "data" / name).read_text(encoding="utf-8").splitlines())


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would block for ever
            raise InputError(f"The label file {path} is not a regular file: give a text or JSON file, or {IMAGENET!r}.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise InputError(
            f"There is no label file {path}: give a text file with one label a line, a JSON file, or {IMAGENET!r}."
        ) from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"Cannot read the label file {path}: {reason}; make it readable or give another.") from error
    if len(content) > MAX_BYTES:
        raise InputError(
            f"The label file {path} is larger than {MAX_BYTES // 1024**2} MB, expected one short label a line: "
            "give another file."
        )
    return content


def _decode(content: bytes, path: Path) -> str:
    advice = "save it as UTF-8 text with one label a line, or as JSON"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"The label file {path} is UTF-16, expected UTF-8: {advice}.")
    if b"\0" in content:
        raise InputError(f"The label file {path} is a binary file, expected text: {advice}.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"The label file {path} is no UTF-8 text (line {line}): {advice}.") from error


def _from_json(content: Any, name: str) -> tuple[str, ...]:
    if isinstance(content, list):
        return _checked(content, name, "index", first=0)
    if not isinstance(content, dict):
        raise InputError(
            f"The JSON file {name} holds a value of type {type(content).__name__}, expected a list of labels or an "
            "object from class index to label."
        )
    by_index = all(_index(key) is not None for key in content) and not all(is_whole(v) for v in content.values())
    pairs = [(v, _index(k)) for k, v in content.items()] if by_index else [(k, _index(v)) for k, v in content.items()]
    return _checked(_ordered(pairs, name), name, "index", first=0)


def _index(value: Any) -> int | None:
    """Return a class index, given as a whole number or its decimal text, else None."""
    if isinstance(value, str):
        return int(value) if _INDEX.fullmatch(value) else None
    return value if is_whole(value, 0) else None


def _ordered(pairs: list[tuple[Any, int | None]], name: str) -> list[Any]:
    """The labels of `pairs` (label, class index) by index.

    Raises:
        InputError: the indices are not 0..n-1, each once.

    """
    result: dict[int, Any] = {}
    for label, index in pairs:
        if index is None:
            raise InputError(
                f"{name} has an entry for {label!r} without class index, expected an object from index to label or "
                "from label to index: correct it, or give a list of labels."
            )
        if index in result:
            raise InputError(f"{name} has class index {index} twice ({result[index]!r} and {label!r}): correct one.")
        result[index] = label
    missing = next((index for index in range(len(result)) if index not in result), None)
    if missing is not None:
        raise InputError(
            f"{name} has no label for class index {missing}, expected every index from 0 to {len(result) - 1}: "
            "add it, or renumber the others."
        )
    return [result[index] for index in range(len(result))]


def _checked(labels: Sequence[Any], name: str, unit: str, first: int) -> tuple[str, ...]:
    """Return `labels` without blanks around them; a message counts them as `unit` from `first`."""
    if not labels or (len(labels) == 1 and labels[0] == ""):
        raise InputError(f"{name} holds no labels, expected one for each class: add them, or use {IMAGENET!r}.")
    if len(labels) > MAX_CLASSES:
        raise InputError(f"{name} holds {len(labels)} labels, expected at most {MAX_CLASSES}: give another file.")
    result = []
    for number, label in enumerate(labels, first):
        if not isinstance(label, str):
            raise InputError(
                f"{name} holds a value of type {type(label).__name__} at {unit} {number}, expected text: correct it."
            )
        stripped = label.strip(" ")
        if not stripped.strip() and not _FORBIDDEN.search(stripped):
            raise InputError(f"{name} has an empty label at {unit} {number}: name the class, or remove the entry.")
        if found := _FORBIDDEN.search(stripped):
            raise InputError(
                f"{name} has a control character ({ascii(found.group())[1:-1]}) at {unit} {number}: remove it."
            )
        result.append(stripped)
    return tuple(result)
