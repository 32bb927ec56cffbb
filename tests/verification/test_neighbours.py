"""Do the same images come back: recall@k of embeddings."""

import numpy as np
import pytest

from vit_export.verification.metrics import neighbours


def embeddings(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 16)).astype(np.float32)


def test_the_same_embeddings_have_the_same_neighbours():
    rows = embeddings(32)
    found = neighbours(rows, rows)
    assert (found.k, found.recall, found.shares) == (5, 1.0, (1.0,) * 32)
    assert found.to_dict() == {"recall": 1.0, "k": 5, "shares": [1.0] * 32}


def test_only_directions_count():
    rows = embeddings(32)
    assert neighbours(rows, 3 * rows * np.linspace(1, 9, 32, dtype=np.float32)[:, None]).recall == 1
    assert neighbours(rows, rows + 0.001 * embeddings(32, 1)).recall > 0.95


def test_other_embeddings_bring_back_others():
    assert neighbours(embeddings(32), embeddings(32, 1)).recall < 0.35


def test_recall_is_counted_by_hand():
    """Two groups on a line of directions: one image has moved to the other group."""
    angles = np.radians([0, 1, 2, 3.5, 50, 51, 52, 53.5])
    moved = angles.copy()
    moved[0] = np.radians(54)
    rows, other = (np.stack([np.cos(a), np.sin(a)], 1).astype(np.float32) for a in (angles, moved))
    found = neighbours(rows, other)
    assert found.k == 2
    # Image 0 finds none of its two, 1 has lost it; of the other group 7 has found it.
    assert found.shares == (0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5)
    assert found.recall == pytest.approx(6 / 8)


@pytest.mark.parametrize(("images", "k"), [(1, None), (3, None), (4, 1), (8, 2), (15, 4), (16, 5), (100, 5)])
def test_few_images_have_fewer_neighbours(images, k):
    """A third of the others at most: who takes nearly all brings all back."""
    found = neighbours(embeddings(images), embeddings(images))
    assert (found and found.k) == k


def test_an_embedding_of_zeros_is_near_to_nothing():
    rows = embeddings(8)
    rows[3] = 0
    assert np.isfinite(neighbours(rows, rows).recall)
