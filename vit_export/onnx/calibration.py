"""What the channels of a model reach, from running its float32 graph over images in ONNX Runtime."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.machine import release_memory, usable_cores
from vit_export.base.scratch import owned_folder
from vit_export.deployment.graph import INPUT_NAME
from vit_export.deployment.rewrites import FoldedInput
from vit_export.int8.simulate import Clips
from vit_export.model.artifact import InputKind
from vit_export.model.input_kinds import kind_of, left_to_do
from vit_export.model.parameters import ParameterSource
from vit_export.model.preprocessing import Preprocessing
from vit_export.onnx.fusion import ATTENTION, fuse
from vit_export.onnx.qdq import PIXELS, QDQ, Numbers, Ranges, fold_query_scale, qdq_parameters, sites
from vit_export.onnx.smoothing import Extremes, Observed
from vit_export.onnx.stream import write_model
from vit_export.onnx.structure import onnx_structure
from vit_export.onnx.write import QDQ_OPSET

if TYPE_CHECKING:
    import onnx

PARTS = 8
"""Parts of the images whose extremes are kept apart: what one shows and all others do not is what others may show."""

_ENDS = (("low", "ReduceMin"), ("high", "ReduceMax"))


def observe(
    source: ParameterSource,
    images: Iterable[np.ndarray],
    total: int,
    folder: Path,
    *,
    preprocessing: Preprocessing,
    batch: int = 1,
    input: InputKind = "normalized",
    numbers: Numbers = QDQ,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Observed:
    """What the channels of `source`, in float32, reach over the `total` `images` at every site that `numbers` round.

    Each of `images` is [batch, height, width, 3] in the numbers and dtype of the kind `input` (`input_kinds.feed`); one
    is in memory at a time. The float32 file, as large as the model, lies in `folder` meanwhile. The range of the pixels
    is the whole one they can have.

    Raises:
        InputError: no images, or of another dtype or shape than expected.
        OutputError: `folder` cannot be written.
    """
    spec, kind = source.spec, kind_of(input)
    folded = FoldedInput(source, preprocessing, input, numbers.through)
    parameters = qdq_parameters(folded)
    model = onnx_structure(spec, parameters, opset=QDQ_OPSET, batch=batch, dtype=kind.dtype)
    fuse(model, spec, batch=batch, without=(ATTENTION,))
    fold_query_scale(model.graph, spec)
    values = {site: value for site, value in sites(model.graph, spec).items() if numbers.rounds(site)}
    _add_ends(model, values)
    folder.mkdir(parents=True, exist_ok=True)
    with owned_folder(".calibration.", folder) as scratch:
        path = scratch / "float32.onnx"
        # Weights in a file of their own are mapped into memory, not read.
        write_model(model, parameters.values(), path, single_file=False)
        shape = (batch, *spec.image_sides, 3)
        found = _run(path, images, total, shape, np.dtype(kind.dtype), threads, progress)
    release_memory()  # ONNX Runtime's packed weights
    mean, std = (np.array(three) for three in left_to_do(input, preprocessing))
    low, high = float((-mean / std).min()), float(((1 - mean) / std).max())
    pixels = Extremes(np.full((1, 1), low, np.float32), np.full((1, 1), high, np.float32))
    return {site: found[value] for site, value in values.items()} | {PIXELS: pixels}


def clipped(ranges: Ranges, clips: Clips) -> dict[str, tuple[float, float]]:
    """`ranges` with each end drawn in to the part that `clips` say; those of sites that are not rounded are ignored."""
    parts = dict(clips)
    for site, ends in clips.items():
        # What the products of attention give is rounded once, when the output projection reads it.
        if site.endswith("/mixed"):
            parts[f"{site.removesuffix('/mixed')}/output:input"] = ends
    found = {}
    for site, (low, high) in ranges.items():
        lowest, highest = parts.get(site, (1.0, 1.0))
        found[site] = low * lowest, high * highest
    return found


def _add_ends(model: "onnx.ModelProto", values: dict[str, str]) -> None:
    """Make the extremes of `values` the model's outputs, after its own: by channel what Dense layers read."""
    from onnx import TensorProto, helper, numpy_helper

    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "rows"))
    by_channel = {value for site, value in values.items() if site.endswith(":input")}
    for value in dict.fromkeys(values.values()):
        axes = ["rows"] if value in by_channel else []
        for end, operator in _ENDS:
            name = f"{value}:{end}"
            model.graph.node.append(helper.make_node(operator, [value, *axes], [name], keepdims=0))
            shape = ["channels"] if axes else []
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _run(
    path: Path,
    images: Iterable[np.ndarray],
    total: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Extremes]:
    """The extremes of each value whose ends are outputs of the file at `path`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [
        name for output in session.get_outputs() if (name := output.name).endswith(tuple(f":{e}" for e, _ in _ENDS))
    ]
    keep = {_ENDS[0][0]: np.minimum, _ENDS[1][0]: np.maximum}
    parts = max(1, min(PARTS, total))
    found: dict[tuple[str, int], np.ndarray] = {}
    done = 0
    for image in images:
        if progress:
            progress(done, total)
        if image.dtype != dtype or image.shape != shape:
            raise InputError(
                f"The images to calibrate on are {image.dtype} {list(image.shape)}, expected {dtype} {list(shape)}."
            )
        part = min(done * parts // total, parts - 1)
        for name, end in zip(names, session.run(names, {INPUT_NAME: image}), strict=True):
            seen = np.atleast_1d(end)
            key = name, part
            found[key] = keep[name.rpartition(":")[2]](found[key], seen) if key in found else seen
        done += 1
    if not done:
        raise InputError("There are no images to calibrate on: give a representative dataset.")
    if progress:
        progress(total, total)
    ends = {name: np.stack([found[name, part] for part in range(parts) if (name, part) in found]) for name in names}
    values = [name.rpartition(":")[0] for name in names[::2]]
    return {value: Extremes(*(ends[f"{value}:{end}"] for end, _ in _ENDS)) for value in values}
