"""One file at a time: it is run, asked every question, and where it fails, what explains it is looked for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.artifacts.read import FileFacts, precision_found, read_facts
from vit_export.base.errors import InputError
from vit_export.base.files import size_of
from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact
from vit_export.model.outputs import names_in_file
from vit_export.model.record import ModelRecord
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, RunnerError
from vit_export.verification import metrics
from vit_export.verification.audit import audited
from vit_export.verification.causes import find_causes
from vit_export.verification.checks import (
    Check,
    accelerated,
    class_order,
    described,
    figures,
    finite,
    of_output,
    repeatable,
    saved_as_built,
    stored,
    varies,
)
from vit_export.verification.origin import as_claimed, called_features, own_data, same_origin
from vit_export.verification.told import judge_told, read_told
from vit_export.verification.trial import EMBEDDINGS, Trial, ranks
from vit_export.verification.verdict import FileResult, Reference

TOP = 5
"""Classes of an image that are kept to be shown."""


def run_reference(
    process: RunnerProcess,
    pictures: Pictures,
    images: np.ndarray,
    known: Mapping[str, np.ndarray] | None,
    record: ModelRecord | None = None,
) -> tuple[Reference, dict[str, np.ndarray] | None]:
    """The reference's facts and its outputs [n, k] by name, None unless they can be compared with.

    `images` are the `pictures` normalized; `known`, each [m, …], is what the model in memory returned for the first m
    of them before it was saved; `record` is what it says of itself, None for a SavedModel of another tool.

    Raises:
        ProcessKilled: `process` was killed or starved.
    """
    path, size, names = str(process.path), size_of(process.path), pictures.names
    try:
        process.start()
        if len(process.outputs) != 1 and record is None:
            raise RunnerError(f"{process.path.name} has {len(process.outputs)} outputs, expected one.")
        outputs = process.run_all(images)
        memory = process.memory()
        again = process.run_all(images[:1])
    except ProcessKilled:
        raise
    except RunnerError as error:
        return Reference(path, size, (Check("runs", False, detail=str(error).rstrip(".")),)), None
    checks = [Check("runs", True)]
    for name, found in outputs.items():
        checks += (of_output(name, outputs, check) for check in _sound(name, found, again[name], known or {}, names))
    good = all(check.passed for check in checks)
    flat = {name: found.reshape(len(found), -1) for name, found in outputs.items()}
    first = next(iter(flat.values()))
    ranked = good and ranks(process.outputs[0].name, record)
    truth = Reference(
        path=path,
        bytes=size,
        checks=tuple(checks),
        output=process.outputs[0],
        range=metrics.output_range(first) if good else None,
        memory=memory,
        load_seconds=process.load_seconds,
        accuracy=metrics.accuracy(first, pictures.classes) if good and pictures.classes is not None else None,
        top=metrics.top_classes(first, TOP) if ranked else None,
        more_outputs=process.outputs[1:],
    )
    return truth, flat if good else None


def _sound(
    name: str, outputs: np.ndarray, again: np.ndarray, known: Mapping[str, np.ndarray], names: Sequence[str]
) -> Iterator[Check]:
    """Whether the output called `name` of the reference can be compared with."""
    yield (numbers := finite(outputs, names))
    if outputs.ndim != (3 if name == "tokens" else 2):
        detail = f"outputs have shape {list(outputs.shape)}, expected [images, outputs]"
        yield Check("outputs", False, value=outputs.shape, detail=detail)
    elif numbers.passed and not np.array_equal(again, outputs[:1]):
        yield Check("deterministic", False, detail=f"{names[0]} gives different outputs when it is run again")
    elif numbers.passed and name in known:
        yield saved_as_built(known[name], outputs)


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
        return FileResult(artifact, tuple(checks), place=process.place.words)
    facts = _facts(artifact)
    checks += _origin(artifact, facts, trial.record)
    if facts is not None and trial.record is not None:
        trial.told = read_told(artifact, facts, trial.record)
        checks += judge_told(trial.told, chosen=artifact.path in trial.options.read) if trial.told else ()
        if trial.parameters is not None:
            checks += audited(artifact, facts, trial.record, trial.parameters)
    try:
        process.start()
        foreign = facts is not None and facts.record is None
        if foreign:  # of another tool's file one output is compared
            trial.others = ()
        wanted = [trial.output, *(spec for spec, _ in trial.others)]
        if facts is not None and called_features(facts.record):
            wanted = [replace(spec, name="features") for spec in wanted]
        elif facts is not None and not foreign and trial.record is not None:
            names = names_in_file(trial.record.spec, [spec.name for spec in facts.outputs])
            wanted = [replace(spec, name=names.get(spec.name, spec.name)) for spec in wanted]
        checks += described(artifact, process, wanted, foreign=foreign)
        if process.device is not None:
            checks.append(accelerated(process.device))
        if len(process.inputs) == 1 and len(process.outputs) == len(wanted):
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
        neighbours=trial.neighbours,
        outputs=trial.more,
        place=process.where,
        device=process.device.name if process.device else None,
    )


def _judged(trial: Trial) -> list[Check]:
    """Run the file and judge its outputs, one after the other."""
    process, names, limits = trial.process, trial.pictures.names, trial.limits
    answers = process.run_all(trial.fed)
    trial.memory = process.memory()
    # In the order that both have them in: `described` has asked for the names.
    wanted = {trial.output.name: trial.expected, **{spec.name: expected for spec, expected in trial.others}}
    own = [spec.name for spec in process.outputs]
    found: dict[str, np.ndarray] = {}
    checks, comparisons = [], dict[str, metrics.Comparison]()
    for (name, expected), answer in zip(wanted.items(), (answers[name] for name in own), strict=True):
        found[name] = outputs = answer.reshape(len(answer), -1) if answer.size == expected.size else answer
        if name == trial.output.name:
            trial.outputs = outputs
        judged, comparison = _compared(trial, name, expected, outputs)
        checks += [of_output(name, wanted, check) for check in judged]
        if comparison is not None:
            comparisons[name] = comparison
    trial.comparison = comparisons.get(trial.output.name)
    near = {n: metrics.neighbours(wanted[n], found[n]) for n in comparisons if n in EMBEDDINGS}
    trial.neighbours = near.get(trial.output.name)
    trial.more = tuple(
        metrics.OutputResult(name, comparison, near.get(name))
        for name, comparison in comparisons.items()
        if name != trial.output.name
    )
    if len(comparisons) < len(wanted):
        return checks
    tolerances = {n: c.range * limits.worst_difference if limits else 0.0 for n, c in comparisons.items()}
    in_file = dict(zip(own, found.values(), strict=True)), dict(zip(own, tolerances.values(), strict=True))
    return [*checks, *repeatable(process, in_file[0], trial.fed, names, in_file[1])]


def _compared(
    trial: Trial, name: str, expected: np.ndarray, outputs: np.ndarray
) -> tuple[list[Check], metrics.Comparison | None]:
    """What the `outputs` [n, k] called `name` are beside those that are `expected`; None where that cannot be said."""
    names, limits = trial.pictures.names, trial.limits
    checks = [finite(outputs, names)]
    if outputs.shape != expected.shape:
        detail = f"outputs have shape {list(outputs.shape)}, the reference's {list(expected.shape)}"
        return [*checks, Check("output_shape", False, list(expected.shape), list(outputs.shape), detail)], None
    if not checks[-1].passed:
        return checks, None
    comparison = metrics.compare(expected, outputs, classes=ranks(name, trial.record))
    checks += [varies(expected, outputs), class_order(expected, outputs)]
    if limits is None:
        checks.append(Check("limits", False, detail="there are no limits for such a file"))
    else:
        checks += figures(comparison, limits, names, trained=trial.options.trained)
    return checks, comparison


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
