"""What to type next where a file failed: for each kind of fault one command, which repeats what was typed before.

Nothing is advised that was given already, nor what would hide the fault. Words in capitals stand for what only the
user knows: DIR for a folder of images.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit_export.artifacts.read import read_facts
from vit_export.base.errors import InputError
from vit_export.base.files import same_path
from vit_export.model.names import INPUTS, INT8_SCHEMES, SAVED_MODEL_NAME
from vit_export.model.record import ModelRecord
from vit_export.pipeline.commands import PROGRAM, changed, export_command, for_file, is_ours, value_of
from vit_export.pipeline.guesses import contradicted, guesses_told, said_by_options
from vit_export.pipeline.more_exact import Advice, Known, calibration_folder, more_exact, name_of, scheme_options
from vit_export.pipeline.request import ExportRequest, VerifyRequest
from vit_export.report.earlier import settings_told
from vit_export.verification.verdict import FileResult, Verification

_KINDS: Mapping[str, tuple[str, ...]] = {
    "damaged": ("exists", "bytes", "sha256", "data", "runs"),
    "other model": ("same_model", "same_weights", "same_pixels", "same_labels"),
    "called wrongly": ("precision", "limits"),
    "reference": ("reference",),
    "faulty": (
        *("metadata", "metadata_pixels", "metadata_labels", "first_tensors", "constants", "attributes"),
        *("inputs", "outputs", "output_shape", "class_order"),
    ),
    "inaccurate": ("finite", "varies", "worst_difference", "cosine", "sqnr", "agreement"),
    "unsteady": ("deterministic", "order", "batch"),
    "not timed": ("latency",),
}
"""Kinds of faults by the checks that show them; of several kinds that of the first one counts."""

_CAUSES = {
    "probabilities": "probabilities",
    **dict.fromkeys(("constant", "saturated", "half_range"), "inaccurate"),
    **{f"takes_{name.replace('..', '_')}": name for name in ("normalized", "0..1", "0..255")},
}
"""What a cause that fits an inaccurate file says about its kind; with any other one the file is faulty."""


def advice_on_export(
    request: ExportRequest,
    record: ModelRecord,
    saved_model: Path,
    verification: Verification,
    commands: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """What to do about the files of an export that failed, JSON-ready; `commands` are those that were typed."""
    typed = next(filter(is_ours, commands), None)
    making = typed or export_command(saved_model, vars(request), request.output)
    known = Known(verification, record, changed(making, {"--overwrite": None}))
    found = list(_of_reference(known, typed, "--weights", "FILE", saved_model))
    found += [_of_new_file(file, known) for file in verification.files if not file.passed and not found]
    return _merged(found)


def advice_on_files(
    request: VerifyRequest,
    record: ModelRecord,
    reference: str,
    verification: Verification,
    commands: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """What to do about files that failed against the model at `reference`, as `advice_on_export`."""
    typed = next(filter(is_ours, commands), None) or _verify_command(request)
    if value_of(typed, "--report") or value_of(typed, "--junit"):
        typed = changed(typed, {"--overwrite": None})
    images = None if request.data is None else str(request.data)
    known = Known(verification, record, export_command(reference, {}, None), images)
    found = list(_of_reference(known, typed, "--reference", "MODEL", Path(reference)))
    found += [
        _of_old_file(file, known, request, reference, typed)
        for file in verification.files
        if not file.passed and not found
    ]
    return _merged(found)


def kind_of(file: FileResult) -> str:
    """The kind of fault of a file that failed: a row of _KINDS, or what a cause that fits says of it."""
    failed = {check.name.partition(" (")[0] for check in file.checks if not check.passed}
    kind = next((kind for kind, checks in _KINDS.items() if failed.intersection(checks)), "faulty")
    if kind in ("inaccurate", "unsteady") and file.causes:
        return _CAUSES.get(file.causes[0].name, "faulty")
    return kind


def _merged(found: Iterable[Advice]) -> list[dict[str, Any]]:
    """Each advice once, with all the files that it is for."""
    merged: dict[tuple[str, str | None], Advice] = {}
    for one in found:
        known = merged.get((one.kind, one.command), one)
        files = tuple(dict.fromkeys((*known.files, *one.files)))
        merged[one.kind, one.command] = Advice(one.kind, files, known.text, one.command)
    return [one.to_dict() for one in merged.values()]


# The reference.


def _of_reference(known: Known, typed: str | None, option: str, value: str, path: Path) -> Iterator[Advice]:
    """What to do where nothing could be compared because the reference failed."""
    reference = known.verification.reference
    if reference.passed:
        return
    files = (Path(reference.path).name,)
    if any(check.name == "saved_as_built" and not check.passed for check in reference.checks):
        text = "the SavedModel is not the model that was saved: have its graph compared with its own variables"
        yield Advice("reference", files, text, shlex.join([PROGRAM, "verify", str(path)]))
        return
    if said := said_by_options(known.record, known.record):
        guess = guesses_told(known.record, said)
        text = f"the reference does not work, and it rests on a guess ({guess}): say what is right"
        command = typed and changed(known.making, said) if option == "--weights" else _reference_command(path, said)
        yield Advice("assumed", files, text, command)
        return
    text = "the reference itself does not work, whatever is made of it: give weights that do"
    yield Advice("reference", files, text, changed(typed or known.making, {option: value}))


def _reference_command(checkpoint: str | Path, said: Mapping[str, str | None]) -> str:
    """The command that makes a SavedModel of `checkpoint` with what is `said`."""
    return changed(export_command(checkpoint, {}, None), {**said, "--saved-model": None})


# Files that were just made: nothing but their precision is in doubt, or this package is at fault.


def _of_new_file(file: FileResult, known: Known) -> Advice:
    if kind_of(file) == "inaccurate" and (advice := more_exact(file, known)):
        return advice
    path, name = Path(file.artifact.path), (name_of(file),)
    if kind_of(file) == "not timed":
        return _timed_alone(file)
    text = "a new file should not fail like this: compare it layer by layer, and report what this writes to evidence/"
    words = [PROGRAM, "verify", str(path), "--locate", "--report", str(path.parent / "evidence")]
    return Advice("evidence", name, text, shlex.join(words))


# Files that were there: they may be damaged, stale, of another tool, or called by another name than theirs.


@dataclass(frozen=True)
class _Old:
    """A `file` that failed, what is known beside it, and how it was verified; `own` is what it says of itself."""

    file: FileResult
    kind: str
    own: ModelRecord | None
    known: Known
    request: VerifyRequest
    reference: str
    typed: str

    def advice(self, kind: str, text: str, command: str | None) -> Advice:
        """The advice on this file."""
        return Advice(kind, (name_of(self.file),), text, command)


def _of_old_file(file: FileResult, known: Known, request: VerifyRequest, reference: str, typed: str) -> Advice:
    known = replace(known, making=_making(file, reference))
    old = _Old(file, kind_of(file), _own_record(file), known, request, reference, typed)
    return next(advice for advise in _ON_OLD_FILES if (advice := advise(old)) is not None)


def _of_a_wrong_guess(old: _Old) -> Advice | None:
    """Where the reference assumes what the file has otherwise, or what a file of another tool may have otherwise."""
    record = old.known.record
    if old.own is not None:
        said = contradicted(record, old.own) if old.kind == "other model" else {}
        why = "the file says otherwise: if the file is right"
    else:
        said = said_by_options(record, record) if old.kind in ("faulty", "inaccurate") else {}
        why = "nothing else is known to be wrong: if it is wrong, say what is right"
    if not said:
        return None
    text = (
        f"the reference rests on a guess ({guesses_told(record, said)}) and {why}, make a SavedModel so for --reference"
    )
    return old.advice("assumed", text, _reference_command(old.reference, said))


def _of_what_was_not_said(old: _Old) -> Advice | None:
    """Where a file of another tool is right, and the call did not say what it is."""
    request, outputs = old.request, old.file.artifact.outputs
    if old.own is not None:
        return None
    if old.kind == "probabilities" and not request.probabilities:
        text = "it ends in a softmax: compare it with the probabilities of the reference"
        return old.advice("probabilities", text, changed(old.typed, {"--probabilities": None}))
    if old.kind in INPUTS and request.input is None:
        return old.advice("input", f"it takes {old.kind} pixels: say so", changed(old.typed, {"--input": old.kind}))
    if old.kind == "faulty" and len(outputs) > 1 and request.output_name is None:
        names = ", ".join(entry.name for entry in outputs)
        text = f"it has several outputs ({names}): say which one to compare"
        return old.advice("output", text, changed(old.typed, {"--output-name": outputs[0].name}))
    return None


def _of_what_was_said_wrongly(old: _Old) -> Advice | None:
    if old.kind == "called wrongly" and (said := _called(old.file, old.request)):
        return old.advice("called wrongly", "it is called what it is not: say what it is", changed(old.typed, said))
    return None


def _of_time(old: _Old) -> Advice | None:
    return _timed_alone(old.file) if old.kind == "not timed" else None


def _of_lost_answers(old: _Old) -> Advice | None:
    if old.kind != "inaccurate" or old.own is None:
        return None
    if advice := more_exact(old.file, old.known):
        return advice
    if old.request.locate:
        return None
    return old.advice(
        "locate", "nothing explains it: compare it layer by layer", changed(old.typed, {"--locate": None})
    )


def _of_all_else(old: _Old) -> Advice:
    artifact, known = old.file.artifact, old.known
    why = {
        "damaged": "it is damaged or not what was written",
        "other model": "it is of another model than the reference",
    }.get(old.kind, "it is not as an export writes it" if old.own else "it is not the reference's model")
    text = f"{why}: make it anew from the reference"
    if artifact.format == "saved_model":
        return old.advice("make anew", text, changed(known.making, {"--saved-model": None}))
    options = dict[str, str | None]()
    if artifact.precision == "int8":
        options |= scheme_options(old.file, known)
        if folder := calibration_folder(known):
            options["--calibration"] = folder
    return old.advice("make anew", text, for_file(known.making, artifact.format, artifact.precision, options))


_ON_OLD_FILES: tuple[Callable[[_Old], Advice | None], ...] = (
    _of_what_was_not_said,
    _of_what_was_said_wrongly,
    _of_time,
    _of_lost_answers,
    _of_a_wrong_guess,
    _of_all_else,
)
"""What can be advised on a file that was there, the first that applies."""


def _timed_alone(file: FileResult) -> Advice:
    text = "it answered, but could not be timed: time it alone"
    return Advice("not timed", (name_of(file),), text, shlex.join([PROGRAM, "bench", file.artifact.path]))


def _making(file: FileResult, reference: str) -> str:
    """The command that makes `file` anew from the `reference`: in its place where that is the reference's folder."""
    path = Path(file.artifact.path)
    if not same_path(Path(reference), path.parent / SAVED_MODEL_NAME):
        return export_command(reference, _by_itself(file), None)
    settings = {**settings_told(path), **_by_itself(file)}
    if settings.get("calibration") is not None and not Path(str(settings["calibration"])).is_dir():
        settings["calibration"] = None
    return changed(export_command(reference, settings, path.parent), {"--overwrite": None})


