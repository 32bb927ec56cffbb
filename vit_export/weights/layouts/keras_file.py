"""What this package's own reference model saved: `.keras` (with its spec and record) and `.weights.h5` (numbers alone).

So are models around one, functional or sequential (`keras_functional`).
A `.keras` file of keras_hub's is passed on to `keras_hub`.

Keras names the groups of its file after attributes and classes of the model, in the order in which it finds them. The
table below is what the pinned release writes; a test holds it to a real file.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.model.assembled import assemble
from vit_export.model.head import DENSE
from vit_export.model.parameters import layer_name, parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.model.taken_apart import REGISTERED_NAME, backbones, record_of, take_apart
from vit_export.weights.checkpoint import Checkpoint, checkpoint_of
from vit_export.weights.containers.hdf5 import OWN_MODELS, open_keras_archive, open_weights_h5
from vit_export.weights.containers.safetensors_file import listed
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts import keras_hub
from vit_export.weights.layouts.keras_functional import around
from vit_export.weights.layouts.mapping import Layout, MappedParameters, same
from vit_export.weights.layouts.sizes import Hints, Sizes, require_variant, shape_of, spec_of
from vit_export.weights.provenance import saved_again

TITLE = "vit-export's Keras model"

_LAYER_PARTS = {
    "attention_norm": "attention_norm",
    "attention/query": "attention/query",
    "attention/key": "attention/key",
    "attention/value": "attention/value",
    "attention/output": "attention/output_projection",
    "mlp_norm": "mlp_norm",
    "mlp/dense_1": "dense_1",
    "mlp/dense_2": "dense_2",
}

_POOLING_PARTS = {
    **{f"pooling/{part}": part for part in ("query", "key", "value", "norm")},
    "pooling/output": "output_projection",
    "pooling/mlp/dense_1": "dense_1",
    "pooling/mlp/dense_2": "dense_2",
}

_TOP_PARTS = {
    "patch_embedding/kernel": "embedding/patch_embedding/vars/0",
    "patch_embedding/bias": "embedding/patch_embedding/vars/1",
    "class_token": "embedding/vars/0",
    "position_embedding": "embedding/vars/1",
    "pre_logits/kernel": "layers/dense/vars/0",
    "pre_logits/bias": "layers/dense/vars/1",
    "head/kernel": "head/vars/0",
    "head/bias": "head/vars/1",
}


def group_of_layer(index: int) -> str:
    """The group of encoder layer `index`: Keras numbers the second and later ones."""
    return "encoder_layers/encoder_layer" + (f"_{index}" if index else "")


def layout(file: TensorFile, spec: ViTSpec) -> Layout:
    """Where every canonical parameter of `spec` is; optimizers' and dropouts' states are left out."""
    keys = {**_TOP_PARTS, "pooling/probe": "layers/attention_pooling/vars/0"}
    # A layer's own weights are numbered in the order in which it makes them; what is not there has no number.
    names = {parameter.name for parameter in parameter_specs(spec)}
    tokens = (name for name in ("class_token", "register_tokens", "position_embedding") if name in names)
    keys |= {name: f"embedding/vars/{number}" for number, name in enumerate(tokens)}
    # Groups are numbered by class, and a layer that is stored elsewhere, by its attribute, counts.
    norm = "layers/layer_normalization" + ("_1" if spec.embedding_norm else "")
    pairs = {"embedding_norm": "embedding_norm", "encoder/norm": norm}
    pairs |= {own: f"layers/attention_pooling/{theirs}" for own, theirs in _POOLING_PARTS.items()}
    counted = Counter[str]()
    for name, step, _, _ in spec.head_steps:
        group = "dense" if step.kind == DENSE else "layer_normalization"
        if name:
            pairs[name] = f"head_layers/{group}" + (f"_{counted[group]}" if counted[group] else "")
            counted[group] += 1
    for own, theirs in pairs.items():
        first = "scale" if "norm" in own else "kernel"
        keys |= {f"{own}/{first}": f"{theirs}/vars/0", f"{own}/bias": f"{theirs}/vars/1"}
    for index in range(spec.num_layers):
        for own, theirs in _LAYER_PARTS.items():
            first, second = ("scale", "bias") if own.endswith("_norm") else ("kernel", "bias")
            for number, part in enumerate((first, second)):
                keys[f"{layer_name(index)}/{own}/{part}"] = f"{group_of_layer(index)}/{theirs}/vars/{number}"
    pieces = {p.name: same(keys[p.name], p.shape) for p in parameter_specs(spec)}
    state = {
        key: "state of training" for key in file.tensors if key.startswith("optimizer/") or "seed_generator/" in key
    }
    return Layout(spec, pieces, state)


def open_keras(path: Path, kind: str, hints: Hints, origin: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint in a `.keras` or `.weights.h5` file (`kind` 'keras' or 'weights_h5').

    Raises:
        InputError: another model than this package's, or not the one that `hints` name.
    """
    weights = {"source": "keras", "trained": True, **origin}
    if kind == "keras":
        file, config = open_keras_archive(path)
        if keras_hub.is_of_keras_hub(config):
            return keras_hub.open_model(file, config, hints, {**weights, "source": "keras_hub"}, str(path))
        if config.get("registered_name") != REGISTERED_NAME and backbones(config):
            return _open_around(path, file, config, hints, weights)
        record = _record(path, config, weights)
        require_variant(record.spec, hints, path)
        notes: tuple[str, ...] = ()
    else:
        file = open_weights_h5(path)
        spec, assumed = spec_of(file, _sizes(file), hints)
        assumed |= {
            "arithmetic": f"exact GELU and epsilon {spec.layer_norm_epsilon:g}, the class token pooled",
            "scaling": "scaling to -1..1",
            "resizing": "resizing straight to that size",
        }
        record = ModelRecord(spec, Preprocessing(spec.image_size), weights).assuming(assumed)
        notes = ("A .weights.h5 file holds numbers alone: a .keras file of the same model keeps the rest.",)
    parameters = MappedParameters(file, layout(file, record.spec), TITLE)
    return checkpoint_of(parameters, record, str(path), notes=notes)


