"""Why a file fails: explanations that are tried one by one, and named only where one accounts for all of the error.

An explanation either transforms the reference's outputs (what would the file return if this were wrong?) or the file's
input (what if it were fed this instead?). It fits when every figure then keeps to the file's own limits. What a file
tells other programs is explained by itself: answers do not show it.
"""

from collections.abc import Callable, Mapping

import numpy as np

from vit_export.base.wording import worded
from vit_export.model.input_kinds import KINDS, affine
from vit_export.runtimes.runner import ProcessKilled, RunnerError
from vit_export.verification import metrics
from vit_export.verification.checks import Limits, figures
from vit_export.verification.evidence import Cause
from vit_export.verification.told_causes import TOLD_HYPOTHESES
from vit_export.verification.trial import Trial

IMAGES = 6
"""Images an input is tried on: enough that nothing fits by chance, few enough to be quick."""

SHIFTS = (1, -1, 2, -2)
CLIPPED = 1e-3
"""Share of outputs at the two ends of their range from which on they count as clipped."""
GAIN_DB = 6.0
"""How much less error an explanation must leave than there is."""
LOOSE = Limits(worst_difference=0.10, cosine=0.99, sqnr_db=20.0, agreement=0.0)
"""What an explanation must reach where a file has no limits of its own."""


Explanation = Callable[[Trial], str | None]
"""A sentence where the explanation fits, else None."""


def find_causes(trial: Trial) -> tuple[Cause, ...]:
    """What explains a file that failed.

    Of its answers it is the first explanation of the outputs that fits; only where none does, all those of the input
    that do, and none where it gave no answers that could be explained. Where nothing explains the answers, it is what
    is wrong with what the file tells other programs.
    """
    told = ((name, explain(trial)) for name, explain in TOLD_HYPOTHESES.items())
    return _of_answers(trial) or tuple(Cause(name, worded(detail)) for name, detail in told if detail)


def _of_answers(trial: Trial) -> tuple[Cause, ...]:
    if trial.outputs.ndim != 2 or not trial.outputs.size or not np.isfinite(trial.outputs).all():
        return ()
    for name, explain in OUTPUT_HYPOTHESES.items():
        if detail := explain(trial):
            return (Cause(name, worded(detail)),)
    tried = ((name, _tried(explain, trial)) for name, explain in INPUT_HYPOTHESES.items())
    return tuple(Cause(name, worded(detail)) for name, detail in tried if detail)


def _tried(explain: Explanation, trial: Trial) -> str | None:
    try:
        return explain(trial)
    except ProcessKilled:
        raise
    except RunnerError:  # a file that refuses other numbers is not explained by them
        return None


def _fits(trial: Trial, expected: np.ndarray, outputs: np.ndarray) -> bool:
    """Whether `outputs` are `expected` by every limit that the file is held to (agreement of classes apart).

    And much nearer to them than the file is to the reference: a file just beyond its limits is no other model.
    """
    if expected.shape != outputs.shape or not (np.isfinite(outputs).all() and np.isfinite(expected).all()):
        return False
    own = metrics.overall_sqnr_db(trial.expected, trial.outputs) if trial.same_shape else -np.inf
    if own == np.inf or metrics.overall_sqnr_db(expected, outputs) < own + GAIN_DB:
        return False
    comparison = metrics.compare(expected, outputs, classes=False)
    names = [""] * len(expected)
    return all(check.passed for check in figures(comparison, trial.limits or LOOSE, names, trained=False))


# What the outputs could be.


def _constant(trial: Trial) -> str | None:
    if len(trial.outputs) < 2 or metrics.spread_over_images(trial.outputs) > 0:
        return None
    if metrics.spread_over_images(trial.expected) == 0:
        return None
    return "every image gives the same outputs: weights are missing, or the input is not read"


def _probabilities(trial: Trial) -> str | None:
    once = metrics.softmax(trial.expected)
    if trial.same_shape and _fits(trial, once, trial.outputs):
        return "the outputs are probabilities: a softmax follows the logits (to be compared with --probabilities)"
    return None


def _softmax_twice(trial: Trial) -> str | None:
    twice = metrics.softmax(metrics.softmax(trial.expected))
    if trial.same_shape and _fits(trial, twice, trial.outputs):
        return "the outputs went through a softmax twice"
    return None


