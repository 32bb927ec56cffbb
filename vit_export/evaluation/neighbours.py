"""Accuracy of embeddings by their nearest neighbours: the protocol of DINO (eval_knn.py of facebookresearch/dino).

An image is given the class for which its k most similar training images vote, each with exp(cosine / 0.07). Training
and test images are embedded by the same file.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import InputError
from vit_export.evaluation.figures import Figures, mcnemar
from vit_export.verification.metrics import Accuracy, share_interval

if TYPE_CHECKING:
    import pyarrow

TEMPERATURE = 0.07
_CHUNK = 256


def with_neighbours(
    figures: Figures, training: Sequence["pyarrow.Table"], test: Callable[[], Iterable["pyarrow.Table"]], k: int
) -> Figures:
    """`figures` with the accuracy by neighbours of every file; `training` and `test()` are the rows of both data sets.

    Raises:
        InputError: no training image has a class.
    """
    right: np.ndarray | None = None
    files = []
    for file in figures.files:
        known, labels = _embeddings(training, file.name)
        if not len(labels):
            raise InputError("No image of --train has a class: give folders, or data sets with labels.")
        found, wanted = [], []
        for table in test():
            images, classes = _embeddings([table], file.name)
            found.append(predicted(images, known, labels, k))
            wanted.append(classes)
        own = np.concatenate(found) == np.concatenate(wanted)
        if not len(own):
            raise InputError("No image of --data has a class: give folders, or data sets with labels.")
        count = int(own.sum())
        share = Accuracy(count, len(own), count / len(own), *share_interval(count, len(own)))
        test_of = None if right is None else mcnemar(right, own)
        files.append(replace(file, knn=share, mcnemar=test_of))
        right = own if right is None else right
    return replace(figures, files=tuple(files))


def predicted(images: np.ndarray, known: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """The classes [n] that the `k` nearest of `known` [m, d], of the classes `labels` [m], vote for `images` [n, d]."""
    k = min(k, len(labels))
    classes, index = np.unique(labels, return_inverse=True)
    found = np.empty(len(images), labels.dtype)
    for start in range(0, len(images), _CHUNK):
        similarity = images[start : start + _CHUNK] @ known.T
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / TEMPERATURE)
        for row, (chosen, weight) in enumerate(zip(nearest, weights, strict=True)):
            votes = np.bincount(index[chosen], weights=weight, minlength=len(classes))
            found[start + row] = classes[votes.argmax()]
    return found


def _embeddings(tables: Iterable["pyarrow.Table"], name: str) -> tuple[np.ndarray, np.ndarray]:
    """The embeddings, of length 1 [n, d], that the file `name` has of labelled images, and their classes [n]."""
    from pyarrow import compute

    parts, labels = [], []
    for table in tables:
        own = table.filter(compute.and_(compute.equal(table["file"], name), compute.is_valid(table["label"])))
        if own.num_rows:
            values = own["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            parts.append(values.reshape(own.num_rows, -1).astype(np.float32))
            labels.append(own["label"].to_numpy())
    if not parts:
        return np.empty((0, 0), np.float32), np.empty(0, np.int32)
    whole = np.concatenate(parts)
    lengths = np.linalg.norm(whole, axis=1, keepdims=True)
    return np.divide(whole, lengths, out=np.zeros_like(whole), where=lengths > 0), np.concatenate(labels)
