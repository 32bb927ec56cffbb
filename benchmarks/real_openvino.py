"""OpenVINO as one more runtime of `vit_export.runtimes`, in processes that take turns with the others."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vit_export.artifacts.layout import layout_of
from vit_export.base.python import python_command
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes import process
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RUNNERS, Runner


class OpenVinoRunner(Runner):
    """An ONNX file, or one of OpenVINO's own, on the processor, in float32 where it is not quantized."""

    runtime = "openvino"

    @staticmethod
    def import_runtime() -> None:
        """Import OpenVINO."""
        import openvino  # noqa: F401

    def _open(self) -> None:
        import openvino

        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads or 0,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",  # bfloat16 would be its default where the processor has it
        }
        compiled = openvino.Core().compile_model(str(self.path), "CPU", settings)
        self._request = compiled.create_infer_request()
        self.inputs = tuple(_spec(port, image=True) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)

    def _call(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        self._request.infer({0: native}, share_inputs=True)
        known = [spec.name for spec in self.outputs]
        return [np.array(self._request.get_output_tensor(known.index(name)).data) for name in names]


class OpenVinoProcess(RunnerProcess):
    """A child process that runs a file by OpenVINO; it serves under a format whose files are not looked at before."""

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path, "tflite", threads)

    def _launch(self) -> tuple[list[str], dict[str, str]]:
        _, environment = super()._launch()
        return python_command("-c", "from real_openvino import serve; serve()"), environment


def serve() -> None:
    """Answer the parent's requests; every file is OpenVINO's in this process."""
    RUNNERS["tflite"] = OpenVinoRunner
    process.serve()


def _spec(port: object, *, image: bool = False) -> TensorSpec:
    shape = tuple(port.get_partial_shape().to_shape())  # type: ignore[attr-defined]
    dtype = np.dtype(port.get_element_type().to_dtype()).name  # type: ignore[attr-defined]
    return TensorSpec(port.get_any_name(), shape, dtype, layout_of(shape, "NCHW") if image else "")  # type: ignore[attr-defined]
