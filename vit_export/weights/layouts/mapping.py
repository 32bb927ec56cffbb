"""From stored tensors to canonical parameters: each transposition written once, every key accounted for.

A source says, for every canonical parameter, which stored tensors it is made of, what shapes they must have and how;
and which other keys it leaves out, and why. `MappedParameters` holds a file to that before a single value is read.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.model.parameters import parameter_specs
from vit_export.model.record import Rule
from vit_export.model.spec import ViTSpec
from vit_export.weights.containers.tensors import LOADABLE, TensorFile

Shape = tuple[int, ...]

_SHOWN = 4
"""Keys that one message lists of each kind."""


@dataclass(frozen=True)
class Piece:
    """One canonical parameter: `make(*tensors)` of the tensors called `keys`, which must be stored with `shapes`.

    `index` is the entry of the leading axis that is meant, where a file stacks all layers in one tensor.
    """

    keys: tuple[str, ...]
    shapes: tuple[Shape, ...]
    make: Callable[..., np.ndarray]
    index: int | None = None


@dataclass(frozen=True)
class Layout:
    """How a file holds the model `spec`: a Piece for every canonical parameter, and the keys left out with reasons.

    `assumed` is what neither the tensors nor a config say of the model (see `ModelRecord.assumed`). `positions` is the
    rule of this family for another image size, and `pixels` are fields of `Preprocessing` that hold where no file says
    them, both where they are not its package's usual ones. `notes` are for the user. `grey` tells that the checkpoint
    takes images of one channel (see `grey_patches`).
    """

    spec: ViTSpec
    pieces: Mapping[str, Piece]
    excused: Mapping[str, str] = field(default_factory=dict)
    assumed: Mapping[str, str] = field(default_factory=dict)
    positions: Rule | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    grey: bool = False


def same(key: str, shape: Shape) -> Piece:
    """Stored as it is used."""
    return Piece((key,), (shape,), lambda values: values)


def reshaped(key: str, stored: Shape, shape: Shape) -> Piece:
    """Stored with other axes around the same sequence of numbers: Google's [width, heads, head size] for one."""
    return Piece((key,), (stored,), lambda values: values.reshape(shape))


def torch_dense(key: str, shape: Shape) -> Piece:
    """A Dense kernel [in, out] stored as PyTorch does, [out, in]."""
    return Piece((key,), (shape[::-1],), lambda values: values.T)


def torch_patches(key: str, shape: Shape) -> Piece:
    """The patch embedding's kernel [height, width, channel, out], in PyTorch [out, channel, height, width]."""
    height, width, channels, out = shape
    return Piece((key,), ((out, channels, height, width),), lambda values: values.transpose(2, 3, 1, 0))


def grey_patches(key: str, shape: Shape) -> Piece:
    """The kernel of a patch embedding of grey images [out, 1, height, width], for the colours that grey is made of.

    Grey is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, as Pillow makes it). With one mean and one standard deviation for
    all channels, normalizing commutes with that sum, because the weights sum to 1: the same answer to rounding.
    """
    height, width, _, out = shape
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    return Piece(
        (key,), ((out, 1, height, width),), lambda values: values.transpose(2, 3, 1, 0) * weights[:, np.newaxis]
    )


def torch_third(key: str, part: int, shape: Shape) -> Piece:
    """Query, key or value (`part` 0, 1, 2) of one concatenated on the output axis: kernel [in, out] or bias [out]."""
    out = shape[-1]
    stored = (3 * out, *shape[:-1])
    return Piece((key,), (stored,), lambda values: values[part * out : (part + 1) * out].T)


def scaled_by(piece: Piece, key: str, width: int) -> Piece:
    """`piece` with its output axis times the LayerScale vector `key` (Touvron et al., 2021), which is exact."""
    return Piece(
        (*piece.keys, key),
        (*piece.shapes, (width,)),
        lambda *tensors: piece.make(*tensors[:-1]) * tensors[-1],
    )


