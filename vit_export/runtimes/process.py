"""One file in a process of its own: its memory is its own, and a crash of its runtime is only a message.

The child is a fresh interpreter that imports `serve` from this module, not a `multiprocessing.Process`: that would
import the caller's `__main__` again, which a script without `if __name__ == "__main__"` does not survive. Parent and
child speak over the child's standard input and output, one length-prefixed pickle a message; whatever a runtime
prints goes to standard error, whose last line explains a crash.
"""

import gc
import os
import pickle
import queue
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from vit_export.artifacts.onnx_file import require_own_data
from vit_export.artifacts.sizes import MAX_ANSWERS
from vit_export.base.errors import InputError, first_line
from vit_export.base.interrupts import heed
from vit_export.base.packages import installed
from vit_export.base.python import python_command, python_environment
from vit_export.model.artifact import Format, TensorSpec
from vit_export.runtimes.emulation import launch as emulation
from vit_export.runtimes.gpu import launch as gpu
from vit_export.runtimes.gpu.precision import GpuPrecision
from vit_export.runtimes.gpu.runner import Device, GpuRunner
from vit_export.runtimes.magnitudes import largest_magnitudes
from vit_export.runtimes.places import CPU, Place
from vit_export.runtimes.runner import RUNNERS, ProcessKilled, Runner, RunnerError, require

_LENGTH = struct.Struct("<Q")
_SERVE = "from vit_export.runtimes.process import serve; serve()"

_CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS")
"""What a runtime brings upon itself by the file that it runs; any other signal comes from outside."""

# The words of Python, C++, the system, ONNX Runtime and TensorFlow.
_STARVED = re.compile(
    r"MemoryError|bad_?\s?alloc|[Cc]annot allocate memory|[Ff]ailed to allocate memory|[Oo]ut of memory|OOM when|"
    r"RESOURCE_EXHAUSTED|ENOMEM"
)
_WORDS = 300  # characters of what a runtime said last that are told
_MORE = "free some, close other programs, or verify on a machine with more"
_FORMATS: dict[Format, str] = {"saved_model": "SavedModel", "tflite": "TFLite", "onnx": "ONNX"}
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR", "GLOG_minloglevel": "3", "ABSL_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class Memory:
    """Memory of the process that runs one file, in bytes; all of it includes Python and the runtime's code.

    `peak` is the high-water mark of resident memory, where pages of a mapped file count; `anonymous` (Linux) is
    what was allocated at the time of asking, mapped files left out; `baseline` is what was resident before the file
    was loaded, with the runtime already imported.
    """

    peak: int
    anonymous: int | None
    baseline: int


