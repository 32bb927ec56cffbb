"""What a table of a delegate makes of a graph: which operators it takes, in how many pieces, and what to change."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vit_export.inspection.conditions import Condition
from vit_export.inspection.operators import Graph, Key, Node, is_folded, macs_of

Basis = Literal["runtime", "source, not run", "documentation, not run"]

_SHOWN = 3


@dataclass(frozen=True)
class Target:
    """One delegate or execution provider: the operators it takes, each under its conditions.

    `every` holds for all of them. `advice` says what to change by operator, "" for any other. `source` is where the
    table was read and when. `caveats` are conditions, by operator, that are not checked. Widened float16 weights count
    as taken where it `folds` them; pieces of fewer than `smallest` operators stay on the CPU.
    """

    name: str
    basis: Basis
    source: str
    operators: Mapping[str, Condition]
    every: Condition
    advice: Mapping[str, str]
    notes: tuple[str, ...] = ()
    folds: bool = False
    smallest: int = 1
    caveats: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, node: Node) -> str:
        """Why this target leaves `node` to the CPU, "" where it takes it."""
        if self.folds and is_folded(node):
            return ""
        if node.op not in self.operators:
            return "not in the list of supported operators"
        return self.every(node) or self.operators[node.op](node)


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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return asdict(self)


def counted(graph: Graph) -> tuple[Node, ...]:
    """The nodes of `graph` that compute something: Constant is a weight by another name."""
    return tuple(node for node in graph.nodes if node.op != "Constant")


def assess(target: Target, graph: Graph) -> Verdict:
    """What `target` makes of `graph`, by its table."""
    nodes = counted(graph)
    reasons = {node.index: target.refusal(node) for node in nodes}
    if target.smallest > 1:
        for piece in partitions(graph, {index for index, reason in reasons.items() if not reason}):
            if len(piece) < target.smallest:
                alone = f"in a piece of fewer than {target.smallest} operators"
                reasons.update(dict.fromkeys(piece, alone))
    used = dict.fromkeys(node.op for node in nodes)
    caveats = tuple(f"{op}, not checked here: {target.caveats[op]}" for op in used if target.caveats.get(op))
    return verdict(
        graph,
        reasons,
        target=target.name,
        basis=target.basis,
        source=target.source,
        change=lambda op: target.advice.get(op, target.advice.get("", "")),
        notes=(*target.notes, *caveats),
    )


def verdict(
    graph: Graph,
    reasons: Mapping[int, str],
    *,
    target: str,
    basis: Basis,
    source: str,
    change: Callable[[str], str],
    notes: Sequence[str] = (),
) -> Verdict:
    """The Verdict on `graph` whose nodes are refused for these `reasons`, by index; "" is taken."""
    nodes = counted(graph)
    taken = {index for index, reason in reasons.items() if not reason}
    grouped = Counter((node.op, reasons[node.index]) for node in nodes if node.index not in taken)
    refusals = tuple(
        Refusal(op, count, reason, _places(nodes, reasons, op, reason), change(op))
        for (op, reason), count in grouped.most_common()
    )
    macs = {node.index: macs_of(node) for node in nodes}
    share = None
    if None not in macs.values() and (total := sum(n or 0 for n in macs.values())):
        share = sum(macs[index] or 0 for index in taken) / total
    pieces = len(partitions(graph, taken))
    return Verdict(target, basis, source, len(taken), len(nodes), pieces, share, refusals, tuple(notes))


def partitions(graph: Graph, taken: set[int]) -> list[list[int]]:
    """The pieces in which a runtime runs the nodes of `graph` that a delegate has `taken`, all by index.

    As TFLite and ONNX Runtime both do it: greedily, everything of one kind that can run, then everything of the other.
    """
    waiting = list(counted(graph))
    made = {tensor.key for node in waiting for tensor in node.outputs}
    done: set[Key] = set()

    def ready(node: Node) -> bool:
        return all(tensor.key in done or tensor.key not in made for tensor in node.given)

    pieces: list[list[int]] = []
    theirs = False
    while waiting:
        theirs = not theirs
        # In the order of the file each node comes after those it reads, so one pass finds all of a piece.
        left, piece = [], []
        for node in waiting:
            if (node.index in taken) == theirs and ready(node):
                done.update(tensor.key for tensor in node.outputs)
                piece.append(node.index)
            else:
                left.append(node)
        waiting = left
        if theirs and piece:
            pieces.append(piece)
        elif not theirs and not piece and not any(map(ready, waiting)):
            break  # a cycle: no runtime opens such a file
    return pieces


def _places(nodes: Sequence[Node], reasons: Mapping[int, str], op: str, reason: str) -> tuple[str, ...]:
    found = (node.place for node in nodes if node.op == op and reasons[node.index] == reason)
    return tuple(place for place, _ in zip(found, range(_SHOWN), strict=False))
