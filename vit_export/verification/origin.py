"""What a file says of itself against the reference's record (model, weights, pixels, labels) and its own weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file, shortened
from vit_export.model.artifact import Artifact, Precision
from vit_export.verification.checks import Check, check

if TYPE_CHECKING:
    from vit_export.model.record import ModelRecord

ONE_MEGABYTE = 1e6


def same_origin(embedded: Mapping[str, Any], reference: "ModelRecord") -> Iterator[Check]:
    """Whether the record `embedded` in a file is the reference's: one check each for model, weights, pixels, labels.

    Weights are told by their fingerprint, so a file of yesterday's checkpoint is noticed however little was learnt
    since; where either side has none (files of older releases) they are not asked for.
    """
    from vit_export.model.record import ModelRecord

    try:
        own = ModelRecord.from_dict({**embedded})
    except InputError as error:
        yield Check("same_model", False, detail=f"its record cannot be used: {str(error).rstrip('.')}")
        return
    # Files go by the name that their export was given, a reference that is built anew by another.
    unlike = _differences(own.spec.to_dict(), reference.spec.with_(name=own.spec.name).to_dict())
    yield check("same_model", not unlike, detail=f"it is of another model than the reference: {unlike}")
    if own.fingerprint and reference.fingerprint:
        yield check(
            "same_weights",
            own.fingerprint == reference.fingerprint,
            reference.fingerprint,
            own.fingerprint,
            f"it was made of other weights than the reference (fingerprint {own.fingerprint[:12]}…, the reference's "
            f"{reference.fingerprint[:12]}…): a file of an older or another checkpoint",
        )
    unlike = _differences(own.preprocessing.to_dict(), reference.preprocessing.to_dict())
    yield check("same_pixels", not unlike, detail=f"it wants other pixels than the reference: {unlike}")
    unlike = "" if own.labels == reference.labels else unlike_labels(own.labels, reference.labels)
    yield check("same_labels", not unlike, detail=f"its labels are not the reference's: {unlike}")


def called_features(record: Mapping[str, Any] | None) -> bool:
    """Whether a file with this `record` calls a pooled embedding features: releases that named no outputs did."""
    spec = (record or {}).get("spec")
    if not isinstance(spec, dict) or "returns" in spec:
        return False
    return spec.get("num_classes") is None and spec.get("pre_logits_size") is not None


def as_claimed(artifact: Artifact, found: Precision, bytes_by_dtype: Mapping[str, int]) -> Check:
    """Whether the precision a file goes by is that of most of its weights."""
    shares = ", ".join(f"{name} {size / ONE_MEGABYTE:.3g} MB" for name, size in bytes_by_dtype.items())
    detail = f"it goes by {artifact.precision} but its weights are {found} ({shares or 'none'})"
    return check("precision", found == artifact.precision, artifact.precision, found, detail)


def own_data(path: Path, checksums: Mapping[str, str]) -> Iterator[Check]:
    """Whether the files beside an .onnx file are those that it was written with, by the SHA-1 of each that it holds."""
    for name, wanted in checksums.items():
        found = digest_of_file(path.parent / name, "sha1")
        detail = f"{name} is not the data that it was written with (SHA-1 {found[:12]}…, expected {wanted[:12]}…)"
        yield check("data", found == wanted.lower(), wanted, found, detail)


def _differences(own: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    keys = [key for key in reference if own.get(key) != reference[key]]
    return ", ".join(f"{key} {own.get(key)!r}, expected {reference[key]!r}" for key in keys)


def unlike_labels(own: Sequence[str] | None, reference: Sequence[str] | None, *, at: int | None = None) -> str:
    """How two different lists of labels differ, in words; `at` is a class that is known to, where not every one is."""
    if own is None or reference is None:
        return f"{'none' if own is None else len(own)}, expected {'none' if reference is None else len(reference)}"
    own, reference = list(own), list(reference)
    if own[1:] == reference:
        extra = shortened(repr(own[0]))
        return f"{len(own)}, expected {len(reference)}: {extra} comes before all others (a background class?)"
    if len(own) != len(reference):
        return f"{len(own)}, expected {len(reference)}"
    for shift in (1, -1):
        moved = own[shift:] if shift > 0 else own[:shift]
        kept = reference[:-shift] if shift > 0 else reference[-shift:]
        if len(own) > 2 and moved == kept:
            return f"shifted by {shift} ({_called(own, 0)}, expected {shortened(repr(reference[0]))})"
    different = [i for i, (a, b) in enumerate(zip(own, reference, strict=True)) if a != b]
    first, last = different[0], different[-1]
    if len(different) == 2 and (own[first], own[last]) == (reference[last], reference[first]):
        return f"of two classes are exchanged ({_called(own, first)}, {_called(own, last)})"
    index = first if at is None else at
    return f"of other classes ({_called(own, index)}, expected {shortened(repr(reference[index]))})"


def _called(labels: Sequence[str], index: int) -> str:
    return f"class {index} is {shortened(repr(labels[index]))}"
