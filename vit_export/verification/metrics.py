"""How far a file's outputs are from the reference's: pure numpy, every formula in its docstring.

`reference` and `candidate` are [n, k] arrays: one row per image, one column per output. Sums run in float64.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vit_export.base.signal import absolute_difference, json_ready, overall_sqnr_db, softmax, sqnr_db
from vit_export.verification.evidence import TopClasses


@dataclass(frozen=True)
class Comparison:
    """A file's outputs against the reference's on `images` images; tuples hold one figure per image, in order.

    `range` is the reference's max - min over all images and outputs; relative figures are divided by it.
    Agreement is None for a model without classifier. Decibels are infinite where nothing differs.
    """

    images: int
    outputs: int
    range: float
    worst_difference: tuple[float, ...]
    median_difference: tuple[float, ...]
    cosine: tuple[float, ...]
    sqnr_db: tuple[float, ...]
    overall_sqnr_db: float
    response_sqnr_db: float
    top1_agrees: tuple[bool, ...] | None
    reference_margin: tuple[float, ...] | None

    @property
    def worst_image(self) -> int:
        """Index of the image with the largest absolute difference."""
        return int(np.argmax(self.worst_difference))

    @property
    def worst_relative(self) -> float:
        """The largest absolute difference of any output of any image, divided by the reference's range."""
        return relative(max(self.worst_difference), self.range)

    @property
    def median_relative(self) -> float:
        """The median over images of the median absolute difference, divided by the reference's range."""
        return relative(float(np.median(self.median_difference)), self.range)

    @property
    def agreement(self) -> float | None:
        """Share of images whose top class is the reference's, or None without classifier."""
        return None if self.top1_agrees is None else float(np.mean(self.top1_agrees))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict: the summary, then the figures per image; non-finite numbers are strings ('Infinity')."""
        summary = {
            "worst_relative": self.worst_relative,
            "worst_image": self.worst_image,
            "median_relative": self.median_relative,
            "worst_cosine": min(self.cosine),
            "worst_sqnr_db": min(self.sqnr_db),
            "agreement": self.agreement,
        }
        return json_ready({**summary, **asdict(self)})


def compare(reference: np.ndarray, candidate: np.ndarray, *, classes: bool = True) -> Comparison:
    """Every figure of `candidate` [n, k] against `reference` [n, k]; `classes` says whether columns are classes.

    Raises:
        ValueError: the shapes differ, are not [n, k] with n, k >= 1, or a value is not finite.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not reference.size:
        raise ValueError(f"Cannot compare outputs of shape {candidate.shape} with a reference of {reference.shape}.")
    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        raise ValueError("Cannot compare outputs that are not finite.")
    difference = absolute_difference(reference, candidate)
    return Comparison(
        images=reference.shape[0],
        outputs=reference.shape[1],
        range=output_range(reference),
        worst_difference=_floats(difference.max(axis=1)),
        median_difference=_floats(np.median(difference, axis=1)),
        cosine=_floats(cosine(reference, candidate)),
        sqnr_db=_floats(sqnr_db(reference, candidate)),
        overall_sqnr_db=overall_sqnr_db(reference, candidate),
        response_sqnr_db=response_sqnr_db(reference, candidate),
        top1_agrees=tuple(bool(x) for x in top1_agrees(reference, candidate)) if classes else None,
        reference_margin=_floats(top1_margin(reference)) if classes else None,
    )


@dataclass(frozen=True)
class Neighbours:
    """Of each image, which of its `k` nearest of the set, by cosine, come back: the share of them, image by image."""

    k: int
    shares: tuple[float, ...]

    @property
    def recall(self) -> float:
        """recall@k: the share over all images."""
        return float(np.mean(self.shares))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return json_ready({"recall": self.recall, **asdict(self)})


@dataclass(frozen=True)
class OutputResult:
    """What was found of an output called `name` beside the first; `neighbours` is None where it is no embedding."""

    name: str
    comparison: Comparison
    neighbours: Neighbours | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "name": self.name,
            "comparison": self.comparison.to_dict(),
            "neighbours": self.neighbours and self.neighbours.to_dict(),
        }


NEIGHBOURS = 5
"""The nearest images of which it is asked whether they come back."""


def neighbours(reference: np.ndarray, candidate: np.ndarray, most: int = NEIGHBOURS) -> Neighbours | None:
    """Of each row's k nearest other rows of `reference` [n, k], how many are among its k nearest of `candidate`.

    k is `most`, or a third of the others where there are few: None of fewer than four rows, where nothing is far.
    """
    k = min(most, (len(reference) - 1) // 3)
    if k < 1:
        return None
    wanted, found = (_nearest(rows, k) for rows in (reference, candidate))
    return Neighbours(k, tuple(len(set(a) & set(b)) / k for a, b in zip(wanted.tolist(), found.tolist(), strict=True)))


def _nearest(rows: np.ndarray, k: int) -> np.ndarray:
    """The numbers [n, k] of the k rows nearest to each by cosine, itself left out."""
    x = rows.astype(np.float64)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, lengths, out=np.zeros_like(x), where=lengths > 0)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -np.inf)
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


@dataclass(frozen=True)
class Accuracy:
    """Top classes that are the labelled ones: `correct` of `total` images.

    `low` and `high` bound the true share with 95 % confidence (see `share_interval`).
    """

    correct: int
    total: int
    share: float
    low: float
    high: float


