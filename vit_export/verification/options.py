"""How files are verified: the options of `verifier.verify`, judged when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vit_export.base.checks import whole_number
from vit_export.model.artifact import Format
from vit_export.runtimes.places import CPU, Place


@dataclass(frozen=True, eq=False, kw_only=True)
class VerifyOptions:
    """How files are verified; each is run with `threads` threads, at each of `places` that takes its format.

    `trained` says that the weights were learnt: agreement of classes is then judged. `latency` times what runs.
    `known_outputs`, each float32 [m, …] by the output's name, are what the model itself returned in memory for the
    first m images, before it was saved: they show that the SavedModel is that model. With `probabilities` files are
    compared with the softmax of the reference's logits. With `locate` the layers of a file that fails are compared one
    by one. `read` names, by path, the output to compare of a file of another tool that has several.

    Raises:
        InputError: `threads` is no whole number from 1 up.
    """

    threads: int = 1
    trained: bool = False
    latency: bool = True
    known_outputs: Mapping[str, np.ndarray] | None = None
    probabilities: bool = False
    locate: bool = False
    places: tuple[Place, ...] = (CPU,)
    read: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole_number("The number of threads", self.threads, 1)

    def places_of(self, format: Format) -> tuple[Place, ...]:
        """Where files of `format` are run; on the CPU where no place takes them, as it takes every format."""
        return tuple(place for place in self.places if place.takes(format)) or (CPU,)
