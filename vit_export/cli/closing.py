"""The last words of an export: where the result is, and commands that one would type next and that work."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import VitExportError
from vit_export.model.artifact import Format
from vit_export.model.names import DYNAMIC, SAVED_MODEL_NAME
from vit_export.model.spec import ViTSpec, shown_size
from vit_export.pipeline.commands import REPEATED
from vit_export.pipeline.plan import plan_files
from vit_export.pipeline.request import ExportRequest

if TYPE_CHECKING:
    from vit_export.pipeline.steps import ExportResult


def default_output(spec: ViTSpec) -> Path:
    """The folder for the files where the user names none."""
    return Path("exports") / f"{spec.name}-{shown_size(spec.image_size)}"


def shipping(report: Mapping[str, Any]) -> list[str]:
    """The line that says which file of a `report` to ship, and why; none where nothing was verified."""
    from vit_export.report.recommendation import recommendation_told

    told = recommendation_told(report)
    return [f"Ship: {told}."] if told else []


def advice(report: Mapping[str, Any]) -> list[str]:
    """What a `report` says to do about files that failed: why, and on a line of its own the command."""
    lines = []
    for row in report.get("advice", ()):
        lines.append(f"Next, for {', '.join(row['files'])}: {row['text']}{':' if row['command'] else '.'}")
        lines += [f"  {row['command']}"] if row["command"] else []
    return lines


def closing(request: ExportRequest, result: "ExportResult") -> str:
    """Where the result is and what one would type next, in lines."""
    lines = [f"Files, report.html and report.json: {result.report_path.parent}/"]
    if not result.passed:
        lines.append("At least one file is not the same model: see the failures above before shipping it.")
    else:
        commands = filter(None, (*_with_a_file(request, result), _smaller(request, result)))
        lines += [f"{'' if place else 'Next:':<5} {command}" for place, command in enumerate(commands)]
    return "\n".join(lines)


def _with_a_file(request: ExportRequest, result: "ExportResult") -> Iterator[str]:
    """The commands that ask a file what is in an image, and pack it with the code that runs it.

    It is the file that "Ship:" names; the smallest where nothing was verified.
    """
    if not result.artifacts:
        return
    recommended = (result.report.get("recommendation") or {}).get("file")
    chosen = min(result.artifacts, key=lambda a: (Path(a.path).name != recommended, a.bytes))
    assert request.spec is not None
    if [*request.spec.outputs] != ["tokens"]:
        yield shlex.join(["vit-export", "predict", chosen.path, _image(request, result)])
    from vit_export.bundles.source import subject_of
    from vit_export.bundles.targets import row_of

    target = "android" if chosen.format == "tflite" else "linux"
    try:
        row_of(target, subject_of(Path(chosen.path)))
    except VitExportError:  # of a form that bundled code does not feed
        return
    yield shlex.join(["vit-export", "bundle", chosen.path, "--target", target])


def _image(request: ExportRequest, result: "ExportResult") -> str:
    """An image that was looked at, where it will still be there; else the word for one."""
    from vit_export.pipeline.choice import DEFAULT_CALIBRATION

    held_out = result.report.get("datasets", {}).get("held_out", {})
    folder, files = held_out.get("folder"), held_out.get("files")
    kept = request.calibration or DEFAULT_CALIBRATION
    return str(Path(folder, files[0])) if files and Path(folder) == kept else "IMAGE"


def _smaller(request: ExportRequest, result: "ExportResult") -> str | None:
    """The command for a small file that is not there yet: int8 .tflite first, then .onnx; None when both are."""
    formats = [artifact.format for artifact in result.artifacts]
    if not any((a.format, a.precision) == ("tflite", "int8") for a in result.artifacts) and (
        command := _command(request, "tflite")
    ):
        return command
    return None if "onnx" in formats else _command(request, "onnx")


def _command(request: ExportRequest, file_format: Format) -> str | None:
    """The command that makes the int8 file of `file_format` from the SavedModel; None where it would be refused."""
    spec, saved_model = request.spec, request.output / SAVED_MODEL_NAME
    assert spec is not None
    if file_format != "onnx":  # what is for ONNX alone
        batch = 1 if request.batch == DYNAMIC else request.batch
        request = replace(request, batch=batch, layout="NHWC", hf_layout=False, opset=None)
    wanted = replace(
        request,
        formats=(file_format,),
        precisions=("int8",),
        int8_scheme=None,
        min_sqnr=None,
        min_agreement=None,
        overwrite=False,
    )
    try:
        plan_files(wanted, spec, saved_model)
    except VitExportError:
        return None
    words = ["vit-export", "--weights", str(saved_model), f"--{file_format}", "--int8"]
    if request.output != default_output(spec):
        words += ["--output", str(request.output)]
    usual = ExportRequest(spec, request.output)
    for name in REPEATED:
        if (value := getattr(wanted, name)) != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if not request.verify:
        words.append("--no-verify")
    return shlex.join(words)
