"""The questions a file is asked, and the one table of limits its figures are held to."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.base.files import digest_of_file, digest_of_folder, size_of
from vit_export.model.artifact import Artifact, Format, Precision, TensorSpec, in_order
from vit_export.runtimes.gpu.runner import Device
from vit_export.runtimes.places import CPU, Place
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, RunnerError
from vit_export.verification import metrics
from vit_export.verification.metrics import Comparison


@dataclass(frozen=True)
class Limits:
    """What a file of one format, precision and scheme must keep to.

    `worst_difference`, of all outputs of an image, is relative to the range of the reference's outputs; `cosine` and
    `sqnr_db` are per image too. They are broken where it is certain to 95 % that more than the share `beyond` of all
    such images breaks them: with rounded activations the worst image gets worse the more are looked at, and that says
    nothing about the file. Where `beyond` is 0 every image counts.

    `agreement`, the share of images with the reference's top class, is judged for trained weights only, and by the
    upper end of its 95 % interval: one near tie among a few images is no other model.
    """

    worst_difference: float
    cosine: float
    sqnr_db: float
    agreement: float
    beyond: float = 0.0


_EXACT = Limits(worst_difference=2e-5, cosine=0.999999, sqnr_db=85.0, agreement=0.99)
_HALF = Limits(worst_difference=1e-2, cosine=0.9999, sqnr_db=35.0, agreement=0.99)
BEYOND = 0.1
# Set by small Vision Transformers of 4 and 6 layers, trained on 5 classes, 300 labelled images each, whose logits are
# near 0 where they are undecided; 40 draws of 16, 32, 64 and 256 images. Files with ranges that are as right as in
# float to 0.7 points: the least of 20 is 24.1 dB in any draw; of "full" 20.5, of "w8a16" 29.6, of "dynamic" 36. Of 258
# faults that cost a point of accuracy or 2 of agreement, 98 % miss one of the limits in draws of 16 and of 256 alike.
# DINOv2-S/14 (docs/quantization.md) is above all of them, its "static" apart. Of its "full", by which a probe is right
# as often as by float but for 0.6 points, 9 of 32 photographs are below 22 dB and 2 below 20. Of the catalogue's faults
# the mildest that figures alone tell from that has 9.5 dB in the median; query and key exchanged in one layer of the
# digits' model have 25, and are told by the file's constants.
_RANGED = Limits(worst_difference=0.07, cosine=0.99, sqnr_db=22.0, agreement=0.98, beyond=BEYOND)
_FULL = Limits(worst_difference=0.10, cosine=0.985, sqnr_db=20.0, agreement=0.95, beyond=BEYOND)
_WIDE = Limits(worst_difference=0.05, cosine=0.995, sqnr_db=25.0, agreement=0.98, beyond=BEYOND)
# What another tool quantized, nobody knows how.
_FOREIGN = Limits(worst_difference=0.25, cosine=0.975, sqnr_db=15.0, agreement=0.95, beyond=BEYOND)

LIMITS: dict[tuple[Format, Precision, str | None], Limits] = {
    ("saved_model", "float32", None): _EXACT,
    ("tflite", "float32", None): _EXACT,
    ("tflite", "float16", None): _HALF,
    ("tflite", "int8", "dynamic"): replace(_RANGED, worst_difference=0.05, cosine=0.995, sqnr_db=25.0),
    ("tflite", "int8", "static"): _RANGED,
    ("tflite", "int8", "full"): _FULL,
    ("tflite", "int8", "w8a16"): _WIDE,
    ("tflite", "int8", "auto"): _RANGED,
    ("tflite", "int8", None): _FOREIGN,
    ("onnx", "float32", None): _EXACT,
    ("onnx", "float16", None): _HALF,
    ("onnx", "int8", "dynamic"): replace(_RANGED, cosine=0.992, sqnr_db=23.0),
    ("onnx", "int8", "qdq"): _RANGED,
    ("onnx", "int8", "symmetric"): _RANGED,
    ("onnx", "int8", "w8a16"): _WIDE,
    ("onnx", "int8", None): _FOREIGN,
}
"""By format, precision and scheme (None in int8: of another tool), for trained weights; a file without a row fails."""


HALF_ARITHMETIC = Limits(worst_difference=5e-2, cosine=0.998, sqnr_db=25.0, agreement=0.98)
"""For float files on a GPU that computes in 16 bits; int8 files are rounded more, and keep their own limits there.

