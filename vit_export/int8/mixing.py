"""Every mix of options worth having: those that no other beats in both predicted noise and price.

Noise and price both add up over the components, so the mixes are built one component at a time, and what is beaten on
the way is left out: a multiple-choice knapsack, solved by its Pareto front (Nemhauser and Ullmann, 1969).
"""

import math
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from vit_export.artifacts.facts import Constants
from vit_export.artifacts.read import precision_of
from vit_export.int8.modes import Modes, static
from vit_export.int8.price import kernels, price
from vit_export.int8.sensitivity import Component, Sensitivity, components
from vit_export.model.parameters import parameter_specs
from vit_export.model.spec import ViTSpec

_MOST_POINTS = 4096
"""Mixes kept on the way: ViT-H has fewer, and where there are more, neighbours differ by a fraction of a percent."""


@dataclass(frozen=True)
class _Front:
    """Mixes of the first components, by rising price and falling noise; `chosen` is the option of each, by index."""

    prices: np.ndarray
    noises: np.ndarray
    chosen: np.ndarray

    def extended(self, price: float, noise: float, option: int) -> "_Front":
        """These mixes, each with one more component in its `option`, by the option's `price` and `noise`."""
        column = np.full((len(self.chosen), 1), option, np.int8)
        return _Front(self.prices + price, self.noises + noise, np.hstack([self.chosen, column]))

    def taken(self, which: np.ndarray) -> "_Front":
        return _Front(self.prices[which], self.noises[which], self.chosen[which])


def stored(spec: ViTSpec, modes: Modes) -> dict[str, int]:
    """The bytes by dtype of the weights of a file of `spec` in `modes`, as `FileFacts.matrices` counts them."""
    found = Constants()
    for parameter in parameter_specs(spec):
        if not parameter.name.endswith("/kernel"):
            found.add("float32", parameter.shape, 4 * parameter.size)
    # What deployment adds: rows of zeros where registers have no position, and the tables of rotary ones.
    if spec.positions == "learned":
        found.add("float32", (spec.num_tokens, spec.hidden_size), 4 * spec.num_registers * spec.hidden_size)
    else:
        found.add("float32", (spec.num_tokens, spec.head_size), 2 * 4 * spec.num_tokens * spec.head_size)
    for part in components(spec):
        dtype, width = ("float32", 4) if part.of(modes).dense == "float" else ("int8", 1)
        for shape in kernels(spec, part):
            found.add(dtype, shape, width * shape[0] * shape[1])
    return found.matrices


class _Used(NamedTuple):
    """How many weights are float: of the encoder, in the steps of `Mixes`, and of what is around it."""

    steps: int
    around: int


class Mixes:
    """The mixes of `spec` worth having whose files are int8 files, by what verification takes for one."""

    def __init__(self, spec: ViTSpec, sensitivity: Sensitivity) -> None:
        self.spec, self.sensitivity = spec, sensitivity
        # What is outside the encoder comes last: its options double the fronts.
        self.parts = sorted(components(spec), key=lambda part: part.layer < 0)
        self._stored = stored(spec, static(spec))
        # Attentions and MLPs of every width lie near a few multiples of this, so that fronts are few.
        self._step = min(_weights(spec, part) for part in self.parts if part.layer >= 0) / 4
        # Float weights in the encoder are the last resort: fronts by how many there are.
        self._fronts = {_Used(0, 0): _Front(np.zeros(1), np.zeros(1), np.zeros((1, 0), np.int8))}
        for part in self.parts:
            self._fronts = self._with(part)

    def cheapest(self, target: float) -> Modes:
        """The mix of the least price with at most `target` of noise predicted, or the one of the least noise.

        Float weights in the encoder are as few as the target allows.
        """
        for _, alike in groupby(sorted(self._fronts), key=lambda used: used.steps):
            found = [self._fronts[used] for used in alike]
            if reaching := [front for front in found if front.noises[-1] <= target]:
                best = min(reaching, key=lambda front: float(front.prices[np.argmax(front.noises <= target)]))
                return self._modes(best.chosen[np.argmax(best.noises <= target)])
        best = min(self._fronts.values(), key=lambda front: float(front.noises[-1]))
        return self._modes(best.chosen[-1])

    def _modes(self, chosen: np.ndarray) -> Modes:
        modes = static(self.spec)
        for part, option in zip(self.parts, chosen, strict=True):
            modes = part.put(modes, part.options[option])
        return modes

    def _with(self, part: Component) -> dict[_Used, _Front]:
        """The fronts with `part` added, in each of its options."""
        found: dict[_Used, list[_Front]] = {}
        weights = _weights(self.spec, part)
        for index, option in enumerate(part.options):
            paid, noise = price(self.spec, part, option), self.sensitivity.of(part, option)
            for used, front in self._fronts.items():
                now = used
                if option.dense == "float":
                    steps = math.ceil(weights / self._step)
                    now = _Used(
                        *(used.steps + steps, used.around) if part.layer >= 0 else (used.steps, used.around + weights)
                    )
                    if not self._is_int8(now):
                        continue
                found.setdefault(now, []).append(front.extended(paid, noise, index))
        return {used: _best(fronts) for used, fronts in found.items()}

    def _is_int8(self, used: _Used) -> bool:
        """Whether a file with so many float weights may go by int8."""
        moved = math.ceil(used.steps * self._step) + used.around
        small, exact = self._stored["int8"] - moved, self._stored.get("float32", 0) + 4 * moved
        return precision_of({"int8": small, "float32": exact}) == "int8"


def _weights(spec: ViTSpec, part: Component) -> int:
    return sum(inputs * outputs for inputs, outputs in kernels(spec, part))


def _best(fronts: list[_Front]) -> _Front:
    """What nothing else in `fronts` beats."""
    every = _Front(
        np.concatenate([front.prices for front in fronts]),
        np.concatenate([front.noises for front in fronts]),
        np.concatenate([front.chosen for front in fronts]),
    )
    every = every.taken(np.lexsort((every.noises, every.prices)))
    least = np.minimum.accumulate(every.noises)
    worth = np.flatnonzero(np.concatenate([[True], every.noises[1:] < least[:-1]]))
    step = -(-len(worth) // _MOST_POINTS)
    return every.taken(np.union1d(worth[::step], worth[-1:]))
