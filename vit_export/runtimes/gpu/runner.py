"""A .tflite file through LiteRT 2's `CompiledModel` on a GPU, as apps run it on phones."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vit_export.runtimes.gpu.precision import GpuPrecision
from vit_export.runtimes.gpu.vulkan import devices
from vit_export.runtimes.runner import RunnerError, TFLiteRunner

_BEHIND = re.compile(
    r"^ERROR: Following operations are not supported by GPU delegate:\n(?P<reasons>.*?)"
    r"(?P<gpu>\d+) operations will run on the GPU, and the remaining (?P<cpu>\d+) operations will run on the CPU\.$",
    re.MULTILINE | re.DOTALL,
)
_WORDS = 120  # characters of a reason that are kept
_TIMED_OUT = "code=7,"  # LiteRT's kLiteRtStatusErrorTimeoutExpired


@dataclass(frozen=True)
class Device:
    """The GPU that a file runs on: its `name`, and whether it is `real` hardware.

    `behind` are the operators that stay on the CPU, each a kind and LiteRT's reason for it, and `counts` how many
    operators run on the GPU and on the CPU, None where all run on the GPU. They are known by LiteRT's messages alone:
    `is_fully_accelerated` also says yes of operators that the CPU's own delegate takes.
    """

    name: str
    real: bool
    behind: tuple[tuple[str, str], ...] = ()
    counts: tuple[int, int] | None = None

    def after(self, messages: str) -> "Device":
        """The same with what LiteRT said, in its `messages`, of the operators that it does not take."""
        if (found := _BEHIND.search(messages)) is None:
            return self
        rows = (line.partition(": ")[::2] for line in found["reasons"].splitlines() if line.strip())
        # "BATCH_MATMUL: Tensor type(INT16) is not supported. <name of a tensor>"
        reasons = dict.fromkeys((kind[:_WORDS], text.partition(". ")[0].strip(" .")[:_WORDS]) for kind, text in rows)
        return replace(self, behind=tuple(reasons), counts=(int(found["gpu"]), int(found["cpu"])))


class GpuRunner(TFLiteRunner):
    """A TFLite file on the GPU in the arithmetic of `precision`; what the GPU does not take runs on the CPU.

    `device` is known once the file is loaded.
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
        self.device: Device | None = None

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
        self.device = Device(found[0].name, found[0].real)
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

    def _reason(self, error: Exception) -> str:
        """What LiteRT says; where it is the number of a timeout, what that means."""
        reason = super()._reason(error)
        if _TIMED_OUT not in reason:
            return reason
        return (
            "LiteRT waited no longer for an answer. In software large images take a minute on idle cores: run it "
            "where no other program is busy, or on smaller images."
        )
