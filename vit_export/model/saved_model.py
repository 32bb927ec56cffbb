"""The SavedModel: written from the reference model, read back one parameter at a time.

Layout: a plain SavedModel with a dynamic-batch serving signature, whose variables are stored under their canonical
names, and `assets.extra/vit_export.json`, the record that says what model it is and what pixels it takes.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.errors import InputError, first_line
from vit_export.base.files import digest_of_folder, publish_folder, size_of
from vit_export.base.quiet import quiet
from vit_export.base.versions import versions
from vit_export.model.artifact import Artifact, TensorSpec
from vit_export.model.checkpoint_index import require_sound
from vit_export.model.in_memory import ModelParameters, assign_parameters, require_finite
from vit_export.model.parameters import fingerprint_of, parameter_specs
from vit_export.model.record import AGAIN, RECORD_FILE, ModelRecord, read_record
from vit_export.model.spec import ViTSpec

if TYPE_CHECKING:
    from vit_export.model.keras_model import VisionTransformer

INPUT_NAME = "images"


def write_saved_model(
    model: "VisionTransformer", path: str | Path, record: ModelRecord | None = None, *, overwrite: bool = False
) -> Artifact:
    """Write `model` to the folder `path`, complete or not at all; `vit-export … --weights path` takes it from there.

    Without `record` that of the model is written, trained where it says so or where the weights
    have changed since. A model in
    mixed precision is written in float32, from its float32 variables.

    The signature `serving_default` takes `images`, float32 [batch, height, width, 3], and returns `spec.outputs`:
    usually one tensor, `logits` [batch, classes] or, without classifier, `features` or `pooled` [batch, width].

    Raises:
        InputError: `model` is of another class, or has a weight that is not a finite number.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    import tensorflow as tf

    from vit_export.model.keras_model import VisionTransformer, reference_model

    if not isinstance(model, VisionTransformer):
        raise InputError(
            f"A model of the class {type(model).__name__} cannot be written: expected a VisionTransformer; "
            "vit_export.export takes a functional model of one, too."
        )
    path, spec = Path(path), model.spec
    record = record or model.current_record
    if model.is_float32:
        for name, variable in model.parameters().items():
            require_finite(f"{name} of the model", variable.numpy())
    else:
        read = ModelParameters(model).read
        model = reference_model(spec)
        assign_parameters(model, read)
    record = replace(record, fingerprint=fingerprint_of(ModelParameters(model)))
    parameters = model.parameters()
    # The variables hang on a module of our own: tf.saved_model.save of a function over a Keras 3 model finds no
    # variables to track and would write them uninitialised, without a word.
    module = tf.Module()
    module.parameters = {name: variable.value for name, variable in parameters.items()}
    images = tf.TensorSpec([None, *spec.image_sides, 3], tf.float32, name=INPUT_NAME)

    @tf.function(input_signature=[images], autograph=False)
    def serve(images: Any) -> dict[str, Any]:
        # Keras' concatenations lose the number of tokens, which readers of the signature compare with a file's.
        return {
            name: tf.ensure_shape(tf.cast(values, tf.float32), (None, *spec.outputs[name]))
            for name, values in model.exported_outputs(images).items()
        }

    module.__call__ = serve

    def write(folder: Path) -> None:
        with quiet():
            tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
        record_file = folder / RECORD_FILE
        record_file.parent.mkdir(parents=True, exist_ok=True)
        record_file.write_text(json.dumps(record.to_dict(), indent=2) + "\n", encoding="utf-8")

    publish_folder(path, write, overwrite=overwrite)
    return describe_saved_model(path)


def describe_saved_model(path: Path) -> Artifact:
    """The Artifact of the SavedModel at `path`."""
    spec = read_record(path).spec
    return Artifact(
        path=str(path),
        format="saved_model",
        precision="float32",
        inputs=(TensorSpec(INPUT_NAME, (None, *spec.image_sides, 3), "float32", "NHWC", values="normalized"),),
        outputs=tuple(TensorSpec(name, (None, *shape), "float32") for name, shape in spec.outputs.items()),
        bytes=size_of(path),
        sha256=digest_of_folder(path),
        versions=versions("tensorflow", "keras"),
    )


class SavedModelParameters:
    """The parameters of a SavedModel, read from its checkpoint one tensor at a time (a `ParameterSource`).

    Raises:
        InputError: on construction, when the checkpoint lacks a parameter, has one too many, or one of another shape.
            On `read`, when it is damaged or a value is not finite.
    """

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        self.record, self._path = read_record(path), path
        self._last: tuple[str, np.ndarray] | None = None
        checkpoint = path / "variables" / "variables"
        try:
            require_sound(checkpoint)
            self._reader = tf.train.load_checkpoint(str(checkpoint))
            shapes = self._reader.get_variable_to_shape_map()
            types = self._reader.get_variable_to_dtype_map()
        except Exception as error:  # TensorFlow raises a different class for each way a checkpoint can be broken
            raise _unreadable(path, error) from error
        wanted = {p.name: p.shape for p in parameter_specs(self.record.spec)}
        prefix, suffix = "parameters/", "/.ATTRIBUTES/VARIABLE_VALUE"
        found = {
            key.removeprefix(prefix).removesuffix(suffix).replace(".S", "/"): tuple(shape)
            for key, shape in shapes.items()
            if key.startswith(prefix) and key.endswith(suffix) and types[key] == tf.float32
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
        try:
            values = np.asarray(self._reader.get_tensor(key), dtype=np.float32)
        except Exception as error:  # as above: a truncated or changed file is noticed when a tensor's checksum is
            raise _unreadable(self._path, error) from error
        require_finite(f"{name} in {self._path}", values)
        values.flags.writeable = False
        return values


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"The weights of {path} cannot be read ({first_line(error)}): {AGAIN}.")


def _mismatch(path: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    parts = []
    if missing := sorted(set(wanted) - set(found)):
        parts.append(f"missing {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}")
    if extra := sorted(set(found) - set(wanted)):
        parts.append(f"unexpected {', '.join(extra[:5])}{' ...' if len(extra) > 5 else ''}")
    wrong = [f"{n} is {found[n]}, expected {wanted[n]}" for n in sorted(wanted) if n in found and found[n] != wanted[n]]
    parts.extend(wrong[:5])
    return f"The weights of {path} do not fit its record: {'; '.join(parts)}."