def with_class_row(key: str, shape: Shape) -> Piece:
    """A position embedding [1, 1 + patches, width] stored without the class token's row, which is then zero."""
    _, tokens, width = shape
    return Piece(
        (key,),
        ((1, tokens - 1, width),),
        lambda values: np.concatenate([np.zeros((1, 1, width), values.dtype), values], axis=1),
    )


def sum_of(first: Piece, second: Piece) -> Piece:
    """The sum of two pieces: a token and its position, where only the sum is read."""
    split = len(first.keys)
    return Piece(
        (*first.keys, *second.keys),
        (*first.shapes, *second.shapes),
        lambda *tensors: first.make(*tensors[:split]) + second.make(*tensors[split:]),
    )


def zeros(shape: Shape) -> Piece:
    """A parameter that the source's architecture does not have, and that is zero in ours."""
    return Piece((), (), lambda: np.zeros(shape, np.float32))


def stacked(piece: Piece, index: int, layers: int) -> Piece:
    """`piece` of layer `index`, stored with all `layers` in one tensor on a leading axis."""
    return Piece(piece.keys, tuple((layers, *shape) for shape in piece.shapes), piece.make, index)


class MappedParameters:
    """The canonical parameters of a file in some layout, one tensor at a time (a `ParameterSource`).

    Raises:
        InputError: on construction, when a key is missing, unexpected, or of another shape or type than the layout
            says; the message lists both sides. On `read`, when the file is damaged or a value is not finite.
    """

    def __init__(self, file: TensorFile, layout: Layout, source: str) -> None:
        self._file, self._layout = file, layout
        self.spec = layout.spec
        self._shapes = {parameter.name: parameter.shape for parameter in parameter_specs(layout.spec)}
        if self._shapes.keys() != layout.pieces.keys():
            raise AssertionError(f"The layout {source} is not complete: {self._shapes.keys() ^ layout.pieces.keys()}")
        if problems := _problems(file, layout):
            raise InputError(
                f"{file.path} does not hold a Vision Transformer in the layout of {source}: {'; '.join(problems)}."
            )

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        piece = self._layout.pieces[name]
        tensors = []
        for key in piece.keys:
            values = self._file.read(key, piece.index)
            if not np.isfinite(values).all():
                raise InputError(
                    f"{key} in {self._file.path} contains {_strange(values)}, expected finite numbers: "
                    "take a checkpoint from before the training diverged."
                )
            tensors.append(values)
        made = np.ascontiguousarray(piece.make(*tensors), dtype=np.float32)
        if len(tensors) > 1 and not np.isfinite(made).all():
            raise InputError(
                f"{name} of {self._file.path} is made of numbers that give {_strange(made)}: save it again."
            )
        if made.shape != self._shapes[name]:
            raise AssertionError(f"{name} was made with shape {made.shape}, expected {self._shapes[name]}")
        return made


def _problems(file: TensorFile, layout: Layout) -> list[str]:
    """Everything that is not as `layout` says, as phrases: missing, unexpected, shapes, types."""
    wanted: dict[str, Shape] = {}
    for piece in layout.pieces.values():
        wanted.update(zip(piece.keys, piece.shapes, strict=True))
    found = file.tensors
    phrases = []
    if missing := [key for key in wanted if key not in found]:
        phrases.append(f"missing {_some(f'{key} {_text(wanted[key])}' for key in missing)}")
    if extra := [key for key in found if key not in wanted and key not in layout.excused]:
        phrases.append(f"unexpected {_some(f'{key} {_text(found[key].shape)}' for key in extra)}")
    wrong = [key for key in wanted if key in found and found[key].shape != wanted[key]]
    if wrong:
        phrases.append(_some(f"{key} is {_text(found[key].shape)}, expected {_text(wanted[key])}" for key in wrong))
    types = [key for key in wanted if key in found and found[key].dtype not in LOADABLE]
    if types:
        phrases.append(_some(f"{key} is {found[key].dtype}, expected {' or '.join(LOADABLE)}" for key in types))
    return phrases


def _some(phrases: Iterable[str]) -> str:
    listed = list(phrases)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _text(shape: Shape) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _strange(values: np.ndarray) -> str:
    return "NaN" if np.isnan(values).any() else "infinity"
