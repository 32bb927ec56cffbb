"""What a file tells programs that know nothing of this package, held against the reference's record.

TFLite Metadata and the labels behind the model, ONNX's metadata_props, and which tensors come first in the file: what
MediaPipe, ML Kit and an app's own few lines go by. Answers cannot show a fault of these.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.facts import FileFacts, text_of
from vit_export.artifacts.onnx_file import load_structure
from vit_export.artifacts.tflite_file import first_and_signed
from vit_export.artifacts.tflite_metadata import read_tflite_metadata
from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.base.json_file import parse_json
from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import left_to_do
from vit_export.model.outputs import names_in_file
from vit_export.model.record import ModelRecord
from vit_export.model.spec import shown_size
from vit_export.verification.checks import Check, check
from vit_export.verification.origin import called_features, unlike_labels

PIXELS = ("colors", "layout", "size", "input", "mean", "std", "min", "max")
"""What is told of an image: a value is (pixel - mean) / std, `min` and `max` are those of the pixels 0 and 255."""

_NUMBERS = ("mean", "std", "min", "max")
_OURS = 1e-4
"""How far a number of ours may be off, in parts of the largest: it is rounded to float32."""
_NEAR = {"mean": (1.0, 0.0), "std": (0.0, 0.02)}
"""How far a number of another tool's may be off, in pixels and in parts: (128, 128) stands for (127.5, 127.5)."""


@dataclass(frozen=True)
class Told:
    """`said` is what a file tells, PIXELS and "labels", "inputs", "outputs", "output"; `wanted` what it should.

    `own` is what it should tell by its own record: whether that is the reference's is asked elsewhere (`origin`).
    `first` are the tensors of `first_and_signed`. `unreadable` is why nothing can be read of it, "" where it can.
    """

    said: Mapping[str, Any] = field(default_factory=dict)
    wanted: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Any] = field(default_factory=dict)
    first: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unreadable: str = ""
    ours: bool = True


def read_told(artifact: Artifact, facts: FileFacts, reference: ModelRecord) -> Told | None:
    """What the file of `facts` tells beside what it should; None where it has to tell nothing (an .onnx of others)."""
    ours = facts.record is not None
    try:
        if facts.format == "tflite":
            path = Path(facts.path)
            first, metadata = first_and_signed(path), read_tflite_metadata(path)
            said = None if metadata is None else _said_by_metadata(metadata)
        elif ours:
            first, said = {}, _said_by_properties(Path(facts.path))
        else:
            return None
    except InputError as error:
        return Told(unreadable=str(error).rstrip("."), ours=ours)
    if said is None:
        return Told(first=first, unreadable="it has no TFLite Metadata" if ours else "", ours=ours)
    artifact = replace(artifact, outputs=facts.outputs)  # all of them, also where one alone is compared
    wanted = _wanted_of_metadata if facts.format == "tflite" else _wanted_of_properties
    own = wanted(artifact, ModelRecord.from_dict({**facts.record})) if facts.record is not None else {}
    wants = wanted(artifact, reference)
    if facts.format == "onnx" and called_features(facts.record):
        own, wants = ({**told, "output": "features"} for told in (own, wants))
    return Told(said, wants, own, first, ours=ours)


def judge_told(told: Told, *, chosen: bool = False) -> Iterator[Check]:
    """One check each for what is told of pixels and of labels, and for the tensors that come first.

    A file of ours has to tell all; another tool's is judged where it says something, and not by its first output where
    one was `chosen` by hand.
    """
    if told.ours or told.unreadable:
        yield check("metadata", not told.unreadable, detail=f"nothing tells other programs of it: {told.unreadable}")
    if told.said and not told.unreadable:
        unlike = [text for name in PIXELS if (text := _unlike(told, name))]
        yield check(
            "metadata_pixels",
            not unlike,
            detail=f"it tells other programs of other pixels than the reference takes: {'; '.join(unlike)}",
        )
        names = ("labels", "inputs", "outputs", "output") if told.ours else ("labels",)
        unlike = [text for name in names if (text := _unlike(told, name))]
        yield check(
            "metadata_labels",
            not unlike,
            detail=f"it tells other programs of other answers than the reference's: {'; '.join(unlike)}",
        )
    strays = [
        f"the first {side} is {first!r}, its signature has {signed!r}"
        for side, (first, signed) in told.first.items()
        if first != signed and not (chosen and side == "output")
    ]
    if told.first:
        detail = f"programs that know no signatures take other tensors: {'; '.join(strays)}"
        yield check("first_tensors", not strays, detail=shortened(detail))


def same_numbers(said: Any, wanted: Sequence[float], tolerance: tuple[float, float] | None = None) -> bool:
    """Whether `said` are the numbers `wanted`, one standing for as many as there are.

    To float32 rounding, or as near as `tolerance` says: a number, and a part of each.
    """
    if not isinstance(said, list) or len(said) not in (1, len(wanted)):
        return False
    a, b = np.asarray(said, np.float64), np.asarray(wanted, np.float64)
    most, part = (_OURS * max(float(np.abs(b).max()), 1e-3), 0.0) if tolerance is None else tolerance
    return bool((np.abs(a - b) <= most + part * np.abs(b)).all())


