"""The ranges that static int8 needs, from running the float32 graph over images in ONNX Runtime."""

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_export.base.errors import InputError
from vit_export.base.machine import usable_cores
from vit_export.deployment.graph import INPUT_NAME
from vit_export.deployment.rewrites import FoldedInput, plain_parameters
from vit_export.int8.simulate import Clips
from vit_export.model.artifact import InputKind
from vit_export.model.input_kinds import kind_of, left_to_do
from vit_export.model.parameters import ParameterSource
from vit_export.model.preprocessing import Preprocessing
from vit_export.onnx.fusion import ATTENTION, fuse
from vit_export.onnx.pairs import through_pairs
from vit_export.onnx.qdq import PIXELS, Ranges, fold_query_scale, qdq_parameters, sites
from vit_export.onnx.stream import write_model
from vit_export.onnx.structure import onnx_structure
from vit_export.onnx.write import QDQ_OPSET

if TYPE_CHECKING:
    import onnx

_ENDS = (("low", "ReduceMin"), ("high", "ReduceMax"))


def calibrate(
    source: ParameterSource,
    preprocessing: Preprocessing,
    images: Iterable[np.ndarray],
    total: int,
    folder: Path,
    *,
    batch: int = 1,
    input: InputKind = "normalized",
    clips: Clips | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Smallest and largest value over `images` of all that the "qdq" form of `source` rounds.

    Each of `images` is [batch, size, size, 3] in the numbers and dtype of the kind `input` (`input_kinds.feed`); one is
    in memory at a time. The float32 file, as large as the model, lies in `folder` meanwhile. Every range is drawn in to
    the parts that `clips` say (`int8.simulate.Clips`). That of the pixels is the whole one they can have.

    Raises:
        InputError: no images, or of another dtype or shape than expected.
        OutputError: `folder` cannot be written.
    """
    spec, kind = source.spec, kind_of(input)
    folded = FoldedInput(source, preprocessing, input, through_pairs)
    parameters = qdq_parameters(folded)
    model = onnx_structure(spec, plain_parameters(folded), opset=QDQ_OPSET, batch=batch, dtype=kind.dtype)
    fuse(model, spec, batch=batch, without=(ATTENTION,))
    fold_query_scale(model.graph, spec)
    values = sites(model.graph, spec)
    _add_ends(model, values)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".calibration.", dir=folder) as scratch:
        path = Path(scratch) / "float32.onnx"
        # Weights in a file of their own are mapped into memory, not read.
        write_model(model, parameters.values(), path, single_file=False)
        shape = (batch, spec.image_size, spec.image_size, 3)
        found = _run(path, images, total, shape, np.dtype(kind.dtype), threads, progress)
    mean, std = (np.array(three) for three in left_to_do(input, preprocessing))
    ranges = {site: found[value] for site, value in values.items()}
    ranges[PIXELS] = float((-mean / std).min()), float(((1 - mean) / std).max())
    return clipped(ranges, clips or {})


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
    """Make the extremes of `values` the model's outputs, after its own: numbers, however large the values are."""
    from onnx import TensorProto, helper

    for value in dict.fromkeys(values.values()):
        for end, operator in _ENDS:
            name = f"{value}:{end}"
            model.graph.node.append(helper.make_node(operator, [value], [name], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))


def _run(
    path: Path,
    images: Iterable[np.ndarray],
    total: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    threads: int | None,
    progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[float, float]]:
    """The extremes of each value whose ends are outputs of the file at `path`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()[1:]]
    lowest, highest = np.full(len(names) // 2, np.inf), np.full(len(names) // 2, -np.inf)
    done = 0
    for image in images:
        if progress:
            progress(done, total)
        if image.dtype != dtype or image.shape != shape:
            raise InputError(
                f"The images to calibrate on are {image.dtype} {list(image.shape)}, expected {dtype} {list(shape)}."
            )
        ends = np.array(session.run(names, {INPUT_NAME: image})).reshape(-1, 2)
        lowest, highest = np.minimum(lowest, ends[:, 0]), np.maximum(highest, ends[:, 1])
        done += 1
    if not done:
        raise InputError("There are no images to calibrate on: give a representative dataset.")
    if progress:
        progress(total, total)
    values = [name.removesuffix(f":{_ENDS[0][0]}") for name in names[::2]]
    return {value: (float(lowest[i]), float(highest[i])) for i, value in enumerate(values)}
