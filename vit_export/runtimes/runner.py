"""One way to run a file of any format, whoever wrote it, in its own runtime: images [n, s, s, 3] in, float32 out.

Images are float32, or uint8 pixels for a file that takes those; the numbers are the file's own (`input_kinds.feed`).
Their layout is NHWC always: they are transposed for a file that takes NCHW.
"""

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vit_export.artifacts.layout import layout_of, open_or_size
from vit_export.artifacts.sizes import MAX_OUTPUT, too_large
from vit_export.artifacts.tflite_file import read_tflite
from vit_export.base.errors import InputError, VerificationFailed, VitExportError, first_line
from vit_export.model.artifact import Format, TensorSpec, in_order
from vit_export.model.record import RECORD_FILE
from vit_export.runtimes.saved_model_graph import require_numeric

SIGNATURE = "serving_default"

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_FLOATS = ("float16", "float32", "float64")
_Details = list[tuple[str, dict[str, Any]]]

# "[ONNXRuntimeError] : 1 : FAIL : Load model from /… failed:/onnxruntime_src/….cc:256 onnxruntime::Model::Model(…) "
_ONNX_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?(/\S+\.(cc|h):\d+ .*?\) (?=[A-Z]))?"
)


class RunnerError(VerificationFailed):
    """A file cannot be loaded or run by its runtime, or the process that ran it died."""


class ProcessKilled(RunnerError):
    """The process that ran a file was killed from outside, starved or too slow: it says nothing of the file."""

    exit_code = 2


