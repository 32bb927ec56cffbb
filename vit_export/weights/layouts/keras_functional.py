"""A functional or sequential Keras model around a VisionTransformer of this package, as a `.keras` file has it.

Its config is read and nothing of it is run (`model.taken_apart`). In the file the group of a layer is called after its
class, with a number from the second on.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from vit_export.model.assembled import Assembled, Made
from vit_export.model.parameters import parameter_specs
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout, Piece


def prefix_of(config: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """The beginning of the keys of the layer at `path` in the model of the config `config`, as it was taken apart."""
    prefix = ""
    for name in path:
        counted = Counter[str]()
        for layer in config["config"]["layers"]:
            group = _snake_case(str(layer.get("class_name")))
            counted[group] += 1
            if name == (layer.get("name") or (layer.get("config") or {}).get("name")):
                config = layer
                break
        number = counted[group] - 1
        prefix += f"layers/{group}{f'_{number}' if number else ''}/"
    return prefix


def around(
    config: Mapping[str, Any], made: Assembled, path: tuple[str, ...], backbone: Layout, file: TensorFile
) -> Layout:
    """Where every parameter of `made` is in `file`, given the layout of the backbone at `path` by itself."""
    before = prefix_of(config, path)

    def moved(piece: Piece) -> Piece:
        return Piece(tuple(before + key for key in piece.keys), piece.shapes, piece.make, piece.index)

    def piece(own: Made) -> Piece:
        keys, shapes = [], []
        for weight in own.weights:
            if weight.path:
                keys.append(f"{prefix_of(config, weight.path)}vars/{weight.place}")
            else:
                keys.append(before + backbone.pieces[str(weight.place)].keys[0])
            shapes.append(weight.shape)
        return Piece(tuple(keys), tuple(shapes), own.make)

    pieces = {}
    for parameter in parameter_specs(made.record.spec):
        own = made.parameters.get(parameter.name)
        found = None if own is None else piece(own)
        # A layer of the backbone's that the model calls again is stored once, with the backbone.
        if found is None or (parameter.name in backbone.pieces and not set(found.keys) <= set(file.tensors)):
            found = moved(backbone.pieces[parameter.name])
        pieces[parameter.name] = found
    left = {
        key: "state of training" for key in file.tensors if key.startswith("optimizer/") or "seed_generator/" in key
    }
    unused = {key: "not part of the model" for p in backbone.pieces.values() for key in moved(p).keys}
    return Layout(made.record.spec, pieces, {**left, **unused})


def _snake_case(name: str) -> str:
    """What Keras makes of the name of a class."""
    return re.sub(r"(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()
