"""One way to run a file of any format in its own runtime: images [n, s, s, 3] in, float32 [n, k] out.

Images are float32, or uint8 pixels for a file that takes those; the numbers are the file's own (`pixels.feed`).
"""

import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vit_export.errors import VerificationFailed
from vit_export.records import Format, TensorSpec

SIGNATURE = "serving_default"


class RunnerError(VerificationFailed):
    """A file cannot be loaded or run by its runtime, or the process that ran it died."""


class Runner(ABC):
    """A file in its runtime. `inputs` and `outputs` describe the file once `load` has returned.

    `threads` is what the runtime computes with; None leaves the runtime's own default.
    """

    runtime: ClassVar[str]

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path = path
        self.threads = threads
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()

    @staticmethod
    @abstractmethod
    def import_runtime() -> None:
        """Import the runtime's package, so that loading a file can be timed and weighed without it."""

    @abstractmethod
    def _open(self) -> None:
        """Load the file and set `inputs` and `outputs`."""

    @abstractmethod
    def _call(self, native: np.ndarray) -> np.ndarray:
        """One call of the runtime: the file's own input dtype in, its own output dtype out."""

    @property
    def batch(self) -> int | None:
        """The number of images one call takes, or None when the file leaves it open."""
        shape = self.inputs[0].shape
        return shape[0] if shape else None

    def load(self) -> None:
        """Load the file.

        Raises:
            RunnerError: the runtime cannot read the file.
        """
        self._guard("cannot be loaded", self._open)
        if not self.inputs or not self.outputs:
            raise RunnerError(f"{self.path.name} has {len(self.inputs)} inputs and {len(self.outputs)} outputs.")

    def run(self, images: np.ndarray) -> np.ndarray:
        """The first output, float32 [n, k], of `images`, float32 or uint8 [n, s, s, 3], in the same order.

        A file of fixed batch b is fed b images at a time; the last call is filled up with copies of its last image
        (zeros would widen the range of an activation that is quantized per tensor) and cut.

        Raises:
            RunnerError: the file does not take such images or the runtime failed.
        """
        step = self.batch or len(images)
        parts = []
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            parts.append(self._decode(self._run_native(self._encode(_fill(chunk, step))))[: len(chunk)])
        return np.concatenate(parts)

    def time(self, images: np.ndarray, count: int) -> list[float]:
        """Seconds of each of `count` calls of the runtime on `images` [b, s, s, 3], conversions by numpy left out."""
        native = self._encode(images)
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self._run_native(native)
            seconds.append(time.perf_counter() - start)
        return seconds

    def _run_native(self, native: np.ndarray) -> np.ndarray:
        result: np.ndarray = self._guard("cannot be run", self._call, native)
        return result

    def _encode(self, images: np.ndarray) -> np.ndarray:
        if len(self.inputs) != 1:
            raise RunnerError(f"{self.path.name} has {len(self.inputs)} inputs, expected one (images).")
        spec = self.inputs[0]
        if not _fits(images.shape, spec.shape):
            raise RunnerError(f"{self.path.name} takes images of {_shape(spec.shape)}, given {_shape(images.shape)}.")
        dtype = np.dtype(spec.dtype)
        if takes_pixels(spec):
            if images.dtype != np.uint8:
                raise RunnerError(f"{self.path.name} takes uint8 pixels from 0 to 255, given {images.dtype} images.")
            return images
        if dtype.kind == "f":
            if images.dtype == np.uint8:
                raise RunnerError(f"{self.path.name} takes {dtype} images, given uint8 pixels.")
            return images.astype(dtype, copy=False)
        scale, zero_point = self._quantization(spec)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max).astype(dtype)

    def _decode(self, output: np.ndarray) -> np.ndarray:
        if output.dtype.kind in "iu":
            scale, zero_point = self._quantization(self.outputs[0])
            # Through float64: an int32 minus its zero point need not fit a float32.
            return ((output.astype(np.float64) - zero_point) * scale).astype(np.float32)
        return output.astype(np.float32, copy=False)

    def _quantization(self, spec: TensorSpec) -> tuple[float, int]:
        if spec.scale is None or spec.zero_point is None:
            raise RunnerError(
                f"{self.path.name}: {spec.name} is {spec.dtype} without one scale and zero point, "
                "so its numbers have no meaning."
            )
        return spec.scale, spec.zero_point

    def _guard(self, what: str, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RunnerError:
            raise
        except Exception as error:  # each runtime raises classes of its own, RuntimeError and ValueError among them
            raise RunnerError(f"{self.path.name} {what} by {self.runtime}: {first_line(error)}") from error


class SavedModelRunner(Runner):
    """A SavedModel through TensorFlow: plain `tf.saved_model.load` and its signature `serving_default`."""

    runtime = "tensorflow"

    @staticmethod
    def import_runtime() -> None:
        """Import TensorFlow."""
        import tensorflow  # noqa: F401

    def _open(self) -> None:
        import tensorflow as tf

        if self.threads is not None:
            _limit_tensorflow(self.threads)
        # The object owns the variables: the signature alone does not keep them alive.
        self._model = tf.saved_model.load(str(self.path))
        if SIGNATURE not in self._model.signatures:
            raise RunnerError(f"{self.path.name} has no signature {SIGNATURE}: it cannot be served.")
        self._signature = self._model.signatures[SIGNATURE]
        _, keywords = self._signature.structured_input_signature
        self.inputs = tuple(_tensorflow_spec(name, spec) for name, spec in keywords.items())
        self.outputs = tuple(_tensorflow_spec(name, spec) for name, spec in self._signature.structured_outputs.items())

    def _call(self, native: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        result = self._signature(**{self.inputs[0].name: tf.constant(native)})
        return np.asarray(result[self.outputs[0].name].numpy())


class TFLiteRunner(Runner):
    """A TFLite file through ai-edge-litert's interpreter with its default XNNPACK delegate.

    Tensors go by the names of the file's only signature (or `serving_default`); without one by their own.
    """

    runtime = "ai-edge-litert"

    @staticmethod
    def import_runtime() -> None:
        """Import ai-edge-litert's interpreter."""
        import ai_edge_litert.interpreter  # noqa: F401

    def _open(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        if not self.path.is_file():
            raise RunnerError(f"{self.path.name} is not a file.")
        self._interpreter = Interpreter(model_path=str(self.path), num_threads=self.threads)
        inputs, outputs = self._details()
        self.inputs = tuple(_tflite_spec(name, detail) for name, detail in inputs.items())
        self.outputs = tuple(_tflite_spec(name, detail) for name, detail in outputs.items())
        self._input, self._output = next(iter(inputs.values()))["index"], next(iter(outputs.values()))["index"]
        self._interpreter.allocate_tensors()
        self._size = tuple(self._interpreter.get_input_details()[0]["shape"])

    def _details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        signatures = self._interpreter.get_signature_list() or {}
        key = next(iter(signatures)) if len(signatures) == 1 else SIGNATURE
        if key in signatures:
            signature = self._interpreter.get_signature_runner(key)
            return signature.get_input_details(), signature.get_output_details()
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        return {d["name"]: d for d in inputs}, {d["name"]: d for d in outputs}

    def _call(self, native: np.ndarray) -> np.ndarray:
        if native.shape != self._size:  # only a file with open batch gets here: others were refused by _encode
            self._interpreter.resize_tensor_input(self._input, native.shape)
            self._interpreter.allocate_tensors()
            self._size = native.shape
        self._interpreter.set_tensor(self._input, native)
        self._interpreter.invoke()
        return np.asarray(self._interpreter.get_tensor(self._output))


class OnnxRunner(Runner):
    """An ONNX file through onnxruntime's CPU execution provider, operators one after another."""

    runtime = "onnxruntime"

    @staticmethod
    def import_runtime() -> None:
        """Import onnxruntime."""
        import onnxruntime  # noqa: F401

    def _open(self) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads or 0  # 0: onnxruntime's own choice
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        # Threads that keep spinning after a run would slow down whatever is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(_onnx_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_onnx_spec(value) for value in self._session.get_outputs())

    def _call(self, native: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run([self.outputs[0].name], {self.inputs[0].name: native})[0])


RUNNERS: dict[Format, type[Runner]] = {"saved_model": SavedModelRunner, "tflite": TFLiteRunner, "onnx": OnnxRunner}


def open_runner(path: Path, format: Format, threads: int | None = None) -> Runner:
    """The loaded runner of the file (or SavedModel folder) at `path`.

    Raises:
        RunnerError: the file is missing or damaged, or its runtime refuses it.
    """
    require(path)
    runner = RUNNERS[format](path, threads)
    runner.load()
    return runner


def takes_pixels(spec: TensorSpec) -> bool:
    """Whether the input `spec` is uint8 pixels as they are: a quantized uint8 input has a scale and zero point."""
    return spec.dtype == "uint8" and spec.scale is None and spec.zero_point is None


def require(path: Path) -> None:
    """Raise RunnerError unless something exists at `path`."""
    if not path.exists():
        raise RunnerError(f"{path.name} does not exist.")


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text (its class when it has none), at most `limit` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]


def _limit_tensorflow(threads: int) -> None:
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        # A GPU computes float32 convolutions in TF32 and knows nothing of threads: the reference runs on the CPU.
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError as error:
        if tf.config.threading.get_intra_op_parallelism_threads() != threads:
            raise RunnerError(
                f"TensorFlow has started with other settings in this process and cannot change to {threads} threads: "
                "open the runner in a process of its own."
            ) from error


def _fill(chunk: np.ndarray, size: int) -> np.ndarray:
    missing = size - len(chunk)
    return np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]) if missing else chunk


def _fits(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(given) == len(wanted) and all(w is None or g == w for g, w in zip(given, wanted, strict=True))


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if n is None else str(n) for n in shape) + "]"


def _layout(shape: tuple[int | None, ...]) -> str:
    return "NHWC" if len(shape) == 4 and shape[-1] == 3 else ""


def _tensorflow_spec(name: str, spec: Any) -> TensorSpec:
    shape = tuple(spec.shape.as_list())
    return TensorSpec(name, shape, spec.dtype.name, _layout(shape))


def _tflite_spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    # An open dimension is -1 in the signature's shape and 1 in the allocated one.
    shape = tuple(None if n < 0 else int(n) for n in detail["shape_signature"])
    parameters = detail["quantization_parameters"]
    scales, zero_points = parameters["scales"], parameters["zero_points"]
    scale, zero_point = (float(scales[0]), int(zero_points[0])) if len(scales) == 1 else (None, None)
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        scale = zero_point = None
    return TensorSpec(name, shape, np.dtype(detail["dtype"]).name, _layout(shape), scale, zero_point)


def _onnx_spec(value: Any) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    element = value.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(
        value.name, shape, {"float": "float32", "double": "float64"}.get(element, element), _layout(shape)
    )
