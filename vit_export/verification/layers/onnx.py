"""The interior tensors of an .onnx file: a copy of it whose outputs are more."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.onnx_file import load_structure
from vit_export.base.errors import InputError
from vit_export.base.machine import usable_cores
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes.interior import native
from vit_export.runtimes.onnx_interior import extended_session
from vit_export.verification.layers.tensors import Interior, of_one

AT_ONCE = 2**30
"""Bytes of candidates that one session holds."""

_SIZE = ":vit_export_size"
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


class OnnxInterior(Interior):
    """An .onnx file in ONNX Runtime, sessions made as tensors are asked for (`runtimes.onnx_interior`).

    Raises:
        InputError: the file is not a protobuf message of ONNX.
    """

    def __init__(self, path: Path, spec: TensorSpec, output: int) -> None:
        self._path, self._spec, self._output = path, spec, output
        try:
            graph = load_structure(path).graph
        except ValueError as error:
            raise InputError(f"{path} is not an .onnx file: it cannot be read as one.") from error
        self._outputs = [value.name for value in graph.output]
        self._values = [value for node in graph.node for value in node.output if value]
        self._last: tuple[tuple[str, ...], Any] | None = None

    @property
    def output(self) -> str:
        """See `Interior`."""
        return self._outputs[self._output]

    def candidates(self, image: np.ndarray, sizes: Collection[int]) -> Iterator[tuple[str, np.ndarray]]:
        """See `Interior`."""
        fed = native(image, self._spec)
        wanted = {size * len(fed) for size in sizes}
        found = {name: size for name, size in self._sizes(fed).items() if size in wanted}
        for names in _chunks(found, AT_ONCE // 4):
            session = self._session(names)
            # Integers are either quantized values, of which the float ones follow, or no activations at all.
            types = {entry.name: entry.type for entry in session.get_outputs()}
            floats = [name for name in names if types[name] in _FLOATS]
            for name, values in zip(floats, session.run(floats, {self._spec.name: fed}), strict=True):
                yield name, of_one(values, len(fed))

    def read(self, image: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """See `Interior`. All that need not be kept for this is optimized as an app's session would."""
        wanted = tuple(dict.fromkeys((*names, self.output)))
        if self._last is None or self._last[0] != wanted:
            self._last = wanted, self._session(names, optimized=True)
        fed = native(image, self._spec)
        values = self._last[1].run(list(wanted), {self._spec.name: fed})
        return {name: of_one(value, len(fed)) for name, value in zip(wanted, values, strict=True)}

    def _sizes(self, fed: np.ndarray) -> dict[str, int]:
        """Elements of every value, found by running: shape inference knows the operators of no other domain."""
        session = self._session([f"{value}{_SIZE}" for value in self._values], sizes=True)
        names = [entry.name for entry in session.get_outputs() if entry.name.endswith(_SIZE)]
        sizes = session.run(names, {self._spec.name: fed})
        return {name.removesuffix(_SIZE): int(size) for name, size in zip(names, sizes, strict=True)}

    def _session(self, outputs: Collection[str], *, sizes: bool = False, optimized: bool = False) -> Any:
        """A session on the file with `outputs` too, each made by a node Size where it is one of the `sizes`."""
        from onnx import helper

        nodes = [helper.make_node("Size", [name.removesuffix(_SIZE)], [name]) for name in outputs] if sizes else []
        more = [name for name in outputs if name not in self._outputs]
        return extended_session(self._path, more, nodes, threads=usable_cores(), optimized=optimized)


def _chunks(sizes: dict[str, int], limit: int) -> Iterator[list[str]]:
    """The names of `sizes` in their order, in runs of at most `limit` elements (or of one name)."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        if names and total + size > limit:
            yield names
            names, total = [], 0
        names.append(name)
        total += size
    if names:
        yield names
