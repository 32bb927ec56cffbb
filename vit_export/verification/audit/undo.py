"""What was moved between the weights of an int8 file, read off the weights themselves.

LayerNorms are stored as floats: their factors and centres follow from the stored scale and shift. So are the factors of
outputs that are added to the residual stream. Those of values and
queries are the ratios of the reference's columns and the stored ones, and their inverses stand in the rows, or columns,
of the kernel that they moved to, which is then compared. The order of channels is found by their likeness.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from vit_export.int8.equalize import EqualizedParameters, Factors, norm_groups
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.model.spec import ViTSpec
from vit_export.verification.audit.held import Held, HeldParameters

_SAME = 5e-3
"""Columns whose ratios differ from 1 by no more than this were not scaled: rounding alone moves them so far."""
_ROUGHLY = 0.03
"""How far the factor of a channel may be off that is told by a few rounded weights: those of its counterpart."""
_DOUBT = 2.5
"""Standard errors by which a ratio may be off, each weight being off by half a step or less."""


@dataclass(frozen=True)
class Undone:
    """`factors` of the file, `orders` of channels by the Dense that writes them, and how far these may be off.

    `doubt` is, by Dense and for each column of its kernel, the part of it by which a ratio may be wrong; `norm_doubt`
    by LayerNorm and for each channel, the part of the factor and the distance of the centre. Infinity stands for
    channels without weights on either side, of which nothing can be told and nothing depends.
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
    outputs = {name: held.read(f"{name}/scale").values for name in _writers(spec) if f"{name}/scale" in held}
    factors, norm_doubt = told.also(outputs=outputs), {}
    norm_of = {dense: norm for norm, readers in norm_groups(spec).items() for dense in readers}
    grouped = EqualizedParameters(reference, Factors(outliers=told.outliers))
    for norm, readers in norm_groups(spec).items():
        if f"{norm}/scale" in held and f"{norm}/bias" in held:
            factor, centre, norm_doubt[norm] = _norm(held, grouped, norm, readers[0], query_factor)
            factors = factors.also(norms={norm: factor}, centres={norm: centre})
    orders: dict[str, np.ndarray] = {}
    doubt: dict[str, np.ndarray] = {}
    for index in range(spec.num_layers):
        attention, mlp = f"{layer_name(index)}/attention", f"{layer_name(index)}/mlp"
        moved = EqualizedParameters(reference, factors)
        pairs = (
            (f"{mlp}/dense_1", f"{mlp}/dense_2", None),
            (f"{attention}/value", f"{attention}/output", spec.head_size),
        )
        for writer, reader, group in pairs if in_pairs else ():
            if all(name in held for name in (f"{writer}/kernel", f"{writer}/bias", f"{reader}/kernel")):
                order = _order(held, moved, writer, reader, group)
                if order is not None:
                    orders[writer] = order
        for kind, dense, partner in (
            ("values", f"{attention}/value", f"{attention}/output"),
            ("queries", f"{attention}/query", f"{attention}/key"),
        ):
            if f"{dense}/kernel" not in held or f"{partner}/kernel" not in held:
                continue
            own, wanted = held.read(f"{dense}/kernel"), _folded(moved, held, dense)
            other, counterpart = held.read(f"{partner}/kernel").values, _folded(moved, held, partner)
            met = np.isfinite(norm_doubt[norm_of[dense]][0]) if norm_of[dense] in norm_doubt else slice(None)
            other, counterpart = (x[met] if kind == "queries" else x.T for x in (other, counterpart))
            if dense in orders:
                wanted, counterpart = wanted[:, orders[dense]], counterpart[:, orders[dense]]
            wanted = wanted * (query_factor if kind == "queries" else 1.0)
            ratio = _ratio(own.values[met], wanted[met])
            # Of a channel without weights its counterpart tells, which was multiplied with the factor.
            ratio = np.where(np.isnan(ratio), 1 / _ratio(other, counterpart), ratio)
            unknown, ratio = ~np.isfinite(ratio), np.where(np.isfinite(ratio), ratio, 1.0)
            if np.abs(ratio - 1).max() <= _SAME and not unknown.any():
                continue
            doubt[dense] = doubt[partner] = np.where(unknown, np.inf, _doubt_of(own))
            if dense in orders:
                ratio = ratio[np.argsort(orders[dense])]
            factors = factors.also(**{kind: {attention: ratio}})
    return Undone(factors, orders, doubt, norm_doubt)


def _writers(spec: ViTSpec) -> tuple[str, ...]:
    """The Dense layers whose output is added to the residual stream, which may have factors of its own."""
    layers = [layer_name(index) for index in range(spec.num_layers)]
    branches = [f"{layer}/{dense}" for layer in layers for dense in ("attention/output", "mlp/dense_2")]
    return ("patch_embedding", *branches)


