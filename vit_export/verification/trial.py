"""A trial: one file beside the reference on the same pictures, from the question to the answers."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.outputs import RETURNS
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.runtimes.process import Memory, RunnerProcess
from vit_export.verification.checks import Limits, limits_of
from vit_export.verification.metrics import Comparison, Neighbours, OutputResult
from vit_export.verification.options import VerifyOptions
from vit_export.verification.told import Told

EMBEDDINGS = ("pooled", "features")
"""Outputs by which images are compared with each other."""

_NO_CLASSES = tuple(name for name in RETURNS if name != "logits")


@dataclass(kw_only=True, eq=False)
class Trial:
    """What the file `artifact` is asked in `process`, and below that what it has answered so far.

    `images` are the `pictures` normalized, `fed` the same as the file takes them, both [n, s, s, 3]. `expected`,
    [n, k], is what the reference makes of them (the softmax of that with `options.probabilities`) and `output`
    describes it. `others` are the further outputs that are compared, what is expected of each beside what describes it;
    tokens are flat there, a row an image. `record` is what the reference says of itself, `parameters` are its own,
    both None where this package did not write it; `reference` runs it on other numbers, None where it may not stay in
    memory.

    `outputs` are the file's answers, [n, k'], empty until there are some; `comparison` is None unless they can be
    compared, `neighbours` unless images are compared by them, `memory` unless the file ran. `more` is what was found of
    the `others`. `told` is what the file tells other programs, None where that is nothing.
    """

    artifact: Artifact
    process: RunnerProcess
    pictures: Pictures
    images: np.ndarray
    fed: np.ndarray
    expected: np.ndarray
    output: TensorSpec
    options: VerifyOptions
    record: ModelRecord | None = None
    parameters: ParameterSource | None = None
    reference: Callable[[np.ndarray], np.ndarray] | None = None
    others: tuple[tuple[TensorSpec, np.ndarray], ...] = ()

    outputs: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    comparison: Comparison | None = None
    neighbours: Neighbours | None = None
    more: tuple[OutputResult, ...] = ()
    memory: Memory | None = None
    told: Told | None = None

    @property
    def limits(self) -> Limits | None:
        """What the file is held to; None where there are no limits for such a file."""
        return limits_of(self.artifact, trained=self.options.trained, place=self.process.place)

    @property
    def has_classes(self) -> bool:
        """Whether the largest output is the answer, as it is not of features, several labels at once or numbers."""
        return ranks(self.output.name, self.record)

    @property
    def same_shape(self) -> bool:
        """Whether the file answers as much as the reference."""
        return self.expected.shape == self.outputs.shape


def ranks(name: str, record: ModelRecord | None) -> bool:
    """Whether the largest number of the output `name` is the answer; `record` is the reference's, if it has one."""
    return name not in _NO_CLASSES and (record is None or record.classifies)
