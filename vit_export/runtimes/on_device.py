"""`vit-export bench --adb`: .tflite files timed on an Android device by the runtime's own benchmark_model.

The tool is LiteRT's (litert/tools/benchmark_litert_model.cc of google-ai-edge/LiteRT) or TensorFlow Lite's
(tflite/tools/benchmark/benchmark_tflite_model.cc there); both take --graph, --use_gpu, --num_threads and
--result_file_path, and write their result as the message BenchmarkResult (tflite/tools/benchmark/proto/
benchmark_result.proto), whose numbers are in _LATENCY and _MISC below. Read at f67457790.
"""

import statistics
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.identify import files_of
from vit_export.artifacts.onnx_file import fields_of
from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file, shortened
from vit_export.runtimes.adb import Device, DeviceError, device, reason

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter

PLACES = ("CPU", "GPU")
ROUNDS = 3
"""Each file has its turn in every place this often, so that a device that gets warm slows all of them down."""
RUNS = 30
"""Calls in a turn, at least; the tool goes on for a second."""

_FOLDER = "/data/local/tmp"
_TOOL, _RESULT = "benchmark_model", "result.pb"
_LATENCY, _MISC = 2, 4
_MEDIAN, _P5, _P95, _INIT = 5, 6, 7, 8
_COUNT = 2


@dataclass(frozen=True)
class Turn:
    """What one run of the tool said, in milliseconds."""

    median_ms: float
    p5_ms: float
    p95_ms: float
    init_ms: float
    runs: int


@dataclass(frozen=True)
class DeviceRow:
    """A file in one place of the device: medians of its turns, the widest of their ranges, or why it could not run."""

    path: str
    name: str
    sha256: str
    place: str
    median_ms: float | None = None
    p5_ms: float | None = None
    p95_ms: float | None = None
    init_ms: float | None = None
    runs: int = 0
    error: str | None = None