def _unlike(told: Told, name: str) -> str:
    """What is wrong with the fact `name`, "" where nothing is."""
    by_own = told.own and not _unlike_those(told, name, told.own)
    return "" if by_own else _unlike_those(told, name, told.wanted)


def _unlike_those(told: Told, name: str, facts: Mapping[str, Any]) -> str:
    said: Any = told.said.get(name)
    wanted: Any = facts.get(name)
    if name == "labels":
        return _unlike_labels(told, said, wanted)
    if name not in facts or (not told.ours and (said is None or name in ("min", "max"))):
        return ""
    tolerance = None if told.ours else _NEAR.get(name)
    same = same_numbers(said, wanted, tolerance) if name in _NUMBERS else said == wanted
    return "" if same else f"{name} {_shown(said)}, expected {_shown(wanted)}"


def _unlike_labels(told: Told, said: Any, wanted: Sequence[str] | None) -> str:
    if told.ours:
        own = said if said is None or isinstance(said, list) else [str(said)]
        return "" if own == (None if wanted is None else list(wanted)) else f"labels {unlike_labels(own, wanted)}"
    if not isinstance(said, list) or wanted is None:
        return ""
    if len(said) != len(wanted):
        return f"labels {unlike_labels(said, wanted)}"
    # Another tool may call a class by another of its names; what it may not is to call one by the name of another.
    own, known = ([label.partition(",")[0].strip().lower() for label in labels] for labels in (said, wanted))
    places = {name: index for index, name in enumerate(known) if known.count(name) == 1}
    moved = [index for index, name in enumerate(own) if places.get(name, index) != index]
    return f"labels {unlike_labels(own, known, at=moved[0])}" if moved else ""


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple) and all(isinstance(number, float) for number in value):
        return shortened("[" + ", ".join(f"{number:.6g}" for number in value) + "]")
    return shortened(repr(value))


def _said_by_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    image, answer = ((metadata[side] or [{}])[0] for side in ("inputs", "outputs"))
    said = {name: image.get(name) for name in ("colors", "size", *_NUMBERS)}
    return {
        **{name: value for name, value in said.items() if value not in (None, [], [0, 0], "unknown")},
        **({"labels": answer["labels"]} if "labels" in answer else {}),
        "inputs": len(metadata["inputs"]),
        "outputs": len(metadata["outputs"]),
    }


def _wanted_of_metadata(artifact: Artifact, record: ModelRecord) -> dict[str, Any]:
    mean, std = _left(artifact, record)
    (image,) = artifact.inputs[:1] or (None,)
    height, width = record.spec.image_sides
    wanted: dict[str, Any] = {"colors": "RGB", "size": [width, height], "labels": record.labels}
    if image is not None and image.dtype == "int8":
        wanted |= {"min": [-128.0] * 3, "max": [127.0] * 3}
    else:
        wanted |= {"min": list(-mean / std), "max": list((255 - mean) / std)}
    # Pixels that are quantized as they are go by scale and zero point: to other tools mean and std mean nothing there.
    if image is None or image.dtype != "uint8" or image.scale is None:
        wanted |= {"mean": list(mean), "std": list(std)}
    else:
        del wanted["min"], wanted["max"]
    return {**wanted, "inputs": 1, "outputs": len(record.spec.outputs)}


def _said_by_properties(path: Path) -> dict[str, Any]:
    texts = {text_of(entry.key): text_of(entry.value) for entry in load_structure(path).metadata_props}
    said: dict[str, Any] = {name: texts[name] for name in ("layout", "input", "output", "outputs") if name in texts}
    if "channel_order" in texts:
        said["colors"] = texts["channel_order"]
    if "image_size" in texts:
        said["size"] = texts["image_size"]
    for name, factor in (("mean", 255.0), ("std", 255.0), ("labels", None)):
        if name in texts:
            said[name] = _parsed(texts[name], factor)
    return said


def _parsed(text: str, factor: float | None) -> Any:
    """The JSON list that `text` is, its numbers times `factor`; `text` itself where it is none."""
    try:
        values = parse_json(text)
        return values if factor is None else [factor * float(value) for value in values]
    except (ValueError, TypeError, RecursionError, OverflowError):
        return text


def _wanted_of_properties(artifact: Artifact, record: ModelRecord) -> dict[str, Any]:
    mean, std = _left(artifact, record)
    names = list(names_in_file(record.spec, [entry.name for entry in artifact.outputs]).values())
    return {
        "colors": "RGB",
        "layout": (artifact.inputs[0].layout if artifact.inputs else "") or "NHWC",
        "size": shown_size(record.spec.image_size),
        "input": _kind(artifact),
        "output": names[0],
        "outputs": None if len(names) == 1 else json.dumps(names),
        "mean": list(mean),
        "std": list(std),
        "labels": record.labels,
    }


def _kind(artifact: Artifact) -> str:
    return (artifact.inputs[0].values if artifact.inputs else "") or "normalized"


def _left(artifact: Artifact, record: ModelRecord) -> tuple[np.ndarray, np.ndarray]:
    mean, std = (255 * np.array(part) for part in left_to_do(_kind(artifact), record.preprocessing))
    return mean, std
