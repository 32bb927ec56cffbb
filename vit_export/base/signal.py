"""Signal, noise and classes: the few formulas that quantization, verification and models share, in pure numpy.

`reference` and `candidate` are [n, k] arrays: one row per image, one column per output. Sums run in float64.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(x) / sum(exp(x)) of each row of `logits` [n, k], float32."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray((exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32))


def absolute_difference(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """|candidate - reference|, float64 [n, k]."""
    return np.abs(candidate.astype(np.float64) - reference.astype(np.float64))


def sqnr_db(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Signal to quantization noise per image, 10 log10(s / sum (r - x)^2) in dB, float64 [n].

    s is sum r^2 of the image, or the mean of it over all images where that is more: an image that a classifier is
    undecided about has logits near 0, and noise that is small beside all others' is no fault.
    """
    signal = np.square(reference.astype(np.float64)).sum(axis=1)
    return decibels(signal, np.square(absolute_difference(reference, candidate)).sum(axis=1))


def decibels(signal: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """`sqnr_db` of images whose squares sum to `signal` [n] and whose differences' squares to `noise` [n]."""
    signal = np.maximum(signal, np.sort(signal).sum() / len(signal))
    return np.array([_decibel(s, n) for s, n in zip(signal, noise, strict=True)])


def overall_sqnr_db(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Signal to quantization noise, 10 log10(sum r^2 / sum (r - x)^2) in dB with sums over all images."""
    noise = np.square(absolute_difference(reference, candidate)).sum()
    return _decibel(float(np.square(reference.astype(np.float64)).sum()), float(noise))


def _decibel(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def json_ready(value: Any) -> Any:
    """`value` with lists for tuples, Python's scalars for numpy's, and strings ('NaN', 'Infinity') for such floats."""
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [json_ready(v) for v in value]
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