def accuracy(outputs: np.ndarray, classes: Sequence[int]) -> Accuracy:
    """How often the largest of each row of `outputs` [n, k] is at the index in `classes` [n]."""
    correct, n = int((outputs.argmax(axis=1) == np.asarray(classes)).sum()), len(classes)
    return Accuracy(correct, n, correct / n, *share_interval(correct, n))


def share_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of the share that `count` of `total` is a sample of: Wilson's score interval (1927)."""
    from scipy.stats import binomtest

    interval = binomtest(count, total).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def may_be_beyond(total: int, share: float) -> int:
    """How many of `total` images may break a limit that the share `share` of all images may break.

    The most for which the 95 % interval (`share_interval`) reaches down to `share`, but never more than a quarter; 0
    where `share` is 0. With a share of 0.1: 3 of 16 images, 6 of 32, 35 of 256.
    """
    if share <= 0:
        return 0
    # The lower end grows with the count.
    return bisect_right(range(1, total // 4 + 1), share, key=lambda count: share_interval(count, total)[0])


def top_classes(outputs: np.ndarray, count: int, *, are_logits: bool = True) -> tuple[TopClasses, ...]:
    """The `count` largest outputs of each row of `outputs` [n, k], best first, with their softmax over all k.

    Outputs that are no logits are probabilities themselves.
    """
    shown = softmax(outputs) if are_logits else outputs
    order = np.argsort(-outputs, axis=1, kind="stable")[:, :count]
    return tuple(
        TopClasses(tuple(int(i) for i in row), tuple(float(values[i]) for i in row))
        for row, values in zip(order, shown, strict=True)
    )


def output_range(reference: np.ndarray) -> float:
    """max(reference) - min(reference) over all images and outputs."""
    return float(reference.max().astype(np.float64) - reference.min().astype(np.float64))


def relative(difference: float, reference_range: float) -> float:
    """`difference` / `reference_range`; where the range is 0 no difference is 0 and any difference infinite."""
    if reference_range > 0:
        return difference / reference_range
    return 0.0 if difference == 0 else math.inf


def cosine(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """<r, x> / (|r| |x|) per image, float64 [n]; two zero vectors give 1, one zero vector gives 0."""
    r, x = reference.astype(np.float64), candidate.astype(np.float64)
    product = np.linalg.norm(r, axis=1) * np.linalg.norm(x, axis=1)
    both_zero = ~r.any(axis=1) & ~x.any(axis=1)
    quotient = np.divide((r * x).sum(axis=1), product, out=np.zeros_like(product), where=product > 0)
    return np.where(both_zero, 1.0, np.clip(quotient, -1.0, 1.0))


def response_sqnr_db(reference: np.ndarray, candidate: np.ndarray) -> float:
    """`overall_sqnr_db` of what changes from image to image: each column less its own mean over the images.

    Outputs that hardly depend on the image (untrained weights) flatter the plain figure, not this one.
    """
    r, x = reference.astype(np.float64), candidate.astype(np.float64)
    return overall_sqnr_db(r - r.mean(axis=0), x - x.mean(axis=0))


def top1_agrees(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """argmax(candidate) == argmax(reference) per image, bool [n]."""
    return np.asarray(reference.argmax(axis=1) == candidate.argmax(axis=1))


def top1_margin(reference: np.ndarray) -> np.ndarray:
    """The largest minus the second largest output per image, float64 [n] (infinite with a single class).

    A differing top class on an image of small margin is a near tie, not a different model.
    """
    if reference.shape[1] < 2:
        return np.full(reference.shape[0], np.inf)
    top = np.partition(reference.astype(np.float64), -2, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


def spread_over_images(outputs: np.ndarray) -> float:
    """The largest max - min over the images of any column: 0 when every image gives the same output."""
    return float((outputs.max(axis=0).astype(np.float64) - outputs.min(axis=0)).max())


def non_finite(outputs: np.ndarray) -> np.ndarray:
    """Count of NaN and infinite outputs per image, int [n]."""
    return (~np.isfinite(outputs)).sum(axis=1)


def swapped_columns(
    reference: np.ndarray, candidate: np.ndarray, *, examined: int = 256
) -> tuple[tuple[int, int], ...]:
    """Pairs (i, j), i != j, where the candidate's column i holds the reference's column j: a wrong class order.

    d_i = |x_i - r_i| over the images. A column is misplaced when d_i > 8 median(d) (an error far outside the file's
    own noise: the largest of 1000 half-normal errors is 5 medians) and |x_i - r_j| < d_i / 4 for another column j
    that is misplaced too. Only the `examined` largest d_i are looked at. When most columns are misplaced the median is
    large too and the result is empty: the plain figures are then far beyond any limit.
    """
    r, x = reference.astype(np.float64), candidate.astype(np.float64)
    own = np.linalg.norm(x - r, axis=0)
    # The floor keeps rounding in the last bit from counting as an outlier where everything else is exact.
    threshold = max(8 * float(np.median(own)), 1e-5 * output_range(reference) * math.sqrt(len(r)))
    suspects = [int(i) for i in np.argsort(own)[::-1][:examined] if own[i] > threshold]
    pairs = []
    for i in suspects:
        distances = {j: float(np.linalg.norm(x[:, i] - r[:, j])) for j in suspects if j != i}
        if distances and distances[j := min(distances, key=distances.__getitem__)] < own[i] / 4:
            pairs.append((i, j))
    return tuple(sorted(pairs))


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
