"""Rotary positions: each head's channels in pairs, turned by angles that a patch's place gives (Su et al., 2021).

In two dimensions as DINOv3 does it (facebookresearch/dinov3, `layers/rope_position_encoding.py`; Siméoni et al., 2025):
half of the pairs turn with the row, half with the column. Class token and registers are not turned.
"""

import numpy as np
import numpy.typing as npt

from vit_export.model.spec import ViTSpec

THETA = 100.0
"""The base of the periods in every published DINOv3."""


def rotary_tables(spec: ViTSpec) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines [tokens, head size] of `spec`, float32: turned, x is x·cos + swapped(x)·sin.

    `swapped` exchanges the two halves of a head's channels; the sign that turning needs in the first half is in the
    sines. Centres of patches are at -1 + (2 i + 1) / n of n along each side, and the angle is 2π times that, divided
    by THETA^(4 j / head size) for the j-th of each quarter of the channels.
    """
    rows, columns = spec.grid
    periods = THETA ** (np.arange(spec.head_size // 4) * 4 / spec.head_size)
    places = np.stack(
        np.meshgrid(*((2 * np.arange(n) + 1) / n - 1 for n in (rows, columns)), indexing="ij"), axis=-1
    ).reshape(-1, 2, 1)
    angles = (2 * np.pi * places / periods).reshape(spec.num_patches, spec.head_size // 2)
    angles = np.concatenate([np.zeros((spec.num_prefix_tokens, spec.head_size // 2)), angles])
    cosines, sines = np.cos(angles), np.sin(angles)
    return (
        np.concatenate([cosines, cosines], axis=1).astype(np.float32),
        np.concatenate([-sines, sines], axis=1).astype(np.float32),
    )
