"""What a runtime on this machine itself says of a file: the CPU's, in a process of its own.

The Analyzer of TensorFlow and LiteRT, which has a check for the GPU delegate, is not asked: in the pinned releases it
calls every file compatible, those with Flex operators and five dimensions too (tests/inspection/test_delegates.py).
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vit_export.base.adapters.litert import operators_of
from vit_export.base.errors import VitExportError
from vit_export.base.python import python_command, python_environment
from vit_export.base.versions import versions
from vit_export.inspection.delegates import GPU_NAME, Refusal, Target, Verdict, assess
from vit_export.inspection.operators import Graph, Node
from vit_export.runtimes.places import GPU
from vit_export.runtimes.process import RunnerProcess

_PATIENCE = 600.0  # seconds; a model of 2 GB takes half a minute to pack
_NAMES = {"tflite": ("CPU (XNNPACK)", "ai-edge-litert"), "onnx": ("CPU", "onnxruntime")}


def ask_cpu(path: Path, graph: Graph) -> Verdict:
    """Which operators of the file at `path`, whose main graph is `graph`, its CPU runtime takes.

    TFLite's says which of them its default delegate, XNNPACK, computes; ONNX Runtime's opens the file or not.
    """
    name, package = _NAMES[graph.format]
    advice = {"others": "nothing: TFLite's own kernels compute the rest on the CPU, more slowly"}
    target = Target(name, "runtime", f"{package} {versions(package)[package]} on this machine", advice)
    answer = _asked(path, graph.format)
    if (error := answer.get("error")) is not None:
        total = len(graph.computing)
        return Verdict(name, "runtime", target.source, 0, total, 0, None, error=f"it is not opened: {error}")
    taken = set(answer.get("taken", [node.index for node in graph.nodes]))
    return assess(target, graph, lambda node: "" if node.index in taken else _reason(node))


def ask_gpu(path: Path, graph: Graph) -> Verdict:
    """Which operators of the .tflite file at `path` LiteRT's GPU takes, as it says when it loads the file.

    It counts operators after it has prepared the graph, so their number is another than the file's. `available` of
    `runtimes.gpu` says whether it can be asked here.
    """
    source = f"ai-edge-litert {versions('ai-edge-litert')['ai-edge-litert']} on this machine"
    total = len(graph.computing)
    try:
        with RunnerProcess(path, "tflite", place=GPU) as process:
            device = process.device
    except VitExportError as error:
        told = f"it is not opened: {str(error).rstrip('.')}"
        return Verdict(GPU_NAME, "runtime", source, 0, total, 0, None, error=told)
    assert device is not None
    source += f", {device.name}"
    if device.counts is None:
        return Verdict(GPU_NAME, "runtime", source, total, total, 1, 1.0)
    theirs, left = device.counts
    of_kind = Counter(node.op for node in graph.computing)
    change = "what is left runs on the CPU, and is copied there and back: give the GPU a float or int8 file of ours"
    refusals = tuple(Refusal(op, of_kind[op], reason, (), change) for op, reason in device.behind)
    return Verdict(GPU_NAME, "runtime", source, theirs, theirs + left, 0, None, refusals)


def _reason(node: Node) -> str:
    kinds = dict.fromkeys(tensor.dtype for tensor in (*node.changing, *node.outputs))
    return f"left to TFLite's own kernels ({', '.join(kinds)})"


def _asked(path: Path, format: str) -> dict[str, Any]:
    try:
        child = subprocess.run(
            python_command("-m", __name__, format, str(path)),
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
            env=python_environment(),
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it was not loaded within {_PATIENCE:.0f} s"}
    try:
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return {"error": f"the runtime ended with status {child.returncode}"}
    return answer


def taken_by_delegates(operators: Iterable[Mapping[str, Any]]) -> list[int]:
    """The nodes that the interpreter's DELEGATE nodes stand for: all between their outputs and their inputs.

    `operators` are the interpreter's, as `litert.operators_of` tells them: what a delegate took lies beside its node.
    """
    rows = list(operators)
    delegates = [row for row in rows if row["op_name"] == "DELEGATE"]
    makers = {int(tensor): row for row in rows if row["op_name"] != "DELEGATE" for tensor in row["outputs"]}
    found: set[int] = set()
    for delegate in delegates:
        ends = {int(tensor) for tensor in delegate["inputs"]}
        waiting, seen = [int(tensor) for tensor in delegate["outputs"]], set(ends)
        while waiting:
            tensor = waiting.pop()
            if tensor in seen or tensor not in makers:
                continue
            seen.add(tensor)
            maker = makers[tensor]
            found.add(int(maker["index"]))
            waiting += [int(before) for before in maker["inputs"]]
    return sorted(found)


def _answer(format: str, path: str) -> dict[str, Any]:
    try:
        if format == "tflite":
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(path, num_threads=1)
            interpreter.allocate_tensors()
            return {"taken": taken_by_delegates(operators_of(interpreter))}
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # As the file has it: what is fused while it is loaded has other names.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each runtime raises classes of its own
        return {"error": " ".join(str(error).split())[:300]}
    return {}


if __name__ == "__main__":
    print(json.dumps(_answer(*sys.argv[1:])))
