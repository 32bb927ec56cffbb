"""The table of targets: which formats run there, in which runtime, by which files of code."""

from dataclasses import dataclass
from typing import Literal, get_args

from vit_export.artifacts.runtime_versions import minimum_onnx_runtime
from vit_export.base.errors import InputError
from vit_export.base.versions import versions
from vit_export.bundles.source import Subject
from vit_export.model.artifact import Format

Name = Literal["android", "ios", "linux", "web"]
TARGETS: tuple[Name, ...] = get_args(Name)


@dataclass(frozen=True)
class Row:
    """How files of one format run on one target: the runtime's package there, and templates by the files they make.

    `assets` is the folder of the model and its labels in the bundle, with a slash at its end. `beside` says whether
    weights in a file of their own can be read there, `dtypes` which numbers the runtime's package takes and gives where
    it is not all of them, `largest` how many bytes of a model it can hold where that is known.
    """

    runtime: str
    files: dict[str, str]
    release: str = ""
    assets: str = ""
    beside: bool = True
    dtypes: tuple[str, ...] = ()
    largest: int | None = None


_KOTLIN = "src/main/kotlin/vit/"
_ANDROID = {
    f"{_KOTLIN}Pixels.kt": "Pixels.kt",
    f"{_KOTLIN}Camera.kt": "Camera.kt",
    "build.gradle.kts": "build.gradle.kts",
    "consumer-rules.pro": "consumer-rules.pro",
    "src/main/AndroidManifest.xml": "AndroidManifest.xml",
}
"""A Gradle module: what an app includes as it is."""
_ASSETS = "src/main/assets/"
_IOS = {"Pixels.swift": "Pixels.swift", "Camera.swift": "Camera.swift"}
_WEB = {"pixels.mjs": "pixels.mjs", "index.html": "index.html"}
_LINUX = {name: name for name in ("classify.py", "classifier.py", "pixels.py", "camera.py")}

ROWS: dict[tuple[Name, Format], Row] = {
    ("android", "tflite"): Row(
        "com.google.ai.edge.litert:litert",
        {f"{_KOTLIN}Classifier.kt": "tflite.kt", **_ANDROID},
        release="2.3.0",
        assets=_ASSETS,
    ),
    ("android", "onnx"): Row(
        "com.microsoft.onnxruntime:onnxruntime-android",
        {f"{_KOTLIN}Classifier.kt": "onnx.kt", **_ANDROID},
        release="1.30.0",
        assets=_ASSETS,
        beside=False,
    ),
    ("ios", "tflite"): Row("TensorFlowLiteSwift", {"Classifier.swift": "tflite.swift", **_IOS}, release="2.17.0"),
    ("ios", "onnx"): Row("onnxruntime-objc", {"Classifier.swift": "onnx.swift", **_IOS}, release="1.24.2"),
    ("linux", "tflite"): Row("ai-edge-litert", _LINUX),
    ("linux", "onnx"): Row("onnxruntime", _LINUX),
    ("web", "tflite"): Row(
        "@litertjs/core",
        {"classify.mjs": "tflite.mjs", **_WEB},
        release="2.5.3",
        dtypes=("float32", "uint8"),
        largest=1_000_000_000,  # 0.6 GB ran in Chromium, 1.2 GB did not
    ),
    ("web", "onnx"): Row("onnxruntime-web", {"classify.mjs": "onnx.mjs", **_WEB}, release="1.30.0", beside=False),
}
"""`release` is what the instructions install; on Linux it is the release that this installation verifies with.

LiteRT's for Android is the one of `ai-edge-litert` too (tests/bundles/test_bundle_android.py holds the two together).
"""


def row_of(target: str, subject: Subject) -> Row:
    """The row of `target` for the file `subject`.

    Raises:
        InputError: there is no such target, or files this large, or with such numbers, do not run there.
    """
    if target not in TARGETS:
        raise InputError(f"Unknown target '{target}': choose one of {', '.join(TARGETS)}.")
    artifact = subject.artifact
    row = ROWS[target, artifact.format]  # type: ignore[index]
    if row.dtypes and not {subject.input.dtype, subject.output.dtype} <= set(row.dtypes):
        raise InputError(
            f"{subject.path.name} takes {subject.input.dtype} and gives {subject.output.dtype}, {row.runtime} "
            f"{row.release} knows {' and '.join(row.dtypes)} alone: export with --int8-scheme static or dynamic for "
            f"the target {target}."
        )
    if row.largest and artifact.bytes > row.largest:
        raise InputError(
            f"{subject.path.name} has {artifact.bytes / 1e9:.1f} GB, {row.runtime} on the target {target} holds at "
            f"most {row.largest / 1e9:.0f}: bundle a smaller precision or variant, or export it with --onnx."
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
