"""Figures of an evaluation: a pure function of its rows, whatever made them and in whatever order they come."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.signal import decibels
from vit_export.verification.metrics import Accuracy, share_interval

if TYPE_CHECKING:
    import pyarrow

BINS = 15
"""Of the calibration error, of equal widths: Guo et al., On Calibration of Modern Neural Networks (2017)."""
SIGNIFICANT = 0.05
SHOWN_CLASSES = 5
_LOST_AT_LEAST = 2


@dataclass(frozen=True)
class ClassLoss:
    """A class of which a file gets fewer images right than the reference: `correct` of `total`, and the reference's."""

    index: int
    total: int
    correct: int
    reference_correct: int


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test: of images that one of two gets right alone, how many each (`lost`: the reference alone).

    `p` is the chance of a split at least as uneven where both are equally good (two-sided, binomial).
    """

    lost: int
    gained: int
    p: float

    @property
    def worse(self) -> bool:
        """Whether the file is worse than the reference by more than chance explains."""
        return self.lost > self.gained and self.p < SIGNIFICANT

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "worse": self.worse}


@dataclass(frozen=True)
class FileFigures:
    """What the rows say of one file; None where no image has a label, or there is nothing to compare with.

    `knn` is the accuracy of embeddings by their neighbours, of which `mcnemar` then is.
    `agreement` is with the reference's top class. `sqnr_db` are median and worst of the images; `calibration_error` and
    `loss` (cross-entropy, nats) are of the softmax.
    """

    name: str
    images: int
    top1: Accuracy | None = None
    top5: Accuracy | None = None
    agreement: Accuracy | None = None
    mcnemar: McNemar | None = None
    sqnr_median_db: float | None = None
    sqnr_worst_db: float | None = None
    calibration_error: float | None = None
    loss: float | None = None
    worst_classes: tuple[ClassLoss, ...] = ()
    knn: Accuracy | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "mcnemar": self.mcnemar and self.mcnemar.to_dict()}


@dataclass(frozen=True)
class Figures:
    """All files, the reference first; `unreadable` are the images that could not be read, each with its reason."""

    files: tuple[FileFigures, ...]
    images: int
    labelled: int
    unreadable: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "images": self.images,
            "labelled": self.labelled,
            "unreadable": [list(item) for item in self.unreadable],
            "files": [file.to_dict() for file in self.files],
        }


class _Columns:
    """What is kept of a file's rows: some numbers an image, eighty bytes."""

    def __init__(self) -> None:
        self.parts: list[dict[str, np.ndarray]] = []

    def add(self, table: "pyarrow.Table") -> None:
        label = table["label"].fill_null(-1).to_numpy()
        top = table["top"].to_pylist()
        answered = bool(top) and top[0] is not None
        first = np.array([row[0] for row in top]) if answered else np.full(len(label), -2)
        among = np.array([known in row for known, row in zip(label, top, strict=True)]) if answered else first < -2
        highest = np.array([row[0] for row in table["logits"].to_pylist()]) if answered else np.zeros(len(label))
        log_sum = table["log_sum"].fill_null(0.0).to_numpy()
        self.parts.append(
            {
                "label": label,
                "first": first,
                "among": among,
                "confidence": np.exp(highest - log_sum),
                "loss": log_sum - table["label_logit"].fill_null(np.nan).to_numpy(),
                "signal": table["signal"].to_numpy(),
                "noise": table["squared_error"].to_numpy(),
            }
        )

    def whole(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}


def figures_of(tables: Iterable["pyarrow.Table"], names: Sequence[str]) -> Figures:
    """The figures of the files `names` (the first is the reference) by the rows in `tables`.

    Sums are of sorted numbers: they do not depend on the order of the tables.
    """
    from pyarrow import compute

    columns = {name: _Columns() for name in names}
    unreadable: list[tuple[str, str]] = []
    for table in tables:
        broken = table.filter(compute.is_valid(table["error"]))
        unreadable += zip(broken["image"].to_pylist(), broken["error"].to_pylist(), strict=True)
        for name in names:
            own = table.filter(compute.equal(table["file"], name))
            if own.num_rows:
                columns[name].add(own)
    if not columns[names[0]].parts:
        return Figures((), 0, 0, tuple(sorted(unreadable)))
    reference = columns[names[0]].whole()
    files = [_figures(name, columns[name].whole(), None if name == names[0] else reference) for name in names]
    labelled = int((reference["label"] >= 0).sum())
    return Figures(tuple(files), len(reference["label"]), labelled, tuple(sorted(unreadable)))


def _figures(name: str, own: dict[str, np.ndarray], reference: dict[str, np.ndarray] | None) -> FileFigures:
    known = own["label"] >= 0
    correct = own["first"] == own["label"]
    answers = bool((own["first"] >= 0).all())
    values: dict[str, Any] = {}
    if answers and known.any():
        values |= {
            "top1": _share(correct[known]),
            "top5": _share(own["among"][known]),
            "calibration_error": _calibration_error(own["confidence"][known], correct[known]),
            "loss": _mean(own["loss"][known]),
        }
    if reference is not None:
        if answers:
            values["agreement"] = _share(own["first"] == reference["first"])
        if answers and known.any():
            right = (reference["first"] == reference["label"])[known]
            values["mcnemar"] = mcnemar(right, correct[known])
            values["worst_classes"] = _lost(own["label"][known], correct[known], right)
        found = decibels(own["signal"], own["noise"])
        values |= {"sqnr_median_db": float(np.median(found)), "sqnr_worst_db": float(found.min())}
    return FileFigures(name, len(known), **values)


def mcnemar(reference: np.ndarray, candidate: np.ndarray) -> McNemar:
    """McNemar's test of which images, bool [n] each, the reference and a candidate get right."""
    from scipy.stats import binomtest

    lost, gained = int((reference & ~candidate).sum()), int((candidate & ~reference).sum())
    p = float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0
    return McNemar(lost, gained, p)


def _share(found: np.ndarray) -> Accuracy:
    count, total = int(found.sum()), len(found)
    return Accuracy(count, total, count / total, *share_interval(count, total))


def _calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error: |accuracy - mean confidence| of each bin, weighed by its images."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(int(correct[bins == each].sum()) - float(np.sort(confidence[bins == each]).sum())) for each in range(BINS)
    ]
    return sum(gaps) / len(confidence)


def _mean(values: np.ndarray) -> float:
    return float(np.sort(values).sum() / len(values))


def _lost(label: np.ndarray, correct: np.ndarray, right: np.ndarray) -> tuple[ClassLoss, ...]:
    """The classes that lose most images, at least two."""
    totals, own, known = Counter(label.tolist()), Counter(label[correct].tolist()), Counter(label[right].tolist())
    losses = [ClassLoss(index, totals[index], own[index], known[index]) for index in totals]
    worse = [loss for loss in losses if loss.reference_correct - loss.correct >= _LOST_AT_LEAST]
    return tuple(sorted(worse, key=lambda loss: (loss.correct - loss.reference_correct, loss.index))[:SHOWN_CLASSES])
