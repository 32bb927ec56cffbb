"""The SavedModel: written from the reference model, read back one parameter at a time.

Layout: a plain SavedModel with a dynamic-batch serving signature, whose variables are stored under their canonical
names, and `assets.extra/vit_export.json`, the record that says what model it is and what pixels it takes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.errors import InputError
from vit_export.files import digest_of_folder, publish_folder, size_of_folder
from vit_export.parameters import parameter_specs
from vit_export.preprocess import Preprocessing
from vit_export.records import Artifact, TensorSpec
from vit_export.spec import ViTSpec
from vit_export.versions import versions
from vit_export.weights.positions import Rule

if TYPE_CHECKING:
    from vit_export.model import VisionTransformer

RECORD_FILE = "assets.extra/vit_export.json"
RECORD_VERSION = 1
INPUT_NAME = "images"

DEFAULT_POSITIONS: Rule = "bicubic_antialiased"
"""How position embeddings trained here are resampled: antialiased, so that a smaller grid loses no patch."""


@dataclass(frozen=True)
class ModelRecord:
    """What a SavedModel is: the model's spec, the pixels it takes, where its weights come from.

    `labels` are the names of the classes in their order, None where nobody said; `positions` is the rule by which the
    position embedding is to be resampled for another image size.
    """

    spec: ViTSpec
    preprocessing: Preprocessing
    weights: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    positions: Rule = DEFAULT_POSITIONS

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "record_version": RECORD_VERSION,
            "spec": self.spec.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "weights": dict(self.weights),
            "labels": None if self.labels is None else list(self.labels),
            "positions": self.positions,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelRecord":
        """The inverse of `to_dict`."""
        if values.get("record_version") != RECORD_VERSION:
            raise InputError(
                f"The model record has version {values.get('record_version')!r}, expected {RECORD_VERSION}: "
                "export the model again with this release."
            )
        labels = values.get("labels")
        return cls(
            ViTSpec.from_dict(values["spec"]),
            Preprocessing.from_dict(values["preprocessing"]),
            dict(values["weights"]),
            None if labels is None else tuple(map(str, labels)),
            values.get("positions", DEFAULT_POSITIONS),
        )

    @property
    def trained(self) -> bool:
        """Whether the weights were learnt (agreement of classes means little when they were not)."""
        return bool(self.weights.get("trained", False))


def write_saved_model(
    model: "VisionTransformer", path: Path, record: ModelRecord | None = None, *, overwrite: bool = False
) -> Artifact:
    """Write `model` to the folder `path`, complete or not at all; `vit-export … --weights path` takes it from there.

    Without `record` that of the model is written, and the weights are taken as trained.

    The signature `serving_default` takes `images`, float32 [batch, size, size, 3], and returns one tensor: `logits`
    [batch, classes], or `features` [batch, width] for a model without classifier.

    Raises:
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    import tensorflow as tf

    spec = model.spec
    record = record or replace(model.record, weights={**model.record.weights, "source": "python", "trained": True})
    parameters = model.parameters()
    # The variables hang on a module of our own: tf.saved_model.save of a function over a Keras 3 model finds no
    # variables to track and would write them uninitialised, without a word.
    module = tf.Module()
    module.parameters = {name: variable.value for name, variable in parameters.items()}
    size = spec.image_size

    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32, name=INPUT_NAME)], autograph=False)
    def serve(images: Any) -> dict[str, Any]:
        return {spec.output_name: tf.cast(model.exported_output(images), tf.float32)}

    module.__call__ = serve

    def write(folder: Path) -> None:
        tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
        record_file = folder / RECORD_FILE
        record_file.parent.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps(record.to_dict(), indent=2) + "\n", encoding="utf-8")

    publish_folder(path, write, overwrite=overwrite)
    return describe_saved_model(path)


