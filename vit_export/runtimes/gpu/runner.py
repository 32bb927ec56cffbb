"""A .tflite file through LiteRT 2's `CompiledModel` on a GPU, as apps run it on phones."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vit_export.runtimes.gpu.vulkan import devices
from vit_export.runtimes.runner import RunnerError, TFLiteRunner

GpuPrecision = Literal["float16", "float32"]


class GpuRunner(TFLiteRunner):
    """A TFLite file on the GPU in the arithmetic of `precision`; what the GPU does not take runs on the CPU.

    `device` is the GPU's name, `real` whether it is hardware and `whole` whether it takes every operator; they are
    known once the file is loaded.
    """

    runtime = "LiteRT's GPU"

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        output: str | None = None,
        *,
        precision: GpuPrecision = "float16",
    ) -> None:
        super().__init__(path, threads, output)
        self.precision = precision
        self.device, self.real, self.whole = "", False, False

    @staticmethod
    def import_runtime() -> None:
        """Import ai-edge-litert's compiled models."""
        import ai_edge_litert.compiled_model
        import ai_edge_litert.interpreter  # noqa: F401

    def _open(self) -> None:
        from ai_edge_litert.compiled_model import CompiledModel, CpuOptions, GpuOptions, HardwareAccelerator, Options

        found = devices()
        if not found:
            raise RunnerError(f"{self.path.name} cannot be run by {self.runtime}: there is no Vulkan device.")
        self.device, self.real = found[0].name, found[0].real
        super()._open()  # for the inputs and outputs: a compiled model does not tell how they are quantized
        del self._interpreter, self._signature
        self._model = CompiledModel.from_file(
            str(self.path),
            options=Options(
                hardware_accelerators=HardwareAccelerator.GPU | HardwareAccelerator.CPU,
                cpu_options=CpuOptions(num_threads=self.threads or 1),
                gpu_options=GpuOptions(enforce_f32=self.precision == "float32"),
            ),
        )
        self.whole = self._model.is_fully_accelerated()
        signatures = self._model.get_signature_list()
        self._key = next(iter(signatures))
        self._order = signatures[self._key]["outputs"]
        self._given = self._model.create_input_buffers(0)
        self._taken = self._model.create_output_buffers(0)

    def _call(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        self._given[0].write(native)
        self._model.run_by_index(0, self._given, self._taken)
        found = []
        for name in names:
            place = next(i for i, spec in enumerate(self.outputs) if spec.name == name)
            spec = self.outputs[place]
            buffer = self._taken[self._order.index(name) if name in self._order else place]
            shape = tuple(size or len(native) for size in spec.shape)
            found.append(buffer.read(int(np.prod(shape)), np.dtype(spec.dtype)).reshape(shape))
        return found