The worst image of good files: 29.0 dB (features of DINOv2-S/14), 43.0 dB (S/32 and toys of random weights), 53 dB (a
trained toy). The mildest fault, a residual stream of 4e-6, has 12 dB; what overflows is NaN.
"""


@dataclass(frozen=True)
class Check:
    """One question with its answer: the measured `value`, the `limit` it was held to, and a sentence if it failed."""

    name: str
    passed: bool
    limit: Any = None
    value: Any = None
    detail: str = ""


def label(artifact: Artifact) -> str:
    """Format, precision and scheme, as in 'tflite int8 dynamic'."""
    return " ".join(part for part in (artifact.format, artifact.precision, artifact.scheme) if part)


UNTRAINED_DB, UNTRAINED_ERROR = 5.0, 1.5
"""How much more noise, and how many times the error, an int8 file of untrained weights may have.

Random weights have no directions that matter more than others, so rounding costs them more than weights that were
learnt: over 20 seeds good files came down to 18.7 dB where those of a trained model stay above 24
(tests/verification/test_fault_catalogue.py). Such files are for trying out; nothing about trained weights follows from
them.
"""


def limits_of(artifact: Artifact, *, trained: bool = True, place: Place = CPU) -> Limits | None:
    """What `artifact` is held to at a `place`: its row of LIMITS, looser for int8 weights that are not `trained`.

    HALF_ARITHMETIC for float files where that computes in 16 bits; None without a row.
    """
    limits = LIMITS.get((artifact.format, artifact.precision, artifact.scheme))
    if limits is not None and place.precision == "float16" and artifact.precision != "int8":
        return HALF_ARITHMETIC
    if limits is None or trained or artifact.precision != "int8":
        return limits
    return replace(
        limits,
        worst_difference=UNTRAINED_ERROR * limits.worst_difference,
        cosine=1 - UNTRAINED_ERROR**2 * (1 - limits.cosine),
        sqnr_db=limits.sqnr_db - UNTRAINED_DB,
    )


def stored(artifact: Artifact) -> list[Check]:
    """Whether the file is there and is the recorded one: bytes (with its `extra_files`), and sha256 (without)."""
    path = Path(artifact.path)
    parts = [path, *(path.with_name(Path(extra).name) for extra in artifact.extra_files)]
    if missing := [part.name for part in parts if not part.exists()]:
        return [Check("exists", False, detail=f"{', '.join(missing)} does not exist")]
    size = sum(size_of(part) if part.is_dir() else part.stat().st_size for part in parts)
    digest = digest_of_folder(path) if path.is_dir() else digest_of_file(path)
    return [
        Check("exists", True),
        check(
            "bytes", size == artifact.bytes, artifact.bytes, size, f"{size} bytes on disk, {artifact.bytes} recorded"
        ),
        check(
            "sha256",
            digest == artifact.sha256,
            artifact.sha256,
            digest,
            f"sha256 is {digest[:12]}..., recorded {artifact.sha256[:12] or 'none'}...: the file has changed",
        ),
    ]


def described(
    artifact: Artifact, process: RunnerProcess, reference_outputs: Sequence[TensorSpec], *, foreign: bool = False
) -> list[Check]:
    """Whether the file's inputs and outputs are the recorded ones, and its outputs the reference's in name and size.

    A `foreign` file, of another tool, may call its output as it likes.
    """
    inputs = _unlike("input", process.inputs, artifact.inputs)
    outputs = _unlike("output", process.outputs, artifact.outputs if foreign else in_order(artifact.outputs))
    if len(process.inputs) != 1:
        inputs.append(f"{len(process.inputs)} inputs, expected one (images)")
    if len(process.outputs) != len(reference_outputs):
        names = [", ".join(spec.name for spec in some) for some in (process.outputs, reference_outputs)]
        count = "one" if len(reference_outputs) == 1 else len(reference_outputs)
        outputs.append(f"{len(process.outputs)} outputs ({names[0]}), expected the reference's {count} ({names[1]})")
    else:
        outputs += [
            f"output is {own.name} {list(own.shape)}, the reference's {wanted.name} {list(wanted.shape)}"
            for own, wanted in zip(process.outputs, reference_outputs, strict=True)
            if not _same_output(own, wanted, foreign=foreign)
        ]
    return [
        check("inputs", not inputs, detail="; ".join(inputs)),
        check("outputs", not outputs, detail="; ".join(outputs)),
    ]


def accelerated(device: Device) -> Check:
    """Whether the GPU takes every operator: what stays on the CPU is copied there and back at each call."""
    if device.counts is None:
        return Check("accelerated", True)
    theirs, left = device.counts
    why = "; ".join(f"{kind}: {reason.rstrip('.')}" for kind, reason in device.behind[:3])
    detail = f"{left} of {theirs + left} operators stay on the CPU ({why})"
    return Check("accelerated", False, 0, left, detail)


def finite(outputs: np.ndarray, names: Sequence[str]) -> Check:
    """Whether no output is NaN or infinite."""
    counts = metrics.non_finite(outputs.reshape(len(outputs), -1))
    worst, total = int(counts.argmax()), int(counts.sum())
    detail = (
        f"{counts[worst]} of {outputs[0].size} outputs are NaN or infinite on {names[worst]} "
        f"({(counts > 0).sum()} of {len(counts)} images are affected)"
    )
    return check("finite", total == 0, 0, total, detail)


def varies(reference: np.ndarray, outputs: np.ndarray) -> Check:
    """Whether outputs depend on the image, when the reference's do."""
    spread = metrics.spread_over_images(outputs)
    return check("varies", spread > 0 or is_flat(reference), value=spread, detail="every image gives the same output")


