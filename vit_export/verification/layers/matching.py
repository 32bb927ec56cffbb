"""Which tensor of a file is which point of the residual stream, told by what it holds, not by what it is called."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vit_export.verification.layers.reference import ReferenceStream

SAMPLES = 4096
"""Elements by which tensors are told apart; figures are then taken of all of them."""

CERTAIN_DB = 80.0
"""SQNR from which on a tensor is the one looked for beyond doubt: more is no better."""

Form = Literal["tokens", "transposed", "kept", "unscaled"]
"""How a file holds a point: [tokens, width], [width, tokens], or of those tokens alone that are read in the end (mostly
the class token); unscaled is the final norm without its scale and shift."""


@dataclass(frozen=True)
class Match:
    """The tensor of a file that is a point, and how it holds it."""

    tensor: str
    form: Form

    def tokens(self, values: np.ndarray, width: int) -> np.ndarray:
        """The flat tensor `values` as tokens [rows, width]."""
        return values.reshape(width, -1).T if self.form == "transposed" else values.reshape(-1, width)


def forms(reference: ReferenceStream, stream: Sequence[np.ndarray], point: int) -> dict[Form, np.ndarray]:
    """What `point` is, as tokens [rows, width], in every form that a file may hold it in; `stream` the reference's."""
    if point > reference.last:
        tokens = stream[reference.last]
        return {"kept": reference.normed(tokens), "unscaled": reference.unscaled(tokens)}
    found: dict[Form, np.ndarray] = {"tokens": stream[point], "transposed": stream[point]}
    if point > reference.last - 2:  # a file may leave out the rows that are not read behind the last layer
        found["kept"] = stream[point][: reference.spec.kept_tokens]
    return found


def match(
    reference: ReferenceStream, stream: Sequence[np.ndarray], candidates: Iterable[tuple[str, np.ndarray]]
) -> list[Match | None]:
    """The tensor of `candidates`, flat and in the order they are computed in, for each point up to the norm.

    Of all assignments that keep both orders, the one with the most decibels in sum. None where no tensor is left.
    """
    tables = _tables(reference, stream)
    names: list[str] = []
    scores: list[np.ndarray] = []
    hows: list[list[Form]] = []
    for name, values in candidates:
        best = np.full(reference.last + 2, -np.inf)
        how: list[Form] = ["tokens"] * len(best)
        for table in tables:
            if values.size != table.size:
                continue
            for point, figure in zip(table.points, table.scores(values), strict=True):
                if figure > best[point]:
                    best[point], how[point] = figure, table.form
        names.append(name)
        scores.append(best)
        hows.append(how)
    if not names:
        return [None] * (reference.last + 2)
    places = _ordered(np.stack(scores, axis=1))
    return [None if c is None else Match(names[c], hows[c][p]) for p, c in enumerate(places)]


@dataclass(frozen=True)
class _Table:
    """The points that a file may hold in one form: `truth` [points, samples] are elements `where` of the tensor."""

    form: Form
    size: int
    where: np.ndarray
    points: list[int]
    truth: np.ndarray

    def scores(self, values: np.ndarray) -> np.ndarray:
        """SQNR of the flat tensor `values` taken for each of the points, from 0 to CERTAIN_DB."""
        with np.errstate(all="ignore"):  # a tensor may hold infinities, and none of them is a point
            noise = ((self.truth - values[self.where]) ** 2).sum(axis=1)
            decibel = 10 * np.log10((self.truth**2).sum(axis=1) / noise)
        return np.clip(np.nan_to_num(decibel, nan=0.0, posinf=CERTAIN_DB), 0, CERTAIN_DB)


def _tables(reference: ReferenceStream, stream: Sequence[np.ndarray]) -> list[_Table]:
    rows, width = stream[0].shape
    of_form: dict[tuple[Form, int], list[tuple[int, np.ndarray]]] = {}
    for point in range(reference.last + 2):
        for form, tokens in forms(reference, stream, point).items():
            of_form.setdefault((form, len(tokens)), []).append((point, tokens))
    found = []
    for (form, count), entries in of_form.items():
        size = count * width
        where = sampled = np.random.default_rng(0).integers(0, size, SAMPLES) if size > SAMPLES else np.arange(size)
        if form == "transposed":
            row, column = np.divmod(sampled, width)
            where = column * rows + row
        truth = np.stack([tokens.reshape(-1)[sampled].astype(np.float64) for _, tokens in entries])
        found.append(_Table(form, size, where, [point for point, _ in entries], truth))
    return found


def _ordered(scores: np.ndarray) -> list[int | None]:
    """For each row of `scores` [points, candidates] a column, increasing, so that the sum is largest.

    -inf is no choice; rows may be left out (None), which counts for nothing.
    """
    points, candidates = scores.shape
    most = np.zeros((points + 1, candidates + 1))  # [p, c]: what rows before p reach in columns before c
    for p in range(points):
        taken = np.maximum.accumulate(most[p, :-1] + scores[p])
        most[p + 1] = np.maximum(most[p], np.concatenate([[0.0], taken]))
    places: list[int | None] = [None] * points
    end = candidates
    for p in reversed(range(points)):
        reached = most[p, :end] + scores[p, :end]
        if end and np.isfinite(reached.max()) and reached.max() >= most[p, end]:
            places[p] = end = int(reached.argmax())
    return places
