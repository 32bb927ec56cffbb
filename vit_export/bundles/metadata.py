"""metadata.json of a bundle: what goes in, what comes out, and which file it is, for machines."""

from typing import Any

from vit_export.artifacts.runtime_versions import needs_of
from vit_export.bundles.source import Subject
from vit_export.bundles.targets import Row, minimum_of, release_of
from vit_export.model.input_kinds import left_to_do
from vit_export.model.names import LABELS_NAME
from vit_export.model.spec import json_size

METADATA_VERSION = 1


def metadata(subject: Subject, row: Row, model: dict[str, Any]) -> dict[str, Any]:
    """The content of metadata.json, JSON-ready; `model` names the bundle's model: file, bytes, sha256.

    `input.mean` and `input.std` are what is left to do for this file: `(pixel / 255 - mean) / std` for every kind of
    input. `resize.image_size` and `resized_side` are [height, width] where those differ. `runtime.release` is what the
    bundle's instructions install; `minimum` is None where nobody knows it.
    """
    artifact, record, entry, output = subject.artifact, subject.record, subject.input, subject.output
    done = record.preprocessing
    tall, wide = done.resized_sides
    covered = None if done.resize == "squash" else json_size(tall if tall == wide else (tall, wide))
    mean, std = left_to_do(entry.values, done)
    return {
        "metadata_version": METADATA_VERSION,
        "model": {
            **model,
            "format": artifact.format,
            "precision": artifact.precision,
            "scheme": artifact.scheme,
            "external_data": list(artifact.extra_files),
            "opset": subject.opset,
        },
        "runtime": {
            "package": row.runtime,
            "release": release_of(row),
            "minimum": minimum_of(subject),
            **_tflite(subject),
        },
        "input": {
            "name": entry.name,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "layout": entry.layout,
            "channel_order": "RGB",
            "values": entry.values,
            "mean": list(mean),
            "std": list(std),
            "scale": entry.scale,
            "zero_point": entry.zero_point,
        },
        "resize": {
            "method": done.resize,
            "image_size": json_size(done.image_size),
            "resized_side": covered,
            "crop_fraction": done.crop_fraction,
            "interpolation": done.interpolation,
            "antialias": True,
        },
        "output": {
            "name": output.name,
            "shape": list(output.shape),
            "dtype": output.dtype,
            "values": "features"
            if record.answers is None
            else "numbers"
            if record.answers == "regression"
            else "logits",
            "problem_type": record.answers,
            "scale": output.scale,
            "zero_point": output.zero_point,
        },
        "labels": None if record.labels is None else row.assets + LABELS_NAME,
        "trained": record.trained,
        "fingerprint": record.fingerprint,
    }


def _tflite(subject: Subject) -> dict[str, str | None]:
    """The release of TensorFlow Lite that a .tflite file needs, which its packages count otherwise."""
    if subject.artifact.format != "tflite":
        return {}
    return {"tensorflow_lite": needs_of(subject.path).release}