def is_flat(reference: np.ndarray) -> bool:
    """Whether the outputs change by less than a thousandth of their range from image to image."""
    return metrics.spread_over_images(reference) <= 1e-3 * metrics.output_range(reference)


def class_order(reference: np.ndarray, outputs: np.ndarray) -> Check:
    """Whether outputs are in the reference's order (`metrics.swapped_columns`)."""
    pairs = metrics.swapped_columns(reference, outputs)
    shown = ", ".join(f"{i} is the reference's {j}" for i, j in pairs[:4]) + (", ..." if len(pairs) > 4 else "")
    return check("class_order", not pairs, 0, len(pairs), f"outputs are in another order: {shown}")


def saved_as_built(known: np.ndarray, outputs: np.ndarray) -> Check:
    """Whether the SavedModel's `outputs` are those that the model in memory returned, `known`, to float32 rounding."""
    if known.shape[1:] != outputs.shape[1:] or len(known) > len(outputs):
        detail = f"outputs have shape {list(outputs.shape)}, the model in memory gave {list(known.shape)}"
        return check("saved_as_built", False, list(known.shape), list(outputs.shape), detail)
    limit = LIMITS["saved_model", "float32", None].worst_difference
    comparison = metrics.compare(_flat(known), _flat(outputs[: len(known)]), classes=False)
    worst = comparison.worst_relative
    detail = f"differs from the model it was saved from by {worst:.2g} of the range, limit {limit:g}"
    return check("saved_as_built", worst <= limit, limit, worst, detail)