class Runner(ABC):
    """A file in its runtime. `inputs` and `outputs` describe the file once `load` has returned.

    `threads` is what the runtime computes with; None leaves the runtime's own default. `output` is the name of the only
    output to read; with None `run` reads the first and `run_all` all of them.
    """

    runtime: ClassVar[str]

    def __init__(self, path: Path, threads: int | None = None, output: str | None = None) -> None:
        self.path = path
        self.threads = threads
        self._wanted = output
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
    def _call(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """One call of the runtime: the file's own input dtype in, the outputs `names` in their own dtypes out."""

    def _is_ours(self) -> bool:
        """Whether this package wrote the file: a signature, which is by name, has lost the order of its outputs."""
        return False

    @property
    def batch(self) -> int | None:
        """The number of images one call takes, or None when the file leaves it open."""
        shape = self.inputs[0].shape
        return shape[0] if shape else None

    @property
    def output(self) -> TensorSpec:
        """The output that `run` reads."""
        return self.read[0]

    @property
    def read(self) -> tuple[TensorSpec, ...]:
        """The outputs that are read: the one that was asked for, or all."""
        return tuple(spec for spec in self.outputs if self._wanted in (None, spec.name))

    def load(self) -> None:
        """Load the file.

        Raises:
            RunnerError: the runtime cannot read the file, or it has no such output.
            InputError: a SavedModel that does more than compute.
        """
        self._guard("cannot be loaded", self._open)
        if not self.inputs or not self.outputs:
            raise RunnerError(f"{self.path.name} has {len(self.inputs)} inputs and {len(self.outputs)} outputs.")
        self._require_feasible(self.inputs, self.outputs)
        if len(self.outputs) > 1 and self._is_ours():
            self.outputs = in_order(self.outputs)
        names = [spec.name for spec in self.outputs]
        if self._wanted not in (None, *names):
            raise RunnerError(f"{self.path.name} has no output {self._wanted!r}: choose one of {', '.join(names)}.")

    def _require_feasible(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        if reason := too_large(inputs, outputs):
            raise RunnerError(f"{self.path.name} cannot be run: {reason}.")

    def run(self, images: np.ndarray) -> np.ndarray:
        """The output that is read, float32 [n, ...], of `images`, float32 or uint8 [n, s, s, 3], in the same order.

        It has the file's own shape ([n, k] for a classifier); a file that answers for one image without a batch
        dimension is given one. A file of fixed batch b is fed b images at a time; the last call is filled up with
        copies of its last image (zeros would widen the range of an activation that is quantized per tensor) and cut.

        Raises:
            RunnerError: the file does not take such images or the runtime failed.
        """
        return self._run(images, [self.output])[self.output.name]

    def run_all(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Every output that is read, by name, each as `run` gives it.

        Raises:
            RunnerError: the file does not take such images or the runtime failed.
        """
        return self._run(images, self.read)

    def time(self, images: np.ndarray, count: int) -> list[float]:
        """Seconds of each of `count` calls of the runtime on `images` [b, s, s, 3], conversions by numpy left out.

        All outputs that are read are asked for.
        """
        native, names = self._encode(images), [spec.name for spec in self.read]
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            self._run_native(native, names)
            seconds.append(time.perf_counter() - start)
        return seconds

    def _run(self, images: np.ndarray, outputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
        step = self.batch or len(images)
        names = [spec.name for spec in outputs]
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start in range(0, len(images), step):
            chunk = images[start : start + step]
            found = self._run_native(self._encode(_fill(chunk, step)), names)
            for spec, values in zip(outputs, found, strict=True):
                parts[spec.name].append(self._rows(values, spec, step)[: len(chunk)])
        return {name: np.concatenate(rows) for name, rows in parts.items()}

    def _run_native(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        result: list[np.ndarray] = self._guard("cannot be run", self._call, native, names)
        return result

    def _encode(self, images: np.ndarray) -> np.ndarray:
        if len(self.inputs) != 1:
            raise RunnerError(f"{self.path.name} has {len(self.inputs)} inputs, expected one (images).")
        spec = self.inputs[0]
        shape = tuple(spec.shape[axis] for axis in _TO_NHWC) if spec.layout == "NCHW" else spec.shape
        if not _fits(images.shape, shape):
            raise RunnerError(f"{self.path.name} takes images of {_shape(shape)}, given {_shape(images.shape)}.")
        native = self._numbers(images, spec)
        # Here, where it is not timed: a runtime would copy what is not contiguous.
        return np.ascontiguousarray(native.transpose(_TO_NCHW)) if spec.layout == "NCHW" else native

    def _numbers(self, images: np.ndarray, spec: TensorSpec) -> np.ndarray:
        if takes_pixels(spec):
            if images.dtype != np.uint8:
                raise RunnerError(f"{self.path.name} takes uint8 pixels from 0 to 255, given {images.dtype} images.")
            return images
        if spec.dtype in _FLOATS:
            if images.dtype == np.uint8:
                raise RunnerError(f"{self.path.name} takes {spec.dtype} images, given uint8 pixels.")
            return images.astype(spec.dtype, copy=False)
        if not spec.dtype.startswith(("int", "uint")):
            raise RunnerError(f"{self.path.name} takes {spec.dtype}, expected images of floats or integers.")
        dtype = np.dtype(spec.dtype)
        scale, zero_point = self._quantization(spec)
        limits = np.iinfo(dtype)
        return np.clip(np.rint(images / scale) + zero_point, limits.min, limits.max).astype(dtype)

    def _rows(self, output: np.ndarray, spec: TensorSpec, count: int) -> np.ndarray:
        """`output` of a call on `count` images, described by `spec`, as float32, one row an image."""
        if output.size > MAX_OUTPUT * count:
            raise RunnerError(
                f"{self.path.name} answers {count} images with {output.size:,} numbers, expected at most "
                f"{MAX_OUTPUT:,} for each."
            )
        if output.dtype.kind in "iu":
            scale, zero_point = self._quantization(spec)
            # Through float64: an int32 minus its zero point need not fit a float32.
            output = (output.astype(np.float64) - zero_point) * scale
        if output.dtype.kind != "f":
            raise RunnerError(f"{self.path.name}: {spec.name} is {spec.dtype}, expected numbers.")
        if not output.ndim or len(output) != count:
            if count != 1:
                raise RunnerError(
                    f"{self.path.name} gives {spec.name} of {_shape(output.shape)} for {count} images, "
                    "expected one row for each."
                )
            output = output[None]
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
        except VitExportError:
            raise
        except Exception as error:  # each runtime raises classes of its own, RuntimeError and ValueError among them
            raise RunnerError(f"{self.path.name} {what} by {self.runtime}: {self._reason(error)}") from error

    def _reason(self, error: Exception) -> str:
        """What the runtime says, in one line."""
        return first_line(error)


class SavedModelRunner(Runner):
    """A SavedModel of pure arithmetic through TensorFlow: `tf.saved_model.load` and its signature `serving_default`."""

    runtime = "tensorflow"

    @staticmethod
    def import_runtime() -> None:
        """Import TensorFlow."""
        import tensorflow  # noqa: F401

    def _open(self) -> None:
        import tensorflow as tf

        if self.threads is not None:
            _limit_tensorflow(self.threads)
        require_numeric(self.path)
        # The object owns the variables: the signature alone does not keep them alive.
        self._model = tf.saved_model.load(str(self.path))
        if SIGNATURE not in self._model.signatures:
            raise RunnerError(f"{self.path.name} has no signature {SIGNATURE}: it cannot be served.")
        self._signature = self._model.signatures[SIGNATURE]
        _, keywords = self._signature.structured_input_signature
        self.inputs = tuple(_tensorflow_spec(name, spec, image=True) for name, spec in keywords.items())
        self.outputs = tuple(_tensorflow_spec(name, spec) for name, spec in self._signature.structured_outputs.items())

    def _is_ours(self) -> bool:
        return (self.path / RECORD_FILE).is_file()

    def _call(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        import tensorflow as tf

        result = self._signature(**{self.inputs[0].name: tf.constant(native)})
        return [np.asarray(result[name].numpy()) for name in names]


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
        self._require_feasible(
            *(
                [_tflite_spec(detail["name"], detail) for detail in details]
                for details in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
            )
        )
        # What is open is stored as 1, which may be too small for the graph: such a file has to wait for its images.
        if all((detail["shape_signature"][1:] > 0).all() for detail in self._interpreter.get_input_details()):
            self._interpreter.allocate_tensors()  # refused once there is a runner of a signature
        signatures = self._interpreter.get_signature_list() or {}
        key = next(iter(signatures)) if len(signatures) == 1 else SIGNATURE
        self._signature = self._interpreter.get_signature_runner(key) if key in signatures else None
        inputs, outputs = self._details()
        self.inputs = tuple(_tflite_spec(name, detail, image=True) for name, detail in inputs)
        self.outputs = tuple(_tflite_spec(name, detail) for name, detail in outputs)

    def _is_ours(self) -> bool:
        try:
            return read_tflite(self.path).record is not None
        except InputError:
            return False

    def _details(self) -> tuple[_Details, _Details]:
        if self._signature is not None:
            details = self._signature.get_input_details(), self._signature.get_output_details()
            return list(details[0].items()), list(details[1].items())
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        return [(d["name"], d) for d in inputs], [(d["name"], d) for d in outputs]

    def _call(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        if self._signature is not None:  # which need not belong to the first subgraph, all that the rest is about
            result = self._signature(**{self.inputs[0].name: native})
            return [np.asarray(result[name]) for name in names]
        (detail,) = self._interpreter.get_input_details()
        if native.shape != tuple(detail["shape"]):  # only an open one gets here: others were refused by _encode
            self._interpreter.resize_tensor_input(detail["index"], native.shape)
        self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(detail["index"], native)
        self._interpreter.invoke()
        places = {entry["name"]: entry["index"] for entry in reversed(self._interpreter.get_output_details())}
        return [np.asarray(self._interpreter.get_tensor(places[name])) for name in names]


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
        self.inputs = tuple(_onnx_spec(value, image=True) for value in self._session.get_inputs())
        self.outputs = tuple(_onnx_spec(value) for value in self._session.get_outputs())

    def _call(self, native: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(values) for values in self._session.run(list(names), {self.inputs[0].name: native})]

    def _reason(self, error: Exception) -> str:
        """What is told, without the codes, C++ signatures and path around it that would push it out of the line."""
        return _ONNX_NOISE.sub("", first_line(error, 2000))[:500]


RUNNERS: dict[Format, type[Runner]] = {"saved_model": SavedModelRunner, "tflite": TFLiteRunner, "onnx": OnnxRunner}


def open_runner(path: Path, format: Format, threads: int | None = None, output: str | None = None) -> Runner:
    """The loaded runner of the file (or SavedModel folder) at `path`, which reads the output called `output`.

    Raises:
        RunnerError: the file is missing or damaged, its runtime refuses it, or it has no such output.
        InputError: a SavedModel that does more than compute.
    """
    require(path)
    runner = RUNNERS[format](path, threads, output)
    runner.load()
    return runner


def takes_pixels(spec: TensorSpec) -> bool:
    """Whether the input `spec` is uint8 pixels as they are: a quantized uint8 input has a scale and zero point."""
    return spec.dtype == "uint8" and spec.scale is None and spec.zero_point is None


def require(path: Path) -> None:
    """Raise RunnerError unless something exists at `path`."""
    if not path.exists():
        raise RunnerError(f"{path.name} does not exist.")


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


def _tensorflow_spec(name: str, spec: Any, *, image: bool = False) -> TensorSpec:
    shape = tuple(spec.shape.as_list())
    return TensorSpec(name, shape, spec.dtype.name, layout_of(shape, "NHWC") if image else "")


def _tflite_spec(name: str, detail: dict[str, Any], *, image: bool = False) -> TensorSpec:
    # An open dimension is -1 in the signature's shape and 1 in the allocated one.
    shape = tuple(open_or_size(int(n)) for n in detail["shape_signature"])
    parameters = detail["quantization_parameters"]
    scales, zero_points = parameters["scales"], parameters["zero_points"]
    scale, zero_point = (float(scales[0]), int(zero_points[0])) if len(scales) == 1 else (None, None)
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        scale = zero_point = None
    layout = layout_of(shape, "NHWC") if image else ""
    return TensorSpec(name, shape, np.dtype(detail["dtype"]).name, layout, scale, zero_point)


def _onnx_spec(value: Any, *, image: bool = False) -> TensorSpec:
    shape = tuple(open_or_size(n) for n in value.shape)
    element = value.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(element, element)
    return TensorSpec(value.name, shape, dtype, layout_of(value.shape, "NCHW") if image else "")
