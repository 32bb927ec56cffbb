"""The conditions under which a delegate takes an operator: the words of data/delegates.toml."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vit_export.base.checks import is_number
from vit_export.inspection.operators import Node


def _inputs(node: Node, wanted: Mapping[str, Mapping[str, Any]]) -> str:
    for number, asked in wanted.items():
        if (tensor := node.input(int(number))) is None:
            continue
        for what, allowed in asked.items():
            match what:
                case "rank" if tensor.rank not in (None, *allowed):
                    return f"the input has rank {tensor.rank}, {' or '.join(map(str, allowed))} is taken"
                case "dtype" if tensor.dtype not in ("", *allowed):
                    return f"the input is {tensor.dtype}, {' or '.join(allowed)} is taken"
                case "constant" if not tensor.constant:
                    return f"input {number} is no constant"
                case "stored" if not (tensor.constant and tensor.nbytes):
                    return f"input {number} is no stored constant"
    return ""


def _counts(node: Node, allowed: Sequence[Sequence[int]]) -> str:
    found = [len(node.changing), len(node.given) - len(node.changing)]
    return "" if found in allowed else f"{found[0]} changing inputs and {found[1]} constants"


def _equal(node: Node, options: Mapping[str, float]) -> str:
    for option, value in options.items():
        if (found := node.attributes.get(option, value)) != value:
            told = f"{found:g}" if is_number(found) else "no number"
            return f"{_called(option)} is {told}, {value:g} is taken"
    return ""


def _max_rank(node: Node, most: int) -> str:
    highest = max((tensor.rank or 0 for tensor in (*node.given, *node.outputs)), default=0)
    return f"a tensor has rank {highest}, at most {most} is taken" if highest > most else ""


def _computes_in(node: Node, allowed: Sequence[str]) -> str:
    found = {tensor.dtype for tensor in (*node.changing, *node.outputs)} - {"", *allowed}
    return f"computes in {', '.join(sorted(found))}" if found else ""


def _casts(node: Node, words: str) -> str:
    pair = (node.given[0].dtype, node.outputs[0].dtype) if node.given and node.outputs else ("", "")
    good = set(pair) <= {"float32", "int32"} or ("bool" in pair and set(pair) <= {"bool", "float32", "float16"})
    return "" if good else f"from {pair[0]} to {pair[1]}, {words}"


def _combines(node: Node, words: str) -> str:
    shapes = [tensor.shape or () for tensor in node.given]
    if len(shapes) != 2:
        return f"{len(shapes)} inputs, 2 are taken"
    short, long = sorted(shapes, key=len)
    if len(short) == len(long) or len(short) < 2:
        return ""
    of_one = len(long) == 4 and long[0] == 1 and (len(short) == 3 or short == (1, 1))
    of_channels = len(long) == 4 and len(short) == 2 and (long[0], long[3]) == short
    return "" if of_one or of_channels else f"{words} {list(long)} and {list(short)}"


def _last_axis(node: Node, words: str) -> str:
    axis, rank = node.attributes.get("axis", -1), node.given[0].rank if node.given else None
    return "" if axis == -1 or (rank is not None and axis == rank - 1) else f"along axis {axis}, {words}"


def _same_planes(node: Node) -> bool:
    if len(node.given) != 2 or any(not tensor.static for tensor in node.given):
        return True
    first, second = ((1,) * (4 - len(tensor.shape or ())) + (tensor.shape or ()) for tensor in node.given)
    whole = any(tensor.constant and tensor.nbytes <= 4 for tensor in node.given)
    planes = first[1:3] == second[1:3] or (1, 1) in (first[1:3], second[1:3])
    return (first[0] == second[0] or whole) and planes and (first[3] == second[3] or 1 in (first[3], second[3]))


def _over_planes(node: Node) -> bool:
    axes = {axis % 4 for tensor in node.given[1:2] for axis in tensor.values or ()}
    return bool(node.attributes.get("keepDims") and axes) and axes <= {1, 2} and node.given[0].rank == 4


def _joins_channels(node: Node) -> bool:
    rank, axis = node.given[0].rank if node.given else None, node.attributes.get("axis")
    return rank in (3, 4) and axis in (-1, rank - 1) and not node.attributes.get("fusedActivationFunction")


def _called(option: str) -> str:
    """An option as TensorFlow writes it: adjX as adj_x, shrinkAxisMask as shrink_axis_mask."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in option)


_TESTS: dict[str, Callable[[Node], Any]] = {
    "never": lambda node: False,
    "static": lambda node: all(tensor.static for tensor in (*node.given, *node.outputs)),
    # With keep_num_dims a product has as many dimensions as what goes in.
    "keeps_rank": lambda node: (
        not node.attributes.get("keepNumDims") or len({t.rank for t in (*node.given[:1], *node.outputs)}) == 1
    ),
    # No operand of a product is turned by a flag.
    "unturned": lambda node: not (node.attributes.get("adjX") or node.attributes.get("adjY")),
    # Two operands that change, or the second is a constant of two dimensions.
    "flat_constant": lambda node: len(node.changing) == 2 or any(t.constant and t.rank == 2 for t in node.given[1:]),
    # The second operand is constant or transposed.
    "constant_or_turned": lambda node: node.attributes.get("transB") or all(t.constant for t in node.given[1:2]),
    "same_type": lambda node: len({tensor.dtype for tensor in node.given}) == 1,
    # All operands have one batch, where it is known.
    "same_batch": lambda node: len({tensor.shape[:-2] for tensor in node.given if tensor.shape is not None}) <= 1,
    # All dimensions of the input but the last are 1.
    "one_row": lambda node: all(n == 1 for tensor in node.given[:1] for n in (tensor.shape or ())[:-1]),
    "same_planes": _same_planes,  # as images, operands have one batch, and height, width, channels of one size or 1
    "over_planes": _over_planes,  # a mean over height, width or both of an image, whose axes are kept
    "joins_channels": _joins_channels,  # along the last axis of three or four, without an activation
}
"""Conditions without a parameter, which say whether a node is taken: the tables say why where it is not."""


def _told(holds: Callable[[Node], Any]) -> Callable[[Node, str], str]:
    return lambda node, words: "" if holds(node) else words


CONDITIONS: dict[str, Callable[[Node, Any], str]] = {
    # The operator's version is at most this one.
    "version": lambda node, most: f"version {node.version}, at most {most} is taken" if node.version > most else "",
    "counts": _counts,  # so many changing inputs and so many constants, in one of these pairs
    # So many changing inputs.
    "changing": lambda node, allowed: "" if (n := len(node.changing)) in allowed else f"{n} changing inputs",
    # Inputs by their number, where there are such: `rank` and `dtype`, where known, are among these; a `constant` may
    # be one that is dequantized first, what is `stored` is in the file as it is.
    "inputs": _inputs,
    # None of these options is set.
    "unset": lambda node, flags: next((f"{_called(flag)} is set" for flag in flags if node.attributes.get(flag)), ""),
    "equal": _equal,  # options, where they are given, have these values
    "max_rank": _max_rank,  # no tensor has more dimensions
    "computes_in": _computes_in,  # what changes, in and out, is of one of these types
    "casts": _casts,  # between float32 and int32, or to or from bool
    "combines": _combines,  # shapes of one rank, or one of the few cases of two that the GPU delegate knows
    "last_axis": _last_axis,  # the option `axis` is the last one
    **{name: _told(holds) for name, holds in _TESTS.items()},
}
"""Why a node is refused, "" where it is not, by the name of the condition, from the node and the parameter."""
