"""The patch embedding's bias in an int8 file that takes pixels: that of the rounded kernel, not of the float one.

Pixels are positive, so what rounding changes in a kernel is added to every answer, multiplied by the mean pixel. In the
float file the bias already holds -centre·W (`rewrites.FoldedInput`); -centre·(rounded W - W) more makes it the bias of
the kernel that the file holds, and leaves no more error than normalized images have.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel
from vit_export.base.adapters.litert import schema
from vit_export.base.errors import StructureError
from vit_export.base.lazy import LazyTensor

KERNEL, BIAS = b"patch_embedding/kernel", b"patch_embedding/bias"


def correct_patch_bias(mapped: MappedModel, float_path: Path, centre: np.ndarray) -> None:
    """Change in place the bias of the int8 model `mapped`, made from the float file at `float_path`.

    `centre` [3] is the value of red, green and blue that normalization makes 0 (`input_kinds.affine`).

    Raises:
        StructureError: the patch embedding is not stored as int8 with an integer or float32 bias.
    """
    original = MappedModel(float_path)
    exact = original.data(_tensor(original.model, KERNEL).buffer).view(np.float32)
    kernel, bias = _tensor(mapped.model, KERNEL), _tensor(mapped.model, BIAS)
    types = schema().TensorType
    dtype = {types.INT32: np.int32, types.INT64: np.int64, types.FLOAT32: np.float32}.get(bias.type)
    if kernel.type != types.INT8 or dtype is None:
        raise StructureError("TFLite quantization: the patch embedding is not int8 with an integer or float32 bias.")
    scale = np.asarray(kernel.quantization.scale, np.float64)[:, np.newaxis]
    rounded = mapped.data(kernel.buffer).view(np.int8).reshape(kernel.shape) * scale
    shift = (exact.reshape(kernel.shape) - rounded) @ np.tile(centre, kernel.shape[1] // 3)
    values = mapped.data(bias.buffer).view(dtype)
    if dtype != np.float32:
        shift = np.rint(shift / np.asarray(bias.quantization.scale, np.float64))
    changed = (values + shift).astype(values.dtype)
    if sum(tensor.buffer == bias.buffer for tensor in mapped.model.subgraphs[0].tensors) > 1:
        bias.buffer = len(mapped.model.buffers)
        mapped.model.buffers.append(schema().BufferT())
    mapped.buffers[bias.buffer] = LazyTensor.of(BIAS.decode(), changed)


def _tensor(model: Any, name: bytes) -> Any:
    for tensor in model.subgraphs[0].tensors:
        if tensor.name == name:
            return tensor
    raise StructureError(f"TFLite quantization: the model has no tensor {name.decode()}.")
