"""What a row of the catalogue of faults is."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from conftest import toy_spec

from helpers.faults_edits import Maker

SPEC = toy_spec().with_(num_layers=4)
HEADS, HEAD_SIZE = SPEC.num_heads, SPEC.head_size
LAYER = "encoder/layer_"

FIGURES = frozenset({"worst_difference", "cosine", "sqnr"})


@dataclass(frozen=True)
class Fault:
    """One fault: what it is, how it is made, which checks must fail, and what must name it.

    No check but `fails` and those of `may` fails. `cause` is the name of the only cause that fits, `departs` the first
    point of the network that is off, `says` a pattern that the sentence of a failed check matches, `warns` one that a
    warning matches where no check fails; at least one is given. `bench` is the reference it is made of, `place` where
    it is run. `missed` says why verification cannot tell it yet. `slow` is for what is much like another fault, made
    elsewhere or in another kind of file.
    """

    name: str
    make: Maker
    fails: frozenset[str]
    cause: str | None = None
    departs: str | None = None
    says: str | None = None
    warns: str | None = None
    may: frozenset[str] = frozenset()
    bench: str = "toy"
    place: str = "cpu"
    missed: str = ""
    slow: bool = False

    def __post_init__(self) -> None:
        assert self.cause or self.departs or self.says or self.warns, f"{self.name}: nothing names it"


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


def zeros(array: np.ndarray) -> np.ndarray:
    return np.zeros_like(array)


def rolled(steps: int, axis: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.roll(array, steps, axis=axis)


def kernel(layer: int, name: str) -> str:
    return f"{LAYER}{layer}/{name}/kernel"
