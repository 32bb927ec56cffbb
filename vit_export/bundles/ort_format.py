"""An .onnx file in ONNX Runtime's own format, with the list of operators that a smaller build of the runtime needs."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vit_export.base.errors import InputError, StructureError
from vit_export.base.python import python_command, python_environment
from vit_export.bundles.source import Subject

MODEL_NAME, OPERATORS_NAME = "model.ort", "required_operators.config"

_TOLERANCE = 1e-3
"""Largest difference of the two files' outputs, as a part of their range: the same operators differ by rounding."""


@dataclass(frozen=True)
class Converted:
    """The two files, and by how much of their range the outputs for one random image differ from the .onnx file's."""

    model: Path
    operators: Path
    difference: float


def to_ort(subject: Subject, folder: Path) -> Converted:
    """Write model.ort and required_operators.config of an .onnx file to `folder`.

    Optimized for no processor in particular (ONNX Runtime's platform "arm" leaves out what x86 alone has).

    Raises:
        InputError: the file is no .onnx file, or keeps its weights in a file of their own.
        StructureError: ONNX Runtime cannot convert it, or the result computes something else.
    """
    if subject.artifact.format != "onnx" or subject.artifact.extra_files:
        reason = "is no .onnx file" if subject.artifact.format != "onnx" else "keeps its weights in a file of their own"
        raise InputError(f"{subject.path.name} {reason}, so there is no .ort file of it: leave --ort out.")
    source = folder / "model.onnx"
    shutil.copyfile(subject.path, source)  # the converter names its files after the original, through links too
    command = python_command("-m", "onnxruntime.tools.convert_onnx_models_to_ort", str(source))
    command += ["--output_dir", str(folder), "--optimization_style", "Fixed", "--target_platform", "arm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=python_environment())
    model, found = folder / MODEL_NAME, sorted(folder.glob("*required_operators*.config"))
    if done.returncode or not model.is_file() or not found:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it wrote nothing"]
        raise StructureError(f"ONNX Runtime cannot convert {subject.path.name} to its own format: {lines[-1]}")
    operators = found[0].rename(folder / OPERATORS_NAME)
    # Its comments name files and folders of this machine.
    lines = [line for line in operators.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    operators.write_text("\n".join(lines) + "\n", encoding="utf-8")
    difference = _difference(subject, source, model)
    if not difference <= _TOLERANCE:
        raise StructureError(
            f"The .ort file of {subject.path.name} computes something else than it (a difference of {difference:.2g} "
            "of the range): leave --ort out."
        )
    return Converted(model, operators, difference)


def _difference(subject: Subject, first: Path, second: Path) -> float:
    import onnxruntime

    shape = tuple(n or 1 for n in subject.input.shape)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    fed = images if subject.input.dtype == "uint8" else (images / 127.5 - 1).astype(np.float32)
    found = []
    for path in (first, second):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found.append(session.run([subject.output.name], {subject.input.name: fed})[0])
    bounds = float(np.ptp(found[0])) or 1.0
    return float(np.abs(found[0] - found[1]).max()) / bounds
