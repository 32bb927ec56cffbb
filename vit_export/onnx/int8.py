"""An int8 .onnx file from parameters and images: observed in float, then written as `quantize` and `qdq` say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vit_export.base.files import refuse_existing
from vit_export.deployment.rewrites import FoldedInput
from vit_export.int8.equalize import EqualizedParameters, folding
from vit_export.int8.rounding import Levels
from vit_export.int8.tune import Tuning, images_wanted
from vit_export.model.artifact import Artifact, InputKind, Layout
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.onnx.calibration import clipped, observe
from vit_export.onnx.qdq import NUMBERS, QDQ
from vit_export.onnx.rounding import rounded_kernels
from vit_export.onnx.smoothing import Smoothing, ranges_of, smooth
from vit_export.onnx.write import write_onnx


def write_int8_onnx(
    source: ParameterSource,
    record: ModelRecord,
    path: Path,
    batches: Sequence[np.ndarray],
    tuning: Tuning | None = None,
    *,
    scheme: str,
    opset: int | None = None,
    batch: int | None = 1,
    input: InputKind = "normalized",
    layout: Layout = "NHWC",
    transformers_names: bool = False,
    progress: Callable[[int, int], None] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write the int8 file of `source` by `scheme`.

    `batches` are images in the file's numbers (`input_kinds.feed`), NHWC whatever its layout, and as many at a time as
    its `batch` says, one where that is open; read one by one, but for those that weights are rounded by. Most schemes
    are smoothed (`onnx.smoothing`) and rounded (`onnx.rounding`) by them. "w8a16" is what `tuning` says, its kernels
    too: LayerNorms are folded as TFLite does, so that both formats hold the same levels. Where it is given to the
    others, it equalizes, corrects and clips them.

    Raises:
        InputError: there are no images, or not such as the file takes; see also `write_onnx`.
        OutputError: `path` exists (and `overwrite` is false) or cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    spec, tuning = source.spec, tuning or Tuning()
    # "dynamic" rounds what "qdq" does, by ranges of its own.
    numbers = NUMBERS.get(scheme, QDQ)
    tuned = EqualizedParameters(source, folding(source, tuning.factors)) if numbers.tuned else tuning.apply(source)
    observed = observe(
        tuned,
        batches,
        len(batches),
        path.parent,
        preprocessing=record.preprocessing,
        batch=batch or 1,
        input=input,
        numbers=numbers,
        progress=progress,
    )
    if numbers.tuned:
        smoothing = Smoothing(kernels=_as_onnx_holds_them(tuning.kernels, spec))
    else:
        smoothing = smooth(observed, spec)
        count = min(len(batches), -(-images_wanted(spec) // len(batches[0])))
        some = [batches[i * len(batches) // count] for i in range(count)]
        folded = FoldedInput(tuned, record.preprocessing, input)
        kernels = rounded_kernels(folded, smoothing, some, progress, in_pairs=numbers.in_pairs)
        smoothing = replace(smoothing, kernels=kernels)
    ranges = None
    if scheme in NUMBERS:
        ranges = clipped(ranges_of(observed, None if numbers.tuned else smoothing, spec), tuning.clips)
    return write_onnx(
        tuned,
        record,
        path,
        precision="int8",
        scheme=scheme,
        opset=opset,
        batch=batch,
        input=input,
        layout=layout,
        transformers_names=transformers_names,
        ranges=ranges,
        smoothing=smoothing,
        factors=tuning.factors,
        overwrite=overwrite,
    )


def _as_onnx_holds_them(kernels: Mapping[str, Levels], spec: ViTSpec) -> dict[str, Levels]:
    """`kernels` of the TFLite dialect, whose queries have 1/√d in their scales, without it."""
    root = np.float32(spec.head_size**0.5)
    return {
        name: replace(levels, scale=levels.scale * root) if "/attention/query/" in name else levels
        for name, levels in kernels.items()
    }
