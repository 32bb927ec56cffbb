"""What verification concluded, as records: one per file, one for the reference, one for all of it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vit_export.base.machine import Cpu
from vit_export.base.signal import json_ready
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.runtimes.places import CPU
from vit_export.runtimes.process import Memory
from vit_export.runtimes.timing.latency import Latency, Plan
from vit_export.runtimes.timing.noise import Noise
from vit_export.verification.checks import Check, label
from vit_export.verification.evidence import Cause, Location, TopClasses
from vit_export.verification.metrics import Accuracy, Comparison, Neighbours, OutputResult


@dataclass(frozen=True)
class FileResult:
    """Everything learnt about one file. `comparison` is None when its outputs could not be compared at all.

    `place` is where it ran, in words ('CPU', 'GPU, 16-bit, in software'), and `device` the name of the GPU, if one did.
    `accuracy` is None unless the images are labelled, `top` (per image) without classifier, `neighbours` where the
    output is no embedding. `outputs` are the others of several, in order. `causes` are explanations
    that were found to fit a failed file; `location` is None unless layers were compared.
    """

    artifact: Artifact
    checks: tuple[Check, ...]
    comparison: Comparison | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    load_seconds: float | None = None
    first_run_seconds: float | None = None
    accuracy: Accuracy | None = None
    top: tuple[TopClasses, ...] | None = None
    causes: tuple[Cause, ...] = ()
    location: Location | None = None
    neighbours: Neighbours | None = None
    outputs: tuple[OutputResult, ...] = ()
    place: str = CPU.words
    device: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passed (a file without checks has proven nothing)."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """'pass' or 'fail'."""
        return "pass" if self.passed else "fail"

    @property
    def label(self) -> str:
        """Format, precision and scheme, as in 'tflite int8 dynamic', and the place where it is not the CPU."""
        return label(self.artifact) if self.place == CPU.words else f"{label(self.artifact)} ({self.place})"

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per failed check."""
        return tuple(f"{self.label}: {check.detail}" for check in self.checks if not check.passed)

    @property
    def explanations(self) -> tuple[str, ...]:
        """One sentence for each cause that fits, and for the layer where the file departs."""
        found = [cause.detail for cause in self.causes]
        if self.location is not None:
            found.append(self.location.detail)
        return tuple(f"{self.label}: {text}" for text in found)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        values = {
            "artifact": self.artifact.to_dict(),
            "place": self.place,
            "device": self.device,
            "verdict": self.verdict,
            "failures": self.failures,
            "checks": [asdict(check) for check in self.checks],
            "comparison": self.comparison and self.comparison.to_dict(),
            "latency": self.latency and self.latency.to_dict(),
            "memory": self.memory and asdict(self.memory),
            "load_seconds": self.load_seconds,
            "first_run_seconds": self.first_run_seconds,
            "accuracy": self.accuracy and asdict(self.accuracy),
            "top": self.top and [asdict(image) for image in self.top],
            "causes": [asdict(cause) for cause in self.causes],
            "location": self.location and asdict(self.location),
            "neighbours": self.neighbours and self.neighbours.to_dict(),
            "outputs": [output.to_dict() for output in self.outputs],
        }
        return dict(json_ready(values))


@dataclass(frozen=True)
class Reference:
    """The SavedModel, or a file in its place, that files are compared with.

    `output` is the first of its outputs, `more_outputs` are the others; it and `range` are None when it could not run.
    """

    path: str
    bytes: int
    checks: tuple[Check, ...]
    output: TensorSpec | None = None
    range: float | None = None
    latency: Latency | None = None
    memory: Memory | None = None
    load_seconds: float | None = None
    accuracy: Accuracy | None = None
    top: tuple[TopClasses, ...] | None = None
    more_outputs: tuple[TensorSpec, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the reference can be compared with."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return dict(json_ready({"passed": self.passed, **asdict(self)}))


@dataclass(frozen=True)
class Verification:
    """The verdict over all files, and what it was reached with.

    `assumed` are phrases on what the reference itself was built from a guess, which no comparison with it can notice.
    """

    reference: Reference
    files: tuple[FileResult, ...]
    images: tuple[str, ...]
    trained: bool
    threads: int
    cpu: Cpu
    latency_plan: Plan | None = None
    noise: Noise | None = None
    warnings: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """The verdict of each file: all figures, as a dataclass has them, fill screens of a notebook."""
        files = ", ".join(f"{Path(f.artifact.path).name} {'passed' if f.passed else 'FAILED'}" for f in self.files)
        return f"<Verification {'passed' if self.passed else 'FAILED'} on {len(self.images)} images: {files}>"

    @property
    def passed(self) -> bool:
        """Whether the reference and every file passed."""
        return self.reference.passed and bool(self.files) and all(file.passed for file in self.files)

    @property
    def verdict(self) -> str:
        """'pass' or 'fail'."""
        return "pass" if self.passed else "fail"

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per failed check, the reference's first."""
        own = tuple(f"reference: {check.detail}" for check in self.reference.checks if not check.passed)
        return own + tuple(failure for file in self.files for failure in file.failures)

    @property
    def explanations(self) -> tuple[str, ...]:
        """What explains the failures, where something was found to."""
        return tuple(text for file in self.files for text in file.explanations)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "verdict": self.verdict,
            "failures": list(self.failures),
            "explanations": list(self.explanations),
            "warnings": list(self.warnings),
            "assumed": list(self.assumed),
            "trained": self.trained,
            "threads": self.threads,
            "cpu": self.cpu.to_dict(),
            "latency_plan": self.latency_plan,
            "noise": self.noise and self.noise.to_dict(),
            "images": list(self.images),
            "reference": self.reference.to_dict(),
            "files": [file.to_dict() for file in self.files],
        }
