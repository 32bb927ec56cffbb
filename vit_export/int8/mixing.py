"""Every mix of options worth having: those that no other beats in both predicted noise and price.

Noise and price both add up over the components, so the mixes are built one component at a time, and what is beaten on
the way is left out: a multiple-choice knapsack, solved by its Pareto front (Nemhauser and Ullmann, 1969).
"""

from dataclasses import dataclass

import numpy as np

from vit_export.int8.modes import Modes, static
from vit_export.int8.price import price
from vit_export.int8.sensitivity import Component, Sensitivity, components
from vit_export.model.spec import ViTSpec

MOST_FLOAT = 0.25
"""The part of the encoder's attentions and MLPs that may be left in float, rounded down; more is no int8 file."""

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


class Mixes:
    """The mixes of `spec` worth having; in an int8 file, so that at most `MOST_FLOAT` of the encoder is float."""

    def __init__(self, spec: ViTSpec, sensitivity: Sensitivity) -> None:
        self.spec, self.sensitivity, self.parts = spec, sensitivity, components(spec)
        # Float weights in the encoder are the last resort: fronts by how many of its attentions and MLPs have them.
        self._fronts = [_Front(np.zeros(1), np.zeros(1), np.zeros((1, 0), np.int8))]
        for part in self.parts:
            self._fronts = self._with(part)

    def cheapest(self, target: float) -> Modes:
        """The mix of the least price with at most `target` of noise predicted, or the one of the least noise.

        Encoder layers with float weights are as few as the target allows.
        """
        for front in self._fronts:
            if front.noises[-1] <= target:
                return self._modes(front.chosen[np.argmax(front.noises <= target)])
        best = min(self._fronts, key=lambda front: float(front.noises[-1]))
        return self._modes(best.chosen[-1])

    def _modes(self, chosen: np.ndarray) -> Modes:
        modes = static(self.spec)
        for part, option in zip(self.parts, chosen, strict=True):
            modes = part.put(modes, part.options[option])
        return modes

    def _with(self, part: Component) -> list[_Front]:
        """The fronts with `part` added, in each of its options."""
        most = int(MOST_FLOAT * 2 * self.spec.num_layers)
        found: list[list[_Front]] = [[] for _ in range(min(most + 1, len(self._fronts) + 1))]
        for index, option in enumerate(part.options):
            paid, noise = price(self.spec, part, option), self.sensitivity.of(part, option)
            more = int(option.dense == "float" and part.layer >= 0)
            for used, front in enumerate(self._fronts):
                if used + more <= most:
                    found[used + more].append(front.extended(paid, noise, index))
        return [_best(fronts) for fronts in found if fronts]


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
