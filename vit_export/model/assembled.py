"""A model that was taken apart as one Vision Transformer: its spec, and each of its head's parameters from the parts.

BatchNormalization and rescaling are affine when nothing is trained: they go into the Dense or LayerNorm beside them,
and become a Dense of their own where there is none. So does what a model does behind its last Dense, but for a softmax
or a sigmoid at the end, which are left out: files return logits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from vit_export.base.errors import InputError
from vit_export.model.head import DENSE, NORM, Step
from vit_export.model.keras_parts import AFFINE, BATCH_NORM, SOFTMAX, Part
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, ProblemType
from vit_export.model.spec import ViTSpec
from vit_export.model.taken_apart import Apart, Tokens

_MOST = 4096
"""The largest width of a Dense that is made for what stands between no two."""

_PIXELS = 255.0


class Weight(NamedTuple):
    """One array of a layer: the layer's path and the number of the array; no path for a parameter of the backbone."""

    path: tuple[str, ...]
    place: int | str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A parameter: `make` of the arrays of `weights`."""

    weights: tuple[Weight, ...]
    make: Callable[..., np.ndarray]

    @classmethod
    def constant(cls, values: np.ndarray) -> "Made":
        """A parameter of its own."""
        return cls((), lambda: values)

    @classmethod
    def stored(cls, path: tuple[str, ...], place: int | str, shape: tuple[int, ...]) -> "Made":
        """An array as it is."""
        return cls((Weight(path, place, shape),), lambda values: values)

    @classmethod
    def of(cls, function: Callable[..., np.ndarray], *parts: "Made") -> "Made":
        """`function` of other parameters, in float64."""

        def make(*arrays: np.ndarray) -> np.ndarray:
            left = iter(arrays)
            own = (part.make(*islice(left, len(part.weights))) for part in parts)
            return function(*(values.astype(np.float64) for values in own))

        return cls(tuple(weight for part in parts for weight in part.weights), make)


@dataclass(frozen=True)
class Assembled:
    """The model as one: its record, and its head's parameters by their canonical names, others being the backbone's.

    `factor` and `shift` are what happens to images before the backbone, [3] each. `left_out` is the softmax or sigmoid
    at the end, None where there is none.
    """

    record: ModelRecord
    parameters: Mapping[str, Made]
    factor: np.ndarray
    shift: np.ndarray
    left_out: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be told of it."""
        found = []
        if self.left_out:
            found.append(f"The {self.left_out} at the end of the model is left out: the files return logits.")
        if (self.factor != 1).any() or self.shift.any():
            known = self.record.preprocessing
            mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (known.mean, known.std))
            found.append(
                "The scaling at the beginning of the model is left out: the files take images normalized by mean "
                f"{mean} and std {std} (--input uint8 puts that into the file)."
            )
        return tuple(found)

    def record_of(self, read: Callable[[str], np.ndarray]) -> ModelRecord:
        """The record, given the parameters that `read` returns by name: trained where the head is none that Keras drew.

        Nothing says how a head was trained, with an optimizer of Keras or otherwise.
        """
        own = [name for name, made in self.parameters.items() if any(weight.path for weight in made.weights)]
        if self.record.trained or all(_as_drawn(name, read(name)) for name in own):
            return self.record
        return self.record.saying(trained=True, changed_in="python")


def _as_drawn(name: str, values: np.ndarray) -> bool:
    """Whether a head's parameter may be of layers as Keras makes them: biases 0, scales alike, kernels Glorot's.

    An untrained BatchNormalization turns scales of 1 into other numbers, and alone becomes a diagonal kernel.
    """
    if values.ndim < 2:
        return not values.any() if name.endswith("/bias") else bool((values == values[0]).all())
    if values.shape[0] == values.shape[1] and np.array_equal(values, values[0, 0] * np.eye(len(values))):
        return True
    limit = (6 / sum(values.shape)) ** 0.5
    power = float(np.square(values, dtype=np.float64).mean()) / (limit**2 / 3)
    # Of a uniform number the square is 1 on average, with a variance of 4/5: five standard deviations of the mean.
    return bool(np.abs(values).max() <= limit and abs(power - 1) <= 5 * (0.8 / values.size) ** 0.5)


class _Step(NamedTuple):
    """A step of the head to be, its number, and of Dense, LayerNorm and AFFINE its two parameters.

    Of AFFINE the number is the width.
    """

    kind: str
    value: Any
    made: tuple[Made, ...] = ()


_PLACES = {DENSE: ("kernel", "bias"), NORM: ("scale", "bias")}


