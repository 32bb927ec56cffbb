"""The graphs of a .tflite file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.facts import damage_told, text_of
from vit_export.artifacts.layout import open_or_size
from vit_export.artifacts.tflite_file import Reader
from vit_export.base.adapters.litert import integers, names_of, schema
from vit_export.inspection.operators import Graph, Node, Tensor, is_folded

_FEW = 64  # bytes up to which the whole numbers of a constant are read: axes, shapes, slices
_WHOLE = {"int32": "<i4", "int64": "<i8"}


def read_tflite_graphs(path: Path) -> tuple[Graph, ...]:
    """The subgraphs of the .tflite file at `path`, the main one first; no weights are read.

    Raises:
        InputError: the file is damaged or cut off.
    """
    with damage_told(path, ".tflite"):
        return _Graphs(path).read()


class _Graphs:
    def __init__(self, path: Path) -> None:
        self.reader = Reader(path)
        self.schema = schema()
        self.options = names_of("BuiltinOptions")
        self.codes = list(self.reader.codes())

    def read(self) -> tuple[Graph, ...]:
        return tuple(map(self._graph, self.reader.subgraphs))

    def _graph(self, graph: Any) -> Graph:
        tensors = [
            self._tensor(index, tensor)
            for index, tensor in enumerate(self.reader.each(graph.Tensors, graph.TensorsLength()))
        ]
        nodes = []
        for index, operator in enumerate(self.reader.each(graph.Operators, graph.OperatorsLength())):
            nodes.append(self._node(index, operator, tensors))
            if is_folded(nodes[-1]):
                for tensor in nodes[-1].outputs:
                    tensors[int(tensor.key)] = replace(tensor, constant=True)
        return Graph("tflite", tuple(nodes), integers(graph.InputsAsNumpy()))

    def _node(self, index: int, operator: Any, tensors: list[Tensor]) -> Node:
        name, version, custom = self.codes[operator.OpcodeIndex()]
        return Node(
            index,
            name,
            tuple(tensors[i] if i >= 0 else None for i in integers(operator.InputsAsNumpy())),
            tuple(tensors[i] for i in integers(operator.OutputsAsNumpy()) if i >= 0),
            version,
            self._attributes(operator),
            custom,
        )

    def _attributes(self, operator: Any) -> dict[str, Any]:
        name, table = self.options.get(operator.BuiltinOptionsType()), operator.BuiltinOptions()
        if table is None or name is None or not hasattr(self.schema, f"{name}T"):
            return {}
        options = getattr(self.schema, name)()
        options.Init(table.Bytes, table.Pos)
        return dict(vars(getattr(self.schema, f"{name}T").InitFromObj(options)))

    def _tensor(self, index: int, tensor: Any) -> Tensor:
        dtype = self.reader.dtype(tensor)
        dimensions = integers(tensor.ShapeSignatureAsNumpy()) or integers(tensor.ShapeAsNumpy())
        data = self.reader.content(tensor.Buffer())
        values = None
        if dtype in _WHOLE and 0 < len(data) <= _FEW:
            values = tuple(map(int, np.frombuffer(data, _WHOLE[dtype])))
        shape = tuple(map(open_or_size, dimensions))
        return Tensor(index, text_of(tensor.Name()), shape, dtype, len(data) > 0, len(data), values)
