"""A checkpoint: parameters under canonical names, and what belongs to them (pixels, labels, where they come from)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.errors import InputError
from vit_export.parameters import ParameterSource, parameter_specs
from vit_export.preprocess import Preprocessing
from vit_export.saved_model import ModelRecord
from vit_export.spec import ViTSpec
from vit_export.weights.positions import Rule, resample

if TYPE_CHECKING:
    from vit_export.model import VisionTransformer


@dataclass(frozen=True)
class Checkpoint:
    """Weights to export (a `ParameterSource`).

    `weights` says where they come from, JSON-ready, with `trained`; `notes` what a user should know; `positions` is
    the source's own rule for another image size. `saved_model` is the folder when it is one of this package's, `model`
    the reference model when it is in memory already.
    """

    parameters: ParameterSource
    preprocessing: Preprocessing
    positions: Rule
    labels: tuple[str, ...] | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    saved_model: Path | None = None
    model: "VisionTransformer | None" = None

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self.parameters.spec

    @property
    def record(self) -> ModelRecord:
        """What a SavedModel of these weights says of itself."""
        return ModelRecord(self.spec, self.preprocessing, self.weights, self.labels, self.positions)

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        return self.parameters.read(name)

    def described(
        self, preprocessing: Preprocessing | None = None, labels: tuple[str, ...] | None = None
    ) -> "Checkpoint":
        """The same weights with another preprocessing or other labels, where given."""
        if preprocessing in (None, self.preprocessing) and labels in (None, self.labels):
            return self
        changed = replace(self, preprocessing=preprocessing or self.preprocessing, labels=labels or self.labels)
        return replace(changed, saved_model=None)

    def adapted(self, wanted: ViTSpec, *, seed: int = 0) -> "Checkpoint":
        """The same weights for `wanted`: another image size, another classifier, or none.

        The position embedding is resampled by the source's rule. A classifier of another number of classes is new and
        untrained (Glorot uniform, from `seed`), as is one where there was none. Preprocessing follows the image size;
        labels belong to the classifier and go with it.

        Raises:
            InputError: `wanted` differs in anything else.
        """
        known = self.spec
        if wanted == known:
            return self
        movable = {
            "image_size": known.image_size,
            "num_classes": known.num_classes,
            "pre_logits_size": known.pre_logits_size if wanted.pre_logits_size is None else wanted.pre_logits_size,
        }
        if wanted.with_(**movable) != known:
            ours, theirs = wanted.to_dict(), known.to_dict()
            different = ", ".join(
                f"{k} {theirs[k]!r} where {ours[k]!r} was asked for" for k in ours if ours[k] != theirs[k]
            )
            raise InputError(f"The weights are of another model: {different}; leave those options out, or build anew.")
        overrides: dict[str, Callable[[], np.ndarray]] = {}
        notes, weights, labels = list(self.notes), dict(self.weights), self.labels
        if wanted.image_size != known.image_size:
            grid = wanted.grid
            overrides["position_embedding"] = lambda: resample(self.read("position_embedding"), grid, self.positions)
            text = f"The position embedding is resampled from {known.image_size} to {wanted.image_size} pixels"
            notes.append(f"{text} ({self.positions.replace('_', ', ')}).")
            weights["resampled_from_image_size"] = known.image_size
        if wanted.num_classes != known.num_classes:
            labels = None
        new_head = wanted.num_classes is not None and (
            wanted.num_classes != known.num_classes or wanted.pre_logits_size != known.pre_logits_size
        )
        if new_head:
            overrides["head/kernel"] = lambda: _glorot(wanted.representation_size, wanted.output_size, seed)
            overrides["head/bias"] = lambda: np.zeros(wanted.output_size, np.float32)
            before = "where there was none" if known.num_classes is None else f"in place of {known.num_classes} classes"
            notes.append(
                f"The classifier of {wanted.num_classes} classes is new and untrained, {before}: fine-tune it."
            )
            weights.update(trained=False, new_classifier_seed=seed)
        elif wanted.num_classes is None and known.num_classes is not None:
            notes.append(f"The classifier of {known.num_classes} classes is left out.")
        if wanted.pre_logits_size is None and known.pre_logits_size is not None:
            notes.append(
                "The pre-logits layer (pooler) is left out: features are the class token's (--pooled keeps it)."
            )
        return replace(
            self,
            parameters=_Adapted(self.parameters, wanted, overrides),
            preprocessing=replace(self.preprocessing, image_size=wanted.image_size),
            labels=labels,
            weights=weights,
            notes=tuple(notes),
            saved_model=None,
            model=None,
        )


class _Adapted:
    """The parameters of `source` for another spec, some of them computed."""

    def __init__(self, source: ParameterSource, spec: ViTSpec, overrides: dict[str, Callable[[], np.ndarray]]) -> None:
        self._source, self.spec, self._overrides = source, spec, overrides
        self._shapes = {parameter.name: parameter.shape for parameter in parameter_specs(spec)}

    def read(self, name: str) -> np.ndarray:
        values = self._overrides[name]() if name in self._overrides else self._source.read(name)
        if values.shape != self._shapes[name]:
            raise AssertionError(f"{name} has shape {values.shape}, expected {self._shapes[name]}")
        return values


def _glorot(inputs: int, outputs: int, seed: int) -> np.ndarray:
    """Glorot and Bengio (2010), equation 16, as Keras initialises a Dense layer."""
    limit = (6 / (inputs + outputs)) ** 0.5
    return np.random.default_rng(seed).uniform(-limit, limit, (inputs, outputs)).astype(np.float32)