def _by_itself(file: FileResult) -> dict[str, Any]:
    """What the file itself says of the settings that it was made with."""
    image = next(iter(file.artifact.inputs), None)
    if image is None or not image.shape:
        return {}
    onnx = file.artifact.format == "onnx"
    batch = image.shape[0] if image.shape[0] is not None else "dynamic" if onnx else 1
    return {
        **({"input": image.values} if image.values in INPUTS else {}),
        **({"layout": "NCHW"} if onnx and image.layout == "NCHW" else {}),
        "batch": batch,
    }


def _own_record(file: FileResult) -> ModelRecord | None:
    """What the file says of itself; None of another tool's file, or where it cannot be read."""
    try:
        if file.artifact.format == "saved_model":
            return None
        told = read_facts(file.artifact.path).record
        return None if told is None else ModelRecord.from_dict({**told})
    except InputError:
        return None


def _called(file: FileResult, request: VerifyRequest) -> dict[str, str | None]:
    """What to say of a file in place of what was said wrongly; nothing where the user said nothing."""
    found = next((check.value for check in file.checks if check.name == "precision" and not check.passed), None)
    if found is not None and request.precision is not None:
        return {"--precision": str(found)}
    known = INT8_SCHEMES.get(file.artifact.format)
    if known and request.scheme is not None and request.scheme not in known:
        return {"--int8-scheme": known[0]}
    return {}


def _verify_command(request: VerifyRequest) -> str:
    """The command that does what `request` asks for, of which nobody typed one."""
    said = {
        "--reference": request.reference,
        "--data": request.data,
        "--images": request.images,
        "--input": request.input,
        "--output-name": request.output_name,
        "--precision": request.precision,
        "--int8-scheme": request.scheme,
    }
    options: dict[str, str | None] = {name: str(value) for name, value in said.items() if value is not None}
    options |= {f"--{name}": None for name in ("probabilities", "locate") if getattr(request, name)}
    return changed(shlex.join([PROGRAM, "verify", *map(str, request.files)]), options)
