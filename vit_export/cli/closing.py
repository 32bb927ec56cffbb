"""The last words of an export: where the result is, and a command that one would type next and that works."""

import shlex
from collections.abc import Mapping
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
    elif command := _next(request, result):
        lines.append(f"Next: {command}")
    elif result.artifacts:
        lines.append(f"Next: run one of them, for example {shlex.quote(result.artifacts[0].path)}.")
    return "\n".join(lines)


def _next(request: ExportRequest, result: "ExportResult") -> str | None:
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
