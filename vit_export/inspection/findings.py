"""What is wrong with a file, or worth knowing before it is shipped: one record for each fault, with what to change."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["problem", "remark"]

MAX_RANK = 4
"""Dimensions of a tensor that the GPU delegate and NNAPI take at the most."""

_SHOWN = 3  # places that a finding names


@dataclass(frozen=True)
class Finding:
    """One fault. A "problem" keeps the file from running somewhere, or from running right; a "remark" costs less.

    `where` names the first few of the `count` operators or tensors that have it, as "op 3 STRIDED_SLICE (rows)".
    """

    name: str
    severity: Severity
    where: tuple[str, ...]
    count: int
    why: str
    change: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


@dataclass(frozen=True)
class Fault:
    """A kind of finding: everything but where it is."""

    name: str
    severity: Severity
    why: str
    change: str

    def at(self, places: Iterable[str]) -> list[Finding]:
        """The finding, or none where there are no `places`."""
        found = list(places)
        return [self.found(found)] if found else []

    def found(self, places: Sequence[str] = ()) -> Finding:
        """The finding, of `places` or of the file as a whole."""
        return Finding(self.name, self.severity, tuple(places[:_SHOWN]), max(1, len(places)), self.why, self.change)


NO_NORMALIZATION = Fault(
    "no normalization",
    "remark",
    "nothing in the file says which numbers the image takes: an app has to know mean and std from elsewhere, and a "
    "wrong guess gives plausible, wrong answers",
    "write them beside the file, or export with vit-export, whose files carry them",
)
NO_LABELS = Fault(
    "no labels",
    "remark",
    "nothing in the file says what its classes are called",
    "export with --labels, or ship labels.txt with the file",
)
