"""Where attention's second product, softmax·V, is left in float by schemes that would have everything in int8.

TFLite's int8 SOFTMAX has levels of 1/256 whatever it holds. Over 257 tokens a value of a diffuse attention is half of
one: DINOv2-S/14 keeps 16 dB of its features with this operator alone in int8.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from vit_export.int8.modes import Modes, full_float
from vit_export.int8.sensitivity import Component, Option, Progress, measure_sensitivity
from vit_export.int8.tune import Tuning
from vit_export.model.parameters import ParameterSource

BUDGET_DB = 38.0
"""What the int8 products of all layers may cost the answer together: where they cost more, the worst are left in float.

It is far below what the rest of such a file costs (24 dB of DINOv2-S/14), for single images lose much more than the
mean: with 30 dB that model's worst of 32 photographs has 13.8 dB, with every product in float 18.3. A model trained on
digits costs 44 dB, ViT-S/32 with random weights 41.
"""

_INT8, _FLOAT = Option("static", "int8"), Option("static", "scores")


def within_budget(
    source: ParameterSource, images: np.ndarray, modes: Modes, tuning: Tuning, progress: Progress | None = None
) -> tuple[Modes, Tuning, str]:
    """`modes` with as few float softmax·V as `BUDGET_DB` takes, `tuning` with the biases that go with them, and a note.

    `images` are float32 [n, height, width, 3], normalized, as many as `sensitivity.images_wanted` says. The note is a
    sentence for people, empty where every product stays int8.
    """
    whole = replace(full_float(source.spec), whole=modes.whole)
    found = measure_sensitivity(source, images, tuning, progress, _ways, whole)
    parts = [Component(index, "attention") for index in range(source.spec.num_layers)]
    costs = {part: max(found.of(part, _INT8) - found.of(part, _FLOAT), 0.0) for part in parts}
    total = left = sum(costs.values())
    chosen = list[Component]()
    for part in sorted(parts, key=lambda part: costs[part], reverse=True):
        if left <= 10 ** (-BUDGET_DB / 10):
            break
        left -= costs[part]
        chosen.append(part)
    if not chosen:
        return modes, tuning, ""
    corrections = dict(tuning.factors.corrections)
    for part in chosen:
        modes = part.put(modes, _FLOAT)
        corrections.pop(f"encoder/layer_{part.layer}/attention/output", None)
        corrections |= found.corrections.get((part, _FLOAT), {})
    tuning = replace(tuning, factors=replace(tuning.factors, corrections=corrections))
    where = "every encoder layer" if len(chosen) == len(parts) else f"encoder layers {_spans(p.layer for p in chosen)}"
    note = (
        f"In {where} softmax and its product with the values are float: int8 products alone would leave "
        f"{-10 * math.log10(total):.0f} dB of the answer. Compilers for accelerators that compute in int8 alone leave "
        "these operators, like residual stream and LayerNorm, to the CPU."
    )
    return modes, tuning, note


def _ways(component: Component) -> tuple[Option, ...]:
    return (_INT8, _FLOAT) if component.part == "attention" else ()


def _spans(numbers: Iterable[int]) -> str:
    """Numbers as people write them: 0, 3-5."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return ", ".join("-".join(map(str, span)) for span in spans)
