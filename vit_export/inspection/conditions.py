"""The conditions under which a delegate takes an operator, as its source states them: the words of the tables.

Each makes a function that gets a node and returns why the node is refused, "" where it is not.
"""

from collections.abc import Callable, Sequence

from vit_export.inspection.operators import Node, Tensor

Condition = Callable[[Node], str]


def version_up_to(highest: int) -> Condition:
    """The operator's version is at most `highest`."""
    return lambda node: f"version {node.version}, at most {highest} is taken" if node.version > highest else ""


def inputs(*counts: tuple[int, int]) -> Condition:
    """The numbers of changing inputs and of constants are one of the pairs `counts`."""

    def check(node: Node) -> str:
        found = len(node.changing), len(node.given) - len(node.changing)
        return "" if found in counts else f"{found[0]} changing inputs and {found[1]} constants"

    return check


def changing(most: int, least: int = 0) -> Condition:
    """From `least` to `most` inputs that are no constants."""
    return lambda node: "" if least <= len(node.changing) <= most else f"{len(node.changing)} changing inputs"


def rank(index: int, allowed: Sequence[int]) -> Condition:
    """Input `index` has one of the `allowed` numbers of dimensions."""

    def check(node: Node) -> str:
        tensor = _input(node, index)
        if tensor is None or tensor.rank is None or tensor.rank in allowed:
            return ""
        return f"the input has rank {tensor.rank}, {_either(allowed)} is taken"

    return check


def dtype(index: int, allowed: Sequence[str]) -> Condition:
    """Input `index` is of one of the `allowed` types."""

    def check(node: Node) -> str:
        tensor = _input(node, index)
        if tensor is None or not tensor.dtype or tensor.dtype in allowed:
            return ""
        return f"the input is {tensor.dtype}, {_either(allowed)} is taken"

    return check


def constant(index: int) -> Condition:
    """Input `index`, where there is one, is a constant."""

    def check(node: Node) -> str:
        tensor = _input(node, index)
        return "" if tensor is None or tensor.constant else f"input {index} is no constant"

    return check


def stored(index: int) -> Condition:
    """Input `index`, where there is one, is a constant of the file as it is, not one that is dequantized first."""

    def check(node: Node) -> str:
        tensor = _input(node, index)
        return "" if tensor is None or (tensor.constant and tensor.nbytes) else f"input {index} is no stored constant"

    return check


def unset(*flags: str) -> Condition:
    """None of these options of the operator is set."""

    def check(node: Node) -> str:
        found = [flag for flag in flags if node.attributes.get(flag)]
        return f"{_called(found[0])} is set" if found else ""

    return check


def equals(option: str, value: float) -> Condition:
    """The option, where it is given, has this value."""

    def check(node: Node) -> str:
        found = node.attributes.get(option, value)
        return "" if found == value else f"{_called(option)} is {found:g}, {value:g} is taken"

    return check


def max_rank(most: int) -> Condition:
    """No tensor has more than `most` dimensions."""

    def check(node: Node) -> str:
        ranks = [tensor.rank or 0 for tensor in (*node.given, *node.outputs)]
        return f"a tensor has rank {max(ranks)}, at most {most} is taken" if ranks and max(ranks) > most else ""

    return check


def static(node: Node) -> str:
    """Every size is known."""
    return "" if all(tensor.static for tensor in (*node.given, *node.outputs)) else "a size is open"


def running_dtypes(allowed: Sequence[str]) -> Condition:
    """What changes, in and out, is of one of the `allowed` types."""

    def check(node: Node) -> str:
        running = (*node.changing, *node.outputs)
        found = sorted({tensor.dtype for tensor in running if tensor.dtype and tensor.dtype not in allowed})
        return f"computes in {', '.join(found)}" if found else ""

    return check


def all_of(*conditions: Condition) -> Condition:
    """Every one of `conditions`; the first that is not met says why."""
    return lambda node: next((why for condition in conditions if (why := condition(node))), "")


def _input(node: Node, index: int) -> Tensor | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _either(allowed: Sequence[object]) -> str:
    return " or ".join(map(str, allowed))


def _called(option: str) -> str:
    """An option as TensorFlow writes it: adjX as adj_x, shrinkAxisMask as shrink_axis_mask."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in option)
