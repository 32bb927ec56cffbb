"""What a model is, for every file made of it: the record that travels whole through all stages."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vit_export.base.errors import InputError, first_line
from vit_export.base.files import input_errors
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec

RECORD_FILE = "assets.extra/vit_export.json"
RECORD_VERSION = 1
AGAIN = "export the model again"
"""What to do where a record or its weights cannot be used."""

Rule = Literal["bilinear_aligned", "bicubic_antialiased", "bicubic", "bicubic_aligned", "bilinear"]
"""By whose formula a position embedding is resampled for another image size (`weights.positions`)."""

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What a classifier's outputs are, in transformers' words: logits of one softmax, of a sigmoid each, or numbers."""

DEFAULT_POSITIONS: Rule = "bicubic_antialiased"
"""How position embeddings trained here are resampled: antialiased, so that a smaller grid loses no patch."""


@dataclass(frozen=True)
class ModelRecord:
    """What a SavedModel is: the model's spec, the pixels it takes, where its weights come from.

    `labels` are the names of the classes in their order, None where nobody said; `positions` is the rule by which the
    position embedding is to be resampled for another image size; `fingerprint` (`parameters.fingerprint_of`) tells the
    very weights, None until they are written. `problem_type` says what the outputs of the classifier are, None where
    nobody said (see `answers`).
    """

    spec: ViTSpec
    preprocessing: Preprocessing
    weights: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    positions: Rule = DEFAULT_POSITIONS
    fingerprint: str | None = None
    problem_type: ProblemType | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "record_version": RECORD_VERSION,
            "spec": self.spec.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "weights": dict(self.weights),
            "labels": None if self.labels is None else list(self.labels),
            "positions": self.positions,
            "fingerprint": self.fingerprint,
            "problem_type": self.problem_type,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelRecord":
        """The inverse of `to_dict`.

        Raises:
            InputError: another version, or a field of another type or with a value that no model has.
        """
        if not isinstance(values, dict):
            raise InputError(f"The model record is a {type(values).__name__}, expected an object: {AGAIN}.")
        if values.get("record_version") != RECORD_VERSION:
            raise InputError(
                f"The model record has version {values.get('record_version')!r}, expected {RECORD_VERSION}: "
                "export the model again with this release."
            )
        for name in ("spec", "preprocessing", "weights"):
            if not isinstance(values.get(name), dict):
                given = f"is a {type(values[name]).__name__}" if name in values else "is missing"
                raise InputError(f"{name} {given} in the model record, expected an object: {AGAIN}.")
        labels, weights = values.get("labels"), dict(values["weights"])
        if labels is not None and not (isinstance(labels, list) and all(isinstance(n, str) for n in labels)):
            raise InputError(f"labels in the model record are no list of names: {AGAIN}.")
        if not isinstance(weights.get("trained", False), bool):
            raise InputError(f"trained is {weights['trained']!r} in the record, expected true or false: {AGAIN}.")
        positions = values.get("positions", DEFAULT_POSITIONS)
        if positions not in get_args(Rule):
            rules = ", ".join(get_args(Rule))
            raise InputError(f"positions is {positions!r} in the record, expected one of {rules}: {AGAIN}.")
        fingerprint = values.get("fingerprint")
        if fingerprint is not None and not isinstance(fingerprint, str):
            raise InputError(f"fingerprint is {fingerprint!r} in the record, expected text: {AGAIN}.")
        problem = values.get("problem_type")
        if problem not in (None, *get_args(ProblemType)):
            kinds = ", ".join(get_args(ProblemType))
            raise InputError(f"problem_type is {problem!r} in the record, expected one of {kinds}: {AGAIN}.")
        return cls(
            ViTSpec.from_dict(values["spec"]),
            Preprocessing.from_dict(values["preprocessing"]),
            weights,
            None if labels is None else tuple(labels),
            positions,
            fingerprint,
            problem,
        )

    @classmethod
    def random(
        cls, spec: ViTSpec, seed: int, preprocessing: Preprocessing | None = None, labels: tuple[str, ...] | None = None
    ) -> "ModelRecord":
        """The record of a model with random weights drawn from `seed`; `preprocessing` has its default where None."""
        weights = {"source": "random", "seed": seed, "trained": False}
        return cls(spec, preprocessing or Preprocessing(spec.image_size), weights, labels)

    def saying(self, **more: Any) -> "ModelRecord":
        """The record with `more` said of its weights (JSON-ready values); a field that is there already is replaced."""
        return replace(self, weights={**self.weights, **more})

    @property
    def answers(self) -> ProblemType | None:
        """What the outputs are: None for features; a classifier of which nobody said it ranks its classes by a softmax.

        A single output has nothing to be ranked against: it is a number, as transformers takes it.
        """
        if self.spec.num_classes is None:
            return None
        usual: ProblemType = "regression" if self.spec.num_classes == 1 else "single_label_classification"
        return self.problem_type or usual

    @property
    def classifies(self) -> bool:
        """Whether the largest output is the answer."""
        return self.answers == "single_label_classification"

    @property
    def assumed(self) -> dict[str, str]:
        """What the answers depend on and the weights' source does not say: a phrase by topic, empty for own models."""
        told = self.weights.get("assumed")
        return {k: v for k, v in told.items() if isinstance(v, str)} if isinstance(told, dict) else {}

    def assuming(self, assumed: Mapping[str, str]) -> "ModelRecord":
        """The record with `assumed` in place of what it assumes so far."""
        weights = {name: value for name, value in self.weights.items() if name != "assumed"}
        return replace(self, weights={**weights, "assumed": dict(assumed)} if assumed else weights)

    def without_assumed(self, topics: Collection[str]) -> "ModelRecord":
        """The record without what it assumes on `topics`, which somebody has said or which are gone."""
        return self.assuming({topic: text for topic, text in self.assumed.items() if topic not in topics})

    @property
    def trained(self) -> bool:
        """Whether the weights were learnt (agreement of classes means little when they were not)."""
        return bool(self.weights.get("trained", False))


def assumptions_told(record: ModelRecord) -> tuple[str, ...]:
    """What `record` assumes, as a sentence for the user; none where it assumes nothing."""
    if not record.assumed:
        return ()
    return (
        f"Assumed, because the checkpoint does not say: {'; '.join(record.assumed.values())}. Options that say "
        "otherwise win, as does the model's own config beside its weights.",
    )


def read_record(path: str | Path) -> ModelRecord:
    """The record of a SavedModel that this package wrote.

    Raises:
        InputError: no such folder, not a SavedModel, or one without (or with a broken) record.
    """
    path = Path(path)
    record_file = path / RECORD_FILE
    with input_errors(path):
        if not path.is_dir():
            raise InputError(f"No SavedModel folder at {path}: give the folder that contains saved_model.pb.")
        if not (path / "saved_model.pb").is_file():
            raise InputError(f"{path} is not a SavedModel: it has no saved_model.pb.")
        if not record_file.is_file():
            raise InputError(
                f"{path} was not written by vit-export (no {RECORD_FILE}): build the model with create_vit and export "
                "that."
            )
    try:
        return ModelRecord.from_dict(parse_json(json_bytes(record_file)))
    except InputError as error:
        raise InputError(f"{record_file} cannot be used: {error}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record_file} is damaged ({first_line(error)}): {AGAIN}.") from error