def _norm(
    held: HeldParameters, reference: ParameterSource, norm: str, dense: str, query_factor: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Factor and centre of a LayerNorm before `dense`, and how far they may be off."""
    scale, shift = held.read(f"{norm}/scale"), held.read(f"{norm}/bias")
    wanted_scale, wanted_shift = (reference.read(f"{norm}/{part}").astype(np.float64) for part in ("scale", "bias"))
    usable = (scale.values != 0) & (wanted_scale != 0)
    factor = np.where(usable, wanted_scale / np.where(usable, scale.values, 1), 1.0)
    factor = np.where(factor > 0, factor, 1.0)
    if not usable.all() and f"{dense}/kernel" in held:
        # Channels that are scaled by 0 still have a shift: the rows of a kernel tell their factors.
        own, wanted = held.read(f"{dense}/kernel").values, reference.read(f"{dense}/kernel").astype(np.float64)
        wanted = wanted * (query_factor if dense.endswith("/query") else 1.0)
        columns = _ratio(own[usable], wanted[usable] * factor[usable, np.newaxis])
        rows = 1 / _ratio((own * np.nan_to_num(columns, nan=1.0)).T, wanted.T)
        factor = np.where(usable | ~np.isfinite(rows), factor, rows)
    part = np.where(usable, scale.rounding.reshape(-1) / np.where(usable, np.abs(scale.values), 1), _ROUGHLY)
    centre = wanted_shift - factor * shift.values
    distance = factor * shift.rounding + part * np.abs(factor * shift.values)
    # What is 0 for every image may meet any weights.
    return factor, centre, (np.where((scale.values == 0) & (shift.values == 0), np.inf, part), distance)


def _folded(moved: EqualizedParameters, held: HeldParameters, dense: str) -> np.ndarray:
    """The kernel of `dense` as `held` has it, but for what is to be found: its LayerNorm's scale folded in or not."""
    kernel = moved.read(f"{dense}/kernel").astype(np.float64)
    norm = next((n for n, group in norm_groups(moved.spec).items() if dense in group), None)
    if norm is not None and f"{norm}/scale" not in held:
        kernel = kernel * moved.read(f"{norm}/scale").astype(np.float64)[:, np.newaxis]
    return kernel


def _ratio(own: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each column how many times the stored one the wanted one is, by least squares; NaN where there is nothing."""
    product, power = (wanted * own).sum(axis=0), (wanted**2).sum(axis=0)
    return np.where(product > 0, power / np.where(product > 0, product, 1), np.nan)


def _doubt_of(own: Held) -> np.ndarray:
    length = np.sqrt((own.values**2).sum(axis=0))
    step = np.broadcast_to(own.step, own.values.shape)[0]
    return np.where(length > 0, _DOUBT * step / np.maximum(length, 1e-30), _ROUGHLY) + 1e-6


def _order(
    held: HeldParameters, moved: EqualizedParameters, writer: str, reader: str, group: int | None
) -> np.ndarray | None:
    """Which of the reference's channels each is that `writer` writes and `reader` reads; None where all are in place.

    Every `group` channels stay together, and are of any size; without, each is as large as the reference's. Both sides
    of a channel count: of several without weights on one side the other tells which is which.
    """
    own, wanted = (
        [np.vstack([source(f"{writer}/kernel"), source(f"{writer}/bias")]), source(f"{reader}/kernel").T]
        for source in (lambda name: held.read(name).values, lambda name: moved.read(name).astype(np.float64))
    )
    hidden = f"{writer.rpartition('/')[0]}/hidden/scale"
    if group is None and hidden in held:
        own[1] = own[1] * held.read(hidden).values.reshape(1, -1)
    if any(a.shape != b.shape for a, b in zip(own, wanted, strict=True)):
        return None
    channels = own[0].shape[1]
    size = group or channels
    parts = [slice(start, start + size) for start in range(0, channels, size)]
    alike = _nearness if group is None else _cosine
    found = [
        part.start + _matched(alike(own[0][:, part], wanted[0][:, part]) + alike(own[1][:, part], wanted[1][:, part]))
        for part in parts
    ]
    order = np.concatenate(found)
    return None if (order == np.arange(len(order))).all() else order


def _nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Minus the squared distance of each column of `a` from each of `b`."""
    product = a.astype(np.float32).T @ b.astype(np.float32)
    return 2 * product - np.square(a).sum(axis=0)[:, np.newaxis] - np.square(b).sum(axis=0)


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each column of `a` and each of `b`, 0 where one is 0."""
    a, b = (x / np.maximum(np.sqrt((x**2).sum(axis=0)), 1e-30) for x in (a, b))
    return np.asarray(a.T @ b)


def _matched(likeness: np.ndarray) -> np.ndarray:
    """A permutation with the most alike in `likeness` [own, wanted] together; the surest choose first."""
    order, free = likeness.argmax(axis=1), np.ones(len(likeness), bool)
    if len(np.unique(order)) == len(order):
        return order
    for place in np.argsort(-likeness.max(axis=1), kind="stable"):
        order[place] = column = int(np.where(free, likeness[place], -np.inf).argmax())
        free[column] = False
    return order
