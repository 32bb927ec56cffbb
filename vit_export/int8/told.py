"""What tuning did to an int8 model that nothing in its file shows by itself, as its record tells it."""

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vit_export.int8.equalize import Factors
from vit_export.model.spec import ViTSpec

KEY = "tuned"
"""Its name in the record of a file."""

TOLD = ("key_means", "value_means", "corrections")
"""The vectors that are told. All other factors can be read off the weights, which they move between."""

_OUTLIERS = "outliers"

_ROUNDED = "rounded_by_error"


def tell(factors: Factors, rounded: Iterable[str] = ()) -> dict[str, Any]:
    """What the record says, JSON-ready: the vectors of TOLD (float32, little-endian, in base64), outliers, `rounded`.

    The last are the names of kernels that were rounded by error (`int8.rounding`): a weight of theirs need not be at
    its nearest level; of any other kernel it has to be.
    """
    vectors = {
        kind: {
            name: base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
            for name, vector in getattr(factors, kind).items()
        }
        for kind in TOLD
    }
    outliers = {mlp: [int(channel) for channel in channels] for mlp, channels in factors.outliers.items()}
    return {**vectors, _OUTLIERS: outliers, _ROUNDED: sorted(rounded)}


def told(record: Mapping[str, Any], spec: ViTSpec) -> Factors | None:
    """What the `record` of a file of a model of `spec` tells; None where it does not, or nothing such."""
    kinds: Any = record.get(KEY)
    try:
        vectors = {kind: {n: _vector(text, spec.hidden_size) for n, text in kinds[kind].items()} for kind in TOLD}
        # Files of older versions have none.
        outliers = {mlp: _channels(found, spec.mlp_size) for mlp, found in kinds.get(_OUTLIERS, {}).items()}
        return Factors(**vectors, outliers=outliers)
    except (TypeError, KeyError, AttributeError, ValueError, binascii.Error):
        return None


def rounded_by_error(record: Mapping[str, Any]) -> frozenset[str] | None:
    """The kernels that were rounded by error, as the `record` of a file tells; None where it does not."""
    tuned = record.get(KEY)
    names = tuned.get(_ROUNDED) if isinstance(tuned, Mapping) else None
    return frozenset(map(str, names)) if isinstance(names, list) else None


def _channels(found: Any, size: int) -> np.ndarray:
    channels = np.asarray(found)
    if channels.dtype.kind != "i" or channels.ndim != 1 or not 0 < channels.size < size:
        raise ValueError("no channels")
    if channels[0] < 0 or channels[-1] >= size or (np.diff(channels) <= 0).any():
        raise ValueError("no channels in order")
    return channels


def _vector(text: str, width: int) -> np.ndarray:
    vector = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    if vector.shape != (width,) or not np.isfinite(vector).all():
        raise ValueError("no vector of finite numbers")
    return vector
