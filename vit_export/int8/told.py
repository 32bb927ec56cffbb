"""What tuning did to an int8 model that nothing in its file shows by itself, as its record tells it."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from vit_export.int8.equalize import Factors

KEY = "tuned"
"""Its name in the record of a file."""

TOLD = ("key_means", "value_means", "corrections")
"""The vectors that are told. All other factors can be read off the weights, which they move between."""


def tell(factors: Factors) -> dict[str, dict[str, str]]:
    """The vectors of TOLD, JSON-ready: float32, little-endian, in base64."""
    return {
        kind: {
            name: base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
            for name, vector in getattr(factors, kind).items()
        }
        for kind in TOLD
    }


def told(record: Mapping[str, Any], width: int) -> Factors | None:
    """The inverse, from the `record` of a file of a model of `width`; None where it does not tell, or not such."""
    kinds = record.get(KEY)
    try:
        return Factors(**{kind: {name: _vector(text, width) for name, text in kinds[kind].items()} for kind in TOLD})  # type: ignore[index]
    except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
        return None


def _vector(text: str, width: int) -> np.ndarray:
    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise ValueError("no vector of finite numbers")
    return vector
