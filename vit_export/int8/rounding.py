"""Weights rounded by the error of the output: GPTQ (Frantar et al., 2022), with the scales of plain rounding.

Rounding each weight to its nearest level ignores that inputs go together: what one weight loses, its neighbours can
make up for. With G = XᵀX of the inputs X that a Dense sees, the error of an output channel is (w - ŵ)G(w - ŵ)ᵀ. Inputs
are rounded in turn, the loudest first, and what each changes is taken off those still to come, by the inverse of G.

On DINOv2-S/14 it takes 2 to 3 dB off the noise of int8 weights (docs/quantization.md).
"""

from dataclasses import dataclass

import numpy as np

from vit_export.int8.arithmetic import LARGEST

DAMPING = 0.01
"""Part of the mean of G's diagonal that is added to it, as in the paper: what was seen is a sample."""

_BLOCK = 64


@dataclass(frozen=True)
class Levels:
    """A kernel as an int8 file holds it: `levels` int8 [out, in], `scale` float32 [out], zero point 0."""

    levels: np.ndarray
    scale: np.ndarray

    def values(self) -> np.ndarray:
        """The kernel in float32, [out, in]."""
        return self.levels.astype(np.float32) * self.scale[:, np.newaxis]


def round_by_error(kernel: np.ndarray, gram: np.ndarray) -> Levels:
    """`kernel` [out, in] in levels of each output channel.

    `gram` [in, in] is XᵀX over rows X [rows, in] of the Dense's input. The largest weight of an output channel stays
    what it is, so that whoever quantizes the result by its largest weight finds these very levels.
    """
    import scipy.linalg

    scale = (np.abs(kernel).max(axis=1) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1.0
    inputs = len(gram)
    order = np.argsort(-np.diag(gram), kind="stable")
    # In levels, [in, out], the loudest input first.
    left = np.ascontiguousarray((kernel / scale[:, np.newaxis]).T[order])
    fixed = np.abs(left) >= LARGEST * (1 - 1e-6)
    whole = np.sign(left) * LARGEST
    # A third of float64's time, and damped enough for it.
    covariance = gram[np.ix_(order, order)].astype(np.float32)
    covariance[np.diag_indices(inputs)] += max(DAMPING * float(np.trace(gram)) / inputs, 1e-12)
    lower, _ = scipy.linalg.lapack.spotrf(covariance, lower=1, clean=1, overwrite_a=1)
    inverse, _ = scipy.linalg.lapack.spotri(lower, lower=1, overwrite_c=1)
    # spotri fills one triangle; the upper factor of the inverse says what each input owes those after it.
    upper, failed = scipy.linalg.lapack.spotrf(np.asfortranarray(inverse.T), lower=0, clean=1, overwrite_a=1)
    if failed:
        plain = np.rint(kernel / scale[:, np.newaxis]).clip(-LARGEST, LARGEST)
        return Levels(plain.astype(np.int8), scale)
    upper = np.ascontiguousarray(upper / np.diag(upper)[:, np.newaxis])
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        changed = np.empty((end - start, left.shape[1]), np.float32)
        for i in range(start, end):
            levels = np.where(fixed[i], whole[i], np.clip(np.rint(left[i]), -LARGEST, LARGEST))
            changed[i - start] = left[i] - levels
            left[i] = levels
            left[i + 1 : end] -= upper[i, i + 1 : end, np.newaxis] * changed[i - start]
        left[end:] -= upper[start:end, end:].T @ changed
    rounded = np.empty(left.shape, np.int8)
    rounded[order] = left
    return Levels(np.ascontiguousarray(rounded.T), scale)
