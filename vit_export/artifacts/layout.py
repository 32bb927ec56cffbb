"""Where the colours of an image input are, told by its shape alone."""

from collections.abc import Sequence
from typing import Literal

from vit_export.model.artifact import Layout

_CHANNEL_AXIS: dict[Layout, int] = {"NHWC": 3, "NCHW": 1}


def layout_of(dimensions: Sequence[int | str | None], usual: Layout) -> Layout | Literal[""]:
    """The layout of an input with these dimensions, "" where it is no batch of RGB images.

    A dimension is its size, or the name that the file gives to an open one, or None. The axis of size 3 holds the
    colours; where none has that size, the open one called after channels; without such a name the axis that `usual`,
    the layout of the format's own operators, has them on, if that is open.
    """
    if len(dimensions) != 4:
        return ""
    for layout, axis in _CHANNEL_AXIS.items():
        if dimensions[axis] == 3:
            return layout
    for layout, axis in _CHANNEL_AXIS.items():
        if _called_channels(dimensions[axis]):
            return layout
    return usual if open_or_size(dimensions[_CHANNEL_AXIS[usual]]) is None else ""


def open_or_size(dimension: int | str | None) -> int | None:
    """A dimension's size, None where it is open: a name, nothing, or a number that no size can be (often -1)."""
    return dimension if isinstance(dimension, int) and dimension > 0 else None


def _called_channels(dimension: int | str | None) -> bool:
    return isinstance(dimension, str) and (dimension.lower() == "c" or "channel" in dimension.lower())
