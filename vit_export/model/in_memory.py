"""The weights of a reference model in memory: read, checked, set."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from vit_export.base.errors import InputError
from vit_export.model.parameters import fingerprint_of
from vit_export.model.spec import ViTSpec


class Model(Protocol):
    """What is needed of a VisionTransformer."""

    spec: ViTSpec

    def parameters(self) -> dict[str, Any]:
        """Every variable under its canonical name."""
        ...


class ModelParameters:
    """The parameters of a reference model in memory (a `ParameterSource`).

    Raises:
        InputError: on `read`, when a parameter is quantized or a value is not finite.
    """

    def __init__(self, model: Model) -> None:
        self._variables = model.parameters()
        self.spec = model.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        values = np.asarray(self._variables[name].numpy())
        if np.issubdtype(values.dtype, np.integer):
            raise InputError(
                f"{name} of the model is {values.dtype}, expected floating-point numbers: export the model as it was "
                "before it was quantized in Keras."
            )
        values = values.astype(np.float32)
        require_finite(f"{name} of the model", values)
        return values


def require_finite(what: str, values: np.ndarray) -> None:
    """Raise InputError where `values`, of a parameter that messages call `what`, has a NaN or infinity."""
    if not np.isfinite(values).all():
        strange = "NaN" if np.isnan(values).any() else "infinity"
        raise InputError(
            f"{what} contains {strange}, expected finite numbers: take the weights from before the training diverged."
        )


def assign_parameters(
    model: Model,
    read: Callable[[str], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Set every weight of `model` from `read(name)`; `progress` is told how many of how many are set."""
    parameters = model.parameters()
    for done, (name, variable) in enumerate(parameters.items(), 1):
        variable.assign(read(name))
        if progress:
            progress(done, len(parameters))


def fingerprint_in_memory(model: Model) -> str | None:
    """The fingerprint of the weights that `model` has now (`fingerprint_of`); None where they are no finite numbers."""
    try:
        return fingerprint_of(ModelParameters(model))
    except InputError:
        return None