class RunnerProcess:
    """A child process that runs the one file at `path`; use it as a context manager.

    Every request raises RunnerError when the file cannot be loaded or run, or when the child crashed (the message names
    the signal); ProcessKilled, which is one, when it was killed, ran out of memory, or gave no answer within `timeout`
    seconds (it is then killed). The child ends when its parent does, however that ends. Not to be shared between
    threads.

    `place` is where the file runs (`runtimes.places`): by the runtimes' arm64 builds under emulation, what it computes
    is an arm64 machine's and what times and memory say is not; on a GPU, `device` says on which. `timeout` is 900 s, or
    six hours emulated or in software (a float call takes some 500 times as long), unless it is given.
    """

    def __init__(
        self,
        path: Path,
        format: Format,
        threads: int = 1,
        *,
        timeout: float | None = None,
        place: Place = CPU,
        output: str | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.threads = threads
        self.place = place
        self.output = output
        self.timeout = place.patience if timeout is None else timeout
        self.device: Device | None = None
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        self.load_seconds: float | None = None
        self.first_run_seconds: float | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._chatter: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, or None when it is not running."""
        return None if self._child is None else self._child.pid

    @property
    def where(self) -> str:
        """The place in words, with the GPU that it turned out to be."""
        return self.place.on(self.device)

    @property
    def timed(self) -> bool:
        """Whether its times are a device's: not those of what is emulated, or of a GPU in software."""
        return self.place.timed or (self.device is not None and self.device.real)

    @property
    def batch(self) -> int | None:
        """The number of images one call takes, or None when the file leaves it open."""
        shape = self.inputs[0].shape if self.inputs else ()
        return shape[0] if shape else None

    def start(self) -> None:
        """Start the child and load the file; `inputs`, `outputs` and `load_seconds` are known afterwards.

        Raises:
            InputError: the file would make its runtime read other files, or run what is no arithmetic.
        """
        if self.format == "onnx" and self.path.is_file():
            try:
                require_own_data(self.path)
            except ValueError as error:
                raise RunnerError(f"{self.path.name} cannot be loaded by onnxruntime: it is damaged.") from error
        command, environment = self._launch()
        # To append: the child's next words come last, however far its parent has read.
        self._chatter = tempfile.TemporaryFile("a+b")  # noqa: SIM115 - lives as long as the child does
        try:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._chatter, env=environment
            )
        except OSError as error:  # no memory, or no more processes
            self.close()
            reason = (error.strerror or str(error)).lower()
            raise ProcessKilled(f"No process can be started to run {self.path.name} ({reason}): {_MORE}.") from error
        precision = self.place.precision
        try:
            answer = self._ask("load", str(self.path.absolute()), self.format, self.threads, self.output, precision)
        except BaseException:
            self.close()
            raise
        self.inputs, self.outputs, self.load_seconds, device = answer
        self.device = device and device.after(self._messages())

    def close(self) -> None:
        """End the child; a second call does nothing."""
        child, self._child = self._child, None
        if child is not None:
            _end(child)
        if self._chatter is not None:
            self._chatter.close()
            self._chatter = None

    def run(self, images: np.ndarray, *, together: bool = False) -> np.ndarray:
        """The first output, float32 [n, k], of `images`, [n, s, s, 3]: uint8 pixels, or anything as float32.

        Images travel and run one call at a time (the file's batch; one image where it is open), so that the child's
        peak memory is that of a call and not of the data set; `together` sends all of them to a single `Runner.run`.
        """
        (found,) = self._answers("run", images, together=together).values()
        return found

    def run_all(self, images: np.ndarray, *, together: bool = False) -> dict[str, np.ndarray]:
        """Every output by name, each as `run` gives the first."""
        if len(self.outputs) == 1:
            return {self.outputs[0].name: self.run(images, together=together)}
        return self._answers("run_all", images, together=together)

    def _answers(self, request: str, images: np.ndarray, *, together: bool) -> dict[str, np.ndarray]:
        step = len(images) if together else self.batch or 1
        parts: dict[str, list[np.ndarray]] = {}
        for start in range(0, len(images), step):
            found, seconds = self._ask(request, _native(images[start : start + step]))
            outputs = {"": found} if request == "run" else found
            size = sum(output.size for output in outputs.values())
            if size * -(-len(images) // step) > MAX_ANSWERS:
                raise RunnerError(
                    f"{self.path.name} answers a call with {size:,} numbers, for {len(images)} images more than "
                    f"{MAX_ANSWERS:,}: give fewer images."
                )
            if self.first_run_seconds is None:
                self.first_run_seconds = seconds
            for name, output in outputs.items():
                parts.setdefault(name, []).append(output)
        try:
            return {name: np.concatenate(rows) for name, rows in parts.items()}
        except ValueError as error:
            raise RunnerError(f"{self.path.name} gives outputs of different shapes for different images.") from error

    def time(self, count: int, image: np.ndarray) -> list[float]:
        """Seconds of each of `count` calls on `image` [s, s, 3] (repeated to fill a batch), measured in the child.

        The image is uint8 pixels, or anything as float32.
        """
        batch = np.repeat(_native(image)[None], self.batch or 1, axis=0)
        seconds: list[float] = self._ask("time", batch, count)
        return seconds

    def largest(self, images: np.ndarray) -> dict[Any, float]:
        """The largest magnitude of what a .tflite or .onnx file computes from `images` [n, s, s, 3] between operators.

        By what `magnitudes.largest_magnitudes` names it by.
        """
        found: dict[Any, float] = self._ask("largest", _native(images))
        return found

    def memory(self) -> Memory:
        """The child's memory up to now."""
        return Memory(*self._ask("memory"))

    def _launch(self) -> tuple[list[str], dict[str, str]]:
        """The child's command line and environment."""
        if not self.place.takes(self.format):
            taken = " and ".join(_FORMATS[format] for format in self.place.formats)
            raise RunnerError(f"{self.path.name} is {_FORMATS[self.format]}, {self.place.words} runs {taken} files.")
        if reason := self.place.available():
            raise RunnerError(reason)
        if self.place is CPU:
            # Without a GPU: threads and times are the CPU's.
            command, environment = python_command("-c", _SERVE), {**python_environment(), "CUDA_VISIBLE_DEVICES": "-1"}
        elif self.place.precision is not None:
            command, environment = gpu.command(_SERVE)
        else:
            command, environment = emulation.command(emulation.folder(), _SERVE), emulation.environment()
        return command, {**environment, **_QUIET}

    def _ask(self, request: str, *arguments: Any) -> Any:
        heed()
        child = self._child
        if child is None or child.stdin is None or child.stdout is None:
            raise RunnerError(f"No process is running {self.path.name}.")
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self.timeout, stop)
        timer.daemon = True
        timer.start()
        try:
            _send(child.stdin, (request, arguments))
            good, answer = _receive(child.stdout)
        except (EOFError, OSError) as error:
            raise self._obituary(child, late.is_set()) from error
        finally:
            timer.cancel()
        if good:
            return answer
        if good is not False:
            raise InputError(answer)
        raise self._starved(answer) if _STARVED.search(answer) else RunnerError(answer)

    def _obituary(self, child: "subprocess.Popen[bytes]", late: bool) -> RunnerError:
        code = _end(child)
        self._child = None
        who = f"The process running {self.path.name}"
        if late:
            return ProcessKilled(
                f"{who} gave no answer within {self.timeout:g} s and was stopped, which says nothing of the file: try "
                "again when the machine has less to do."
            )
        last = self._last_words()
        if _STARVED.search(last):
            return self._starved(last.removeprefix(", saying: "))
        if code >= 0:
            return RunnerError(f"{who} ended with exit code {code}{last}.")
        name = _signal_name(-code)
        if name == "SIGKILL":
            return ProcessKilled(
                f"{who} was killed by SIGKILL, probably for memory, which the kernel does when it runs out; that says "
                f"nothing of the file: {_MORE}."
            )
        if name not in _CRASHES:
            return ProcessKilled(f"{who} was killed by {name} from outside, which says nothing of the file: try again.")
        return RunnerError(f"{who} was killed by {name}{last}.")

    def _starved(self, said: str) -> ProcessKilled:
        return ProcessKilled(
            f"The process running {self.path.name} ran out of memory ({said[:_WORDS].rstrip('.')}), which says nothing "
            f"of the file: {_MORE}."
        )

    def _messages(self) -> str:
        """What the child has printed so far."""
        if self._chatter is None:
            return ""
        self._chatter.seek(0)
        return self._chatter.read().decode(errors="replace")

    def _last_words(self) -> str:
        lines = self._messages()[-2000:].split("\n")
        # glog's and TFLite's information lines explain nothing.
        last = [line.strip() for line in lines if line.strip() and not line.startswith(("INFO", "I0000"))][-1:]
        return f", saying: {last[0][:_WORDS].rstrip('.')}" if last else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def _native(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images, images.dtype if images.dtype == np.uint8 else np.float32)


