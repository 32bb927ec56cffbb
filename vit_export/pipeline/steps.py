"""The one place where the order of steps is written: build, save, convert, verify, report."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.files import claimed, input_errors, move_into, output_errors, refuse_existing
from vit_export.base.machine import release_memory
from vit_export.base.packages import require_tensorflow
from vit_export.base.quiet import import_tensorflow
from vit_export.base.reporting import Reporter, Silent
from vit_export.base.scratch import owned_folder
from vit_export.base.wording import worded
from vit_export.images.split import DataSplit
from vit_export.model.artifact import Artifact
from vit_export.model.labels import check_labels
from vit_export.model.names import HUB_NAME, LABELS_NAME, REPORT_NAME, SAVED_MODEL_NAME
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, assumptions_told, read_record
from vit_export.model.saved_model import describe_saved_model
from vit_export.model.spec import ViTSpec
from vit_export.pipeline import hub_folder
from vit_export.pipeline.advice import advice_on_export
from vit_export.pipeline.choice import choose_images
from vit_export.pipeline.convert import convert
from vit_export.pipeline.folder import at_folder, leftover_data, outdated, staging, write_reports
from vit_export.pipeline.plan import plan_files, require_outside, require_writable, reuses_saved_model
from vit_export.pipeline.references import build_reference
from vit_export.pipeline.request import ExportRequest
from vit_export.report.content import build_report
from vit_export.report.earlier import as_told, earlier_files, files_told
from vit_export.report.view import Record
from vit_export.runtimes.places import CPU, Place, places_of
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.open import open_checkpoint

if TYPE_CHECKING:
    from vit_export.verification.verdict import Verification

SPOT_CHECK_IMAGES = 2

ELSEWHERE_IN_REPORT = ("spec", "weights", "preprocessing", "labels", "trained")
"""Fields of a request that the report shows as what became of them."""


@dataclass(frozen=True)
class ExportResult:
    """What an export made: the SavedModel and files, the verdict (None when not verified), the report and its path."""

    saved_model: Artifact
    artifacts: tuple[Artifact, ...]
    verification: "Verification | None"
    report: dict[str, Any]
    report_path: Path

    def __repr__(self) -> str:
        """The verdict and the files: all figures, as a dataclass has them, fill screens of a notebook."""
        verdict = "not verified" if self.verification is None else "passed" if self.passed else "FAILED"
        names = ", ".join(Path(file.path).name for file in (self.saved_model, *self.artifacts))
        return f"<ExportResult {verdict}: {names} in {Path(self.saved_model.path).parent}/>"

    @property
    def passed(self) -> bool:
        """False only when verification found a fault."""
        return self.verification is None or self.verification.passed

    @property
    def failures(self) -> tuple[str, ...]:
        """What verification found, a sentence each; none where nothing was verified."""
        return () if self.verification is None else tuple(self.verification.failures)


def export(
    request: ExportRequest, reporter: Reporter | None = None, *, commands: Sequence[str] = (), latency: bool = True
) -> ExportResult:
    """Build, save, convert, verify and report as `request` asks; without `latency` nothing is timed.

    The files appear in `request.output` together, when all of them are complete, with a report that says 'not
    verified'; verification follows. With `overwrite`, files that earlier reports there list and that were made of
    another model go. `commands` are shell commands that the report names to do it all again.

    Raises:
        InputError: the request cannot be fulfilled.
        OutputError: something exists already or cannot be written; nothing half-written is left.
    """
    say = _checked(reporter)
    require_tensorflow()
    checkpoint = _checkpoint(request, say)
    spec = checkpoint.spec if checkpoint else request.spec and _returning(request, request.spec)
    if spec is not None and request.name is not None:
        spec = spec.with_(name=request.name)
    if spec is not None and request.hf_layout:
        for text in hub_folder.notes_on(spec, asked=bool(request.returns)):
            say.note(worded(text))
    if spec is None:
        raise InputError("There is nothing to export: name a variant, or give --weights.")
    if checkpoint is None and request.trained:
        raise InputError("trained is True, but the weights are random: give weights, or leave it out.")
    _places(request)  # before hours go into files that cannot be run there
    require_writable(request.output)
    with claimed(request.output, say.note):
        earlier = files_told(request.output)
        made, report = _make(request, spec, checkpoint, earlier, commands, say)
        verification = None
        if request.verify and made.artifacts and made.data is not None:
            try:
                verification = _verify(request, made, checkpoint, made.data, say, latency=latency)
            except BaseException:
                say.note(
                    f"Ended before verification did: the files in {request.output}/ are complete, but not verified."
                )
                raise
            say.step("Writing the report")
            with staging(request.output) as stage:
                report, paths = _report(request, made, verification, commands, earlier, stage)
                move_into(request.output, paths, overwrite=True)
    return ExportResult(made.saved_model, made.artifacts, verification, report, request.output / REPORT_NAME)


@dataclass(frozen=True)
class _Made:
    """The files in their place, and what verification and the report need to know of them.

    `spot_check` are the Keras model's own outputs on the first held-out images, None where a SavedModel was there.
    """

    saved_model: Artifact
    artifacts: tuple[Artifact, ...]
    record: ModelRecord
    data: DataSplit | None
    spot_check: dict[str, np.ndarray] | None


def _make(
    request: ExportRequest,
    spec: ViTSpec,
    checkpoint: Checkpoint | None,
    earlier: list[Record],
    commands: Sequence[str],
    say: Reporter,
) -> tuple[_Made, dict[str, Any]]:
    """Build, save and convert; everything appears in the output together or not at all, with a report."""
    if checkpoint is not None:
        stated = checkpoint.stated
    else:
        stated = ModelRecord.random(spec, request.seed, _of_size(request.preprocessing, spec), request.labels)
    if stated.labels is not None:
        _check_labels(stated.labels, spec)
    existing = checkpoint.saved_model if checkpoint else None
    files = plan_files(request, spec, existing, labelled=stated.labels is not None)
    if request.hf_layout:
        hub_folder.require_possible(stated, request.input, files)
    with staging(request.output) as stage:
        data = choose_images(request, spec, stated.preprocessing, files, say)
        saved_model, spot_check = _save(request, stated, checkpoint, data, stage, say)
        record = read_record(Path(saved_model.path))
        with output_errors(request.output):
            artifacts = convert(
                request, record, Path(saved_model.path), files, data.representative if data else None, stage, say
            )
            moved = [stage / Path(p).name for a in artifacts for p in (a.path, *a.extra_files)]
            if request.hf_layout:
                hub_folder.write_hub_folder(stage / HUB_NAME, record, request.input, artifacts)
                moved.append(stage / HUB_NAME)
            if not reuses_saved_model(request, existing):
                moved.append(stage / SAVED_MODEL_NAME)
                if record.labels is not None:
                    (stage / LABELS_NAME).write_text("\n".join(record.labels) + "\n", encoding="utf-8")
                    moved.append(stage / LABELS_NAME)
            for path in moved:
                refuse_existing(request.output / path.name, overwrite=request.overwrite, folder=path.is_dir())
            gone, changed = _outdated(request, moved, stage)
            gone_too = leftover_data(artifacts) if request.overwrite else []
            saved_model = at_folder(saved_model, request.output)
            artifacts = tuple(at_folder(artifact, request.output) for artifact in artifacts)
            made = _Made(saved_model, artifacts, record, data, spot_check)
            report, reports = _report(request, made, None, commands, earlier, stage, gone)
            move_into(request.output, [*moved, *reports], overwrite=True, gone=[*gone, *gone_too])
    if gone:
        say.note(f"Removed from {request.output}/ what an earlier export had made of another model: {', '.join(gone)}.")
    if changed:
        say.note(
            f"Left in {request.output}/, though of another model, what is not any more as an export wrote it: "
            f"{', '.join(changed)}."
        )
    return made, report


def _outdated(request: ExportRequest, moved: Sequence[Path], stage: Path) -> tuple[list[str], list[str]]:
    """The names of what goes since `moved` are of another model, and of what would, had nobody changed it."""
    if not request.overwrite or stage / SAVED_MODEL_NAME not in moved:
        return [], []
    found = [p.name for p in outdated(request.output, stage / SAVED_MODEL_NAME, {p.name for p in moved})]
    gone = as_told(request.output, found)
    if HUB_NAME in found and hub_folder.is_untouched(request.output / HUB_NAME):
        gone.add(HUB_NAME)
    return [name for name in found if name in gone], [name for name in found if name not in gone]


def _report(
    request: ExportRequest,
    made: _Made,
    verification: "Verification | None",
    commands: Sequence[str],
    earlier: list[Record],
    stage: Path,
    gone: Collection[str] = (),
) -> tuple[dict[str, Any], list[Path]]:
    """Write report.json and report.html to `stage`; the content of the former, and both paths.

    `earlier` is told by the one that it replaces; files called as in `gone` go together with that.
    """
    record, data = made.record, made.data
    advice = []
    if verification is not None and not verification.passed:
        advice = advice_on_export(request, record, Path(made.saved_model.path), verification, commands)
    report = build_report(
        record,
        datasets=data.to_dict() if data else {},
        settings=_settings(request),
        verification=verification,
        artifacts=(made.saved_model, *made.artifacts),
        commands=commands,
        advice=advice,
    )
    if left := earlier_files(earlier, report, request.output, gone):
        report["earlier_files"] = left
    return report, write_reports(report, data.held_out if data else None, stage)


def _checked(reporter: Reporter | None) -> Reporter:
    for name in ("step", "progress", "note") if reporter is not None else ():
        if not callable(getattr(reporter, name, None)):
            given = type(reporter).__name__
            raise InputError(f"reporter is of type {given}, which has no {name}(): expected a base.reporting.Reporter.")
    return Silent() if reporter is None else reporter


def _checkpoint(request: ExportRequest, say: Reporter) -> Checkpoint | None:
    """The weights as they will be exported: opened, adapted to the spec, described as asked; None for random ones."""
    checkpoint = request.weights
    if checkpoint is None:
        return None
    if not isinstance(checkpoint, str | Path | Checkpoint):
        raise InputError(f"weights is of type {type(checkpoint).__name__}, expected a Checkpoint, or where one is.")
    pixels = request.preprocessing
    if not isinstance(checkpoint, Checkpoint):
        say.step("Opening the checkpoint")
        size = None if request.spec is None else request.spec.image_size
        given = dict(vars(pixels)) if pixels else {}
        given.pop("image_size", None)  # which follows the model's
        checkpoint = open_checkpoint(checkpoint, image_size=size, pixels=given, progress=say.progress, note=say.note)
        pixels = None  # it is told
    if checkpoint.saved_model is not None:
        require_outside(request.output, checkpoint.saved_model)
    wanted = request.spec
    checkpoint = checkpoint.named(request.name or (None if wanted is None else wanted.name))
    if wanted is not None:
        wanted = wanted.with_(name=checkpoint.spec.name)
    else:
        wanted = checkpoint.returning(request.returns, l2_normalize=request.l2_normalize)
    checkpoint = checkpoint.adapted(_returning(request, wanted), seed=request.seed)
    if request.labels is not None:
        _check_labels(request.labels, checkpoint.spec)
    checkpoint = checkpoint.described(_of_size(pixels, checkpoint.spec), request.labels, request.trained)
    for text in (*checkpoint.notes, *assumptions_told(checkpoint.stated)):
        say.note(worded(text))
    return checkpoint


def _returning(request: ExportRequest, spec: ViTSpec) -> ViTSpec:
    """`spec` with the outputs that the request names, where it does; else with those that its folder is read for."""
    if request.returns or request.l2_normalize:
        spec = spec.returning(request.returns or tuple(spec.outputs), l2_normalize=request.l2_normalize)
    return hub_folder.returning_tokens(spec) if request.hf_layout and not request.returns else spec


def _of_size(preprocessing: Preprocessing | None, spec: ViTSpec) -> Preprocessing | None:
    return None if preprocessing is None else replace(preprocessing, image_size=spec.image_size)


def _check_labels(labels: tuple[str, ...], spec: ViTSpec) -> None:
    if spec.num_classes is None:
        raise InputError("There are labels, but the model has no classifier: leave --labels or --features out.")
    check_labels(labels, spec.num_classes)


def _save(
    request: ExportRequest,
    stated: ModelRecord,
    checkpoint: Checkpoint | None,
    data: DataSplit | None,
    stage: Path,
    say: Reporter,
) -> tuple[Artifact, dict[str, np.ndarray] | None]:
    """The SavedModel, and the Keras model's own outputs on the first held-out images; None where nothing is written.

    It is written anew from a SavedModel's parameters too: a graph of others, which may do anything, is not passed on.
    """
    existing = checkpoint.saved_model if checkpoint else None
    if existing is not None and reuses_saved_model(request, existing):
        with input_errors(existing):
            return describe_saved_model(existing), None
    say.step("Loading TensorFlow")
    import_tensorflow()
    from vit_export.model.in_memory import assign_parameters
    from vit_export.model.keras_model import reference_model
    from vit_export.model.saved_model import write_saved_model

    spec = stated.spec
    record, model = (checkpoint.record, checkpoint.model) if checkpoint else (stated, None)
    if model is None:
        say.step(f"Building {spec.name} ({spec.num_parameters / 1e6:.1f} M parameters)")
        model = reference_model(spec, seed=request.seed)
        if checkpoint is not None:
            say.step("Reading the weights")
            with input_errors(existing or record.weights.get("location", "The checkpoint")):
                assign_parameters(model, checkpoint.read, progress=say.progress)
    spot_check = None
    if data is not None and data.held_out:
        spot_check = model.predict_outputs(data.held_out.fed("normalized", SPOT_CHECK_IMAGES))
    say.step("Writing the SavedModel")
    artifact = write_saved_model(model, stage / SAVED_MODEL_NAME, record)
    del model
    release_memory()
    return artifact, spot_check


def _verify(
    request: ExportRequest,
    made: _Made,
    checkpoint: Checkpoint | None,
    data: DataSplit,
    say: Reporter,
    *,
    latency: bool,
) -> "Verification":
    from vit_export.verification.verifier import VerifyOptions, verify

    options = VerifyOptions(
        threads=request.threads,
        trained=made.record.trained,
        latency=latency,
        known_outputs=made.spot_check,
        places=_places(request),
    )
    pictures = data.held_out.labelled(made.record.labels)
    reference = Path(made.saved_model.path)
    if checkpoint is None or checkpoint.saved_model is None or not reuses_saved_model(request, checkpoint.saved_model):
        return verify(reference, made.artifacts, pictures, options, say)
    # The SavedModel in the folder was there before: its graph is not ours to trust.
    with owned_folder("vit-export-verify-") as stage:
        found = verify(build_reference(checkpoint, stage, say), made.artifacts, pictures, options, say)
    return replace(found, reference=replace(found.reference, path=str(reference)))


def _places(request: ExportRequest) -> tuple[Place, ...]:
    """Where the files are verified.

    Raises:
        InputError: a place that cannot be had here, or that runs none of the files.
    """
    further = places_of(request.verify_on) if request.verify_on else ()
    for place in further:
        if not request.verify or not any(place.takes(format) for format in request.formats):
            raise InputError(
                f"Files are to be verified there ({place.words}), but none that it runs is: make "
                f"{' or '.join(f'--{format}' for format in place.formats)} files, without --no-verify."
            )
    return tuple(dict.fromkeys((CPU, *further)))


def _settings(request: ExportRequest) -> dict[str, Any]:
    """The request as it was made; what the weights are is told by the report's `weights`."""
    told = {f.name: getattr(request, f.name) for f in fields(request) if f.name not in ELSEWHERE_IN_REPORT}
    return {k: str(v) if isinstance(v, Path) else v for k, v in told.items()}