def _scaled(trial: Trial) -> str | None:
    """Outputs = a · reference + b by least squares."""
    if not trial.same_shape or metrics.output_range(trial.expected) == 0:
        return None
    x, y = trial.expected.astype(np.float64), trial.outputs.astype(np.float64)
    spread = float(((x - x.mean()) ** 2).sum())
    a = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    b = float(y.mean() - a * x.mean())
    if abs(a) < 1e-6 or not _fits(trial, trial.expected, ((y - b) / a).astype(np.float32)):
        return None
    return f"the outputs are {a:.4g} times the reference's plus {b:.4g}: a wrong scale or zero point"


def _classes_shifted(trial: Trial) -> str | None:
    wanted, given = trial.expected, trial.outputs
    if given.ndim != 2 or len(given) != len(wanted) or wanted.shape[1] < 4:
        return None
    return _rolled(trial) if trial.same_shape else _one_more_or_less(trial)


def _rolled(trial: Trial) -> str | None:
    wanted, given = trial.expected, trial.outputs
    for shift in SHIFTS:
        own = given[:, shift:] if shift > 0 else given[:, :shift]
        if _fits(trial, wanted[:, :-shift] if shift > 0 else wanted[:, -shift:], own):
            return f"the classes are shifted by {shift}: output {max(shift, 0)} is the reference's {max(-shift, 0)}"
    return None


def _one_more_or_less(trial: Trial) -> str | None:
    wanted, given = trial.expected, trial.outputs
    more, fewer = (given, wanted) if given.shape[1] > wanted.shape[1] else (wanted, given)
    if more.shape[1] - fewer.shape[1] != 1:
        return None
    column = _inserted(more, fewer)
    left_out = np.delete(more, column, axis=1)
    if not (_fits(trial, wanted, left_out) if more is given else _fits(trial, left_out, given)):
        return None
    if more is given:
        background = " (the background class, as in lists of 1001 ImageNet classes?)" if column == 0 else ""
        return f"output {column} is one that the reference does not have{background}; the others are its own in order"
    return f"the reference's output {column} is missing; the others are there in order"


def _inserted(more: np.ndarray, fewer: np.ndarray) -> int:
    """The column of `more` [n, k + 1] whose removal leaves least difference to `fewer` [n, k]."""
    before = np.concatenate([[0.0], ((more[:, :-1] - fewer) ** 2).sum(axis=0, dtype=np.float64).cumsum()])
    after = np.concatenate([((more[:, 1:] - fewer) ** 2).sum(axis=0, dtype=np.float64)[::-1].cumsum()[::-1], [0.0]])
    return int(np.argmin(before + after))


def _saturated(trial: Trial) -> str | None:
    if not trial.same_shape or metrics.spread_over_images(trial.outputs) == 0:
        return None
    low, high = float(trial.outputs.min()), float(trial.outputs.max())
    clipped = float(((trial.outputs == low) | (trial.outputs == high)).mean())
    wanted = trial.expected
    beyond = bool((wanted.min() < low) or (wanted.max() > high))
    if clipped < max(CLIPPED, 3 / trial.outputs.size) or not beyond:
        return None
    if _fits(trial, wanted, trial.outputs) or not _fits(trial, np.clip(wanted, low, high), trial.outputs):
        return None
    return (
        f"{100 * clipped:.2g} % of the outputs lie at the ends of their range, {low:.4g} and {high:.4g}, where the "
        f"reference goes from {wanted.min():.4g} to {wanted.max():.4g}: the integer range is saturated"
    )


def _images_mixed_up(trial: Trial) -> str | None:
    if not trial.same_shape or len(trial.outputs) < 2:
        return None
    # |x - r|² less |x|², which does not matter to whose r is nearest: no [n, n, k] of all differences in memory.
    expected = trial.expected.astype(np.float64)
    lengths = (expected**2).sum(axis=1)
    nearest = np.array([int((lengths - 2 * (expected @ row)).argmin()) for row in trial.outputs.astype(np.float64)])
    if (nearest == np.arange(len(nearest))).all() or not _fits(trial, trial.expected[nearest], trial.outputs):
        return None
    first = int(np.flatnonzero(nearest != np.arange(len(nearest)))[0])
    return f"images are mixed up: the outputs of image {first} are those of image {int(nearest[first])}"


OUTPUT_HYPOTHESES: Mapping[str, Explanation] = {
    "constant": _constant,
    "images_mixed_up": _images_mixed_up,
    "probabilities": _probabilities,
    "softmax_twice": _softmax_twice,
    "saturated": _saturated,
    "scaled": _scaled,
    "classes_shifted": _classes_shifted,
}
"""Explanations that transform the reference's outputs, by name; they cost nothing and are tried first."""


# What the input could be.


def _when_fed(change: Callable[[np.ndarray], np.ndarray], sentence: str) -> Explanation:
    def explain(trial: Trial) -> str | None:
        return sentence if _right_on(trial, change(trial.fed[:IMAGES])) else None

    return explain


