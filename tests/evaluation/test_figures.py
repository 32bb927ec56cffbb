"""Figures against formulas written anew: intervals, McNemar's test, calibration error, decibels."""

import math

import numpy as np
import pytest

from vit_export.base.signal import sqnr_db
from vit_export.evaluation.figures import BINS, figures_of, mcnemar
from vit_export.evaluation.rows import BEST, schema

arrow = pytest.importorskip("pyarrow")

CLASSES = 12


@pytest.fixture(scope="module")
def outputs():
    """Logits of a reference and of a worse file, and labels that the reference mostly gets right."""
    random = np.random.default_rng(0)
    reference = random.normal(0, 2, (300, CLASSES)).astype(np.float32)
    labels = np.where(random.random(300) < 0.8, reference.argmax(1), random.integers(0, CLASSES, 300))
    return reference, reference + random.normal(0, 1.5, reference.shape).astype(np.float32), labels


def rows(name, logits, reference, labels):
    top = np.argsort(-logits, axis=1, kind="stable")[:, :BEST]
    exact = logits.astype(np.float64)
    return [
        {
            "image": f"{n}.png",
            "label": int(labels[n]),
            "file": name,
            "top": top[n].tolist(),
            "logits": logits[n, top[n]].tolist(),
            "log_sum": math.log(sum(map(math.exp, exact[n]))),
            "label_logit": float(exact[n, labels[n]]),
            "signal": float((reference[n].astype(np.float64) ** 2).sum()),
            "squared_error": float(((exact[n] - reference[n]) ** 2).sum()),
        }
        for n in range(len(labels))
    ]


def table(entries):
    return arrow.Table.from_pylist(entries, schema=schema())


def test_every_figure_is_what_its_formula_says(outputs):
    reference, worse, labels = outputs
    entries = [*rows("a", reference, reference, labels), *rows("b", worse, reference, labels)]
    entries.append({"image": "broken.png", "label": 1, "error": "it is empty", "file": ""})
    found = figures_of([table(entries)], ["a", "b"])
    assert (found.images, found.labelled, found.unreadable) == (300, 300, (("broken.png", "it is empty"),))
    first, second = found.files
    right = worse.argmax(1) == labels
    assert second.top1.correct == right.sum()
    among = [label in row for label, row in zip(labels, np.argsort(-worse, 1)[:, :5], strict=True)]
    assert second.top5.correct == sum(among)
    assert second.agreement.correct == (worse.argmax(1) == reference.argmax(1)).sum()
    z, p, n = 1.959964, right.mean(), 300
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert second.top1.low == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-6)
    assert second.top1.high == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-6)
    shares = np.exp(worse.astype(np.float64))
    shares /= shares.sum(1, keepdims=True)
    confidence = shares.max(1)
    error = sum(
        abs(right[inside].mean() - confidence[inside].mean()) * inside.sum() / n
        for low in np.arange(BINS) / BINS
        if (inside := (confidence > low) & (confidence <= low + 1 / BINS)).any()
    )
    assert second.calibration_error == pytest.approx(error, abs=1e-9)
    assert second.loss == pytest.approx(-np.log(shares[np.arange(n), labels]).mean())
    decibels = sqnr_db(reference, worse)
    assert second.sqnr_median_db == pytest.approx(np.median(decibels))
    assert second.sqnr_worst_db == pytest.approx(decibels.min())
    assert first.mcnemar is first.agreement is first.sqnr_worst_db is None
    lost = {loss.index: (loss.correct, loss.reference_correct) for loss in second.worst_classes}
    for index, (own, known) in lost.items():
        of = labels == index
        assert (own, known) == (right[of].sum(), (reference.argmax(1) == labels)[of].sum())
    assert lost


def test_mcnemars_test_is_the_binomial_one():
    reference = np.array([1] * 12 + [0] * 3 + [1] * 85, bool)
    candidate = np.array([0] * 12 + [1] * 3 + [1] * 85, bool)
    found = mcnemar(reference, candidate)
    assert (found.lost, found.gained, found.worse) == (12, 3, True)
    assert found.p == pytest.approx(2 * sum(math.comb(15, k) for k in range(4)) / 2**15)
    assert not mcnemar(candidate, reference).worse  # better is not worse
    assert mcnemar(reference, reference).p == 1.0


def test_figures_do_not_depend_on_the_order_of_rows(outputs):
    reference, worse, labels = outputs
    entries = [*rows("a", reference, reference, labels), *rows("b", worse, reference, labels)]
    whole = figures_of([table(entries)], ["a", "b"])
    pairs = [(entries[n], entries[n + 300]) for n in np.random.default_rng(1).permutation(300)]
    parts = [table([one for pair in pairs[at : at + 70] for one in pair]) for at in range(0, 300, 70)]
    assert figures_of(parts, ["a", "b"]) == whole
