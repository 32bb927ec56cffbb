"""A position embedding for another image size, resampled as the package that the weights come from does it.

Every rule is separable: matrices [new, old] of interpolation weights serve rows and columns. Each tap that
falls outside the grid is given to the nearest patch at the edge, or dropped and the others scaled up (antialiased).
"""

from collections.abc import Callable
from typing import get_args

import numpy as np
import numpy.typing as npt

from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError, nearest
from vit_export.model.record import Rule
from vit_export.model.spec import MAX_IMAGE_SIZE

_Weights = npt.NDArray[np.float64]


def resample(embedding: np.ndarray, old: tuple[int, int], new: tuple[int, int], rule: Rule) -> npt.NDArray[np.float32]:
    """Bring `embedding` [1, k + rows·columns, D], float32, from the grid `old` to `new`, each (rows, columns).

    The first k rows, those of a class token and the like, are passed through; the others are the patches from left to
    right, top to bottom. With `new` equal to `old` nothing is resampled. Sums are float64; the originals compute in
    float32, so that results agree to about 1e-6 of the largest value. The rules, and the function of which package each
    one is:

    - "bilinear_aligned": `scipy.ndimage.zoom(order=1)` in google-research/vision_transformer (`load_pretrained`) and
      big_vision (`resample_posemb`): the outermost patches stay where they are. For some pairs of grids (28 to 14,
      16 to 30) SciPy's last coordinate rounds to just outside the grid and it fills the last row and column with zeros;
      here they are interpolated as the others are.
    - "bicubic_antialiased": timm's `resample_abs_pos_embed`, `interpolate(mode="bicubic", antialias=True)`: a = -0.5,
      the kernel widened when the grid shrinks.
    - "bicubic": `ViTEmbeddings.interpolate_pos_encoding` in Hugging Face transformers,
      `interpolate(mode="bicubic", align_corners=False)`: a = -0.75, never widened.
    - "bicubic_aligned": torchvision's `interpolate_embeddings`, `interpolate(mode="bicubic", align_corners=True)`:
      a = -0.75, the outermost patches stay where they are.
    - "bilinear": timm's for FlexiViT, `interpolate(mode="bilinear", align_corners=False)`, never widened.

    Raises:
        InputError: `embedding` does not have the patches of `old`, `new` is out of range, `rule` is unknown.

    """
    values = np.asarray(embedding)
    rows, columns = old
    first = values.shape[1] - rows * columns if values.ndim == 3 else -1
    if values.ndim != 3 or values.shape[0] != 1 or first < 0 or values.shape[2] < 1 or min(old) < 1:
        raise InputError(
            f"A position embedding has shape {list(values.shape)}, expected [1, {rows} x {columns} patches, width], "
            "with rows for the class token before them."
        )
    for side in new:
        whole_number("grid", side, 1, MAX_IMAGE_SIZE, of="patches")
    if rule not in _WEIGHTS:
        guess = nearest(str(rule), get_args(Rule))
        raise InputError(
            f"The resampling rule {rule!r} is unknown, expected one of {', '.join(get_args(Rule))}"
            + (f"; did you mean {guess!r}?" if guess else ".")
        )
    if new == old:
        return values.astype(np.float32)
    down, across = (_WEIGHTS[rule](before, after) for before, after in zip(old, new, strict=True))
    width = values.shape[2]
    tall = down @ values[0, first:].astype(np.float64).reshape(rows, columns * width)
    both = across @ tall.reshape(new[0], columns, width)
    resampled = both.reshape(1, new[0] * new[1], width).astype(np.float32)
    return np.concatenate([values[:, :first].astype(np.float32), resampled], axis=1)


def _bilinear_aligned(old: int, new: int) -> _Weights:
    return _two_taps(old, _aligned(old, new))


def _bilinear(old: int, new: int) -> _Weights:
    return _two_taps(old, _centred(old, new))


def _bicubic(old: int, new: int) -> _Weights:
    return _four_taps(old, _centred(old, new))


def _bicubic_aligned(old: int, new: int) -> _Weights:
    return _four_taps(old, _aligned(old, new))


def _bicubic_antialiased(old: int, new: int) -> _Weights:
    """Follow PyTorch's `_upsample_bicubic2d_aa`: taps outside the grid are dropped, the rest sums to one."""
    widening = max(old / new, 1.0)
    centre = (np.arange(new, dtype=np.float64) + 0.5) * (old / new)
    distance = np.arange(old)[None, :] + 0.5 - centre[:, None]
    weights = _cubic(distance / widening, a=-0.5)
    return weights / weights.sum(axis=1, keepdims=True)


def _aligned(old: int, new: int) -> _Weights:
    """Return the places 0 to old - 1 of `new` points, the first and the last on the corners; one point sits on 0."""
    return np.linspace(0.0, old - 1, new) if new > 1 else np.zeros(1)


def _centred(old: int, new: int) -> _Weights:
    """Return the places of `new` points whose outer edges are where those of the `old` are (align_corners=False)."""
    return (np.arange(new, dtype=np.float64) + 0.5) * (old / new) - 0.5


def _split(places: _Weights) -> tuple[npt.NDArray[np.intp], _Weights]:
    left = np.floor(places)
    return left.astype(np.intp), places - left


def _two_taps(old: int, places: _Weights) -> _Weights:
    left, part = _split(places)
    return _gather(old, left[:, None] + np.arange(2), np.stack([1 - part, part], axis=1))


def _four_taps(old: int, places: _Weights) -> _Weights:
    left, part = _split(places)
    offsets = np.arange(-1, 3)
    return _gather(old, left[:, None] + offsets, _cubic(part[:, None] - offsets, a=-0.75))


def _gather(old: int, taps: npt.NDArray[np.intp], weights: _Weights) -> _Weights:
    """Matrix [new, old] of `weights` [new, n] at `taps` [new, n]; what falls outside counts for the edge."""
    matrix = np.zeros((len(taps), old))
    np.add.at(matrix, (np.arange(len(taps))[:, None], np.clip(taps, 0, old - 1)), weights)
    return matrix


def _cubic(distance: _Weights, a: float) -> _Weights:
    """Keys' cubic convolution kernel (IEEE Trans. ASSP 29, 1981, p. 1153), zero from a distance of two patches on."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


_WEIGHTS: dict[Rule, Callable[[int, int], _Weights]] = {
    "bilinear_aligned": _bilinear_aligned,
    "bicubic_antialiased": _bicubic_antialiased,
    "bicubic": _bicubic,
    "bicubic_aligned": _bicubic_aligned,
    "bilinear": _bilinear,
}
