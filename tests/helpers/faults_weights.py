"""Edits of weights: each gives the parameters that differ from those of a source, by name."""

from collections.abc import Callable

import numpy as np

from vit_export.model.parameters import ParameterSource, parameter_specs


def parameters(prefix: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[ParameterSource], dict]:
    """`edit` of every parameter whose name starts with `prefix`."""

    def change(source):
        names = [p.name for p in parameter_specs(source.spec) if p.name.startswith(prefix)]
        assert names
        return {name: edit(source.read(name)) for name in names}

    return change


def exchanged(first: str, second: str) -> Callable[[ParameterSource], dict]:
    """The parameters below two names change places."""

    def change(source):
        found = {}
        for name in (p.name for p in parameter_specs(source.spec)):
            for a, b in ((first, second), (second, first)):
                if name.startswith(f"{a}/"):
                    found[name] = source.read(b + name.removeprefix(a))
        assert found
        return found

    return change


def repeated(source_layer: str, layer: str) -> Callable[[ParameterSource], dict]:
    """The parameters below `layer` are those below `source_layer`."""

    def change(source):
        names = [p.name for p in parameter_specs(source.spec) if p.name.startswith(f"{layer}/")]
        assert names
        return {name: source.read(source_layer + name.removeprefix(layer)) for name in names}

    return change


def all_of(*changes: Callable[[ParameterSource], dict]) -> Callable[[ParameterSource], dict]:
    return lambda source: {name: value for change in changes for name, value in change(source).items()}


def fine_tuned(amount: float, seed: int = 1) -> Callable[[ParameterSource], dict]:
    """Every parameter a little further: relative steps of `amount`."""

    def change(source):
        random = np.random.default_rng(seed)
        values = {p.name: source.read(p.name) for p in parameter_specs(source.spec)}
        return {n: v * (1 + amount * random.standard_normal(v.shape)).astype(np.float32) for n, v in values.items()}

    return change


def heads_permuted(owner: str, parts: tuple[str, ...], heads: int) -> Callable[[ParameterSource], dict]:
    """The heads of the projections `parts` of the attention `owner` each one place further."""

    def change(source):
        found = {}
        for part in parts:
            for name in (f"{owner}/{part}/kernel", f"{owner}/{part}/bias"):
                value = source.read(name)
                found[name] = np.roll(value, value.shape[-1] // heads, axis=-1)
        return found

    return change