@dataclass(frozen=True)
class DeviceBenchmark:
    """Every file in every place, on which device, by which tool."""

    rows: tuple[DeviceRow, ...]
    device: dict[str, str]
    tool: dict[str, str]
    threads: int
    rounds: int = field(default=ROUNDS)

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each file that did not run in a place."""
        return tuple(f"{row.name} on the device's {row.place}: {row.error}" for row in self.rows if row.error)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "failures": list(self.failures)}


def bench_on_device(
    paths: Sequence[str | Path],
    tool: str | Path,
    *,
    serial: str | None = None,
    threads: int = 1,
    reporter: "Reporter | None" = None,
) -> DeviceBenchmark:
    """Time the .tflite files that `paths` name on the CPU and on the GPU of an Android device, in turns.

    `tool` is the benchmark_model built for the device; the libraries (`*.so`) beside it go along, since LiteRT's GPU is
    one. `serial` names the device where there are several. All that was copied is deleted again.

    Raises:
        InputError: no file, another format, no tool, or no device (see `adb.device`).
        DeviceError: the device has no room, or went away.
    """
    from vit_export.base.reporting import Silent

    whole_number("threads", threads, 1, 64)
    say = reporter or Silent()
    named = {Path(path) for path in paths}
    files = [file for file in files_of(list(paths), "measure", once=True) if file in named or _is_tflite(file)]
    for file in files:
        if not _is_tflite(file):
            raise InputError(
                f"{shortened(file.name)} is no .tflite file, expected one: --adb runs them by LiteRT's benchmark_model."
            )
    if not files:
        raise InputError("There is no .tflite file in what was given, which is what --adb runs: export with --tflite.")
    tool = Path(tool)
    if not tool.is_file():
        raise InputError(
            f"{shortened(tool)} is no file, expected LiteRT's benchmark_model built for Android: give it to "
            "--benchmark-model."
        )
    found = device(serial)
    folder = f"{_FOLDER}/vit-export-{uuid.uuid4().hex[:12]}"
    try:
        say.step(f"Copying {len(files)} file(s) and the tool to {found.serial}")
        _copy(found, folder, tool, files)
        turns = _turns(found, folder, files, threads, say)
    finally:
        found.shell(["rm", "-rf", folder])
    rows = [
        _row(file, digest, place, turns[number, place])
        for number, file in enumerate(files)
        for digest in [digest_of_file(file)]
        for place in PLACES
    ]
    told = {"model": "ro.product.model", "android": "ro.build.version.release", "soc": "ro.soc.model"}
    return DeviceBenchmark(
        rows=tuple(rows),
        device={"serial": found.serial, **{key: found.property(name) for key, name in told.items()}},
        tool={"path": str(tool), "sha256": digest_of_file(tool)},
        threads=threads,
    )


def _is_tflite(path: Path) -> bool:
    return path.suffix.lower() == ".tflite" and path.is_file()


def _copy(found: Device, folder: str, tool: Path, files: Sequence[Path]) -> None:
    done = found.shell(["mkdir", "-p", folder])
    if done.returncode:
        raise DeviceError(f"{found.serial} refused a folder in {_FOLDER}: {reason(done)}.")
    found.push(tool, f"{folder}/{_TOOL}")
    for library in sorted(tool.parent.glob("*.so")):
        found.push(library, f"{folder}/{library.name}")
    found.shell(["chmod", "755", f"{folder}/{_TOOL}"])
    for number, file in enumerate(files):
        found.push(file, f"{folder}/{number}.tflite")


def _turns(
    found: Device, folder: str, files: Sequence[Path], threads: int, say: "Reporter"
) -> dict[tuple[int, str], list[Turn | str]]:
    """What each file did in each place, a turn after the other; a sentence in place of a turn that failed."""
    turns: dict[tuple[int, str], list[Turn | str]] = {}
    for _ in range(ROUNDS):
        for number, file in enumerate(files):
            for place in PLACES:
                known = turns.setdefault((number, place), [])
                if not known or isinstance(known[0], Turn):
                    say.step(f"{file.name} on the device's {place}")
                    known.append(_turn(found, folder, number, place, threads))
    return turns


def _turn(found: Device, folder: str, number: int, place: str, threads: int) -> Turn | str:
    result = f"{folder}/{_RESULT}"
    found.shell(["rm", "-f", result])
    # Whole on the GPU or not at all: what falls back in silence would be the CPU's time under another name. TensorFlow
    # Lite's tool warns of --use_cpu, which it does not know.
    where = ["--use_gpu=true", "--use_cpu=false", "--require_full_delegation=true"] if place == "GPU" else []
    command = [f"./{_TOOL}", f"--graph={number}.tflite", f"--num_runs={RUNS}", f"--num_threads={threads}"]
    done = found.shell([*command, *where, f"--result_file_path={_RESULT}"], folder)
    data = found.read(result)
    if done.returncode or not data:
        lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        told = [line for line in lines if "error" in line.lower() or "fail" in line.lower()] or lines
        return told[-1].strip()[:200] if told else f"the tool ended with exit code {done.returncode}"
    try:
        return read_result(data)
    except (ValueError, IndexError, struct.error):
        return "the tool's result cannot be read: expected the message BenchmarkResult"


def read_result(data: bytes) -> Turn:
    """The numbers in a serialized BenchmarkResult.

    Raises:
        ValueError: it is cut off, or has no median.
    """
    told = dict(_messages(memoryview(data)))
    latency = {
        number: struct.unpack("<f", value)[0] for number, value in _messages(told.get(_LATENCY, memoryview(b"")))
    }
    misc = dict(_messages(told.get(_MISC, memoryview(b""))))
    if _MEDIAN not in latency:
        raise ValueError("no median")
    runs = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(misc.get(_COUNT, b"")))  # a base-128 number
    return Turn(latency[_MEDIAN], latency.get(_P5, 0.0), latency.get(_P95, 0.0), latency.get(_INIT, 0.0), runs)


def _messages(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and bytes of each field; of one that is a message, its content."""
    for number, _, value, end in fields_of(data):
        yield number, data[value:end]


def _row(file: Path, digest: str, place: str, turns: Sequence[Turn | str]) -> DeviceRow:
    row = DeviceRow(str(file), file.name, digest, place)
    good = [turn for turn in turns if isinstance(turn, Turn)]
    if len(good) < len(turns):
        return DeviceRow(**{**asdict(row), "error": next(turn for turn in turns if isinstance(turn, str))})
    return DeviceRow(
        **{
            **asdict(row),
            "median_ms": statistics.median(turn.median_ms for turn in good),
            "p5_ms": min(turn.p5_ms for turn in good),
            "p95_ms": max(turn.p95_ms for turn in good),
            "init_ms": statistics.median(turn.init_ms for turn in good),
            "runs": sum(turn.runs for turn in good),
        }
    )
