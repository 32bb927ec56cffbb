"""Why a file fails: explanations that are tried one by one, and named only where one accounts for all of the error.

An explanation either transforms the reference's outputs (what would the file return if this were wrong?) or the file's
input (what if it were fed this instead?). It fits when every figure then keeps to the file's own limits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import KINDS, affine, feed
from vit_export.runtimes.runner import RunnerError
from vit_export.verification import metrics
from vit_export.verification.checks import Limits, figures
from vit_export.verification.evidence import Cause

if TYPE_CHECKING:
    from vit_export.model.preprocessing import Preprocessing

IMAGES = 6
"""Images an input is tried on: enough that nothing fits by chance, few enough to be quick."""

SHIFTS = (1, -1, 2, -2)
CLIPPED = 1e-3
"""Share of outputs at the two ends of their range from which on they count as clipped."""
GAIN_DB = 6.0
"""How much less error an explanation must leave than there is."""
LOOSE = Limits(worst_difference=0.10, cosine=0.99, sqnr_db=20.0, agreement=0.0)
"""What an explanation must reach where a file has no limits of its own."""


@dataclass(frozen=True)
class Case:
    """A file that failed: `expected` [n, k] and `outputs` [n, k'] on the pictures `fed`, [n, s, s, 3] as it takes them.

    `images` are the same pictures normalized; `run` runs the file on other numbers of the same dtype. `preprocessing`
    is the reference's, None where nothing is known of it; `reference` runs it on other numbers, None where it may not.
    """

    artifact: Artifact
    expected: np.ndarray
    outputs: np.ndarray
    fed: np.ndarray
    images: np.ndarray
    run: Callable[[np.ndarray], np.ndarray]
    limits: Limits | None
    preprocessing: "Preprocessing | None" = None
    reference: Callable[[np.ndarray], np.ndarray] | None = None

    def fits(self, expected: np.ndarray, outputs: np.ndarray) -> bool:
        """Whether `outputs` are `expected` by every limit that the file is held to (agreement of classes apart).

        And much nearer to them than the file is to the reference: a file just beyond its limits is no other model.
        """
        if expected.shape != outputs.shape or not (np.isfinite(outputs).all() and np.isfinite(expected).all()):
            return False
        own = metrics.overall_sqnr_db(self.expected, self.outputs) if _same_shape(self) else -np.inf
        if metrics.overall_sqnr_db(expected, outputs) < own + GAIN_DB:
            return False
        comparison = metrics.compare(expected, outputs, classes=False)
        names = [""] * len(expected)
        return all(check.passed for check in figures(comparison, self.limits or LOOSE, names, trained=False))


Explanation = Callable[[Case], str | None]
"""A sentence where the explanation fits, else None."""


def find_causes(case: Case) -> tuple[Cause, ...]:
    """The first explanation of the outputs that fits `case`; only where none does, all those of the input that do."""
    for name, explain in OUTPUT_HYPOTHESES.items():
        if detail := explain(case):
            return (Cause(name, detail),)
    return tuple(Cause(name, detail) for name, explain in INPUT_HYPOTHESES.items() if (detail := _tried(explain, case)))


def _tried(explain: Explanation, case: Case) -> str | None:
    try:
        return explain(case)
    except RunnerError:  # a file that refuses other numbers is not explained by them
        return None


# What the outputs could be.


def _constant(case: Case) -> str | None:
    if len(case.outputs) < 2 or metrics.spread_over_images(case.outputs) > 0:
        return None
    if metrics.spread_over_images(case.expected) == 0:
        return None
    return "every image gives the same outputs: weights are missing, or the input is not read"


def _probabilities(case: Case) -> str | None:
    once = metrics.softmax(case.expected)
    if _same_shape(case) and case.fits(once, case.outputs):
        return "the outputs are probabilities: a softmax follows the logits (to be compared with --probabilities)"
    return None


def _softmax_twice(case: Case) -> str | None:
    twice = metrics.softmax(metrics.softmax(case.expected))
    if _same_shape(case) and case.fits(twice, case.outputs):
        return "the outputs went through a softmax twice"
    return None


def _scaled(case: Case) -> str | None:
    """Outputs = a · reference + b by least squares."""
    if not _same_shape(case) or metrics.output_range(case.expected) == 0:
        return None
    x, y = case.expected.astype(np.float64), case.outputs.astype(np.float64)
    spread = float(((x - x.mean()) ** 2).sum())
    a = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    b = float(y.mean() - a * x.mean())
    if abs(a) < 1e-6 or not case.fits(case.expected, ((y - b) / a).astype(np.float32)):
        return None
    return f"the outputs are {a:.4g} times the reference's plus {b:.4g}: a wrong scale or zero point"


def _classes_shifted(case: Case) -> str | None:
    wanted, given = case.expected, case.outputs
    if given.ndim != 2 or len(given) != len(wanted) or wanted.shape[1] < 4:
        return None
    return _rolled(case) if _same_shape(case) else _one_more_or_less(case)


def _rolled(case: Case) -> str | None:
    wanted, given = case.expected, case.outputs
    for shift in SHIFTS:
        own = given[:, shift:] if shift > 0 else given[:, :shift]
        if case.fits(wanted[:, :-shift] if shift > 0 else wanted[:, -shift:], own):
            return f"the classes are shifted by {shift}: output {max(shift, 0)} is the reference's {max(-shift, 0)}"
    return None


def _one_more_or_less(case: Case) -> str | None:
    wanted, given = case.expected, case.outputs
    more, fewer = (given, wanted) if given.shape[1] > wanted.shape[1] else (wanted, given)
    if more.shape[1] - fewer.shape[1] != 1:
        return None
    column = _inserted(more, fewer)
    left_out = np.delete(more, column, axis=1)
    if not (case.fits(wanted, left_out) if more is given else case.fits(left_out, given)):
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


def _saturated(case: Case) -> str | None:
    if not _same_shape(case) or metrics.spread_over_images(case.outputs) == 0:
        return None
    low, high = float(case.outputs.min()), float(case.outputs.max())
    clipped = float(((case.outputs == low) | (case.outputs == high)).mean())
    beyond = bool((case.expected.min() < low) or (case.expected.max() > high))
    if clipped < max(CLIPPED, 3 / case.outputs.size) or not beyond:
        return None
    if case.fits(case.expected, case.outputs) or not case.fits(np.clip(case.expected, low, high), case.outputs):
        return None
    return (
        f"{100 * clipped:.2g} % of the outputs lie at the ends of their range, {low:.4g} and {high:.4g}, where the "
        f"reference goes from {case.expected.min():.4g} to {case.expected.max():.4g}: the integer range is saturated"
    )


def _images_mixed_up(case: Case) -> str | None:
    if not _same_shape(case) or len(case.outputs) < 2:
        return None
    # |x - r|² less |x|², which does not matter to whose r is nearest: no [n, n, k] of all differences in memory.
    expected = case.expected.astype(np.float64)
    lengths = (expected**2).sum(axis=1)
    nearest = np.array([int((lengths - 2 * (expected @ row)).argmin()) for row in case.outputs.astype(np.float64)])
    if (nearest == np.arange(len(nearest))).all() or not case.fits(case.expected[nearest], case.outputs):
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
    def explain(case: Case) -> str | None:
        return sentence if _right_on(case, change(case.fed[:IMAGES])) else None

    return explain


def _right_on(case: Case, fed: np.ndarray) -> bool:
    if not _same_shape(case) or np.array_equal(fed, case.fed[: len(fed)]):
        return False
    return case.fits(case.expected[:IMAGES], case.run(np.ascontiguousarray(fed)))


def _takes(kind: str) -> Explanation:
    def explain(case: Case) -> str | None:
        declared = case.artifact.inputs[0].values or "normalized"
        if case.preprocessing is None or case.fed.dtype != np.float32 or declared == kind:
            return None
        pixels = _pixels(case.images[:IMAGES], case.preprocessing)
        if not _right_on(case, feed(pixels, kind, case.preprocessing)):
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


def _not_normalized(case: Case) -> str | None:
    """A file of pixels cannot be fed normalized images, but the reference can be fed pixels."""
    if case.fed.dtype != np.uint8:
        return None
    for unit, name in ((1, "0 to 255"), (255, "0 to 1")):
        if _is_reference_on(case, (case.fed[:IMAGES] / unit).astype(np.float32)):
            return f"it does not normalize the pixels it takes: its answers are the reference's on numbers from {name}"
    return None


def _normalized_twice(case: Case) -> str | None:
    declared = case.artifact.inputs[0].values or "normalized"
    if case.preprocessing is None or case.fed.dtype != np.float32 or declared == "normalized":
        return None
    factor, centre = affine(declared, case.preprocessing)
    pixels = _pixels(case.images[:IMAGES], case.preprocessing)
    for again in dict.fromkeys((declared, "0..1")):  # the second time as the first, or as libraries do on 0 to 1
        fed = feed(pixels, again, case.preprocessing) / factor + centre
        if _right_on(case, fed.astype(np.float32)):
            return "the file normalizes its input twice"
    return None


def _pixels(images: np.ndarray, preprocessing: "Preprocessing") -> np.ndarray:
    """The uint8 pixels that `images` were normalized from."""
    values = (images.astype(np.float64) * preprocessing.std + preprocessing.mean) * 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _read_as_nchw(fed: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(fed.transpose(0, 3, 1, 2)).reshape(fed.shape)


def _channels_reversed(case: Case) -> str | None:
    """Whether the file takes BGR; or, where it normalizes by itself, takes RGB and mistakes it after that."""
    if _right_on(case, case.fed[:IMAGES, ..., ::-1]) or _is_reference_on(case, case.images[:IMAGES, ..., ::-1]):
        return "the answers are right on BGR: it takes the channels in reverse order"
    return None


def _is_reference_on(case: Case, images: np.ndarray) -> bool:
    """Whether the file answers as the reference does on other `images`, where that may be run."""
    if case.reference is None or not _same_shape(case):
        return False
    return case.fits(case.reference(np.ascontiguousarray(images)), case.outputs[: len(images)])


INPUT_HYPOTHESES: Mapping[str, Explanation] = {
    "channels_reversed": _channels_reversed,
    **{f"takes_{kind.replace('..', '_')}": _takes(kind) for kind in KINDS if kind != "uint8"},
    "not_normalized": _not_normalized,
    "normalized_twice": _normalized_twice,
    "height_width_swapped": _when_fed(
        lambda fed: fed.transpose(0, 2, 1, 3),
        "the answers are right on transposed images: height and width are swapped",
    ),
    "layout_mixed_up": _when_fed(
        _read_as_nchw,
        "the answers are right on channels-first data in the same buffer: it reads NCHW as if it were NHWC",
    ),
    "upside_down": _when_fed(lambda fed: fed[:, ::-1], "the answers are right on images turned upside down"),
    "mirrored": _when_fed(lambda fed: fed[:, :, ::-1], "the answers are right on mirrored images"),
}
"""Explanations that transform the file's input, by name; each takes a run of the file."""


def _same_shape(case: Case) -> bool:
    return case.expected.shape == case.outputs.shape
