"""Commands to type next: one that was typed with something changed, or one made of what is known."""

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from vit_export.model.artifact import Format, Precision
from vit_export.model.names import DYNAMIC, FORMATS, PRECISIONS
from vit_export.pipeline.request import ExportRequest

PROGRAM = "vit-export"

Options = Mapping[str, str | None]
"""Options by name, with None for a flag."""

_FORMAT_FLAGS = {name: f"--{name.replace('_', '-')}" for name in FORMATS}
_PRECISION_FLAGS = {name: f"--{name}" for name in PRECISIONS}
_FLAGS = {
    *_FORMAT_FLAGS.values(),
    *_PRECISION_FLAGS.values(),
    *("--hf-layout", "--overwrite", "--locate", "--probabilities", "--no-verify"),
}
"""Of the options that are ever taken out of a command, those without a value."""
_OF_PRECISIONS = ("--int8-scheme", "--min-sqnr", "--min-agreement")
_ONNX_ONLY = ("--layout", "--hf-layout", "--opset")

REPEATED = (
    *("input", "calibration", "calibration_images", "held_out_images"),
    *("batch", "layout", "threads", "seed", "opset"),
)
"""Fields of a request that another file of the same model needs again; the others are in its SavedModel's record."""
_BUDGET = ("min_sqnr", "min_agreement")


def is_ours(command: str) -> bool:
    """Whether `command` is one of this package's, which can be changed."""
    try:
        return shlex.split(command)[:1] == [PROGRAM]
    except ValueError:
        return False


def changed(command: str, options: Options, without: Collection[str] = ()) -> str:
    """`command` with `options` in place of those that it has by these names, and `without` some."""
    words, gone = iter(shlex.split(command)), {*options, *without}
    kept, files = list[str](), list[str]()
    for word in words:
        if word == "--":  # what follows are no options
            files = [word, *words]
            break
        name, is_, _ = word.partition("=")
        if name not in gone:
            kept.append(word)
        elif not is_ and name not in _FLAGS:
            next(words, None)
    for name, value in options.items():
        kept += [name] if value is None else [name, value]
    return shlex.join([*kept, *files])


def value_of(command: str, option: str) -> str | None:
    """What `command` gives to `option`; None where it does not name it."""
    words, found = shlex.split(command), None
    for place, word in enumerate(words):
        name, is_, value = word.partition("=")
        if name == option:
            found = value if is_ else "".join(words[place + 1 : place + 2])
    return found


def export_command(weights: str | Path, settings: Mapping[str, Any], output: Path | None) -> str:
    """The command that exports `weights` as a request with `settings` did, into `output` (None: the usual folder)."""
    usual = ExportRequest(None, Path())
    options: dict[str, str | None] = {
        f"--{name.replace('_', '-')}": str(settings[name])
        for name in (*REPEATED, *_BUDGET)
        if isinstance(value := settings.get(name), str | int | float | Path) and value != getattr(usual, name)
        if not str(value).startswith("-")  # settings of a report that anybody may have written
    }
    if settings.get("hf_layout") is True:
        options["--hf-layout"] = None
    if output is not None:
        options["--output"] = str(output)
    return changed(shlex.join([PROGRAM, "--weights", str(weights)]), options)


def for_file(command: str, format: Format, precision: Precision, options: Options) -> str:
    """The export `command` for one file alone, of `format` and `precision`, made with `options`."""
    without = [*_FORMAT_FLAGS.values(), *_PRECISION_FLAGS.values(), *_OF_PRECISIONS]
    if format != "onnx":
        without += [*_ONNX_ONLY, *(["--batch"] if value_of(command, "--batch") == DYNAMIC else [])]
    if options.get("--int8-scheme") == "w8a16":  # older opsets have no 16-bit types
        without.append("--opset")
    return changed(command, {_FORMAT_FLAGS[format]: None, _PRECISION_FLAGS[precision]: None, **options}, without)
