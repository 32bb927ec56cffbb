"""What delegates make of a graph, by the tables of data/delegates.toml: operators taken, pieces, what to change."""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from vit_export.base.versions import versions
from vit_export.inspection.conditions import CONDITIONS
from vit_export.inspection.operators import Graph, Key, Node, is_folded, macs_of

Basis = Literal["runtime", "run before", "source, not run", "documentation, not run"]
RUN: tuple[Basis, ...] = ("runtime", "run before")
"""What was run, here or before: of what version, and when, is told of a file that is taken whole too."""
GPU_NAME = "LiteRT GPU"
"""LiteRT 2's own GPU accelerator (ML Drift), which can be asked where there is one or `make gpu` was run."""
RUNTIMES = {"tflite": "LiteRT", "onnx": "ONNX Runtime"}
_SHOWN = 3  # places that a refusal names


@dataclass(frozen=True)
class Target:
    """One delegate or execution provider: its `operators`, each with its conditions, and `every`, which hold for all.

    `advice` says what to change by operator, "others" for any other. `source` is where the table was read and when.
    `caveats` are conditions, by operator, that are not checked. Widened float16 weights count as taken where it `folds`
    them; pieces of fewer than `smallest` operators stay on the CPU.
    """

    name: str
    basis: Basis
    source: str
    advice: Mapping[str, str]
    operators: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    every: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    folds: bool = False
    smallest: int = 1
    caveats: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, node: Node) -> str:
        """Why this target leaves `node` to the CPU, "" where it takes it."""
        if self.folds and is_folded(node):
            return ""
        if node.op not in self.operators:
            return "not in the list of supported operators"
        conditions = {**self.every, **self.operators[node.op]}.items()
        return next((why for name, parameter in conditions if (why := CONDITIONS[name](node, parameter))), "")


def targets(format: Literal["tflite", "onnx"]) -> tuple[Target, ...]:
    """Every target for files of `format`, in the order of the data file."""
    text = (resources.files("vit_export") / "data" / "delegates.toml").read_text(encoding="utf-8")
    return tuple(_target(row) for row in tomllib.loads(text)["target"] if row.pop("runtime") == RUNTIMES[format])


def _target(row: dict[str, Any]) -> Target:
    operators: dict[str, Any] = {}
    for conditions in row.pop("operators"):
        operators |= dict.fromkeys(conditions.pop("names"), conditions)
    done = "run" if row["basis"] in RUN else "read"
    source = f"{row.pop('source')} of {row.pop('repository')}, {done} {row.pop('read')}"
    caveats = {}
    if name := row.pop("installed", None):
        known = installed(name)
        caveats = {op: text.rstrip(".") for op, text in known.items() if text and op not in operators}
        operators = {op: operators.get(op, {}) for op in known}
        source = f"{name}, installed with onnxruntime {versions('onnxruntime')['onnxruntime']}, and {source}"
    return Target(**row, source=source, operators=operators, caveats=caveats)


def installed(name: str) -> dict[str, str]:
    """What the table `name` that onnxruntime installs says of each operator; empty where there is none."""
    package = find_spec("onnxruntime")
    if package is None or not (path := Path(package.origin or "").parent / "tools/mobile_helpers" / name).is_file():
        return {}
    rows = (line.strip().split("|") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|"))
    cells = (row[1:3] for row in rows if len(row) == 4 and ":" in row[1])
    return {operator.removeprefix("ai.onnx:"): text.replace("<br/>", " ") for operator, text in cells}


@dataclass(frozen=True)
class Refusal:
    """The `count` operators `op` that are left to the CPU for one `reason`, the first few places, what to change."""

    op: str
    count: int
    reason: str
    where: tuple[str, ...]
    change: str


@dataclass(frozen=True)
class Verdict:
    """What becomes of a graph's `total` operators at one target.

    `partitions` are the pieces that run there. `macs` is their share of the multiply-accumulates, None where shapes are
    unknown. Nothing but `error` is known of a file that the runtime does not open.
    """

    target: str
    basis: Basis
    source: str
    supported: int
    total: int
    partitions: int
    macs: float | None
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None


def assess(target: Target, graph: Graph, refusal: Callable[[Node], str] | None = None) -> Verdict:
    """What `target` makes of `graph`: by its table, or by `refusal`, which says why a node is refused ("" if not)."""
    nodes = graph.computing
    reasons = {node.index: (refusal or target.refusal)(node) for node in nodes}
    for piece in partitions(graph, {index for index, reason in reasons.items() if not reason}):
        if len(piece) < target.smallest:
            reasons |= dict.fromkeys(piece, f"in a piece of fewer than {target.smallest} operators")
    taken = {index for index, reason in reasons.items() if not reason}
    places = defaultdict(list)
    for node in nodes:
        if node.index not in taken:
            places[node.op, reasons[node.index]].append(node.place)
    refusals = tuple(
        Refusal(op, len(where), reason, tuple(where[:_SHOWN]), target.advice.get(op, target.advice["others"]))
        for (op, reason), where in sorted(places.items(), key=lambda item: -len(item[1]))
    )
    macs = {node.index: macs_of(node) for node in nodes}
    total = 0 if None in macs.values() else sum(n or 0 for n in macs.values())
    share = sum(macs[index] or 0 for index in taken) / total if total else None
    used = (op for op in dict.fromkeys(node.op for node in nodes) if op in target.caveats)
    notes = (*target.notes, *(f"{op}, not checked here: {target.caveats[op]}" for op in used))
    counts = len(taken), len(nodes), len(partitions(graph, taken))
    return Verdict(target.name, target.basis, target.source, *counts, share, refusals, notes)


def partitions(graph: Graph, taken: set[int]) -> list[list[int]]:
    """The pieces in which a runtime runs the nodes of `graph` that a delegate has `taken`, all by index.

    As TFLite and ONNX Runtime both do it: greedily, everything of one kind that can run, then everything of the other.
    """
    nodes = graph.computing
    unmade = {tensor.key for node in nodes for tensor in node.outputs}
    missing = [unmade.intersection(tensor.key for tensor in node.given) for node in nodes]
    readers: dict[Key, list[int]] = {}
    for place, keys in enumerate(missing):
        for key in keys:
            readers.setdefault(key, []).append(place)
    # What can run, of each kind (theirs or not), in the order of the file.
    ready: dict[bool, list[int]] = {True: [], False: []}
    for place, keys in enumerate(missing):
        if not keys:
            ready[nodes[place].index in taken].append(place)
    pieces: list[list[int]] = []
    theirs = True
    while ready[True] or ready[False]:  # nodes that are left after that read one another in a circle: none can run
        piece = []
        while ready[theirs]:
            node = nodes[heappop(ready[theirs])]
            piece.append(node.index)
            for key in unmade.intersection(tensor.key for tensor in node.outputs):
                unmade.discard(key)
                for place in readers.get(key, ()):
                    missing[place].discard(key)
                    if not missing[place]:
                        heappush(ready[nodes[place].index in taken], place)
        pieces += [piece] if theirs and piece else []
        theirs = not theirs
    return pieces
