"""Why MediaPipe Tasks would not open a .tflite file of images (MediaPipe 1.2: tests/tflite/test_mediapipe.py)."""

from collections.abc import Mapping
from typing import Any

from vit_export.artifacts.facts import FileFacts
from vit_export.inspection.findings import Fault, Finding

MAX_BYTES = 2**31
"""The file size, in bytes, up to which MediaPipe reads."""

_WHY = "MediaPipe Tasks (ImageClassifier, ImageEmbedder) refuse the file: "
QUANTIZED = Fault(
    "not for MediaPipe: dtype",
    "remark",
    f"{_WHY}their images are float32 or uint8",
    "use the int8 scheme static or dynamic, which are float at both ends, with --input uint8 if need be",
)
BATCH = Fault(
    "not for MediaPipe: batch",
    "remark",
    f"{_WHY}they feed one image at a time",
    "convert with a batch of 1 (--batch 1)",
)
MEAN_OF_EACH_CHANNEL = Fault(
    "not for MediaPipe: mean",
    "remark",
    f"{_WHY}they subtract one mean from all channels and divide by one std",
    "export with --input uint8, 0..255 or 0..1: the patch embedding then does it",
)
LARGE = Fault(
    "not for MediaPipe: size",
    "remark",
    f"{_WHY}they read files of up to 2 GB",
    "use float16 or int8, or a smaller variant",
)


def findings_in(facts: FileFacts, metadata: Mapping[str, Any] | None) -> list[Finding]:
    """What MediaPipe would refuse of a file with one input of images; nothing for any other file."""
    if len(facts.inputs) != 1 or not facts.inputs[0].layout:
        return []
    (image,) = facts.inputs
    told: Mapping[str, Any] = next(iter((metadata or {}).get("inputs", ())), {})
    uneven = any(len(set(told.get(key, ()))) > 1 for key in ("mean", "std"))
    causes = {
        QUANTIZED: image.dtype not in ("float32", "uint8"),
        BATCH: image.shape[0] not in (None, 1),
        MEAN_OF_EACH_CHANNEL: image.dtype == "float32" and uneven,
        LARGE: facts.bytes >= MAX_BYTES,
    }
    return [fault.found() for fault, holds in causes.items() if holds]
