"""The arithmetic of a GPU, for whoever only names it: nothing heavy is imported."""

from typing import Literal, get_args

GpuPrecision = Literal["float16", "float32"]
GPU_PRECISIONS: tuple[GpuPrecision, ...] = get_args(GpuPrecision)
