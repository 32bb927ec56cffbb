import json
import math

import numpy as np
import pytest

from vit_export.verification import metrics

REFERENCE = np.array([[1.0, 2.0, 3.0], [4.0, -2.0, 0.0]], np.float32)


def test_figures_by_hand():
    candidate = np.array([[1.0, 2.5, 3.0], [4.0, -2.0, 1.0]], np.float32)
    result = metrics.compare(REFERENCE, candidate)
    assert result.range == 6
    assert result.worst_difference == (0.5, 1.0)
    assert result.median_difference == (0.0, 0.0)
    assert result.worst_image == 1
    assert result.worst_relative == pytest.approx(1 / 6)
    # The first image is weaker than the two are on average.
    assert result.sqnr_db == pytest.approx((10 * math.log10(17 / 0.25), 10 * math.log10(20 / 1)))
    assert result.overall_sqnr_db == pytest.approx(10 * math.log10(34 / 1.25))
    first = (1 + 5 + 9) / math.sqrt(14 * (1 + 6.25 + 9))
    assert result.cosine == pytest.approx((first, 20 / math.sqrt(20 * 21)))
    assert result.agreement == 1.0
    assert result.reference_margin == (1.0, 4.0)


def test_equal_outputs_are_perfect():
    result = metrics.compare(REFERENCE, REFERENCE.copy())
    assert max(result.worst_difference) == 0
    assert min(result.cosine) == pytest.approx(1, abs=1e-12)
    assert min(result.sqnr_db) == result.overall_sqnr_db == result.response_sqnr_db == math.inf


@pytest.mark.parametrize("factor", [0.5, 2.0, -1.0])
def test_scaling_shows_in_sqnr_even_where_cosine_is_blind(factor):
    result = metrics.compare(REFERENCE, REFERENCE * np.float32(factor))
    assert result.sqnr_db[1] == pytest.approx(-20 * math.log10(abs(1 - factor)))
    assert min(result.cosine) == pytest.approx(math.copysign(1, factor))


def test_a_constant_part_flatters_sqnr_but_not_the_response():
    rng = np.random.default_rng(0)
    constant, response = 100 * rng.normal(size=50), rng.normal(size=(20, 50))
    reference = (constant + response).astype(np.float32)
    blind = np.repeat(reference.mean(axis=0, keepdims=True), 20, axis=0)
    result = metrics.compare(reference, blind)
    assert min(result.sqnr_db) > 35
    assert result.response_sqnr_db == pytest.approx(0, abs=1e-3)


def test_zero_outputs():
    zero = np.zeros((2, 3), np.float32)
    assert metrics.compare(zero, zero).worst_relative == 0
    assert metrics.compare(zero, zero).cosine == (1.0, 1.0)
    other = metrics.compare(zero, REFERENCE)
    assert other.worst_relative == math.inf
    assert other.cosine == (0.0, 0.0)
    assert other.sqnr_db == (-math.inf, -math.inf)


def test_no_overflow_in_large_float32():
    large = np.array([[3e38, -3e38]], np.float32)
    result = metrics.compare(large, -large)
    assert result.range == pytest.approx(6e38)
    assert result.cosine == pytest.approx((-1.0,))


@pytest.mark.parametrize("bad", [np.zeros((2, 4)), np.zeros(3), np.full((2, 3), np.nan)])
def test_what_cannot_be_compared_is_refused(bad):
    with pytest.raises(ValueError, match="Cannot compare"):
        metrics.compare(REFERENCE, bad.astype(np.float32))


def test_features_have_no_agreement():
    result = metrics.compare(REFERENCE, REFERENCE, classes=False)
    assert result.agreement is None
    assert result.to_dict()["agreement"] is None


def test_a_single_class_has_an_infinite_margin():
    one = np.ones((2, 1), np.float32)
    assert metrics.compare(one, one).reference_margin == (math.inf, math.inf)


def test_to_dict_is_strict_json():
    text = json.dumps(metrics.compare(REFERENCE, REFERENCE).to_dict(), allow_nan=False)
    values = json.loads(text)
    assert values["worst_sqnr_db"] == "Infinity"
    assert values["cosine"] == pytest.approx([1.0, 1.0])


def test_non_finite_counts_per_image():
    outputs = np.array([[1, np.nan, np.inf], [1, 2, 3]], np.float32)
    assert metrics.non_finite(outputs).tolist() == [2, 0]


def test_spread_over_images():
    assert metrics.spread_over_images(np.ones((3, 4), np.float32)) == 0
    assert metrics.spread_over_images(REFERENCE) == 4


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=(12, 200)).astype(np.float32)


@pytest.mark.parametrize("noise", [0.0, 1e-6, 0.05])
def test_swapped_columns_are_found(logits, noise):
    rng = np.random.default_rng(1)
    candidate = logits + noise * rng.normal(size=logits.shape).astype(np.float32)
    assert metrics.swapped_columns(logits, candidate) == ()
    candidate[:, [3, 70]] = candidate[:, [70, 3]]
    assert metrics.swapped_columns(logits, candidate) == ((3, 70), (70, 3))


def test_a_rotation_of_columns_is_found(logits):
    candidate = logits.copy()
    candidate[:, [5, 6, 7]] = candidate[:, [6, 7, 5]]
    assert metrics.swapped_columns(logits, candidate) == ((5, 6), (6, 7), (7, 5))


def test_noise_on_nearly_equal_images_is_not_an_order():
    # Untrained weights: every image gives the same outputs, so some other column is always close by.
    rng = np.random.default_rng(2)
    for _ in range(20):
        reference = np.repeat(rng.normal(size=(1, 1000)), 8, axis=0) + 1e-3 * rng.normal(size=(8, 1000))
        noise = np.repeat(rng.normal(size=(1, 1000)), 8, axis=0) * 0.05
        assert metrics.swapped_columns(reference.astype(np.float32), (reference + noise).astype(np.float32)) == ()


def test_accuracy_and_its_interval():
    outputs = np.eye(5)[[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]]
    found = metrics.accuracy(outputs, [0, 1, 2, 3, 4, 0, 1, 2, 3, 0])
    assert (found.correct, found.total, found.share) == (9, 10, 0.9)
    # Wilson's interval of 9 of 10, as statsmodels' proportion_confint(9, 10, method="wilson") gives it.
    assert (found.low, found.high) == pytest.approx((0.59585, 0.98212), abs=1e-5)
    perfect = metrics.accuracy(outputs, outputs.argmax(1))
    assert perfect.high == pytest.approx(1)
    assert 0.7 < perfect.low < 1