def assemble(apart: Apart) -> Assembled:
    """The parts of a model as one.

    Raises:
        InputError: they are none that a model has.
    """
    record, end, spec = apart.record, apart.end, apart.record.spec
    factor, shift = _scaling(apart)
    if (factor != 1).any() or shift.any():
        record = replace(record, preprocessing=_pixels(apart, factor, shift))
    if isinstance(end, Tokens):
        spec = spec.with_(returns=("tokens",), pre_logits_size=None, l2_normalize=False)
        return Assembled(replace(record, spec=spec), {}, factor, shift, None)
    parts, steps, parameters = list(end.parts), list[_Step](), dict[str, Made]()
    if end.pooling is None:
        steps, width = _own_head(spec), spec.num_classes or 0
    else:
        mean_norm = spec.pooling == "mean_norm"
        if mean_norm:
            parameters = _norm_of_mean(spec, parts)
            parts = parts[1:]
        # What is pooled depends on whether there are classes, whose number is not known yet.
        pooling = "mean_norm" if mean_norm else end.pooling
        spec = spec.with_(pooling=pooling, pre_logits_size=None, num_classes=1, returns=(), l2_normalize=False)
        width = spec.pooled_size
    left_out = None
    if parts and parts[-1].kind in (SOFTMAX, "sigmoid") and len(parts) + len(steps) > 1:
        left_out = parts.pop().kind
    for part in parts:
        width = _append(steps, part, width)
    if not steps:
        if spec.joins:
            raise InputError("The model returns class token and mean without a Dense behind them, expected a head.")
        record = replace(record, spec=spec.with_(num_classes=None), labels=None, problem_type=None)
        return Assembled(record, parameters, factor, shift, None)
    bent = steps[-1].kind not in (DENSE, AFFINE)
    if bent:
        steps.append(_Step(AFFINE, width, (Made.constant(np.ones(width)), _zeros(width))))
    steps = [_diagonal(step) if step.kind == AFFINE else step for step in steps]
    spec = spec.with_(num_classes=steps[-1].value, head=tuple(Step(step.kind, step.value) for step in steps[:-1]))
    names = [placed.name for placed in spec.head_steps] + ["head"]
    for name, step in zip(names, steps, strict=True):
        parameters |= {f"{name}/{p}": made for p, made in zip(_PLACES.get(step.kind, ()), step.made, strict=True)}
    record = replace(record, spec=spec)
    if end.pooling is not None or end.parts:
        problem: ProblemType | None = "regression" if bent else None
        labels = record.labels if end.pooling is None and len(record.labels or ()) == spec.num_classes else None
        problem = "multi_label_classification" if left_out == "sigmoid" else problem
        # The head is untrained until its weights say otherwise (`Assembled.record_of`).
        record = replace(record, labels=labels, problem_type=problem).saying(trained=False)
    return Assembled(record, parameters, factor, shift, left_out)


def _append(steps: list[_Step], part: Part, width: int) -> int:
    """Put `part`, which reads `width` numbers, behind `steps`; how many numbers leave it."""
    if part.kind == DENSE:
        kernel = Made.stored(part.path, 0, (width, part.value))
        bias = Made.stored(part.path, 1, (part.value,)) if part.has[1] else _zeros(part.value)
        if steps and steps[-1].kind == AFFINE:
            factor, shift = steps.pop().made
            bias = Made.of(lambda k, b, s: b + s @ k, kernel, bias, shift)
            kernel = Made.of(lambda k, f: k * f[:, np.newaxis], kernel, factor)
        steps.append(_Step(DENSE, part.value, (kernel, bias)))
        return int(part.value)
    if part.kind == NORM:
        steps.append(_Step(NORM, part.value, _optional(part, width)))
    elif part.kind in (AFFINE, BATCH_NORM):
        factor, shift = _affine(part, width)
        if steps and steps[-1].made:
            kind, value, (first, second) = steps.pop()
            first = Made.of(lambda values, f: values * f, first, factor)  # of a kernel its columns
            second = Made.of(lambda values, f, s: values * f + s, second, factor, shift)
            steps.append(_Step(kind, value, (first, second)))
        else:
            steps.append(_Step(AFFINE, width, (factor, shift)))
    elif part.kind == SOFTMAX:
        raise InputError(f"The layer {part.layer} is a softmax, expected none before the end of the model.")
    else:
        steps.append(_Step(part.kind, part.value))
    return width


def _diagonal(step: _Step) -> _Step:
    """A Dense that does what the affine `step` does: nothing beside it could."""
    if step.value > _MOST:
        raise InputError(
            f"The model scales {step.value} numbers that no Dense makes or reads, expected {_MOST} at most: end it in "
            "a Dense."
        )
    factor, shift = step.made
    return _Step(DENSE, step.value, (Made.of(np.diag, factor), shift))


