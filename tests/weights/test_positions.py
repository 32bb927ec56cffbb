"""Position embeddings resampled: against the original packages' own results, and by properties every rule has."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from vit_export.base.errors import InputError
from vit_export.model.record import Rule
from vit_export.weights.positions import resample

RULES = get_args(Rule)
FIXTURE = Path(__file__).parents[1] / "fixtures" / "positions.npz"  # written by make_originals.py
SCIPY_ZEROS = "16_30"


@pytest.fixture(scope="module")
def originals():
    with np.load(FIXTURE) as file:
        return dict(file)


def golden():
    with np.load(FIXTURE) as file:
        keys = [key.split("/") for key in file.files if not key.endswith("embedding")]
    return [(grids, rule) for grids, rule in keys if grids != SCIPY_ZEROS]


def grids_of(name):
    """The two grids, each (rows, columns), of '4_6' or '4_3x6'."""
    old, *new = (int(side) for side in name.replace("x", "_").split("_"))
    return (old, old), (new[0], new[-1])


def random_embedding(grid, width=5, seed=0):
    return np.random.default_rng(seed).standard_normal((1, 1 + grid * grid, width)).astype(np.float32)


def squares(embedding, new, rule):
    """`resample` of the square grid that `embedding` has behind its first row."""
    old = round((embedding.shape[1] - 1) ** 0.5)
    return resample(embedding, (old, old), (new, new), rule)


def test_every_rule_has_golden_values_up_and_down():
    for rule in RULES:
        grids = {grids for grids, r in golden() if r == rule}
        assert {"4_6", "6_4", "7_7", "14_24", "24_14", "5_1", "1_3"} <= grids
        if rule in ("bicubic", "bicubic_antialiased", "bilinear"):  # of the packages that make others than squares
            assert {"4_3x6", "14_14x24", "7_12x4", "4_2x8"} <= grids


@pytest.mark.parametrize(("grids", "rule"), golden())
def test_equals_the_original(originals, grids, rule):
    embedding, expected = originals[f"{grids}/embedding"], originals[f"{grids}/{rule}"]
    actual = resample(embedding, *grids_of(grids), rule)
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)
    assert np.array_equal(actual[:, 0], embedding[:, 0])


def test_scipys_zeros_at_the_edge_are_interpolated_instead(originals):
    embedding, scipys = originals[f"{SCIPY_ZEROS}/embedding"], originals[f"{SCIPY_ZEROS}/bilinear_aligned"]
    actual = squares(embedding, 30, "bilinear_aligned")
    inside, theirs = (x[0, 1:].reshape(30, 30, -1) for x in (actual, scipys))
    np.testing.assert_allclose(inside[:-1, :-1], theirs[:-1, :-1], rtol=0, atol=1e-5)
    assert not theirs[-1].any()
    assert not theirs[:, -1].any()
    corners = embedding[0, 1:].reshape(16, 16, -1)[::15, ::15]
    np.testing.assert_allclose(inside[::29, ::29], corners, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_grid_changes_nothing(rule):
    embedding = random_embedding(7)
    assert np.array_equal(squares(embedding, 7, rule), embedding)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("old", "new"), [(4, 7), (14, 24), (24, 5), (28, 14), (3, 1), (1, 4)])
def test_a_constant_field_stays_constant(rule, old, new):
    embedding = np.full((1, 1 + old * old, 3), [0.25, -3.0, 100.0], np.float32)
    assert np.allclose(squares(embedding, new, rule), [0.25, -3.0, 100.0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", RULES)
def test_rows_and_columns_are_not_confused(rule):
    rows = np.arange(6, dtype=np.float32)
    patches = np.stack(np.broadcast_arrays(rows[:, None], 10 * rows[None, :]), axis=-1).reshape(1, 36, 2)
    actual = squares(np.concatenate([np.zeros((1, 1, 2), np.float32), patches], axis=1), 9, rule)
    grid = actual[0, 1:].reshape(9, 9, 2)
    assert np.allclose(grid[..., 0], grid[:, :1, 0], atol=1e-5)  # the first channel varies from row to row only
    assert np.allclose(grid[..., 1], grid[:1, :, 1], atol=1e-5)
    assert np.allclose(10 * grid[:, 0, 0], grid[0, :, 1], atol=1e-5)
    assert (np.diff(grid[:, 0, 0]) > 0).all()


@pytest.mark.parametrize("new", [6, 24])
def test_the_rules_differ(new):
    results = [squares(random_embedding(14), new, rule) for rule in RULES]
    for index, one in enumerate(results):
        for other in results[index + 1 :]:
            assert np.abs(one - other).max() > 0.1


def test_the_input_is_left_alone_and_float16_is_accepted():
    embedding = random_embedding(4).astype(np.float16)
    before = embedding.copy()
    actual = squares(embedding, 6, "bicubic")
    assert actual.dtype == np.float32
    assert np.array_equal(embedding, before)
    assert np.array_equal(actual, squares(before.astype(np.float32), 6, "bicubic"))


@pytest.mark.parametrize("rule", RULES)
def test_grids_that_are_not_square_are_resampled_side_by_side(rule):
    columns = np.arange(4, dtype=np.float32)
    patches = np.broadcast_to(columns, (3, 4)).reshape(1, 12, 1)
    wide = resample(patches, (3, 4), (5, 9), rule)[0].reshape(5, 9)
    assert np.allclose(wide, wide[:1], atol=1e-6)  # rows are alike, however many there are
    square = np.broadcast_to(columns, (4, 4)).reshape(1, 16, 1)
    np.testing.assert_allclose(wide[0], resample(square, (4, 4), (9, 9), rule)[0].reshape(9, 9)[0], atol=1e-6)


def test_rows_before_the_patches_are_passed_through():
    embedding = np.random.default_rng(0).standard_normal((1, 2 + 16, 3)).astype(np.float32)
    found = resample(embedding, (4, 4), (6, 6), "bicubic")
    np.testing.assert_array_equal(found[:, :2], embedding[:, :2])
    np.testing.assert_array_equal(found[:, 2:], resample(embedding[:, 2:], (4, 4), (6, 6), "bicubic"))


@pytest.mark.parametrize("shape", [(16, 4), (2, 16, 4), (1, 15, 4), (1, 17, 0), (1, 17, 4, 1)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match="expected \\[1, 4 x 4 patches, width\\]"):
        resample(np.zeros(shape, np.float32), (4, 4), (6, 6), "bicubic")


@pytest.mark.parametrize("grid", [0, -1, 2.0, True, 5000])
def test_grids_out_of_range_are_refused(grid):
    with pytest.raises(InputError, match="expected a whole number of patches"):
        squares(random_embedding(4), grid, "bicubic")


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match=r"'bicubic-aligned' is unknown.*did you mean 'bicubic_aligned'"):
        squares(random_embedding(4), 6, "bicubic-aligned")  # type: ignore[arg-type]
