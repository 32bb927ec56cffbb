"""The operators of a .tflite or .onnx file in one form for both, as the tables of delegates look at them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Key = int | str
"""What tells a tensor from the others of its graph: TFLite's index, ONNX's name."""


@dataclass(frozen=True)
class Tensor:
    """One tensor. `shape` is None where even the rank is unknown, and a dimension None where it is open.

    `nbytes` is the size of a constant's data and `values` what is in it, where that is a few whole numbers.
    """

    key: Key
    name: str
    shape: tuple[int | None, ...] | None
    dtype: str
    constant: bool = False
    nbytes: int = 0
    values: tuple[int, ...] | None = None

    @property
    def static(self) -> bool:
        """Whether every dimension is known."""
        return self.shape is not None and None not in self.shape

    @property
    def rank(self) -> int | None:
        """How many dimensions there are, None where that is unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def place(self) -> str:
        """Name, shape and type, for people: "x [?, 8] float32"."""
        sizes = "…" if self.shape is None else ", ".join("?" if n is None else str(n) for n in self.shape)
        return f"{self.name} [{sizes}] {self.dtype}"


@dataclass(frozen=True)
class Node:
    """One operator, by its `index` in its graph; inputs that are left out are None.

    `op` is its name: domain:Op in another ONNX domain, a custom operator's own.
    """

    index: int
    op: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    version: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    custom: bool = False

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The inputs that there are."""
        return tuple(tensor for tensor in self.inputs if tensor is not None)

    @property
    def changing(self) -> tuple[Tensor, ...]:
        """The inputs that are no constants."""
        return tuple(tensor for tensor in self.given if not tensor.constant)

    def input(self, index: int) -> Tensor | None:
        """Input `index`, None where it is left out or there are fewer."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def place(self) -> str:
        """The operator and where it is, for people."""
        named = self.outputs[0].name if self.outputs else ""
        return f"op {self.index} {self.op}" + (f" ({named})" if named else "")


@dataclass(frozen=True)
class Graph:
    """One graph of a file, its nodes in the order in which they run; `inputs` are the keys of its inputs."""

    format: Literal["tflite", "onnx"]
    nodes: tuple[Node, ...]
    inputs: tuple[Key, ...]

    @property
    def computing(self) -> tuple[Node, ...]:
        """The nodes that compute something: Constant is a weight by another name."""
        return tuple(node for node in self.nodes if node.op != "Constant")

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor that a node touches, once."""
        seen = set()
        for node in self.nodes:
            for tensor in (*node.given, *node.outputs):
                if tensor.key not in seen:
                    seen.add(tensor.key)
                    yield tensor


def is_folded(node: Node) -> bool:
    """Whether `node` only widens float16 weights, which every delegate does when it is built: they are constants."""
    return node.op == "DEQUANTIZE" and not node.changing and all(t.dtype == "float16" for t in node.given)


_PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL", "Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
_KERNELS = {"CONV_2D": slice(1, None), "Conv": slice(1, None), "DEPTHWISE_CONV_2D": slice(1, 3)}
"""The dimensions of a convolution's kernel that one result is summed over."""


def macs_of(node: Node) -> int | None:
    """Multiply-accumulates of one run of `node`, 0 for one that is no product, None where a shape is unknown."""
    if node.op not in (*_KERNELS, *_PRODUCTS, "Attention"):
        return 0
    operands = (*node.inputs[:2], *node.outputs[:1])
    shapes = [tensor.shape for tensor in operands if tensor is not None and tensor.static]
    if len(shapes) != 3:
        return None
    first, second, results = ([n or 0 for n in shape or ()] for shape in shapes)
    if min(len(first), len(second)) < 2 and node.op not in _KERNELS:
        # As NumPy multiplies: a vector is a row at the left and a column at the right. What is no product has no sum.
        first, second = [1, *first], [*second, 1]
    if min(len(first), len(second)) < 2:
        return None
    if node.op == "Attention":
        # The scores of every query with every key, and as many again for the values.
        return 2 * math.prod(results) * second[-2]
    if node.op in _KERNELS:
        return math.prod(results) * math.prod(second[_KERNELS[node.op]])
    turned = node.attributes.get("adjX") or node.attributes.get("transA")
    return math.prod(results) * first[-2 if turned else -1]
