"""What tuning did to an int8 model that nothing in its file shows by itself, as its record tells it."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vit_export.int8.equalize import Factors

KEY = "tuned"
"""Its name in the record of a file."""

TOLD = ("key_means", "value_means", "corrections")
"""The vectors that are told. All other factors can be read off the weights, which they move between."""


_ROUNDED = "rounded_by_error"


def tell(factors: Factors, rounded: Iterable[str] = ()) -> dict[str, Any]:
    """The vectors of TOLD, JSON-ready (float32, little-endian, in base64), and the names of kernels `rounded` by error.

    Of such a kernel (`int8.rounding`) a weight need not be at its nearest level; of any other it has to be.
    """
    vectors = {
        kind: {
            name: base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
            for name, vector in getattr(factors, kind).items()
        }
        for kind in TOLD
    }
    return {**vectors, _ROUNDED: sorted(rounded)}


def told(record: Mapping[str, Any], width: int) -> Factors | None:
    """The vectors that the `record` of a file of a model of `width` tells; None where it does not, or not such."""
    kinds = record.get(KEY)
    try:
        return Factors(**{kind: {name: _vector(text, width) for name, text in kinds[kind].items()} for kind in TOLD})  # type: ignore[index]
    except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
        return None


def rounded_by_error(record: Mapping[str, Any]) -> frozenset[str] | None:
    """The kernels that were rounded by error, as the `record` of a file tells; None where it does not."""
    tuned = record.get(KEY)
    names = tuned.get(_ROUNDED) if isinstance(tuned, Mapping) else None
    return frozenset(map(str, names)) if isinstance(names, list) else None


def _vector(text: str, width: int) -> np.ndarray:
    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise ValueError("no vector of finite numbers")
    return vector
