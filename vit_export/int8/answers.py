"""What the float model answers, by the deployment graph in TensorFlow: one layer's weights in memory at a time."""

import numpy as np

from vit_export.deployment.graph import TFLITE, Graph
from vit_export.int8.equalize import Factors
from vit_export.int8.reads import Reads
from vit_export.model.parameters import ParameterSource, layer_name


def answers(source: ParameterSource, images: np.ndarray) -> np.ndarray:
    """The first of the outputs of `source`, float32 [n, …], for `images`, float32 [n, height, width, 3], normalized.

    No file is written for it: at ViT-H, that and running it in parts take ten times as long.
    """
    spec = source.spec

    def graph() -> Graph:
        return Graph(spec, Reads(source, Factors()), TFLITE, len(images))  # with no weights of those before

    tokens = graph().embed(images)
    for index in range(spec.num_layers):
        tokens = graph().encoder_layer(tokens, layer_name(index), last=index == spec.num_layers - 1)
    found: np.ndarray = graph().answer(tokens).numpy()
    return found
