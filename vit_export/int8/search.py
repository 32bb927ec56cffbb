"""The fastest mix of int8 modes that keeps a budget of noise or of changed answers.

Start with everything in static int8. Where the file does not keep the budget, take the cheapest mix whose predicted
noise (`vit_export.int8.sensitivity`) is within a target, measure its file, and move the target by how far that is from
the budget. Nothing is timed, so that the same model and images lead to the same choice (`vit_export.int8.price`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vit_export.base.signal import json_ready
from vit_export.int8.budget import Budget, Measured
from vit_export.int8.mixing import Mixes
from vit_export.int8.modes import Modes, static
from vit_export.int8.price import price, total
from vit_export.int8.sensitivity import Component, Option, Progress, Sensitivity, components, measure_sensitivity
from vit_export.int8.tune import Tuning
from vit_export.model.parameters import ParameterSource
from vit_export.model.spec import ViTSpec

MOST_ROUNDS = 8
"""Files that are written and measured, the first with everything static."""

CLOSE_DB = 0.5
"""A mix that keeps the budget is not made faster where less than this is left of it."""


@dataclass(frozen=True)
class Step:
    """One component that is not in static int8; what is predicted for the model with this step and those before it.

    `price` is what they cost in time, as a part of that of the model's int8 Dense layers.
    """

    component: Component
    before: Option
    after: Option
    sqnr_db: float
    price: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        layer = None if self.component.layer < 0 else self.component.layer
        modes = {"from": _words(self.component, self.before), "to": _words(self.component, self.after)}
        return json_ready(
            {"layer": layer, "part": self.component.part, **modes, "predicted_db": self.sqnr_db, "price": self.price}
        )


@dataclass(frozen=True)
class Choice:
    """What was found: `modes`, with the `tuning` to write them with, and how the file made so `measured`.

    `start` is the measurement with everything static, and `steps` lead from there to `modes`, the first buying the most
    for its price; `start_db` is what was predicted before the first (NaN without steps). `rounds` files were measured.
    """

    budget: Budget
    modes: Modes
    tuning: Tuning
    steps: tuple[Step, ...]
    start: Measured
    start_db: float
    measured: Measured
    met: bool
    rounds: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return json_ready(
            {
                "budget": vars(self.budget),
                "met": self.met,
                "measured": vars(self.measured),
                "measured_static": vars(self.start),
                "predicted_static_db": self.start_db if self.steps else None,
                "steps": [step.to_dict() for step in self.steps],
                "modes": self.modes.to_dict(),
                "files_measured": self.rounds,
            }
        )

    def summary(self) -> str:
        """One sentence for people: what was chosen, and what it costs."""
        if not self.steps:
            return "; ".join(self.explained())
        paid = f"time {100 * self.steps[-1].price:+.0f} % of the int8 Dense layers', estimated"
        missed = "" if self.met else f"; {self.explained()[-1]}"
        return (
            f"everything static keeps {self.start}, so {len(self.steps)} parts of the model compute more exactly "
            f"({paid}; report.json tells each): {self.measured} measured, {self.budget} wanted{missed}"
        )

    def explained(self) -> list[str]:
        """Sentences for people: what was measured, each step with its price, how it ended."""
        met = "which is enough" if self.met and not self.steps else f"{self.budget} wanted"
        found = [f"everything static: {self.start} measured, {met}"]
        sqnr_db, paid = self.start_db, 0.0
        for step in self.steps:
            before, after = (_words(step.component, option) for option in (step.before, step.after))
            part = {"patch": "patch embedding", "head": "head"}.get(step.component.part)
            name = part or f"encoder layer {step.component.layer} {step.component.part}"
            found.append(
                f"{name}: {before} → {after}: {sqnr_db:.1f} → {step.sqnr_db:.1f} dB predicted, "
                f"time {100 * (step.price - paid):+.1f} % of the int8 Dense layers'"
            )
            sqnr_db, paid = step.sqnr_db, step.price
        if self.steps:
            found.append(f"this mix: {self.measured} measured, {self.budget} wanted")
        if not self.met:
            found.append(
                f"no int8 mix that was found keeps {self.budget}, and this is the best of them: verification judges it "
                "by limits of its own; ask for less, or choose float16 to keep more"
            )
        return found


def search(
    source: ParameterSource,
    images: np.ndarray,
    tuning: Tuning,
    measure: Callable[[Modes, Tuning], Measured],
    budget: Budget,
    progress: Progress | None = None,
    retune: Callable[[], Tuning] | None = None,
) -> Choice:
    """The fastest modes for the parameters of `source` that keep `budget`, or else the best that were found.

    `images` are representative ones, float32 [n, height, width, 3], normalized. `tuning` is that of `modes.static`.
    `retune` gives the one for mixes, where everything static is not enough; without it, it is the same.
    `measure` writes the file of `source` in the given modes with the given tuning, and runs it, best on images that
    `tuning` was not made by: at most `MOST_ROUNDS` times. `progress` counts encoder layers while noise is measured,
    which is skipped where everything static is enough.

    Raises:
        InputError: the model has no classes to agree on; whatever `measure` raises.
    """
    spec = source.spec
    budget.check(spec)
    first = static(spec)
    start = measure(first, tuning)
    if budget.kept(start):
        return Choice(budget, first, tuning, (), start, math.nan, start, True, 1)
    mixed = retune() if retune else tuning
    sensitivity = measure_sensitivity(source, images, mixed, progress)
    mixes = Mixes(spec, sensitivity)
    trials = [_Trial(first, sensitivity.predicted(first), 0.0, start)]
    while len(trials) < MOST_ROUNDS:
        target = _next_target(trials, budget)
        if target is None:
            break
        modes = mixes.cheapest(target)
        if any(modes == trial.modes for trial in trials):
            break
        measured = measure(modes, sensitivity.tuning(modes))
        trials.append(_Trial(modes, sensitivity.predicted(modes), total(spec, modes), measured))
    kept = [trial for trial in trials if budget.kept(trial.measured)]
    if kept:
        best = min(kept, key=lambda trial: trial.price)
    else:
        best = max(trials, key=lambda trial: (budget.agreement_kept(trial.measured), trial.measured.sqnr_db))
    return Choice(
        budget,
        best.modes,
        tuning if best.modes == first else sensitivity.tuning(best.modes),
        _steps(spec, sensitivity, best.modes),
        start,
        _decibels(trials[0].predicted),
        best.measured,
        bool(kept),
        len(trials),
    )


@dataclass(frozen=True)
class _Trial:
    modes: Modes
    predicted: float
    price: float
    measured: Measured


def _next_target(trials: list[_Trial], budget: Budget) -> float | None:
    """The predicted noise to try next, None when the best trial is close enough to what the budget allows."""
    kept = [trial for trial in trials if budget.kept(trial.measured)]
    missed = [trial for trial in trials if not budget.kept(trial.measured)]
    nearest = min(missed, key=lambda trial: trial.predicted)
    if not kept:
        targets = []
        if budget.min_sqnr is not None and not budget.sqnr_kept(nearest.measured):
            targets.append(_scaled(nearest, budget.min_sqnr))
        if not budget.agreement_kept(nearest.measured):
            targets.append(nearest.predicted / 2)
        return min(targets)
    best = max(kept, key=lambda trial: trial.predicted)
    target = math.sqrt(best.predicted * nearest.predicted)
    if budget.min_sqnr is not None and budget.agreement_kept(nearest.measured):
        scaled = _scaled(best, budget.min_sqnr)
        # What missed already is no target: half-way to it.
        target = scaled if scaled < nearest.predicted else target
    room = _decibels(best.predicted) - _decibels(target)
    return target if room > CLOSE_DB else None


def _steps(spec: ViTSpec, sensitivity: Sensitivity, modes: Modes) -> tuple[Step, ...]:
    """The steps from everything static to `modes`, the best bargains first."""
    start = now = static(spec)

    def bargain(part: Component) -> float:
        before, after = part.of(start), part.of(modes)
        saved = sensitivity.of(part, before) - sensitivity.of(part, after)
        return saved / max(price(spec, part, after) - price(spec, part, before), 1e-12)

    steps = []
    for part in sorted(components(spec), key=bargain, reverse=True):
        before, after = part.of(start), part.of(modes)
        if before != after:
            now = part.put(now, after)
            steps.append(Step(part, before, after, _decibels(sensitivity.predicted(now)), total(spec, now)))
    return tuple(steps)


def _scaled(trial: _Trial, min_sqnr: float) -> float:
    """The noise to predict for a file to measure `min_sqnr` dB, if predictions err as much as for `trial`."""
    return trial.predicted * 10 ** ((trial.measured.sqnr_db - min_sqnr) / 10)


def _decibels(noise: float) -> float:
    return -10 * math.log10(noise) if noise > 0 else math.inf


def _words(component: Component, option: Option) -> str:
    """An option in words: what of attention is what, or the one mode of everything else."""
    if component.part != "attention" or option.dense == option.products:
        return option.dense
    products = "int8 scores, float softmax·V" if option.products == "scores" else f"{option.products} products"
    return f"{option.dense} Dense, {products}"
