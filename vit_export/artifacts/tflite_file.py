"""The facts of a .tflite file, a flatbuffer that is read where it lies in a memory map."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from vit_export.artifacts.facts import (
    RECORD_KEY,
    Constants,
    FileFacts,
    damage_told,
    mapped,
    text_of,
    usable_record,
    values_of,
)
from vit_export.artifacts.flatbuffer import require_room
from vit_export.artifacts.layout import layout_of, open_or_size
from vit_export.base.adapters.litert import integers, names_of, schema
from vit_export.model.artifact import TensorSpec, in_order

T = TypeVar("T")

_SIGNATURE = b"serving_default"
_PRODUCER = "vit-export"


def read_tflite(path: Path) -> FileFacts:
    """The facts of the .tflite file at `path`.

    Inputs and outputs are those of the file's only signature (or `serving_default`), by its names and in their order;
    without one they are the first subgraph's.

    Raises:
        InputError: the file is damaged or cut off.
    """
    with damage_told(path, ".tflite"):
        return Reader(path).facts()


def first_and_signed(path: Path) -> dict[str, tuple[str, str]]:
    """By "input" and "output": the tensor that comes first in the main subgraph, and the one of the signature.

    Programs that know no signatures take the first (`get_output_details()[0]`, MediaPipe). Each tensor is called by its
    name and number; empty for a file without a signature, or with several, where an app has to choose one anyway.

    Raises:
        InputError: the file is damaged or cut off.
    """
    with damage_told(path, ".tflite"):
        return Reader(path).first_and_signed()


class Reader:
    """A .tflite file in a memory map, read by the generated flatbuffer classes: each method looks up one thing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = mapped(path)
        self.model = schema().Model.GetRootAs(self.data, 0)
        require_room(self.model, len(self.data), path)
        self.buffers = self.model.BuffersLength()
        self.subgraphs = list(self.each(self.model.Subgraphs, self.model.SubgraphsLength()))
        self.types = names_of("TensorType")
        self.operators = names_of("BuiltinOperator")

    def facts(self) -> FileFacts:
        """All facts of the file."""
        record, notes = usable_record(self.metadata(RECORD_KEY.encode()))
        constants = self.constants()
        inputs, outputs = self.interface()
        return FileFacts(
            path=str(self.path),
            format="tflite",
            inputs=tuple(self.spec(name, tensor, values_of(record), image=True) for name, tensor in inputs),
            outputs=tuple(self.spec(name, tensor) for name, tensor in outputs),
            bytes=len(self.data),
            weights=constants.weights,
            matrices=constants.matrices,
            operators=dict(Counter(self.operator_names())),
            schema={"schema": self.model.Version()},
            producer=_PRODUCER if record is not None else text_of(self.model.Description()),
            record=record,
            notes=notes,
        )

    def each(self, get: Callable[[int], T | None], count: int) -> Iterator[T]:
        """The entries of a vector. A count that the file has no room for is damage, not a loop of hours."""
        if not 0 <= 4 * count <= len(self.data):
            raise ValueError(f"a vector of {count} entries")
        for index in range(count):
            entry = get(index)
            if entry is None:
                raise ValueError("an entry is missing")
            yield entry

    def nbytes(self, index: int) -> int:
        """Bytes of buffer `index`, 0 for the empty one."""
        return len(self.content(index))

    def content(self, index: int) -> memoryview:
        """Buffer `index`, inline or (behind the flatbuffer, in large files) by its offset and size; not read yet."""
        if not 0 <= index < self.buffers:
            raise ValueError(f"buffer {index} of {self.buffers}")
        buffer = self.model.Buffers(index)
        if buffer.Offset() > 1:  # 0 and 1 stand for none
            start, size = buffer.Offset(), buffer.Size()
            if start + size > len(self.data):
                raise ValueError("a buffer is cut off")
            return self.data[start : start + size]
        return memoryview(b"") if buffer.DataIsNone() else memoryview(buffer.DataAsNumpy())

    def metadata(self, name: bytes) -> bytes | None:
        """The content of the metadata called `name`, None where there is none."""
        for entry in self.each(self.model.Metadata, self.model.MetadataLength()):
            if entry.Name() == name:
                return bytes(self.content(entry.Buffer()))
        return None

    def constants(self) -> Constants:
        """The tensors with data; what two of them share counts once."""
        found, seen = Constants(), set()
        for graph in self.subgraphs:
            for tensor in self.each(graph.Tensors, graph.TensorsLength()):
                index = tensor.Buffer()
                if index not in seen and (size := self.nbytes(index)):
                    seen.add(index)
                    found.add(self.dtype(tensor), integers(tensor.ShapeAsNumpy()), size)
        return found

    def codes(self) -> Iterator[tuple[str, int, bool]]:
        """Name (a custom one's own), version, and whether it is custom, of each operator code."""
        for code in self.each(self.model.OperatorCodes, self.model.OperatorCodesLength()):
            # Codes above 127 are in the newer field alone, the others in either.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            custom = code.CustomCode()
            name = text_of(custom) if custom else self.operators.get(number, f"BUILTIN_{number}")
            yield name, code.Version(), custom is not None

    def operator_names(self) -> Iterator[str]:
        """The name of each operator of every subgraph, custom ones by their own."""
        codes = [name for name, _, _ in self.codes()]
        for graph in self.subgraphs:
            for operator in self.each(graph.Operators, graph.OperatorsLength()):
                yield codes[operator.OpcodeIndex()]

    def interface(self) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
        """Names and tensors of the inputs and of the outputs."""
        signatures = list(self.each(self.model.SignatureDefs, self.model.SignatureDefsLength()))
        chosen = signatures if len(signatures) == 1 else [s for s in signatures if s.SignatureKey() == _SIGNATURE]
        if chosen:
            signature = chosen[0]
            graph = self.subgraphs[signature.SubgraphIndex()]
            return (
                self.named(graph, signature.Inputs, signature.InputsLength()),
                self.named(graph, signature.Outputs, signature.OutputsLength()),
            )
        graph = self.subgraphs[0]
        tensors = [
            [self.tensor(graph, index) for index in integers(indices)]
            for indices in (graph.InputsAsNumpy(), graph.OutputsAsNumpy())
        ]
        inputs, outputs = ([(text_of(tensor.Name()), tensor) for tensor in some] for some in tensors)
        return inputs, outputs

    def first_and_signed(self) -> dict[str, tuple[str, str]]:
        """See the function of this name."""
        if self.model.SignatureDefsLength() != 1:
            return {}
        (signature,) = self.each(self.model.SignatureDefs, 1)
        ours = self.metadata(RECORD_KEY.encode()) is not None
        subgraph, main = signature.SubgraphIndex(), self.subgraphs[0]
        found = {}
        for side, first, entries, count in (
            ("input", integers(main.InputsAsNumpy()), signature.Inputs, signature.InputsLength()),
            ("output", integers(main.OutputsAsNumpy()), signature.Outputs, signature.OutputsLength()),
        ):
            named = sorted((text_of(entry.Name()), entry.TensorIndex()) for entry in self.each(entries, count))
            signed = in_order(named, itemgetter(0)) if side == "output" and ours else named
            if first and signed:
                found[side] = (self.called(0, first[0]), self.called(subgraph, signed[0][1]))
        return found

    def called(self, subgraph: int, index: int) -> str:
        """What to call tensor `index` of a subgraph, as no other is called."""
        inside = f" of subgraph {subgraph}" if subgraph else ""
        return f"{text_of(self.tensor(self.subgraphs[subgraph], index).Name())} (tensor {index}{inside})"

    def named(self, graph: Any, get: Callable[[int], Any], count: int) -> list[tuple[str, Any]]:
        """The `count` tensors that a signature names, which `get` gives by their number, by name."""
        entries = ((text_of(entry.Name()), entry.TensorIndex()) for entry in self.each(get, count))
        # By name, as the interpreter lists them.
        return [(name, self.tensor(graph, index)) for name, index in sorted(entries)]

    def tensor(self, graph: Any, index: int) -> Any:
        """Tensor `index` of `graph`; ValueError where it has none."""
        if not 0 <= index < graph.TensorsLength():
            raise ValueError(f"tensor {index} of {graph.TensorsLength()}")
        return graph.Tensors(index)

    def dtype(self, tensor: Any) -> str:
        """The name of its type, as numpy has it where it does."""
        return self.types.get(tensor.Type(), f"TYPE_{tensor.Type()}").lower()

    def spec(self, name: str, tensor: Any, values: str = "", *, image: bool = False) -> TensorSpec:
        """What `tensor` is, under `name`; the layout of an `image` goes by its shape."""
        dimensions = integers(tensor.ShapeSignatureAsNumpy()) or integers(tensor.ShapeAsNumpy())
        layout = layout_of(dimensions, "NHWC") if image else ""
        shape = tuple(map(open_or_size, dimensions))
        return TensorSpec(name, shape, self.dtype(tensor), layout, *_quantization(tensor.Quantization()), values)


def _quantization(parameters: Any) -> tuple[float | None, int | None]:
    """The one scale and zero point of a tensor, None where there is not exactly one."""
    if parameters is None or parameters.ScaleLength() != 1:
        return None, None
    scale = float(parameters.Scale(0))
    if not (math.isfinite(scale) and scale > 0):
        return None, None
    return scale, int(parameters.ZeroPoint(0)) if parameters.ZeroPointLength() else 0
