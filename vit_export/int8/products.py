"""Where attention's second product, softmax·V, is left in float by schemes that would have everything in int8.

TFLite's int8 SOFTMAX has levels of 1/256 whatever it holds. Over 257 tokens a value of a diffuse attention is half of
one: DINOv2-S/14 keeps 16 dB of its features with this operator alone in int8.
"""

import math
from dataclasses import replace

import numpy as np

from vit_export.int8.modes import Modes, full_float
from vit_export.int8.sensitivity import Component, Option, Progress, measure_sensitivity
from vit_export.int8.tune import Tuning
from vit_export.model.parameters import ParameterSource, layer_name

BUDGET_DB = 38.0
"""What the int8 products of all layers may cost the answer together: where they cost more, every softmax·V is float.

A model trained on digits costs 44 dB, ViT-S/32 with random weights 41, DINOv2-S/14 24. Not layer by layer: few images
are measured, and layers that cost DINOv2-S/14 next to nothing on them cost a tenth of other photographs 3 dB.
"""

_INT8, _FLOAT = Option("static", "int8"), Option("static", "scores")


def within_budget(
    source: ParameterSource, images: np.ndarray, modes: Modes, tuning: Tuning, progress: Progress | None = None
) -> tuple[Modes, Tuning, str]:
    """`modes` with every softmax·V in float if `BUDGET_DB` asks for it, `tuning` with biases to match, and a note.

    `images` are float32 [n, height, width, 3], normalized, as many as `sensitivity.images_wanted` says. The note is a
    sentence for people, empty where the products stay int8.
    """
    whole = replace(full_float(source.spec), whole=modes.whole)
    found = measure_sensitivity(source, images, tuning, progress, _ways, whole)
    parts = [Component(index, "attention") for index in range(source.spec.num_layers)]
    noise = sum(max(found.of(part, _INT8) - found.of(part, _FLOAT), 0.0) for part in parts)
    if noise <= 10 ** (-BUDGET_DB / 10):
        return modes, tuning, ""
    corrections = dict(tuning.factors.corrections)
    for part in parts:
        modes = part.put(modes, _FLOAT)
        corrections.pop(f"{layer_name(part.layer)}/attention/output", None)
        corrections |= found.corrections.get((part, _FLOAT), {})
    tuning = replace(tuning, factors=replace(tuning.factors, corrections=corrections))
    note = (
        f"Attention's softmax and its product with the values are float: in int8 they alone would leave "
        f"{-10 * math.log10(noise):.0f} dB of the answer. Compilers for accelerators that compute in int8 alone leave "
        "these operators, like residual stream and LayerNorm, to the CPU."
    )
    return modes, tuning, note


def _ways(component: Component) -> tuple[Option, ...]:
    return (_INT8, _FLOAT) if component.part == "attention" else ()
