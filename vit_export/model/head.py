"""What stands between what is pooled and the classifier's own Dense: Dense layers, LayerNorms and activations."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from vit_export.base.checks import number, whole_number
from vit_export.base.errors import InputError

DENSE, NORM = "dense", "norm"

ACTIVATIONS: dict[str, tuple[float, float] | None] = {
    "relu": None,
    "relu6": None,
    "leaky_relu": (0.0, 10.0),
    "elu": (0.0, 10.0),
    "selu": None,
    "gelu": None,
    "gelu_tanh": None,
    "tanh": None,
    "sigmoid": None,
    "silu": None,
    "softplus": None,
    "softsign": None,
    "hard_silu": None,
    "mish": None,
}
"""Activations of a head, with the bounds of the number of those that have one: the slope of leaky_relu, elu's alpha.

What Keras calls by name, but for those that grow like the exponential, which float16 and int8 hold no range of.
"""

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""Klambauer et al. (2017), "Self-Normalizing Neural Networks"."""

MAX_STEPS, MAX_SIZE = 32, 65_536


class Step(NamedTuple):
    """One step of a head: `kind` is DENSE with its width, NORM with its epsilon, or one of ACTIVATIONS."""

    kind: str
    value: float | None = None


class Placed(NamedTuple):
    """A step in its place: the prefix of its parameters ("" where it has none), and how many numbers go in and out."""

    name: str
    step: Step
    inputs: int
    outputs: int


def placed(steps: tuple[Step, ...], width: int) -> Iterator[Placed]:
    """`steps` behind `width` pooled numbers, in their order."""
    for index, step in enumerate(steps):
        outputs = int(step.value or 0) if step.kind == DENSE else width
        yield Placed(f"head/{step.kind}_{index}" if step.kind in (DENSE, NORM) else "", step, width, outputs)
        width = outputs


def width_behind(steps: tuple[Step, ...], width: int) -> int:
    """How many numbers leave `steps`, of `width` pooled ones."""
    return next((int(step.value or 0) for step in reversed(steps) if step.kind == DENSE), width)


def checked(steps: Any) -> tuple[Step, ...]:
    """`steps`, as JSON has them or as they are.

    Raises:
        InputError: no steps, too many, or one that no model has.
    """
    if not isinstance(steps, list | tuple):
        raise InputError(f"head is {steps!r:.60}, expected a list of steps such as ['dense', 512] and ['relu', null].")
    if len(steps) > MAX_STEPS:
        raise InputError(f"head has {len(steps)} steps, expected {MAX_STEPS} at most.")
    return tuple(_checked(step) for step in steps)


def _checked(step: Any) -> Step:
    if not isinstance(step, list | tuple) or len(step) != 2 or not isinstance(step[0], str):
        raise InputError(f"A step of the head is {step!r:.60}, expected a pair such as ['dense', 512].")
    kind, value = step
    if kind == DENSE:
        whole_number("The width of a Dense of the head", value, 1, MAX_SIZE)
    elif kind == NORM:
        number("The epsilon of a LayerNorm of the head", value, 1e-12, 0.1)
    elif kind not in ACTIVATIONS:
        raise InputError(
            f"A step of the head is {kind!r:.60}, expected {DENSE}, {NORM} or one of {', '.join(ACTIVATIONS)}."
        )
    elif (bounds := ACTIVATIONS[kind]) is not None:
        number(f"The number of the head's {kind}", value, *bounds)
    elif value is not None:
        raise InputError(f"The head's {kind} has the number {value!r:.40}, expected none.")
    return Step(kind, value)
