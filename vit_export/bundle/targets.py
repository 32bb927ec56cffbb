"""The table of targets: which formats run there, in which runtime, by which files of code."""

from dataclasses import dataclass
from typing import Literal, get_args

from vit_export.bundle.subject import Subject
from vit_export.errors import InputError
from vit_export.facts.runtime_versions import minimum_onnx_runtime
from vit_export.records import Format
from vit_export.versions import versions

Name = Literal["android", "ios", "linux", "web"]
TARGETS: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Row:
    """How files of one format run on one target: the runtime's package there, and templates by the files they make.

    `beside` says whether weights in a file of their own can be read there.
    """

    runtime: str
    files: dict[str, str]
    release: str = ""
    beside: bool = True


_ANDROID = {"Pixels.kt": "Pixels.kt"}
_IOS = {"Pixels.swift": "Pixels.swift"}

ROWS: dict[tuple[Name, Format], Row] = {
    ("android", "tflite"): Row(
        "com.google.ai.edge.litert:litert", {"Classifier.kt": "tflite.kt", **_ANDROID}, release="2.1.6"
    ),
    ("android", "onnx"): Row(
        "com.microsoft.onnxruntime:onnxruntime-android",
        {"Classifier.kt": "onnx.kt", **_ANDROID},
        release="1.30.0",
        beside=False,
    ),
    ("ios", "tflite"): Row("TensorFlowLiteSwift", {"Classifier.swift": "tflite.swift", **_IOS}, release="2.17.0"),
    ("ios", "onnx"): Row("onnxruntime-objc", {"Classifier.swift": "onnx.swift", **_IOS}, release="1.24.2"),
    ("linux", "tflite"): Row("ai-edge-litert", {"classify.py": "classify.py"}),
    ("linux", "onnx"): Row("onnxruntime", {"classify.py": "classify.py"}),
    ("web", "onnx"): Row(
        "onnxruntime-web",
        {"classify.mjs": "classify.mjs", "pixels.mjs": "pixels.mjs", "index.html": "index.html"},
        release="1.30.0",
        beside=False,
    ),
}
"""`release` is what the instructions install; on Linux it is the release that this installation verifies with."""


def row_of(target: str, subject: Subject) -> Row:
    """The row of `target` for the file `subject`.

    Raises:
        InputError: there is no such target, or files of this format, or this large, do not run there.
    """
    if target not in TARGETS:
        raise InputError(f"Unknown target '{target}': choose one of {', '.join(TARGETS)}.")
    artifact = subject.artifact
    row = ROWS.get((target, artifact.format))  # type: ignore[call-overload]
    if row is None:
        raise InputError(
            f"A .{artifact.format} file does not run on the target {target}, expected .onnx: export the model with "
            "--onnx and bundle that."
        )
    if artifact.extra_files and not row.beside:
        raise InputError(
            f"{subject.path.name} keeps its weights in a file of their own ({artifact.bytes / 1e9:.1f} GB), which the "
            f"target {target} cannot load: bundle a smaller precision or variant."
        )
    return row


def release_of(row: Row) -> str:
    """The release of a row's runtime that the instructions install."""
    return row.release or versions(row.runtime)[row.runtime]


def minimum_of(subject: Subject) -> str | None:
    """The first release of ONNX Runtime that runs the file `subject`; None for TFLite, which counts otherwise."""
    return minimum_onnx_runtime(subject.schema)
