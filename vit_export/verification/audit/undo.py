"""What was moved between the weights of an int8 file, read off the weights themselves.

LayerNorms are stored as floats: their factors and centres follow from the stored scale and shift. Those of values and
queries are the ratios of the reference's columns and the stored ones, and their inverses stand in the rows, or columns,
of the kernel that they moved to, which is then compared. The order of channels is found by their likeness.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vit_export.int8.equalize import EqualizedParameters, Factors, norm_groups
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.verification.audit.held import Held, HeldParameters

_SAME = 5e-3
"""Columns whose ratios differ from 1 by no more than this were not scaled: rounding alone moves them so far."""
_DOUBT = 2.5
"""Standard errors by which a ratio may be off, each weight being off by half a step or less."""


@dataclass(frozen=True)
class Undone:
    """`factors` of the file, `orders` of channels by the Dense that writes them, and how far these may be off.

    `doubt` is, by Dense and for each column of its kernel, the part of it by which a ratio may be wrong; `norm_doubt`
    by LayerNorm and for each channel, the part of the factor and the distance of the centre.
    """

    factors: Factors
    orders: Mapping[str, np.ndarray] = field(default_factory=dict)
    doubt: Mapping[str, np.ndarray] = field(default_factory=dict)
    norm_doubt: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def undo(
    held: HeldParameters, reference: ParameterSource, told: Factors, *, query_factor: float, in_pairs: bool
) -> Undone:
    """What makes the parameters of `reference` those that an int8 file holds; `told` is what its record tells.

    `query_factor` is what its query kernels are multiplied with: 1/√d, where attention does not do it. Files whose
    weights are `in_pairs` have channels in orders of their own.
    """
    spec = reference.spec
    factors, norm_doubt = told, {}
    for norm in norm_groups(spec):
        if f"{norm}/scale" in held and f"{norm}/bias" in held:
            factor, centre, norm_doubt[norm] = _norm(held, reference, norm)
            factors = factors.also(norms={norm: factor}, centres={norm: centre})
    orders: dict[str, np.ndarray] = {}
    doubt: dict[str, np.ndarray] = {}
    for index in range(spec.num_layers):
        attention, mlp = f"{layer_name(index)}/attention", f"{layer_name(index)}/mlp"
        moved = EqualizedParameters(reference, factors)
        for dense, group in ((f"{mlp}/dense_1", None), (f"{attention}/value", spec.head_size)):
            if in_pairs and f"{dense}/kernel" in held and f"{dense}/bias" in held:
                stored = np.vstack([held.read(f"{dense}/{part}").values for part in ("kernel", "bias")])
                plain = np.vstack([moved.read(f"{dense}/{part}") for part in ("kernel", "bias")])
                order = _order(stored, plain.astype(np.float64), group)
                if order is not None:
                    orders[dense] = order
        for kind, dense in (("values", f"{attention}/value"), ("queries", f"{attention}/query")):
            if f"{dense}/kernel" not in held:
                continue
            own, wanted = held.read(f"{dense}/kernel"), _folded(moved, held, dense)
            if dense in orders:
                wanted = wanted[:, orders[dense]]
            ratio = _ratio(own.values, wanted) * (query_factor if kind == "queries" else 1.0)
            if np.abs(ratio - 1).max() <= _SAME:
                continue
            if dense in orders:
                ratio = ratio[np.argsort(orders[dense])]
            factors = factors.also(**{kind: {attention: ratio}})
            doubt[dense] = _doubt_of(own)
            doubt[f"{attention}/{'output' if kind == 'values' else 'key'}"] = doubt[dense]
    return Undone(factors, orders, doubt, norm_doubt)


def _norm(
    held: HeldParameters, reference: ParameterSource, norm: str
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Factor and centre of a LayerNorm, and how far they may be off."""
    scale, shift = held.read(f"{norm}/scale"), held.read(f"{norm}/bias")
    wanted_scale, wanted_shift = (reference.read(f"{norm}/{part}").astype(np.float64) for part in ("scale", "bias"))
    usable = (scale.values != 0) & (wanted_scale != 0)
    factor = np.where(usable, wanted_scale / np.where(usable, scale.values, 1), 1.0)
    factor = np.where(factor > 0, factor, 1.0)
    part = np.where(usable, scale.rounding.reshape(-1) / np.where(usable, np.abs(scale.values), 1), 0.0)
    centre = wanted_shift - factor * shift.values
    distance = factor * shift.rounding + part * np.abs(factor * shift.values)
    return factor, centre, (part, distance)


def _folded(moved: EqualizedParameters, held: HeldParameters, dense: str) -> np.ndarray:
    """The kernel of `dense` as `held` has it, but for what is to be found: its LayerNorm's scale folded in or not."""
    kernel = moved.read(f"{dense}/kernel").astype(np.float64)
    norm = next((n for n, group in norm_groups(moved.spec).items() if dense in group), None)
    if norm is not None and f"{norm}/scale" not in held:
        kernel = kernel * moved.read(f"{norm}/scale").astype(np.float64)[:, np.newaxis]
    return kernel


def _ratio(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each column how many times the stored one the wanted one is, by least squares; 1 where there is nothing."""
    product, power = (wanted * own).sum(axis=0), (wanted**2).sum(axis=0)
    return np.where(product > 0, power / np.where(product > 0, product, 1), 1.0)


def _doubt_of(own: Held) -> np.ndarray:
    length = np.sqrt((own.values**2).sum(axis=0))
    step = np.broadcast_to(own.step, own.values.shape)[0]
    return np.where(length > 0, _DOUBT * step / np.maximum(length, 1e-30), 0.0) + 1e-6


def _order(own: np.ndarray, wanted: np.ndarray, group: int | None) -> np.ndarray | None:
    """Which of the reference's columns each stored one is; None where all are in their place.

    Every `group` columns stay together, and are of any size; without, each is as large as the reference's: of several
    channels without weights the bias tells which is which.
    """
    if own.shape != wanted.shape:
        return None
    lengths = [np.maximum(np.sqrt((x**2).sum(axis=0)), 1e-30) for x in (own, wanted)]
    a, b = own / lengths[0], wanted / lengths[1]
    if group is None:
        product = own.astype(np.float32).T @ wanted.astype(np.float32)
        likeness = 2 * product - np.square(lengths[0])[:, np.newaxis] - np.square(lengths[1])
        order = _matched(likeness)
    else:
        parts = [slice(start, start + group) for start in range(0, a.shape[1], group)]
        order = np.concatenate([part.start + _matched(a[:, part].T @ b[:, part]) for part in parts])
    return None if (order == np.arange(len(order))).all() else order


def _matched(likeness: np.ndarray) -> np.ndarray:
    """A permutation with the most alike in `likeness` [own, wanted] together; the surest choose first."""
    order, free = np.zeros(len(likeness), int), np.ones(len(likeness), bool)
    for place in np.argsort(-likeness.max(axis=1), kind="stable"):
        order[place] = column = int(np.where(free, likeness[place], -np.inf).argmax())
        free[column] = False
    return order
