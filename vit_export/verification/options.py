"""How files are verified: the options of `verifier.verify`, judged when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vit_export.base.checks import whole_number


@dataclass(frozen=True, eq=False, kw_only=True)
class VerifyOptions:
    """How files are verified; each is run on the CPU with `threads` threads.

    `trained` says that the weights were learnt: agreement of classes is then judged. `latency` times what runs.
    `known_outputs`, each float32 [m, …] by the output's name, are what the model itself returned in memory for the
    first m images, before it was saved: they show that the SavedModel is that model. With `probabilities` files are
    compared with the softmax of the reference's logits. With `locate` the layers of a file that fails are compared one
    by one. `emulate` names an architecture (`arm64`) whose builds of the runtimes run the files, without latencies.
    `read` names, by path, the output to compare of a file of another tool that has several.

    Raises:
        InputError: `threads` is no whole number from 1 up.
    """

    threads: int = 1
    trained: bool = False
    latency: bool = True
    known_outputs: Mapping[str, np.ndarray] | None = None
    probabilities: bool = False
    locate: bool = False
    emulate: str | None = None
    read: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_number("The number of threads", self.threads, 1)

    @property
    def times(self) -> bool:
        """Whether files are timed: times under emulation are no machine's."""
        return self.latency and self.emulate is None