def figures(comparison: Comparison, limits: Limits, names: Sequence[str], *, trained: bool) -> list[Check]:
    """Each figure against its limit, on every image or on all but those that may be beyond it."""
    difference = [metrics.relative(value, comparison.range) for value in comparison.worst_difference]
    checks = [
        _figure("worst_difference", "worst difference", difference, limits, names, " of the range", upwards=True),
        _figure("cosine", "cosine", comparison.cosine, limits, names),
        _figure("sqnr", "SQNR", comparison.sqnr_db, limits, names, " dB"),
    ]
    if trained and comparison.top1_agrees is not None:
        checks.append(_agreement(comparison, limits.agreement, names))
    return checks


def _figure(
    name: str,
    called: str,
    values: Sequence[float],
    limits: Limits,
    names: Sequence[str],
    unit: str = "",
    *,
    upwards: bool = False,
) -> Check:
    """One figure of every image against its limit; the value is that of the worst image that counts."""
    limit = getattr(limits, "sqnr_db" if name == "sqnr" else name)
    goodness = -np.asarray(values) if upwards else np.asarray(values)
    order = np.argsort(goodness, kind="stable")
    allowed = metrics.may_be_beyond(len(order), limits.beyond)
    judged, worst = float(values[order[allowed]]), float(values[order[0]])
    passed = judged <= limit if upwards else judged >= limit
    shown = f"{worst:.2f}" if name == "sqnr" else _beyond(worst, limit, upwards=upwards)
    told = f"{called} {shown}{unit} on {names[order[0]]}, limit {limit:g}"
    told += " dB" if name == "sqnr" else ""
    if len(order) > 1:
        beyond = int((goodness < (-limit if upwards else limit)).sum())
        least = f", {allowed} may be" if allowed else ""
        told += f" ({beyond} of {len(order)} images beyond it{least}; median {float(np.median(values)):.4g})"
    return check(name, passed, limit, judged, told)


def repeatable(
    process: RunnerProcess,
    outputs: Mapping[str, np.ndarray],
    images: np.ndarray,
    names: Sequence[str],
    tolerances: Mapping[str, float],
) -> Iterator[Check]:
    """Whether an image's answer depends on nothing but the image: not on the call, its neighbours or its position.

    The same call repeated must agree bit for bit; other neighbours in a batch may move an activation quantized per
    tensor, so there the `tolerances` of the `outputs`, in units of each, are allowed. Both are by name.

    Raises:
        RunnerError: the process died.
    """

    def each(check_of: str, again: Mapping[str, np.ndarray], count: int, exact: bool, how: str) -> Iterator[Check]:
        for name, rows in outputs.items():
            tolerance = 0.0 if exact else tolerances[name]
            yield of_output(name, outputs, _alike(check_of, again[name], rows[:count], tolerance, names, how))

    alone, again = process.run_all(images[:1]), process.run_all(images[:1])
    single = process.batch in (None, 1)
    for name, rows in outputs.items():
        same = np.array_equal(alone[name], again[name])
        if single:
            same = same and np.array_equal(_flat(alone[name]), _flat(rows[:1]))
        detail = f"{names[0]} gives different outputs when it is run again"
        yield of_output(name, outputs, check("deterministic", same, detail=detail))

    count = min(len(images), max(3, (process.batch or 1) + 1))
    if count > 1:
        turned = {name: rows[::-1] for name, rows in process.run_all(images[:count][::-1]).items()}
        yield from each("order", turned, count, single, "fed in reverse order")
    if process.batch is None and count > 1:
        try:
            together = process.run_all(images[:count], together=True)
        except ProcessKilled:
            raise
        except RunnerError as error:
            yield Check("batch", False, detail=f"takes an open batch but fails on {count} images: {error}")
        else:
            yield from each("batch", together, count, False, f"run in one batch of {count}")
    elif not single:
        yield from each("batch", alone, 1, False, "run alone")


