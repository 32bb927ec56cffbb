"""Private interfaces of Keras 3.15.1."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras


def layers_of(layer: "keras.Layer") -> "list[keras.Layer]":
    """`layer` and all layers inside it, at any depth: `Layer._flatten_layers`.

    The public `Model.layers` gives those of the first level only, and a layer that is no model has no such property.
    """
    found: list[keras.Layer] = layer._flatten_layers()
    return found
