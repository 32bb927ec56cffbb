"""One file at a time: it is run, asked every question, and where it fails, what explains it is looked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_export.artifacts.read import FileFacts, precision_found, read_facts
from vit_export.base.errors import InputError
from vit_export.base.files import size_of_folder
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.runtimes.process import Memory, RunnerProcess
from vit_export.runtimes.runner import RunnerError
from vit_export.verification import metrics
from vit_export.verification.causes import Case, find_causes
from vit_export.verification.checks import (
    Check,
    class_order,
    described,
    figures,
    finite,
    limits_of,
    repeatable,
    saved_as_built,
    stored,
    varies,
)
from vit_export.verification.evidence import Cause, TopClasses
from vit_export.verification.origin import as_claimed, own_data, same_origin
from vit_export.verification.verdict import FileResult, Reference

if TYPE_CHECKING:
    from vit_export.model.record import ModelRecord

FEATURES = "features"
"""Name of the output of a model without classifier: it has no top class to agree on."""

TOP = 5
"""Classes of an image that are kept to be shown."""


@dataclass(frozen=True)
class Questions:
    """What every file is compared with: the pictures by `names`, and the reference's answers `expected` [n, k].

    `images` are the pictures normalized, float32 [n, s, s, 3]; `classes` their labelled classes, None without labels.
    `reference` runs the reference on other numbers, None where it may not stay in memory; `record` is what it says of
    itself, None when it was not written by this package.
    """

    names: Sequence[str]
    images: np.ndarray
    expected: np.ndarray
    output: TensorSpec
    trained: bool
    classes: Sequence[int] | None = None
    record: "ModelRecord | None" = None
    reference: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def has_classes(self) -> bool:
        """Whether the outputs are of classes, not features."""
        return self.output.name != FEATURES


def run_reference(
    process: RunnerProcess, images: np.ndarray, names: Sequence[str], known: np.ndarray | None
) -> tuple[Reference, np.ndarray | None]:
    """The reference's facts and its outputs [n, k], None unless they can be compared with.

    `known`, [m, k], is what the model in memory returned for the first m images before it was saved.
    """
    path, size = str(process.path), size_of_folder(process.path)
    try:
        process.start()
        if len(process.outputs) != 1:
            raise RunnerError(f"{process.path.name} has {len(process.outputs)} outputs, expected one.")
        outputs = process.run(images)
        memory = process.memory()
        again = process.run(images[:1])
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
        top=metrics.top_classes(outputs, TOP) if good and process.outputs[0].name != FEATURES else None,
    )
    return truth, outputs if good else None


def examine(
    artifact: Artifact, process: RunnerProcess, questions: Questions | None, fed: np.ndarray, *, probabilities: bool
) -> FileResult:
    """Everything but latency. The checks go from the file to its figures and stop where no more can be asked.

    `fed` are the pictures as the file takes them; with `probabilities` it is compared with the softmax of the
    reference's logits. Without `questions`, because the reference failed, the file is only looked at.
    """
    checks = stored(artifact)
    if not checks[0].passed:
        return FileResult(artifact, tuple(checks))
    if questions is None:
        checks.append(Check("reference", False, detail="not compared, because the reference failed"))
        return FileResult(artifact, tuple(checks))
    facts = _facts(artifact)
    checks += _origin(artifact, facts, questions)
    answer = _Answer(artifact, process, questions, fed, metrics.softmax(questions.expected) if probabilities else None)
    try:
        process.start()
        checks += described(artifact, process, questions.output, foreign=facts is not None and facts.record is None)
        if len(process.inputs) == 1 == len(process.outputs):
            checks += answer.judged()
            checks.append(Check("runs", True))
    except RunnerError as error:
        checks.append(Check("runs", False, detail=str(error).rstrip(".")))
    if answer.outputs is not None and not all(check.passed for check in checks):
        answer.explain()
    return FileResult(
        artifact,
        tuple(checks),
        answer.comparison,
        None,
        answer.memory,
        process.load_seconds,
        process.first_run_seconds,
        answer.accuracy,
        answer.top,
        answer.causes,
    )


class _Answer:
    """What one file answers, and what follows from it."""

    def __init__(
        self,
        artifact: Artifact,
        process: RunnerProcess,
        questions: Questions,
        fed: np.ndarray,
        probabilities: np.ndarray | None,
    ) -> None:
        self.artifact, self.process, self.questions, self.fed = artifact, process, questions, fed
        self.expected = questions.expected if probabilities is None else probabilities
        self.are_logits = probabilities is None
        self.limits = limits_of(artifact, trained=questions.trained)
        self.outputs: np.ndarray | None = None
        self.comparison: metrics.Comparison | None = None
        self.memory: Memory | None = None
        self.accuracy: metrics.Accuracy | None = None
        self.top: tuple[TopClasses, ...] | None = None
        self.causes: tuple[Cause, ...] = ()

    def judged(self) -> list[Check]:
        """Run the file and judge its outputs."""
        questions, process = self.questions, self.process
        outputs = process.run(self.fed)
        self.memory = process.memory()
        checks = [finite(outputs, questions.names)]
        outputs = outputs.reshape(len(outputs), -1) if outputs.size == self.expected.size else outputs
        self.outputs = outputs
        if outputs.shape != self.expected.shape:
            detail = f"outputs have shape {list(outputs.shape)}, the reference's {list(self.expected.shape)}"
            return [*checks, Check("output_shape", False, list(self.expected.shape), list(outputs.shape), detail)]
        if not checks[-1].passed:
            return checks
        self.comparison = metrics.compare(self.expected, outputs, classes=questions.has_classes)
        if questions.has_classes:
            self.top = metrics.top_classes(outputs, TOP, are_logits=self.are_logits)
        if questions.classes is not None:
            self.accuracy = metrics.accuracy(outputs, questions.classes)
        checks += [varies(self.expected, outputs), class_order(self.expected, outputs)]
        if self.limits is None:
            checks.append(Check("limits", False, detail="there are no limits for such a file"))
        else:
            checks += figures(self.comparison, self.limits, questions.names, trained=questions.trained)
        tolerance = self.comparison.range * self.limits.worst_difference if self.limits else 0.0
        checks += repeatable(process, outputs, self.fed, questions.names, tolerance)
        return checks

    def explain(self) -> None:
        """Look for what accounts for the error."""
        assert self.outputs is not None
        questions = self.questions
        if self.outputs.ndim != 2 or not np.isfinite(self.outputs).all():
            return
        self.causes = find_causes(
            Case(
                self.artifact,
                self.expected,
                self.outputs,
                self.fed,
                questions.images,
                self.process.run,
                self.limits,
                questions.record.preprocessing if questions.record else None,
                questions.reference if self.are_logits else None,
            )
        )


def _facts(artifact: Artifact) -> FileFacts | None:
    """What the file says of itself; None for a folder, and for a file whose runtime will say what is wrong with it."""
    if artifact.format == "saved_model":
        return None
    try:
        return read_facts(Path(artifact.path))
    except InputError:
        return None


def _origin(artifact: Artifact, facts: FileFacts | None, questions: Questions) -> list[Check]:
    if facts is None:
        return []
    checks = [as_claimed(artifact, precision_found(facts), facts.matrices)] if facts.matrices else []
    checks += own_data(Path(artifact.path), facts.checksums)
    if facts.record is not None and questions.record is not None:
        checks += same_origin(facts.record, questions.record)
    return checks
