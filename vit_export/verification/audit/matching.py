"""How many of the reference's parameters a file of another tool holds, whatever it calls them and however they lie."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vit_export.artifacts.constants import read_constants
from vit_export.model.parameters import ParameterSource, parameter_specs

SAMPLES = 512
LIKENESS = 0.99
"""The correlation from which on two tensors are one: int8 has 0.999 and more, neighbouring layers next to nothing."""
_ORDERS = {2: ((0, 1), (1, 0)), 4: ((0, 1, 2, 3), (3, 2, 0, 1), (3, 0, 1, 2), (2, 3, 1, 0))}


@np.errstate(all="ignore")
def parameters_found(path: Path, format: str, reference: ParameterSource) -> tuple[int, int]:
    """How many of the parameters of `reference` the file holds, and how many there are.

    Vectors of equal numbers (biases that are 0, scales that are 1) are not counted: they are like any other.
    """
    wanted: dict[int, dict[str, list[np.ndarray]]] = {}
    total = 0
    for parameter in parameter_specs(reference.spec):
        forms = [form for values in [reference.read(parameter.name)] for form in _forms(values) if np.ptp(form) > 0]
        if forms:
            total += 1
            wanted.setdefault(parameter.size, {})[parameter.name] = forms
    found = set[str]()
    for constant in read_constants(path, format).values():
        size = int(np.prod(constant.shape))
        if size in wanted or (size % 3 == 0 and size // 3 in wanted):
            try:
                values = constant.values()
            except ValueError:  # fewer numbers than its shape promises
                continue
            for part in _parts(values, size, wanted):
                sample = _sample(part)
                candidates = wanted[part.size]
                found |= {name for name, forms in candidates.items() if any(_alike(sample, form) for form in forms)}
    return len(found), total


def _parts(values: np.ndarray, size: int, wanted: dict[int, dict[str, list[np.ndarray]]]) -> Iterator[np.ndarray]:
    """`values`, and its thirds along each axis: queries, keys and values are often one tensor."""
    if size in wanted:
        yield values
    if size % 3 == 0 and size // 3 in wanted:
        for axis in range(values.ndim):
            if values.shape[axis] % 3 == 0:
                yield from np.split(values, 3, axis=axis)


def _forms(values: np.ndarray) -> Iterator[np.ndarray]:
    """Samples of `values` in each order of axes in which tools keep them."""
    for order in _ORDERS.get(values.ndim, (tuple(range(values.ndim)),)):
        yield _sample(values.transpose(order))


def _sample(values: np.ndarray) -> np.ndarray:
    flat = values.reshape(-1)
    return flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)].astype(np.float64)


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    a, b = a - a.mean(), b - b.mean()
    power = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return power > 0 and abs(float((a * b).sum())) / power > LIKENESS