def read_record(path: Path) -> ModelRecord:
    """The record of a SavedModel that this package wrote.

    Raises:
        InputError: no such folder, not a SavedModel, or one without (or with a broken) record.
    """
    if not path.is_dir():
        raise InputError(f"No SavedModel folder at {path}: give the folder that contains saved_model.pb.")
    if not (path / "saved_model.pb").is_file():
        raise InputError(f"{path} is not a SavedModel: it has no saved_model.pb.")
    record_file = path / RECORD_FILE
    if not record_file.is_file():
        raise InputError(
            f"{path} was not written by vit-export (no {RECORD_FILE}): build the model with create_vit and export that."
        )
    try:
        return ModelRecord.from_dict(json.loads(record_file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record_file} is damaged ({error}): export the model again.") from error


def describe_saved_model(path: Path) -> Artifact:
    """The Artifact of the SavedModel at `path`."""
    spec = read_record(path).spec
    size = spec.image_size
    return Artifact(
        path=str(path),
        format="saved_model",
        precision="float32",
        inputs=(TensorSpec(INPUT_NAME, (None, size, size, 3), "float32", "NHWC", values="normalized"),),
        outputs=(TensorSpec(spec.output_name, (None, spec.output_size), "float32"),),
        bytes=size_of_folder(path),
        sha256=digest_of_folder(path),
        versions=versions("tensorflow", "keras"),
    )


class SavedModelParameters:
    """The parameters of a SavedModel, read from its checkpoint one tensor at a time (a `ParameterSource`).

    Raises:
        InputError: the checkpoint lacks a parameter, has one too many, or one of another shape.
    """

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.record = read_record(path)
        self._last: tuple[str, np.ndarray] | None = None
        try:
            self._reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
            shapes = self._reader.get_variable_to_shape_map()
        except Exception as error:  # TensorFlow raises a different class for each way a checkpoint can be broken
            raise InputError(
                f"The weights of {path} cannot be read ({_first_line(error)}): export it again."
            ) from error
        wanted = {p.name: p.shape for p in parameter_specs(self.record.spec)}
        prefix, suffix = "parameters/", "/.ATTRIBUTES/VARIABLE_VALUE"
        found = {
            key.removeprefix(prefix).removesuffix(suffix).replace(".S", "/"): tuple(shape)
            for key, shape in shapes.items()
            if key.startswith(prefix) and key.endswith(suffix)
        }
        if wanted != found:
            raise InputError(_mismatch(path, wanted, found))

    @property
    def spec(self) -> ViTSpec:
        """The model the parameters belong to."""
        return self.record.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape; read-only."""
        # A folded bias needs the kernel that was streamed just before it: keep the last tensor, not the model.
        if self._last is None or self._last[0] != name:
            self._last = name, self._load(name)
        return self._last[1]

    def _load(self, name: str) -> np.ndarray:
        key = f"parameters/{name.replace('/', '.S')}/.ATTRIBUTES/VARIABLE_VALUE"
        values = np.asarray(self._reader.get_tensor(key), dtype=np.float32)
        values.flags.writeable = False
        return values


class ModelParameters:
    """The parameters of a reference model in memory (a `ParameterSource`)."""

    def __init__(self, model: "VisionTransformer") -> None:
        self._variables = model.parameters()
        self.spec = model.spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`, float32, in its canonical shape."""
        return np.asarray(self._variables[name].numpy(), dtype=np.float32)


def assign_parameters(
    model: "VisionTransformer",
    read: Callable[[str], np.ndarray],
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Set every weight of `model` from `read(name)`; `progress` is told how many of how many are set."""
    parameters = model.parameters()
    for done, (name, variable) in enumerate(parameters.items(), 1):
        variable.assign(read(name))
        if progress:
            progress(done, len(parameters))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _mismatch(path: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    parts = []
    if missing := sorted(set(wanted) - set(found)):
        parts.append(f"missing {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    if extra := sorted(set(found) - set(wanted)):
        parts.append(f"unexpected {', '.join(extra[:5])}{' ...' if len(extra) > 5 else ''}")
    wrong = [f"{n} is {found[n]}, expected {wanted[n]}" for n in sorted(wanted) if n in found and found[n] != wanted[n]]
    parts.extend(wrong[:5])
    return f"The weights of {path} do not fit its record: {'; '.join(parts)}."
