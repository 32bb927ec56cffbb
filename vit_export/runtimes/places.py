"""Where a file is run: on this machine's CPU, on a GPU, by another processor's builds of the runtimes."""

from collections.abc import Callable
from dataclasses import dataclass

from vit_export.base.errors import InputError
from vit_export.model.artifact import Format
from vit_export.runtimes import emulation, gpu
from vit_export.runtimes.gpu.precision import GpuPrecision
from vit_export.runtimes.gpu.runner import Device

_PATIENCE, _PATIENCE_EMULATED = 900.0, 6 * 3600.0


@dataclass(frozen=True)
class Place:
    """One place: its `name`, what it is called in `words`, which `formats` it runs, how long it is given (seconds).

    `available` gives a sentence why it cannot be had here, None where it can. The CPU is `timed` always, a GPU where it
    is hardware (`RunnerProcess.timed`): times of what is emulated, or done in software, are no device's. `precision`
    is a GPU's arithmetic.
    """

    name: str
    words: str
    formats: tuple[Format, ...] = ("tflite", "onnx")
    timed: bool = False
    patience: float = _PATIENCE_EMULATED
    available: Callable[[], str | None] = lambda: None
    precision: GpuPrecision | None = None

    def takes(self, format: Format) -> bool:
        """Whether files of `format` can be run there."""
        return format in self.formats

    def on(self, device: Device | None) -> str:
        """The place in words, with what is known of the GPU: 'GPU, 16-bit, in software'."""
        if device is None:
            return self.words
        return f"{self.words}, {device.name if device.real else 'in software'}"


CPU = Place("cpu", "CPU", ("saved_model", "tflite", "onnx"), timed=True, patience=_PATIENCE)
ARM64 = Place("arm64", "arm64, emulated", available=lambda: emulation.available("arm64"))
GPU = Place("gpu", "GPU, 16-bit", ("tflite",), available=gpu.available, precision="float16")
GPU_FLOAT32 = Place("gpu-float32", "GPU, 32-bit", ("tflite",), available=gpu.available, precision="float32")

PLACES = {place.name: place for place in (CPU, GPU, GPU_FLOAT32, ARM64)}


def places_of(names: tuple[str, ...], gpu_precision: GpuPrecision | None = None) -> tuple[Place, ...]:
    """The places called `names`, each once; "gpu" computes in `gpu_precision`, float16 where none is given.

    Raises:
        InputError: there is no such place, or it cannot be had here.
    """
    if gpu_precision is not None and "gpu" not in names:
        raise InputError(f"The GPU's precision ({gpu_precision}) is given, but no file runs there: add --on gpu.")
    found: list[Place] = []
    for name in names:
        if name not in PLACES:
            raise InputError(f"'{name}' is no place to run files on, expected one of {', '.join(PLACES)}.")
        place = GPU_FLOAT32 if name == "gpu" and gpu_precision == "float32" else PLACES[name]
        if reason := place.available():
            raise InputError(reason)
        if place not in found:
            found.append(place)
    return tuple(found) or (CPU,)
