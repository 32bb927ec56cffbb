"""How large the images of a file and its answers may be: a file of some hundred bytes can ask for all memory."""

import math
from collections.abc import Sequence

from vit_export.model.artifact import TensorSpec

MAX_INPUT = 1 << 26
"""Numbers in one call's images: one of 4,700 x 4,700 pixels, 445 of 224 x 224."""

MAX_OUTPUT = 1 << 25
"""Numbers that one image is answered with: 19 classes for each of 1,300 x 1,300 pixels."""

MAX_ANSWERS = 1 << 28
"""Numbers that all images together are answered with; they are held in memory, 1 GB of them."""


def too_large(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> str:
    """What of a file with these inputs and outputs is larger than can be fed or read; "" where nothing is."""
    batch = next((spec.shape[0] for spec in inputs if spec.shape), 1) or 1
    for specs, most in ((inputs, MAX_INPUT), (outputs, MAX_OUTPUT * batch)):
        for spec in specs:
            count = math.prod(size or 1 for size in spec.shape)
            if count > most:
                return f"{spec.name} has {count:,} numbers, at most {most:,} can be run"
    return ""
