"""Reading and rewriting small ONNX graphs: who makes a value, who reads it, does it match a pattern."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import StructureError

if TYPE_CHECKING:
    import onnx


_COMMUTATIVE = frozenset({"Add", "Mul"})


@dataclass(frozen=True)
class Value:
    """Matches any value; the same name matches the same value wherever it occurs in a pattern."""

    name: str


@dataclass(frozen=True)
class Number:
    """Matches a constant with the one element `number` (to float32's precision)."""

    number: float


@dataclass(frozen=True)
class Constant:
    """Matches a constant with exactly the integers `elements`."""

    elements: tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """Matches a node of type `kind` by its inputs and, where `attributes` names any, by those."""

    kind: str
    inputs: tuple["Pattern", ...]
    attributes: tuple[tuple[str, tuple[int, ...]], ...] = ()


Pattern = Value | Number | Constant | Op


class Editor:
    """An index over `graph` that stays valid as long as values are only added or redirected through it."""

    def __init__(self, graph: "onnx.GraphProto") -> None:
        self.graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._reindex()

    def _reindex(self) -> None:
        self._producer = {output: node for node in self.graph.node for output in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for value in node.input:
                self._consumers.setdefault(value, []).append(node)

    def producer(self, value: str) -> "onnx.NodeProto | None":
        """The node that makes `value`; None for graph inputs and constants."""
        return self._producer.get(value)

    def consumers(self, value: str) -> "list[onnx.NodeProto]":
        """The nodes that read `value`."""
        return self._consumers.get(value, [])

    def only_consumer(self, value: str) -> "onnx.NodeProto":
        """The one node that reads `value`.

        Raises:
            StructureError: none does, or more than one.
        """
        consumers = self.consumers(value)
        if len(consumers) != 1:
            raise StructureError(f"ONNX graph: {value} is read by {len(consumers)} operators, expected 1.")
        return consumers[0]

    def constant(self, value: str) -> "np.ndarray | None":
        """The elements of the constant called `value`; None when it is none."""
        from onnx import numpy_helper

        tensor = self._constants.get(value)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add_constant(self, name: str, elements: np.ndarray) -> str:
        """The name of a constant with `elements`, shared with an equal one that is there already."""
        from onnx import numpy_helper

        for other in self._constants:
            found = self.constant(other)
            if found is not None and found.dtype == elements.dtype and np.array_equal(found, elements):
                return other
        self._constants[name] = self.graph.initializer.add()
        self._constants[name].CopyFrom(numpy_helper.from_array(elements, name))
        return name

    def match(self, value: str, pattern: Pattern, bound: Mapping[str, str]) -> "dict[str, str] | None":
        """What the Values of `pattern` stand for when it ends in `value`; None when it does not match.

        `bound` fixes some Values beforehand. Add and Mul match in either order.
        """
        if isinstance(pattern, Value):
            if bound.get(pattern.name, value) != value:
                return None
            return {**bound, pattern.name: value}
        if isinstance(pattern, Op):
            return self._match_node(self.producer(value), pattern, bound)
        elements = self.constant(value)
        if elements is None:
            return None
        if isinstance(pattern, Number):
            matches = elements.size == 1 and bool(np.isclose(elements.item(), pattern.number, rtol=1e-6, atol=0))
        else:
            matches = tuple(elements.reshape(-1).tolist()) == pattern.elements
        return dict(bound) if matches else None

    def _match_node(
        self, node: "onnx.NodeProto | None", pattern: Op, bound: Mapping[str, str]
    ) -> "dict[str, str] | None":
        if node is None or node.op_type != pattern.kind or len(node.input) != len(pattern.inputs):
            return None
        attributes = {a.name: tuple(a.ints) or (a.i,) for a in node.attribute}
        if any(attributes.get(name) != wanted for name, wanted in pattern.attributes):
            return None
        orders = [pattern.inputs]
        if node.op_type in _COMMUTATIVE:
            orders.append(pattern.inputs[::-1])
        for order in orders:
            found: dict[str, str] | None = dict(bound)
            for value, wanted in zip(node.input, order, strict=True):
                found = self.match(value, wanted, found) if found is not None else None
            if found is not None:
                return found
        return None

    def replace(self, value: str, nodes: "Iterable[onnx.NodeProto]") -> None:
        """Put `nodes`, the last of which makes `value`, in the place of the node that makes it now."""
        position = next(index for index, node in enumerate(self.graph.node) if value in node.output)
        del self.graph.node[position]
        for offset, node in enumerate(nodes):
            self.graph.node.insert(position + offset, node)
        self._reindex()


def rename_values(graph: "onnx.GraphProto", names: Mapping[str, str]) -> None:
    """Rename values throughout `graph`, inputs, outputs and constants included."""
    for node in graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = names.get(value, value)
    for declared in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        declared.name = names.get(declared.name, declared.name)


def drop_unused(graph: "onnx.GraphProto") -> None:
    """Remove nodes and constants that lead to no output; graph inputs stay."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    nodes, constants = kept[::-1], [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    graph.initializer.extend(constants)


def count(graph: "onnx.GraphProto", kind: str) -> int:
    """Nodes of type `kind`."""
    return sum(node.op_type == kind for node in graph.node)