def _right_on(trial: Trial, fed: np.ndarray) -> bool:
    if not trial.same_shape or np.array_equal(fed, trial.fed[: len(fed)]):
        return False
    return _fits(trial, trial.expected[:IMAGES], trial.process.run(np.ascontiguousarray(fed)))


def _takes(kind: str) -> Explanation:
    def explain(trial: Trial) -> str | None:
        declared = trial.artifact.inputs[0].values or "normalized"
        if trial.fed.dtype != np.float32 or declared == kind:
            return None
        if not _right_on(trial, trial.pictures.fed(kind, IMAGES)):
            return None
        if kind == "normalized":
            return f"the answers are right on normalized images: it does not normalize the {declared} it says it takes"
        if declared == "normalized":
            return (
                f"the answers are right on pixels from {kind.replace('..', ' to ')}: it normalizes them itself, and "
                f"normalized images a second time (--input {kind})"
            )
        return f"the answers are right on pixels from {kind.replace('..', ' to ')}, not on {declared}"

    return explain


def _not_normalized(trial: Trial) -> str | None:
    """A file of pixels cannot be fed normalized images, but the reference can be fed pixels."""
    if trial.fed.dtype != np.uint8:
        return None
    for unit, name in ((1, "0 to 255"), (255, "0 to 1")):
        if _is_reference_on(trial, (trial.fed[:IMAGES] / unit).astype(np.float32)):
            return f"it does not normalize the pixels it takes: its answers are the reference's on numbers from {name}"
    return None


def _normalized_twice(trial: Trial) -> str | None:
    declared = trial.artifact.inputs[0].values or "normalized"
    if trial.fed.dtype != np.float32 or declared == "normalized":
        return None
    factor, centre = affine(declared, trial.pictures.preprocessing)
    for again in dict.fromkeys((declared, "0..1")):  # the second time as the first, or as libraries do on 0 to 1
        fed = trial.pictures.fed(again, IMAGES) / factor + centre
        if _right_on(trial, fed.astype(np.float32)):
            return "the file normalizes its input twice"
    return None


def _layout_mixed_up(trial: Trial) -> str | None:
    """Whether the file reads the buffer that its input is as if colours were on the other side of rows and columns."""
    fed: np.ndarray = trial.fed[:IMAGES]
    own, other = "NHWC", "NCHW"
    if trial.artifact.inputs[0].layout == "NCHW":  # the runner turns what it is fed: to that, and back again
        own, other = other, own
        count, height, width, colours = fed.shape
        fed = fed.reshape(count, colours, height, width).transpose(0, 2, 3, 1)
    else:
        fed = np.ascontiguousarray(fed.transpose(0, 3, 1, 2)).reshape(fed.shape)
    sides = {"NHWC": "channels-last", "NCHW": "channels-first"}
    return (
        f"the answers are right on {sides[other]} data in the same buffer: it reads {other} as if it were {own}"
        if _right_on(trial, fed)
        else None
    )


def _channels_reversed(trial: Trial) -> str | None:
    """Whether the file takes BGR; or, where it normalizes by itself, takes RGB and mistakes it after that."""
    if _right_on(trial, trial.fed[:IMAGES, ..., ::-1]) or _is_reference_on(trial, trial.images[:IMAGES, ..., ::-1]):
        return "the answers are right on BGR: it takes the channels in reverse order"
    return None


def _is_reference_on(trial: Trial, images: np.ndarray) -> bool:
    """Whether the file answers as the reference does on other `images`, where that may be run."""
    if trial.reference is None or not trial.same_shape:
        return False
    return _fits(trial, trial.reference(np.ascontiguousarray(images)), trial.outputs[: len(images)])


INPUT_HYPOTHESES: Mapping[str, Explanation] = {
    "channels_reversed": _channels_reversed,
    **{f"takes_{kind.replace('..', '_')}": _takes(kind) for kind in KINDS if kind != "uint8"},
    "not_normalized": _not_normalized,
    "normalized_twice": _normalized_twice,
    "height_width_swapped": _when_fed(
        lambda fed: fed.transpose(0, 2, 1, 3),
        "the answers are right on transposed images: height and width are swapped",
    ),
    "layout_mixed_up": _layout_mixed_up,
    "upside_down": _when_fed(lambda fed: fed[:, ::-1], "the answers are right on images turned upside down"),
    "mirrored": _when_fed(lambda fed: fed[:, :, ::-1], "the answers are right on mirrored images"),
}
"""Explanations that transform the file's input, by name; each takes a run of the file."""
