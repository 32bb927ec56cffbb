"""One file at a time: it is run, asked every question, and where it fails, what explains it is looked for."""

from pathlib import Path

import numpy as np

from vit_export.artifacts.read import FileFacts, precision_found, read_facts
from vit_export.base.errors import InputError
from vit_export.base.files import size_of_folder
from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact
from vit_export.model.record import ModelRecord
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, RunnerError
from vit_export.verification import metrics
from vit_export.verification.audit import audited
from vit_export.verification.causes import find_causes
from vit_export.verification.checks import (
    Check,
    class_order,
    described,
    figures,
    finite,
    repeatable,
    saved_as_built,
    stored,
    varies,
)
from vit_export.verification.origin import as_claimed, own_data, same_origin
from vit_export.verification.told import judge_told, read_told
from vit_export.verification.trial import FEATURES, Trial
from vit_export.verification.verdict import FileResult, Reference

TOP = 5
"""Classes of an image that are kept to be shown."""


def run_reference(
    process: RunnerProcess, pictures: Pictures, images: np.ndarray, known: np.ndarray | None, *, ranks: bool = True
) -> tuple[Reference, np.ndarray | None]:
    """The reference's facts and its outputs [n, k], None unless they can be compared with.

    `images` are the `pictures` normalized; `known`, [m, k], is what the model in memory returned for the first m of
    them before it was saved; `ranks` says whether its largest output is the answer.

    Raises:
        ProcessKilled: `process` was killed or starved.
    """
    path, size, names = str(process.path), size_of_folder(process.path), pictures.names
    try:
        process.start()
        if len(process.outputs) != 1:
            raise RunnerError(f"{process.path.name} has {len(process.outputs)} outputs, expected one.")
        outputs = process.run(images)
        memory = process.memory()
        again = process.run(images[:1])
    except ProcessKilled:
        raise
    except RunnerError as error:
        return Reference(path, size, (Check("runs", False, detail=str(error).rstrip(".")),)), None
    checks = [Check("runs", True), finite(outputs, names)]
    if outputs.ndim != 2:
        detail = f"outputs have shape {list(outputs.shape)}, expected [images, outputs]"
        checks.append(Check("outputs", False, value=outputs.shape, detail=detail))
    elif checks[1].passed and not np.array_equal(again, outputs[:1]):
        checks.append(Check("deterministic", False, detail=f"{names[0]} gives different outputs when it is run again"))
    elif checks[1].passed and known is not None:
        checks.append(saved_as_built(known, outputs))
    good = all(check.passed for check in checks)
    truth = Reference(
        path=path,
        bytes=size,
        checks=tuple(checks),
        output=process.outputs[0],
        range=metrics.output_range(outputs) if good else None,
        memory=memory,
        load_seconds=process.load_seconds,
        accuracy=metrics.accuracy(outputs, pictures.classes) if good and pictures.classes is not None else None,
        top=metrics.top_classes(outputs, TOP) if good and ranks and process.outputs[0].name != FEATURES else None,
    )
    return truth, outputs if good else None


def unasked(artifact: Artifact) -> FileResult:
    """The result for a file that has nothing to be compared with, because the reference failed."""
    checks = stored(artifact)
    if checks[0].passed:
        checks.append(Check("reference", False, detail="not compared, because the reference failed"))
    return FileResult(artifact, tuple(checks))


def examine(trial: Trial) -> FileResult:
    """Everything but latency. The checks go from the file to its figures and stop where no more can be asked.

    Raises:
        ProcessKilled: the file's process was killed or starved.
    """
    artifact, process, classes = trial.artifact, trial.process, trial.pictures.classes
    checks = stored(artifact)
    if not checks[0].passed:
        return FileResult(artifact, tuple(checks))
    facts = _facts(artifact)
    checks += _origin(artifact, facts, trial.record)
    if facts is not None and trial.record is not None:
        trial.told = read_told(artifact, facts, trial.record)
        checks += judge_told(trial.told, chosen=artifact.path in trial.options.read) if trial.told else ()
        if trial.parameters is not None:
            checks += audited(artifact, facts, trial.record, trial.parameters)
    try:
        process.start()
        checks += described(artifact, process, trial.output, foreign=facts is not None and facts.record is None)
        if len(process.inputs) == 1 == len(process.outputs):
            checks += _judged(trial)
            checks.append(Check("runs", True))
    except ProcessKilled:
        raise
    except RunnerError as error:
        checks.append(Check("runs", False, detail=str(error).rstrip(".")))
    compared = trial.comparison is not None
    are_logits = not trial.options.probabilities
    return FileResult(
        artifact,
        tuple(checks),
        comparison=trial.comparison,
        memory=trial.memory,
        load_seconds=process.load_seconds,
        first_run_seconds=process.first_run_seconds,
        accuracy=metrics.accuracy(trial.outputs, classes) if compared and classes is not None else None,
        top=metrics.top_classes(trial.outputs, TOP, are_logits=are_logits) if compared and trial.has_classes else None,
        causes=() if all(check.passed for check in checks) else find_causes(trial),
    )


def _judged(trial: Trial) -> list[Check]:
    """Run the file and judge its outputs."""
    process, names, expected, limits = trial.process, trial.pictures.names, trial.expected, trial.limits
    outputs = process.run(trial.fed)
    trial.memory = process.memory()
    checks = [finite(outputs, names)]
    trial.outputs = outputs = outputs.reshape(len(outputs), -1) if outputs.size == expected.size else outputs
    if not trial.same_shape:
        detail = f"outputs have shape {list(outputs.shape)}, the reference's {list(expected.shape)}"
        return [*checks, Check("output_shape", False, list(expected.shape), list(outputs.shape), detail)]
    if not checks[-1].passed:
        return checks
    trial.comparison = comparison = metrics.compare(expected, outputs, classes=trial.has_classes)
    checks += [varies(expected, outputs), class_order(expected, outputs)]
    if limits is None:
        checks.append(Check("limits", False, detail="there are no limits for such a file"))
    else:
        checks += figures(comparison, limits, names, trained=trial.options.trained)
    tolerance = comparison.range * limits.worst_difference if limits else 0.0
    return [*checks, *repeatable(process, outputs, trial.fed, names, tolerance)]


def _facts(artifact: Artifact) -> FileFacts | None:
    """What the file says of itself; None for a folder, and for a file whose runtime will say what is wrong with it."""
    if artifact.format == "saved_model":
        return None
    try:
        return read_facts(Path(artifact.path))
    except InputError:
        return None


def _origin(artifact: Artifact, facts: FileFacts | None, reference: ModelRecord | None) -> list[Check]:
    if facts is None:
        return []
    checks = [as_claimed(artifact, precision_found(facts), facts.matrices)] if facts.matrices else []
    checks += own_data(Path(artifact.path), facts.checksums)
    if facts.record is not None and reference is not None:
        checks += same_origin(facts.record, reference)
    return checks
