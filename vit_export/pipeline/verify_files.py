"""Verification on its own: any files against a reference, with the evidence; what `vit-export verify` does."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit_export.artifacts.identify import files_of
from vit_export.artifacts.read import record_of
from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError
from vit_export.base.files import input_errors
from vit_export.base.reporting import Reporter, Silent
from vit_export.base.scratch import owned_folder
from vit_export.images.pictures import Pictures
from vit_export.images.split import HELD_OUT, REPRESENTATIVE, Skipped, find_images, split
from vit_export.model.artifact import Artifact
from vit_export.model.labels import check_labels
from vit_export.model.record import ModelRecord
from vit_export.pipeline.advice import advice_on_files
from vit_export.pipeline.choice import default_photographs, images_to_verify
from vit_export.pipeline.references import artifact_at, output_read, reference_at
from vit_export.pipeline.request import VerifyRequest
from vit_export.report.content import build_report
from vit_export.runtimes.places import Place, places_of
from vit_export.verification.verdict import Verification
from vit_export.weights.remote.fetch import shown

LABELLED_IMAGES = 256
"""Images that an accuracy is measured on where no number is given: its 95 % interval is ±6 points at the worst."""
MAX_IMAGES = 100_000


@dataclass(frozen=True)
class Verified:
    """The verdict, the report (content of report.json), and the images that were looked at."""

    verification: Verification
    report: dict[str, Any]
    pictures: Pictures

    def __repr__(self) -> str:
        """The verdict alone: a report fills screens of a notebook."""
        return repr(self.verification)

    @property
    def passed(self) -> bool:
        """Whether every file is the reference's model."""
        return self.verification.passed


def verify_files(request: VerifyRequest, reporter: Reporter | None = None, *, commands: Sequence[str] = ()) -> Verified:
    """Verify the files of `request`; `commands` are shell commands that the report names to do it again.

    Raises:
        InputError: a file, the reference or the images cannot be read, or do not belong together.
    """
    say = reporter or Silent()
    _checked(request)
    places = places_of(request.on, request.gpu_precision)
    artifacts = tuple(
        artifact_at(path, precision=request.precision, scheme=request.scheme, input=request.input)
        for path in files_of(request.files)
    )
    artifacts = _taken(artifacts, places, say)
    with owned_folder("vit-export-verify-") as stage:
        reference, name, origin = reference_at(request.reference, artifacts, stage, say)
        record = record_of(reference)
        if request.locate and reference.is_file():
            raise InputError(
                "--locate compares layer by layer, expected a SavedModel or a checkpoint as the reference, given "
                f"{name}: give one, or leave --locate out."
            )
        if request.labels is not None:
            check_labels(request.labels, record.spec.num_classes)
        labels = request.labels or record.labels
        if request.labelled and not record.classifies:
            raise InputError(
                "--labels-from counts how often the top class is right, expected a model whose top class is the "
                f"answer: this one gives {(record.answers or 'features').replace('_', ' ')}, leave it out."
            )
        pictures, skipped = _images(request, record, say)
        pictures = pictures.labelled(labels, required=request.labelled)
        artifacts, read = _with_outputs(request, artifacts, record)
        from vit_export.verification.verifier import VerifyOptions, verify

        options = VerifyOptions(
            threads=request.threads,
            trained=record.trained,
            latency=request.latency,
            probabilities=request.probabilities,
            locate=request.locate,
            places=places,
            read=read,
        )
        verification = verify(reference, artifacts, pictures, options, say)
    verification = replace(verification, reference=replace(verification.reference, path=name))
    report = build_report(
        replace(record, labels=labels).saying(**origin),
        datasets={"held_out": pictures.images.to_dict(), "skipped": [list(item) for item in skipped]},
        settings=_settings(request),
        verification=verification,
        artifacts=artifacts,
        commands=commands,
        advice=[] if verification.passed else advice_on_files(request, record, name, verification, commands),
    )
    return Verified(verification, report, pictures)


def _checked(request: VerifyRequest) -> None:
    for name, value, most in (("images", request.images, MAX_IMAGES), ("threads", request.threads, 256)):
        if value is not None:
            whole_number(name, value, 1, most)
    if request.labelled and request.data is None:
        raise InputError("--labels-from folders needs images in folders called like their classes: give --data.")


def _taken(artifacts: tuple[Artifact, ...], places: tuple[Place, ...], say: Reporter) -> tuple[Artifact, ...]:
    """Those of `artifacts` that one of `places` runs."""
    taken = tuple(artifact for artifact in artifacts if any(place.takes(artifact.format) for place in places))
    where = " and ".join(place.words for place in places)
    if not taken:
        names = ", ".join(Path(artifact.path).name for artifact in artifacts[:3])
        raise InputError(f"No file given ({names}) can be run there ({where}): expected a .tflite file.")
    for artifact in artifacts:
        if artifact not in taken:
            say.note(f"{Path(artifact.path).name} is left out: it cannot be run there ({where}).")
    return taken


def _images(request: VerifyRequest, record: ModelRecord, say: Reporter) -> tuple[Pictures, Skipped]:
    """The images to verify on; where a folder keeps calibration images apart, none of those."""
    say.step("Choosing and reading images")
    quick = images_to_verify(record.spec)
    count = request.images or (LABELLED_IMAGES * quick // 32 if request.labelled else quick)
    folder = request.data if request.data is not None else default_photographs(say)
    with input_errors(folder):
        if all((folder / side).is_dir() for side in (REPRESENTATIVE, HELD_OUT)):
            data = split(folder, record.preprocessing, 1, count, request.seed)
            pictures, skipped = data.held_out, data.skipped
        else:
            pictures, skipped = find_images(folder, record.preprocessing, limit=count, seed=request.seed)
    for name, reason in skipped:
        say.note(f"Skipped {name}: {reason}.")
    if not pictures:
        raise InputError(f"{folder}/{HELD_OUT} holds no image that can be read: give another folder to --data.")
    return pictures, skipped


def _with_outputs(
    request: VerifyRequest, artifacts: tuple[Artifact, ...], record: ModelRecord
) -> tuple[tuple[Artifact, ...], dict[str, str]]:
    """`artifacts` with the one output that is compared of each that has several, and its name by path."""
    read, found = {}, []
    for artifact in artifacts:
        name = output_read(artifact, request.output_name, (record.spec.output_size,))
        if name is not None:
            read[artifact.path] = name
        outputs = tuple(entry for entry in artifact.outputs if name in (None, entry.name))
        found.append(replace(artifact, outputs=outputs))
    return tuple(found), read


def _settings(request: VerifyRequest) -> dict[str, Any]:
    told = {**vars(request), "files": [str(path) for path in request.files]}
    told.pop("labels")
    if request.reference is not None:
        told["reference"] = shown(str(request.reference))
    return {key: str(value) if isinstance(value, Path) else value for key, value in told.items()}
