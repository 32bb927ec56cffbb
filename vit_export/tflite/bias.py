"""Biases of int8 files that AI Edge Quantizer does not get right by itself.

The patch embedding's, in a file that takes pixels: that of the rounded kernel, not of the float one. Pixels are
positive, so what rounding changes in a kernel is added to every answer, multiplied by the mean pixel. In the float file
the bias already holds -centre·W (`rewrites.FoldedInput`); -centre·(rounded W - W) more makes it the bias of the kernel
that the file holds, and leaves no more error than normalized images have.

And those of channels of next to no weights, which integers cannot hold in the steps of these.
"""

from pathlib import Path
from typing import Any

import numpy as np

from vit_export.artifacts.flatbuffer import MappedModel, operator_kinds
from vit_export.base.adapters.litert import schema
from vit_export.base.errors import StructureError
from vit_export.base.lazy import LazyTensor

_LARGEST = 2**30
"""The largest bias in steps: half of what 32 bits hold, for products are added to it."""

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
    _replace(mapped, bias, (values + shift).astype(values.dtype))


def fit_biases(mapped: MappedModel, float_path: Path) -> None:
    """Give back, in place, the biases that integers could not hold in the int8 model made from the file `float_path`.

    A bias is counted in the steps of its channel's products, and those of a channel of next to no weights (a unit that
    died, a head that starts from 0) are so small that 32 bits do not reach it: such channels get larger steps.
    """
    original, graph = MappedModel(float_path), mapped.model.subgraphs[0]
    kinds = operator_kinds(mapped.model)
    for dense in (o for o in graph.operators if kinds[o.opcodeIndex] == "FULLY_CONNECTED" and len(o.inputs) > 2):
        image, kernel, bias = (graph.tensors[i] for i in dense.inputs)
        if bias.type not in (schema().TensorType.INT32, schema().TensorType.INT64):
            continue
        exact = original.data(_tensor(original.model, bias.name).buffer).view(np.float32).astype(np.float64)
        step = float(image.quantization.scale[0])
        scale = np.asarray(kernel.quantization.scale, np.float64)
        wanted = np.maximum(scale, np.abs(exact) / (step * _LARGEST)).astype(np.float32)
        small = wanted > np.nextafter(scale.astype(np.float32), np.float32(np.inf))
        if not small.any():
            continue
        wanted = np.where(small, wanted, kernel.quantization.scale).astype(np.float32)
        dtype = np.int32 if bias.type == schema().TensorType.INT32 else np.int64
        levels = mapped.data(kernel.buffer).view(np.int8).reshape(kernel.shape).copy()
        levels[small] = np.rint(levels[small] * (scale / wanted)[small, np.newaxis])
        values = mapped.data(bias.buffer).view(dtype).copy()
        values[small] = np.rint(exact / (step * wanted.astype(np.float64)))[small]
        kernel.quantization.scale = wanted
        bias.quantization.scale = np.where(small, step * wanted, bias.quantization.scale).astype(np.float32)
        for tensor, numbers in ((kernel, levels), (bias, values)):
            _replace(mapped, tensor, numbers)


def _replace(mapped: MappedModel, tensor: Any, numbers: np.ndarray) -> None:
    """Give `tensor` other numbers, and a buffer of its own where it shares one."""
    if sum(other.buffer == tensor.buffer for other in mapped.model.subgraphs[0].tensors) > 1:
        tensor.buffer = len(mapped.model.buffers)
        mapped.model.buffers.append(schema().BufferT())
    mapped.buffers[tensor.buffer] = LazyTensor.of(tensor.name.decode(), numbers)


def _tensor(model: Any, name: bytes) -> Any:
    for tensor in model.subgraphs[0].tensors:
        if tensor.name == name:
            return tensor
    raise StructureError(f"TFLite quantization: the model has no tensor {name.decode()}.")
