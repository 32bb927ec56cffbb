"""A float .tflite file run a part at a time: for what is computed once over some images, the model need not be whole.

XNNPACK keeps a copy of every weight, packed for the processor, beside that of the file, which stays mapped: twice the
weights. A file is cut where one tensor alone goes on (the residual stream), and all images go through one part before
the next is opened. Operators, shapes and weights are the file's own, and so are the results, to the last bit.
"""

import io
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.base.errors import InputError
from vit_export.base.machine import release_memory
from vit_export.base.pool import pool
from vit_export.base.quiet import quiet
from vit_export.tflite.stream import write_to

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

PART_BYTES = 2**28
"""Weights of a part, about: a file that has no more is run as it is."""

MOST_TOGETHER = 4
"""Interpreters of a part, each with packed weights of its own, that run an image each at the same time.

Threads that share an image wait for each other at every operator, above all where other work has a core at times.
"""


def run_in_parts(
    path: Path,
    images: Iterable[np.ndarray],
    total: int,
    invoke: Callable[["Interpreter", int], None],
    *,
    threads: int,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[np.ndarray]:
    """The first output of the float32 .tflite file at `path` for each of `images`, `total` of them, read one at a time.

    Each of `images` is [batch, size, size, 3] in the numbers and dtype of the file's only input.
    `invoke(interpreter, i)` runs an interpreter that has the input of image i set; it is called for every part.
    `threads` are those of all interpreters together, which take images in turn (`MOST_TOGETHER`). `options` are those
    of `Interpreter`. `progress` is called with (images done, images in all), a part of an image being a part of one.

    Raises:
        InputError: images of another dtype or shape than the file takes.
    """
    release_memory()
    cuts = _cuts(path)
    workers = max(1, min(threads, total, MOST_TOGETHER))
    given: Iterable[np.ndarray] = images
    for part, (first, end) in enumerate(pairwise(cuts)):
        with quiet():
            content = None if len(cuts) == 2 else _part(path, first, end)
            interpreters = [
                _open(path, content, {**options, "num_threads": threads // workers}) for _ in range(workers)
            ]
        made = dict[int, np.ndarray]()
        with pool(range(total), workers, _serving(interpreters, given, path.name, invoke)) as told:
            if progress:
                progress(part * total // (len(cuts) - 1), total)
            for number, output in told:
                made[number] = output
                if progress:
                    progress((part * total + len(made)) // (len(cuts) - 1), total)
        given = _drained([made[number] for number in range(len(made))])
    if progress:
        progress(total, total)
    return list(given)


def _serving(
    interpreters: list["Interpreter"],
    images: Iterable[np.ndarray],
    name: str,
    invoke: Callable[["Interpreter", int], None],
) -> Callable[[Iterator[int], threading.Event], Iterator[tuple[int, np.ndarray]]]:
    """What a thread of `base.pool` does: takes one of `interpreters` away, and lets it run one image after the other.

    It tells the number of each of `images`, which are read by one thread at a time, and its first output.
    """
    reading, numbered = threading.Lock(), enumerate(images)

    def serve(left: Iterator[int], stop: threading.Event) -> Iterator[tuple[int, np.ndarray]]:
        del stop
        interpreter = interpreters.pop()
        (entry,), output = interpreter.get_input_details(), interpreter.get_output_details()[0]
        for _ in left:
            with reading:
                number, values = next(numbered)
            if values.dtype != entry["dtype"] or values.shape != tuple(entry["shape"]):
                raise InputError(
                    f"The images to run are {values.dtype} {list(values.shape)}, {name} takes "
                    f"{np.dtype(entry['dtype'])} {entry['shape'].tolist()}."
                )
            interpreter.set_tensor(entry["index"], values)
            invoke(interpreter, number)
            yield number, interpreter.get_tensor(output["index"])

    return serve


def _drained(values: list[np.ndarray]) -> Iterator[np.ndarray]:
    """`values` in their order, each let go when it is given."""
    values.reverse()
    while values:
        yield values.pop()


def _open(path: Path, content: bytes | None, options: dict[str, Any]) -> "Interpreter":
    """An interpreter of the .tflite file `content`; None for the one at `path` as it is."""
    from ai_edge_litert.interpreter import Interpreter

    if content is None:
        interpreter = Interpreter(str(path), **options)  # by path, so that the file is mapped
    else:
        interpreter = Interpreter(model_content=content, **options)
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