def _end(child: "subprocess.Popen[bytes]", patience: float = 5.0) -> int:
    """Close the child's input, which makes it leave, wait for it (kill it after `patience` s), return its exit code."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):  # flushing into a dead child
                pipe.close()
    try:
        return child.wait(patience)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def _send(stream: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message, protocol=5)
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


# What follows runs in the child.


def serve() -> None:
    """Answer the parent's requests until its end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = _private_streams()
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests, inbox), daemon=True).start()
    worker = _Worker()
    answer: tuple[bool | None, Any]  # None: the file itself is refused, whatever was asked
    while True:
        request, arguments = inbox.get()
        try:
            answer = (True, getattr(worker, request)(*arguments))
        except RunnerError as error:
            answer = (False, error.written)  # the parent knows who reads it
        except InputError as error:
            answer = (None, error.written)
        except Exception as error:  # whatever it was, the parent must hear of it rather than of a dead process
            answer = (False, f"{request} failed with {type(error).__name__}: {first_line(error)}")
        _send(answers, answer)


def _private_streams() -> tuple[IO[bytes], IO[bytes]]:
    """The two pipes, moved away from descriptors 0 and 1 so that nothing a runtime prints can get between messages."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return requests, answers


def _listen(requests: IO[bytes], inbox: "queue.SimpleQueue[Any]") -> None:
    """Pass requests on; at the end of the pipe leave at once, even from the middle of a run: the parent is gone."""
    try:
        while True:
            inbox.put(_receive(requests))
    except (EOFError, OSError):
        os._exit(0)
    except BaseException as error:  # no memory for a request, say: the parent reads the last words
        sys.stderr.write(f"{type(error).__name__}: {first_line(error)}\n")
        sys.stderr.flush()
        os._exit(1)


_Loaded = tuple[Any, Any, float, Device | None]


class _Worker:
    """The child's side: one method per request."""

    def load(self, path: str, format: Format, threads: int, output: str | None, gpu: GpuPrecision | None) -> _Loaded:
        require(Path(path))  # before seconds go into importing the runtime
        kind = RUNNERS[format] if gpu is None else partial(GpuRunner, precision=gpu)
        _import_runtime(format, RUNNERS[format] if gpu is None else GpuRunner)
        self._baseline = _resident()[0]
        start = time.perf_counter()
        self._runner: Runner = kind(Path(path), threads, output)
        self._runner.load()
        device = self._runner.device if isinstance(self._runner, GpuRunner) else None
        return self._runner.inputs, self._runner.read, time.perf_counter() - start, device

    def run(self, images: np.ndarray) -> tuple[np.ndarray, float]:
        start = time.perf_counter()
        return self._runner.run(images), time.perf_counter() - start

    def run_all(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], float]:
        start = time.perf_counter()
        return self._runner.run_all(images), time.perf_counter() - start

    def time(self, images: np.ndarray, count: int) -> list[float]:
        return self._runner.time(images, count)

    def largest(self, images: np.ndarray) -> dict[Any, float]:
        return largest_magnitudes(self._runner, images)

    def memory(self) -> tuple[int, int | None, int]:
        return *_resident(), self._baseline


def _import_runtime(format: Format, kind: type[Runner]) -> None:
    """Import the runtime for this process alone, which keeps it until its end."""
    if format == "saved_model" and "keras" not in sys.modules:
        # TensorFlow imports Keras for its optimizers, and does without where there is none; no inference needs it,
        # and it costs a quarter of the seconds that TensorFlow takes to start.
        sys.modules["keras"] = None  # type: ignore[assignment]
    # What a runtime imports is never garbage: to look through it takes time here, and later amid the timed calls.
    gc.disable()
    with installed():
        kind.import_runtime()
    gc.freeze()
    gc.enable()


def _resident() -> tuple[int, int | None]:
    """The highest resident memory of this process and its anonymous memory now (None where unknown), in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: Linux lets ru_maxrss survive fork and exec, so it may be the parent's.
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in rows:
            return _kilobytes(rows["VmHWM"]), _kilobytes(rows["RssAnon"]) if "RssAnon" in rows else None
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset, None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, None


def _kilobytes(row: str) -> int:
    """Bytes of a row such as '  1716 kB'."""
    return int(row.strip().removesuffix("kB")) * 1024
