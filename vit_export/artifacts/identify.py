"""Which format a file is of, told by its content (its name may say anything), and what it is when it is of none."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vit_export.artifacts.facts import damaged
from vit_export.artifacts.flatbuffer import IDENTIFIER
from vit_export.artifacts.onnx_file import load_structure
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors, shortened
from vit_export.model.artifact import Format

_CALLED = {"tflite": "a TFLite model", "onnx": "an ONNX model"}
_HEAD = 512  # bytes of a file that are looked at
SUFFIXES: dict[str, Format] = {".tflite": "tflite", ".lite": "tflite", ".onnx": "onnx"}
"""What files are called, in lower case, and the format that their names promise."""

_EXPECTED = "expected a .tflite or .onnx file"
_WEIGHTS = f"{_EXPECTED}: export a model from these weights with --weights, then give what it writes."

# What people take for an exported model: how it begins, and what to do.
_OTHERS = (
    (rb"version https://git-lfs", "a Git LFS pointer, which stands for the file: fetch the file with `git lfs pull`."),
    (rb".{4}ORTM", f"in ONNX Runtime's own .ort format, {_EXPECTED}: give the .onnx file that it was made from."),
    (rb"PK[\x03\x05][\x04\x06]", f"a zip (a .keras file, a PyTorch checkpoint or a bundle), {_WEIGHTS}"),
    (rb"\x89HDF\r\n\x1a\n", f"an HDF5 file of Keras weights, {_WEIGHTS}"),
    (rb"\x80[\x02-\x05]", f"a pickle, which can run any code when it is opened, {_EXPECTED}: export the model again."),
    (rb".{7}\0\{\"", f"a file of weights (safetensors), {_WEIGHTS}"),
    (
        rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|.{257}ustar",
        f"an archive, {_EXPECTED}: unpack it and give what is in it.",
    ),
    (
        rb"\xff\xd8\xff|\x89PNG|RIFF.{4}WEBP|GIF8|BM.{8}\0{4}|.{4}ftyp(heic|heix|mif1|avif)",
        f"an image, {_EXPECTED}: give the model first, and images where the command asks for them.",
    ),
    (rb"\s*<(!doctype|!DOCTYPE|html|HTML)", "a web page: download the file itself, by the link its site offers."),
)


def format_of(path: str | os.PathLike[str]) -> Format:
    """The format of a .tflite file, an .onnx file or a SavedModel's folder, by its content.

    Raises:
        InputError: there is nothing, or something else; the message says what, where that can be told.
    """
    path = Path(path)
    with input_errors(path):
        if path.is_dir():
            if _is_saved_model(path):
                return "saved_model"
            raise InputError(
                f"{shortened(path)} is a folder without saved_model.pb, {_EXPECTED}: give one of the files in it."
            )
        if not path.exists():
            raise InputError(f"{shortened(path)} does not exist, {_EXPECTED}: check the path.")
        if not path.is_file():
            raise InputError(f"{shortened(path)} is neither a file nor a folder, {_EXPECTED}: copy it to a file.")
        if not path.stat().st_size:
            raise InputError(f"{shortened(path)} is empty, {_EXPECTED}: fetch or export it again.")
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    if head[4:8] == IDENTIFIER:
        return "tflite"
    if what := next((what for start, what in _OTHERS if re.match(start, head, re.DOTALL)), None):
        raise InputError(f"{shortened(path)} is {what}")
    try:
        load_structure(path)
    except ValueError as error:
        raise _unknown(path, head) from error
    return "onnx"


def suffix_note(path: Path, format: Format) -> tuple[str, ...]:
    """A note where the name of a file says another format than its content, which counts."""
    if SUFFIXES.get(path.suffix.lower(), format) == format:
        return ()
    return (f"{path.name} is {_CALLED[format]} by its content, whatever its name says.",)


def _unknown(path: Path, head: bytes) -> InputError:
    if data := re.fullmatch(r"(.*\.onnx)[._]data", path.name):
        return InputError(
            f"{shortened(path)} holds the weights of an .onnx file, expected that file itself: give "
            f"{shortened(path.with_name(data[1]))}."
        )
    if path.name == "saved_model.pb":
        return InputError(
            f"{shortened(path)} is the graph of a SavedModel, {_EXPECTED}: give the folder that it is in."
        )
    suffix = path.suffix.lower()
    # ONNX has no signature, but its first field is nearly always the IR version, and the second one of few.
    if suffix in SUFFIXES or re.match(rb"\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]", head):
        return damaged(path, suffix if suffix in SUFFIXES else ".onnx")
    return InputError(
        f"{shortened(path)} is of no format that vit-export knows, {_EXPECTED}: check the path, or export the model "
        "again."
    )


def files_of(
    paths: Iterable[str | Path], to: str = "verify", *, saved_models: bool = False, once: bool = False
) -> tuple[Path, ...]:
    """The model files that `paths` name; a folder that is no SavedModel stands for the .tflite and .onnx files in it.

    `saved_models` counts the SavedModels in such a folder too, before its files. A file that is named twice is refused
    or, with `once`, taken where it came first. `to` says in messages what the files are wanted for.

    Raises:
        InputError: a path does not exist, a folder holds no such file, no file is named, or one is named twice.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        with input_errors(path):
            if not path.exists():
                raise InputError(f"There is no file {shortened(path)}: check the path.")
            if not path.is_dir() or _is_saved_model(path):
                found.append(path)
                continue
            entries = sorted(path.iterdir())
            inside = [p for p in entries if saved_models and _is_saved_model(p)]
            inside += [p for p in entries if p.suffix.lower() in SUFFIXES and p.is_file()]
        if not inside:
            wanted = f"{'SavedModel, ' if saved_models else ''}.tflite or .onnx file"
            raise InputError(f"The folder {shortened(path)} holds no {wanted}: give the files to {to}.")
        found += inside
    if not found:
        raise InputError(f"There is no file to {to}: give some, or the folder they are in.")
    places: dict[Path, Path] = {}
    for path in found:
        if any("\ud800" <= character <= "\udfff" for character in str(path)):
            raise InputError(f"{shortened(path)} has a name that is not UTF-8, which no runtime opens: rename it.")
        if path.resolve() in places and not once:
            raise InputError(f"{shortened(path)} is given twice: give each file once.")
        places.setdefault(path.resolve(), path)
    return tuple(places.values())


def _is_saved_model(path: Path) -> bool:
    return (path / "saved_model.pb").is_file()