def _open_around(
    path: Path, file: TensorFile, config: Mapping[str, Any], hints: Hints, weights: dict[str, Any]
) -> Checkpoint:
    """The checkpoint of a model around a VisionTransformer."""
    with _config_read(path):
        apart = take_apart(config)
        made = assemble(apart)
        where = around(config, made, apart.path, layout(file, apart.record.spec), file)
    known = made.record
    require_variant(known.spec, hints, path)
    parameters = MappedParameters(file, where, TITLE)
    # Behind two numbers, the steps and the rate, an optimizer keeps what it learnt.
    fitted = "optimizer/vars/2" in file.tensors
    known = known.saying(trained=True) if fitted else made.record_of(parameters.read)
    record = replace(known, weights=saved_again(known.weights, {**weights, "trained": known.trained}))
    return checkpoint_of(parameters, record, str(path), notes=made.notes)


def _record(path: Path, config: Mapping[str, Any], weights: dict[str, Any]) -> ModelRecord:
    if config.get("registered_name") != REGISTERED_NAME or not isinstance(config.get("config"), Mapping):
        raise InputError(f"{path} holds a Keras model of the class {config.get('class_name')!r:.80}, {OWN_MODELS}")
    with _config_read(path):
        record = record_of(config)
    # Whether it was trained is in the record; releases before that wrote it nowhere.
    now = {**weights, "trained": record.weights.get("trained", True)}
    return replace(record, weights=saved_again(record.weights, now))


@contextmanager
def _config_read(path: Path) -> Iterator[None]:
    """What the config in `path` is refused for, with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"The config in {path} cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"The config in {path} is damaged ({error!r}): save the model again.") from error


def _sizes(file: TensorFile) -> Sizes:
    if not any(key.startswith(group_of_layer(0)) for key in file.tensors):
        if any("/vi_t_encoder_block/" in key for key in file.tensors):
            raise InputError(
                f"{file.path} holds the numbers of a model of keras_hub's alone, expected the whole model: save it "
                "with model.save('model.keras')."
            )
        some = listed(sorted(file.tensors)) or "nothing"
        raise InputError(f"{file.path} holds the weights of another Keras model (it has {some}), {OWN_MODELS}")
    patch, _, _, width = shape_of(file, _TOP_PARTS["patch_embedding/kernel"], 4)
    _, tokens, _ = shape_of(file, _TOP_PARTS["position_embedding"], 3)
    _, mlp = shape_of(file, f"{group_of_layer(0)}/dense_1/vars/0", 2)
    layers = 0
    while f"{group_of_layer(layers)}/dense_1/vars/0" in file.tensors:
        layers += 1
    head, pre = _TOP_PARTS["head/kernel"], _TOP_PARTS["pre_logits/kernel"]
    return Sizes(
        patch_size=patch,
        num_layers=layers,
        hidden_size=width,
        mlp_size=mlp,
        num_patches=tokens - 1,
        square=True,
        num_classes=shape_of(file, head, 2)[1] if head in file.tensors else None,
        pre_logits_size=shape_of(file, pre, 2)[1] if pre in file.tensors else None,
    )