def _own_head(spec: ViTSpec) -> list[_Step]:
    """The head that a backbone has of its own."""

    def own(name: str, kind: str, value: Any, shapes: tuple[tuple[int, ...], ...]) -> _Step:
        places = zip(_PLACES.get(kind, ()), shapes, strict=False)
        return _Step(kind, value, tuple(Made.stored((), f"{name}/{place}", shape) for place, shape in places))

    steps = []
    for name, (kind, value), inputs, outputs in spec.head_steps:
        steps.append(own(name, kind, value, ((inputs, outputs) if kind == DENSE else (inputs,), (outputs,))))
    classes = spec.num_classes or 0
    return [*steps, own("head", DENSE, classes, ((spec.classifier_inputs, classes), (classes,)))]


def _affine(part: Part, width: int) -> tuple[Made, Made]:
    """Factor and shift [width] of a part that is affine."""
    if part.kind == AFFINE:
        factor, shift = (Made.constant(_wide(part, numbers, width)) for numbers in part.value)
        return factor, shift
    gamma, beta = _optional(part, width)
    place = sum(part.has)
    mean, variance = (Made.stored(part.path, place + number, (width,)) for number in (0, 1))
    epsilon = part.value
    factor = Made.of(lambda g, v: g / np.sqrt(v + epsilon), gamma, variance)
    return factor, Made.of(lambda b, m, f: b - m * f, beta, mean, factor)


def _wide(part: Part, numbers: Any, width: int) -> np.ndarray:
    values = np.asarray(numbers, np.float64).reshape(-1)
    if len(values) not in (1, width):
        raise InputError(
            f"The layer {part.layer} has {len(values)} numbers for {width} channels, expected one for each."
        )
    return np.broadcast_to(values, (width,)).copy()


def _optional(part: Part, width: int) -> tuple[Made, Made]:
    """Scale and shift of a norm, ones and zeros where it has none."""
    scale = Made.stored(part.path, 0, (width,)) if part.has[0] else Made.constant(np.ones(width, np.float32))
    shift = Made.stored(part.path, int(part.has[0]), (width,)) if part.has[1] else _zeros(width)
    return scale, shift


def _zeros(width: int) -> Made:
    return Made.constant(np.zeros(width, np.float32))


def _norm_of_mean(spec: ViTSpec, parts: list[Part]) -> dict[str, Made]:
    """The last LayerNorm of a backbone whose tokens do not pass it: the first part of the head."""
    if not parts or parts[0].kind != NORM or not np.isclose(parts[0].value, spec.layer_norm_epsilon):
        raise InputError(
            "The mean of the tokens does not go through the backbone's last LayerNorm, as it does in extract_features: "
            "take that."
        )
    scale, shift = _optional(parts[0], spec.hidden_size)
    return {"encoder/norm/scale": scale, "encoder/norm/bias": shift}


def _scaling(apart: Apart) -> tuple[np.ndarray, np.ndarray]:
    """What happens to images before the backbone: factor and shift, float64 [3]."""
    factor, shift = np.ones(3), np.zeros(3)
    for part in apart.before:
        own, added = (made.make() for made in _affine(part, 3))
        factor, shift = factor * own, shift * own + added
    return factor, shift


def _pixels(apart: Apart, factor: np.ndarray, shift: np.ndarray) -> Preprocessing:
    """What the images are normalized by, where the model does it itself with pixels from 0 to 255, or from 0 to 1."""
    layer = apart.before[0].layer
    with np.errstate(all="ignore"):
        # Factors differ by 255 between the two, and nothing else tells them apart.
        largest = _PIXELS if (factor < 0.1).all() else 1.0
        mean, std = -shift / (factor * largest), 1 / (factor * largest)
    told = largest > 1 or (shift < 0).all()  # numbers that are centred already need no shift
    # Nine digits are more than the float32 of an image has, and leave 0.5 what it is.
    (mean_r, mean_g, mean_b), (std_r, std_g, std_b) = (np.round(values, 9) + 0.0 for values in (mean, std))
    try:
        if told:
            return replace(
                apart.record.preprocessing,
                mean=(float(mean_r), float(mean_g), float(mean_b)),
                std=(float(std_r), float(std_g), float(std_b)),
            )
    except InputError:
        pass  # as below
    raise InputError(
        f"The layer {layer} changes the images before the backbone, and not as pixels from 0 to 255 are normalized: "
        "leave it out of the model, and say what pixels it takes (preprocessing=, --mean and --std)."
    )
