"""What shows a person why a verdict is what it is: classes of an image, layers that depart, causes that fit."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TopClasses:
    """The classes of one image that an output ranks highest, best first; `probabilities` are the softmax of logits."""

    indices: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class LayerPoint:
    """One tensor of the residual stream in a file against the reference's, over all images that were compared.

    `name` is 'embedding', 'encoder layer 3 attention', 'encoder layer 3 mlp', 'encoder norm' or 'output', in the
    model's order; `sqnr_db` is that of the worst image; `worst_relative` the largest difference divided by the range of
    the reference's tensor; `tensor` what the file calls its own. Both figures are None where the file has no such
    tensor.
    """

    name: str
    sqnr_db: float | None
    worst_relative: float | None
    tensor: str | None


@dataclass(frozen=True)
class Location:
    """Where a file leaves the reference: `departs` is the name of the first point that is off, None if none is.

    `limit_db` is the SQNR below which a point counts as off; `detail` says it in a sentence; `images` is how many were
    compared.
    """

    points: tuple[LayerPoint, ...]
    departs: str | None
    limit_db: float
    images: int
    detail: str


@dataclass(frozen=True)
class Cause:
    """An explanation of a failed file that was tried and fits: `name` is a row of a table in `causes`."""

    name: str
    detail: str
