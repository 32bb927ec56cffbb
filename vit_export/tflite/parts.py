"""A float .tflite file run a part at a time: for what is computed once over some images, the model need not be whole.

XNNPACK keeps a copy of every weight, packed for the processor, beside that of the file, which stays mapped: twice the
weights. A file is cut where one tensor alone goes on (the residual stream), and all images go through one part before
the next is opened. Operators, shapes and weights are the file's own, and so are the results, to the last bit.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.base.errors import InputError
from vit_export.base.machine import release_memory
from vit_export.base.quiet import quiet
from vit_export.tflite.stream import write_to

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

PART_BYTES = 2**28
"""Weights of a part, about: a file that has no more is run as it is."""


def run_in_parts(
    path: Path,
    images: Iterable[np.ndarray],
    total: int,
    invoke: Callable[["Interpreter", int], None],
    *,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[np.ndarray]:
    """The first output of the float32 .tflite file at `path` for each of `images`, `total` of them, read one at a time.

    Each of `images` is [batch, size, size, 3] in the numbers and dtype of the file's only input.
    `invoke(interpreter, i)` runs an interpreter that has the input of image i set; it is called for every part.
    `options` are those of `Interpreter`. `progress` is called with (images done, images in all), a part of an image
    being a part of one.

    Raises:
        InputError: images of another dtype or shape than the file takes.
    """
    release_memory()
    cuts = _cuts(path)
    given: Iterable[np.ndarray] = images
    for part, (first, end) in enumerate(pairwise(cuts)):
        with quiet():
            interpreter = _open(path, None if len(cuts) == 2 else (first, end), options)
        (entry,), output = interpreter.get_input_details(), interpreter.get_output_details()[0]
        made = list[np.ndarray]()
        for done, values in enumerate(given):
            if progress:
                progress((part * total + done) // (len(cuts) - 1), total)
            if values.dtype != entry["dtype"] or values.shape != tuple(entry["shape"]):
                raise InputError(
                    f"The images to run are {values.dtype} {list(values.shape)}, {path.name} takes "
                    f"{np.dtype(entry['dtype'])} {entry['shape'].tolist()}."
                )
            interpreter.set_tensor(entry["index"], values)
            invoke(interpreter, done)
            made.append(interpreter.get_tensor(output["index"]))
        given = _drained(made)
        del interpreter  # before the next one is opened
    if progress:
        progress(total, total)
    return made


def _drained(values: list[np.ndarray]) -> Iterator[np.ndarray]:
    """`values` in their order, each let go when it is given."""
    values.reverse()
    while values:
        yield values.pop()


def _open(path: Path, operators: tuple[int, int] | None, options: dict[str, Any]) -> "Interpreter":
    """An interpreter of the `operators` from the first to the one before the last; None for the file as it is."""
    from ai_edge_litert.interpreter import Interpreter

    if operators is None:
        interpreter = Interpreter(str(path), **options)  # by path, so that the file is mapped
    else:
        interpreter = Interpreter(model_content=_part(path, *operators), **options)
    interpreter.allocate_tensors()
    return interpreter


def _part(path: Path, first: int, end: int) -> bytes:
    """A .tflite file of operators `first` to `end` - 1 of the main graph of the file at `path`."""
    mapped = MappedModel(path)  # anew for each part: what was read of a map counts as long as that is there
    model = mapped.model
    (graph,) = model.subgraphs
    after = _crossing(graph)
    graph.inputs = graph.inputs if first == 0 else [after[first - 1]]
    graph.outputs = graph.outputs if end == len(graph.operators) else [after[end - 1]]
    graph.operators = graph.operators[first:end]
    used = {int(index) for operator in graph.operators for index in operator.inputs}
    for index, tensor in enumerate(graph.tensors):
        if index not in used:
            tensor.buffer = 0
    model.signatureDefs = model.metadata = None
    file = io.BytesIO()
    write_to(file, model, mapped.buffers)
    return file.getvalue()


def _cuts(path: Path) -> list[int]:
    """Where the file at `path` is cut: operator numbers, 0 first and how many there are last."""
    mapped = MappedModel(path)
    graphs = mapped.model.subgraphs
    count = len(graphs[0].operators)
    if len(graphs) > 1 or sum(tensor.nbytes for tensor in mapped.buffers.values()) <= PART_BYTES:
        return [0, count]
    after, found, weights = _crossing(graphs[0]), [0], 0
    for number, operator in enumerate(graphs[0].operators[:-1]):
        weights += sum(mapped.buffers[i].nbytes for i in _buffers(graphs[0], operator) if i in mapped.buffers)
        if weights >= PART_BYTES and number in after:
            found.append(number + 1)
            weights = 0
    return [*found, count]


def _buffers(graph: Any, operator: Any) -> Iterator[int]:
    return (graph.tensors[index].buffer for index in operator.inputs if index >= 0)


def _crossing(graph: Any) -> dict[int, int]:
    """The one tensor that goes on behind an operator, by the operator's number, where it is one alone."""
    ends: dict[int, float] = {}
    for number, operator in enumerate(graph.operators):
        ends |= {int(index): number for index in operator.inputs}
    ends |= dict.fromkeys(map(int, graph.outputs), math.inf)
    going = set(map(int, graph.inputs))
    found = {}
    for number, operator in enumerate(graph.operators):
        going |= set(map(int, operator.outputs))
        going = {index for index in going if ends.get(index, -1) > number}
        if len(going) == 1:
            (found[number],) = going
    return found