def of_output(name: str, outputs: Collection[str], found: Check) -> Check:
    """`found`, which is of the output called `name`: where that is not the first of `outputs`, it says which it is."""
    if name == next(iter(outputs)):
        return found
    return replace(found, name=f"{found.name} ({name})", detail=f"{name}: {found.detail}" if found.detail else "")


def _agreement(comparison: Comparison, limit: float, names: Sequence[str]) -> Check:
    agrees, margins, value = (
        comparison.top1_agrees or (),
        comparison.reference_margin or (),
        comparison.agreement or 0.0,
    )
    _, high = metrics.share_interval(sum(agrees), len(agrees))
    missed = sorted((margins[i], names[i]) for i, same in enumerate(agrees) if not same)[::-1]
    shown = ", ".join(
        f"{name} (margin {metrics.relative(margin, comparison.range):.2g} of the range)" for margin, name in missed[:3]
    )
    detail = (
        f"top class agrees on {value:.4g} of the images (at most {high:.3g} with 95 % confidence), limit {limit:g}: "
        f"differs on {shown}"
    )
    return check("agreement", high >= limit, limit, value, detail + (", ..." if len(missed) > 3 else ""))


def _alike(
    name: str, again: np.ndarray, outputs: np.ndarray, tolerance: float, names: Sequence[str], how: str
) -> Check:
    again, outputs = _flat(again), _flat(outputs)
    if again.shape != outputs.shape:
        return Check(name, False, value=again.shape, detail=f"outputs have shape {list(again.shape)} when {how}")
    difference = metrics.absolute_difference(outputs, again).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(difference, nan=np.inf)))
    value = float(difference[worst])
    return check(name, value <= tolerance, tolerance, value, f"{names[worst]} differs by {value:.3g} when {how}")


def _flat(outputs: np.ndarray) -> np.ndarray:
    """One row an image."""
    return outputs.reshape(len(outputs), -1)


def _unlike(kind: str, found: Sequence[TensorSpec], recorded: Sequence[TensorSpec]) -> list[str]:
    if len(found) != len(recorded):
        return [f"{len(found)} {kind}s in the file, {len(recorded)} recorded"]
    unlike = []
    for own, record in zip(found, recorded, strict=True):
        facts: list[tuple[str, Any, Any]] = [
            ("name", own.name, record.name),
            ("shape", list(own.shape), list(record.shape)),
        ]
        facts += [("dtype", own.dtype, record.dtype), ("zero point", own.zero_point, record.zero_point)]
        unlike += [f"{kind} {record.name} has {what} {a}, recorded {b}" for what, a, b in facts if a != b]
        if not _same_scale(own.scale, record.scale):
            unlike.append(f"{kind} {record.name} has scale {own.scale}, recorded {record.scale}")
    return unlike


def _same_output(own: TensorSpec, reference: TensorSpec, *, foreign: bool) -> bool:
    """Whether both give as much for each image and, where the file is ours, by the same name."""
    sizes = [tuple(n for n in spec.shape[1:] if n not in (1, None)) for spec in (own, reference)]
    open_ended = foreign and None in own.shape[1:]
    return (foreign or own.name == reference.name) and (open_ended or sizes[0] == sizes[1])


def _same_scale(a: float | None, b: float | None) -> bool:
    # Files hold float32 scales, records may hold the float64 they were rounded from.
    return a == b if a is None or b is None else bool(np.float32(a) == np.float32(b))


def _beyond(value: float, limit: float, *, upwards: bool) -> str:
    """`value` with as many digits as it takes to be seen beyond `limit`."""
    texts = [text for digits in range(4, 17) if (text := f"{value:.{digits}g}")]
    return next((t for t in texts if (float(t) > limit if upwards else float(t) < limit)), texts[0])


def check(name: str, passed: bool, limit: Any = None, value: Any = None, detail: str = "") -> Check:
    """A Check whose `detail` is said only when it failed."""
    return Check(name, bool(passed), limit, value, "" if passed else detail)
