"""A checkpoint: parameters under canonical names, and what belongs to them (pixels, labels, where they come from)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError
from vit_export.model.labels import check_labels
from vit_export.model.parameters import ParameterSource, parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec, json_size, shown_size
from vit_export.weights.positions import resample
from vit_export.weights.provenance import Digests

if TYPE_CHECKING:
    from vit_export.model.keras_model import VisionTransformer


OTHER_LABELS = (
    "Correct that, or give the right ones (--labels), another number of classes (--num-classes) or none (--features)."
)
"""The ways out for labels that do not fit the classifier they came with."""

OF_CLASSIFIER = ("labels", "classifier", "answer")
"""Topics of `ModelRecord.assumed` that go with the classifier they are about."""


CHANGED = "The weights were changed in Python and not by fit, so they are taken for trained ones."
"""A note on a checkpoint of which nobody says whether it was trained."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights to export (a `ParameterSource`): the parameters, what their source says of them, notes for the user.

    `record` is what is written with the model: `stated`, which costs nothing, completed by `digests`, which take time.
    `own` tells that this package wrote the weights, `saved_model` is the folder when it is one of this package's,
    `model` the reference model when it is in memory already. `labels_problem` says why the labels that came with the
    weights are not in `stated`; it is raised when they would be used. `pooler_problem` says why a pooler that came with
    them is left out. `called` is the name of the place the weights come from (`weights.naming`), None where it says
    none; `spec.name` is that of their sizes, or of an own model.
    """

    parameters: ParameterSource
    stated: ModelRecord
    notes: tuple[str, ...] = ()
    saved_model: Path | None = None
    model: "VisionTransformer | None" = None
    own: bool = False
    labels_problem: str | None = None
    pooler_problem: str | None = None
    digests: Digests | None = None
    called: str | None = None

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self.stated.spec

    @property
    def preprocessing(self) -> Preprocessing:
        """How the pixels are made that the model takes."""
        return self.stated.preprocessing

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes in their order; None where nobody said, or what was said cannot be used."""
        return self.stated.labels

    @property
    def record(self) -> ModelRecord:
        """What a SavedModel of these weights says of itself.

        Raises:
            InputError: the labels that came with the weights cannot be used, or a file that is digested is gone.
        """
        self._require_labels()
        return self.stated.saying(**self.digests()) if self.digests else self.stated

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        return self.parameters.read(name)

    def named(self, name: str | None = None) -> "Checkpoint":
        """The checkpoint whose files are called by `name`; without one as it is `called` itself.

        Raises:
            InputError: nothing can be called so.
        """
        wanted = name or self.called or self.spec.name
        if wanted == self.spec.name:
            return replace(self, called=wanted)
        stated = replace(self.stated, spec=self.spec.with_(name=wanted))
        return replace(self, stated=stated, called=wanted, saved_model=None)

    def described(
        self,
        preprocessing: Preprocessing | None = None,
        labels: tuple[str, ...] | None = None,
        trained: bool | None = None,
    ) -> "Checkpoint":
        """The checkpoint with what is given in place of its own; `overridden` in its `weights` names pixels and labels.

        What is given is no longer assumed.

        Raises:
            InputError: labels that are none or do not fit, or none are given and the checkpoint's own cannot be used.
        """
        if labels is None:
            self._require_labels()
        else:
            check_labels(labels, self.spec.num_classes)
        record = replace(
            self.stated,
            preprocessing=preprocessing or self.preprocessing,
            labels=self.labels if labels is None else tuple(labels),
        )
        told = record.weights.get("overridden")
        overridden = {name for name in told if isinstance(name, str)} if isinstance(told, list) else set()
        if record.preprocessing != self.preprocessing:
            overridden.add("preprocessing")
        if record.labels != self.labels and (self.labels or self.labels_problem):
            overridden.add("labels")
        if record != self.stated and overridden:
            record = record.saying(overridden=sorted(overridden))
        said = {"scaling", "resizing"} if preprocessing is not None else set()
        said |= {"labels"} if labels is not None else set()
        record = record.without_assumed(said)
        if trained is not None and trained != record.trained:
            record = record.saying(trained=trained)
        known = self
        if trained is not None and CHANGED in self.notes:
            known = replace(self, notes=tuple(note for note in self.notes if note != CHANGED))
        if record == self.stated:
            return known
        return replace(known, stated=record, labels_problem=None, saved_model=None)

    def spec_for(self, num_classes: int) -> ViTSpec:
        """The spec to adapt to for `num_classes` classes: with the checkpoint's own classifier if it has as many.

        A new one reads the class token of another package's weights: fine-tuning removes a pre-logits layer (Google;
        Dosovitskiy et al., 2021, appendix B.1.1) or pooler (Hugging Face) with the old head. Own models keep theirs.

        Raises:
            InputError: a number of classes that no model has.
        """
        if num_classes == self.spec.num_classes or self.own:
            return self.spec.with_(num_classes=num_classes, returns=(), l2_normalize=False)
        return self.spec.with_(num_classes=num_classes, pre_logits_size=None, returns=(), l2_normalize=False)

    def returning(
        self, names: Sequence[str] = (), *, num_classes: int | None = None, l2_normalize: bool = False
    ) -> ViTSpec:
        """The spec to adapt to for the outputs `names` (`model.outputs.RETURNS`), with `num_classes` classes if given.

        None named are those that own weights had so far, logits with a classifier, and of a bare model of another
        package features: its own do without the pooler that it brings along. But where that is a projection (CLIP),
        embeddings are compared behind it: the output is pooled.

        Raises:
            InputError: there is no such output, or classes are given and no logits.
        """
        known = self.spec
        if names and num_classes is not None and "logits" not in names:
            raise InputError(
                f"A model that returns {' and '.join(names)} has no classifier, and a number of classes sizes one: "
                "give one of the two, or logits among what is returned."
            )
        if "logits" in names and num_classes is None and known.num_classes is None:
            raise InputError("There are no logits: the checkpoint has no classifier; give --num-classes for a new one.")
        if "pooled" in names and known.pre_logits_size is None and known.pooling != "attention":
            reason = self.pooler_problem or "the checkpoint has no pooler (pre-logits layer)"
            raise InputError(f"There are no --pooled features: {reason}.")
        base = known if num_classes is None else self.spec_for(num_classes)
        if names:
            return base.returning(names, l2_normalize=l2_normalize)
        chosen = self.own or self.projects or known.returns
        if num_classes is None and known.num_classes is None and not chosen:
            base = base.returning(["features"])
        return base.with_(l2_normalize=True) if l2_normalize else base

    @property
    def projects(self) -> bool:
        """Whether embeddings are a projection of what is pooled, and so compared behind it."""
        return self.spec.pre_logits_size is not None and self.spec.pre_logits_activation == "linear"

    def _require_labels(self) -> None:
        if self.labels_problem is not None:
            raise InputError(self.labels_problem)

    def adapted(self, wanted: ViTSpec, *, seed: int = 0) -> "Checkpoint":
        """The checkpoint for `wanted`: another image size, another classifier or none, other outputs.

        The position embedding is resampled by the source's rule. A classifier of another number of classes is new and
        untrained (Glorot uniform, from `seed`), as is one where there was none (`spec_for` says what it reads).
        Preprocessing follows the image size; labels belong to the classifier and go with it.

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
            "head": known.head,
            "returns": known.returns,
            "l2_normalize": known.l2_normalize,
        }
        if wanted.with_(**movable) != known or wanted.head not in ((), known.head):
            ours, theirs = wanted.to_dict(), known.to_dict()
            different = ", ".join(
                f"{k} {theirs[k]!r} where {ours[k]!r} was asked for" for k in ours if ours[k] != theirs[k]
            )
            raise InputError(f"The weights are of another model: {different}; leave those options out, or build anew.")
        overrides: dict[str, Callable[[], np.ndarray]] = {}
        notes, record, problem = (
            list(self.notes),
            replace(self.stated, spec=wanted, fingerprint=None),
            self.labels_problem,
        )
        if wanted.image_size != known.image_size:
            rule = record.positions
            if known.positions == "learned":
                overrides["position_embedding"] = lambda: resample(
                    self.read("position_embedding"), known.grid, wanted.grid, rule
                )
                sizes = " to ".join(shown_size(spec.image_size) for spec in (known, wanted))
                notes.append(f"The position embedding is resampled from {sizes} pixels ({rule.replace('_', ', ')}).")
            pixels = replace(record.preprocessing, image_size=wanted.image_size)
            record = replace(record, preprocessing=pixels).saying(resampled_from_image_size=json_size(known.image_size))
        if wanted.num_classes != known.num_classes:
            record, problem = replace(record, labels=None, problem_type=None), None
            record = record.without_assumed(OF_CLASSIFIER)
        new_head = wanted.num_classes is not None and (
            (wanted.num_classes, wanted.pre_logits_size, wanted.head)
            != (known.num_classes, known.pre_logits_size, known.head)
        )
        if new_head:
            overrides["head/kernel"] = lambda: _glorot(wanted.classifier_inputs, wanted.output_size, seed)
            overrides["head/bias"] = lambda: np.zeros(wanted.output_size, np.float32)
            before = "where there was none" if known.num_classes is None else f"in place of {known.num_classes} classes"
            notes.append(
                f"The classifier of {wanted.num_classes} classes is new and untrained, {before}: fine-tune it."
            )
            record = record.saying(trained=False, new_classifier_seed=seed)
        elif wanted.num_classes is None and known.num_classes is not None:
            notes.append(f"The classifier of {known.num_classes} classes is left out.")
        shapes = {parameter.name for parameter in parameter_specs(known)} | set(overrides)
        if lacking := [p.name for p in parameter_specs(wanted) if p.name not in shapes]:
            raise InputError(
                f"The weights lack {lacking[0]} (and {len(lacking) - 1} more), for they are of a model that returns "
                f"{' and '.join(known.outputs)}: give the checkpoint that it was made from."
            )
        if wanted.pre_logits_size is None and known.pre_logits_size is not None:
            left_out = "The pre-logits layer (pooler) is left out"
            notes.append(
                f"{left_out}: features are the class token's (--pooled keeps it)."
                if wanted.num_classes is None
                else f"{left_out}: the new classifier reads the class token, as in fine-tuning by its authors."
            )
        return replace(
            self,
            parameters=_Adapted(self.parameters, wanted, overrides),
            stated=record,
            notes=tuple(notes),
            labels_problem=problem,
            saved_model=None,
            model=None,
        )


def checkpoint_of(parameters: Any, record: ModelRecord, where: str = "the model", **more: Any) -> Checkpoint:
    """The checkpoint of parameters that this package's `record` describes; `where` is what messages call its place."""
    problem = None
    if record.labels is not None:
        try:
            check_labels(record.labels, record.spec.num_classes, f"The list of labels in the record of {where}")
        except InputError as error:
            record, problem = replace(record, labels=None), f"{error} {OTHER_LABELS}"
    if record.trained and record.weights.get("changed_in"):
        more["notes"] = (*more.get("notes", ()), CHANGED)
    return Checkpoint(parameters, record, own=True, labels_problem=problem, **more)


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
