"""The kernels of ONNX's int8 forms, rounded by the error of the output on images (`int8.rounding`).

A layer at a time, on the float model's own tokens. Of DINOv2-S/14 the noise of int8 weights by pairs falls by 3 dB.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vit_export.deployment.graph import ONNX, Graph
from vit_export.deployment.rewrites import plain_parameters
from vit_export.int8.rounding import Levels, round_together
from vit_export.int8.simulate import Grams
from vit_export.model.parameters import ParameterSource, layer_name
from vit_export.onnx.pairs import PairedParameters, quantize_by_pairs
from vit_export.onnx.smoothing import SmoothedParameters, Smoothing


def rounded_kernels(
    source: ParameterSource,
    smoothing: Smoothing,
    images: Sequence[np.ndarray],
    progress: Callable[[int, int], None] | None = None,
    *,
    in_pairs: bool = True,
) -> dict[str, Levels]:
    """The kernels of every encoder layer of `source`, smoothed, by name; [out, in] as Levels are.

    With `in_pairs`, their levels are bounded by `pairs`, and in its order. `images` are what the file takes, each
    [batch, height, width, 3]; `source` is made for such (`rewrites.FoldedInput`). Dense layers that read few rows of
    them are left out.
    """
    spec = source.spec
    # GELU's output is scaled in the file, between two Dense; here it is what it is, and scaled where it is looked at.
    exact = plain_parameters(SmoothedParameters(source, replace(smoothing, hidden={})))
    smoothed = SmoothedParameters(source, smoothing)
    stored = PairedParameters(smoothed) if in_pairs else smoothed
    shown = np.concatenate(images).astype(np.float32)
    first = {name: tensor.read() for name, tensor in exact.items() if not name.startswith("encoder/")}
    tokens = Graph(spec, first, ONNX, len(shown)).embed(shown)
    found: dict[str, Levels] = {}
    for index in range(spec.num_layers):
        if progress:
            progress(index, spec.num_layers)
        prefix = layer_name(index)
        layer = {name: tensor.read() for name, tensor in exact.items() if name.startswith((f"{prefix}/", "rotary/"))}
        seen = Grams(spec, layer, len(shown), ONNX)
        middle = tokens + seen.attention_branch(tokens, prefix, last=False)
        tokens = middle + seen.mlp_branch(middle, prefix)
        for name, exact_gram in seen.found.items():
            hidden = smoothing.hidden.get(f"{prefix}/mlp") if name.endswith("/mlp/dense_2") else None
            gram = exact_gram if hidden is None else exact_gram / np.outer(hidden, hidden)
            order = stored.order(name) if isinstance(stored, PairedParameters) else None
            kernels = {kernel: stored.read(kernel) for kernel in (f"{reader}/kernel" for reader in seen.readers(name))}
            found |= round_together(
                {kernel: values.T for kernel, values in kernels.items()},
                gram if order is None else gram[np.ix_(order, order)],
                {kernel: quantize_by_pairs(values)[1] for kernel, values in kernels.items()} if in_pairs else None,
            )
    if progress:
        progress(spec.num_layers, spec.num_layers)
    return found
