"""What `vit-export compare` measures: each variant's files with random weights, written, run and timed."""

import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from vit_export.base.errors import OutputError
from vit_export.model.artifact import Precision
from vit_export.model.listing import sizes_of
from vit_export.model.names import PRECISIONS
from vit_export.model.spec import ViTSpec

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter

if TYPE_CHECKING:
    import numpy as np

    from vit_export.base.reporting import Reporter
    from vit_export.runtimes.process import Memory, RunnerProcess
    from vit_export.runtimes.timing.latency import Latency, Subject

DISK_MARGIN = 1.05
"""Files are a little larger than their weights."""


@dataclass(frozen=True)
class Measured:
    """What the files of one variant were measured to take.

    `latency` is of one call with one image, its `speedup` relative to the baseline; `memory` of the process that runs
    the float32 file; `output_shape` what that file returned; `file_bytes` by precision (int8 is the dynamic scheme).
    """

    latency: "Latency"
    memory: "Memory"
    output_shape: tuple[int, ...]
    load_seconds: float | None
    file_bytes: Mapping[Precision, int]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; times in milliseconds where they say so, else seconds, and bytes."""
        return {
            "relative_speed": self.latency.speedup,
            "latency": self.latency.to_dict(),
            "memory_bytes": asdict(self.memory),
            "output_shape": list(self.output_shape),
            "load_seconds": self.load_seconds,
            "file_bytes": dict(self.file_bytes),
        }


@dataclass(frozen=True)
class ComparedVariant:
    """One variant: its spec, what it is for, and what was measured (None if nothing was; `error` then may say why)."""

    spec: ViTSpec
    use: str
    measured: Measured | None = None
    error: str | None = None

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the outputs for one image: with classifier, without it, and of the token sequence."""
        width = self.spec.hidden_size
        return {
            "logits": (1, self.spec.output_size),
            "features": (1, width),
            "tokens": (1, self.spec.num_tokens, width),
        }

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict: the keys of `vit-export list`, the output shapes, and what was measured."""
        return {
            **sizes_of(self.spec),
            "use": self.use,
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "measured": None if self.measured is None else self.measured.to_dict(),
            "error": self.error,
        }


class RandomWeights:
    """A ParameterSource of random values, made when they are read: the model is never in memory.

    The same seed and name give the same values. Kernels keep the size of activations, LayerNorm scales are near 1.
    """

    def __init__(self, spec: ViTSpec, seed: int = 0) -> None:
        from vit_export.model.parameters import parameter_specs

        self.spec, self.seed = spec, seed
        self._shapes = {parameter.name: parameter.shape for parameter in parameter_specs(spec)}

    def read(self, name: str) -> "np.ndarray":
        """The parameter called `name`, float32, in its canonical shape."""
        import numpy as np

        shape = self._shapes[name]
        values = np.random.default_rng([self.seed, zlib.crc32(name.encode())]).random(shape, np.float32)
        # Uniform in ±spread; the variance of that is spread²/3. In place: a kernel of ViT-H takes 26 MB.
        spread = 0.1 if not name.endswith("kernel") else float(np.sqrt(3 / np.prod(shape[:-1])))
        values *= np.float32(2 * spread)
        values += np.float32((1.0 if name.endswith("scale") else 0.0) - spread)
        return values


class _Running:
    """The float32 file of one variant in a folder of its own, and the process that runs it; a context manager.

    `latency.measure` takes it for a RunnerProcess. It differs in that it is always fed an image of its own size:
    variants whose patches differ may differ in it from the baseline.
    """

    def __init__(self, spec: ViTSpec, folder: Path, threads: int, seed: int) -> None:
        from vit_export.model.preprocessing import Preprocessing
        from vit_export.model.record import ModelRecord

        self.spec, self.folder, self.threads, self.seed = spec, folder, threads, seed
        # A Variant of one's own may have any name, a file may not.
        safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in spec.name)[:64]
        self.path = folder / f"{safe}_float32.tflite"
        self.record = ModelRecord(
            spec, Preprocessing(spec.image_size), {"source": "random", "seed": seed, "trained": False}
        )

    def __enter__(self) -> Self:
        import numpy as np

        from vit_export.base.machine import release_memory
        from vit_export.runtimes.process import RunnerProcess

        self.process = RunnerProcess(self.path, "tflite", self.threads)
        try:
            self._write(self.path, "float32")
            release_memory()
            size = self.spec.image_size
            self.image = np.random.default_rng(self.seed).uniform(-1, 1, (size, size, 3)).astype(np.float32)
            self.process.start()
            self.output_shape = self.process.run(self.image[np.newaxis]).shape
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def subject(self) -> "Subject":
        """The file as `latency.measure` names it."""
        from vit_export.runtimes.timing.latency import Subject

        return Subject(str(self.path), "tflite", self.path.stat().st_size)

    @property
    def batch(self) -> int | None:
        """Images that one call takes."""
        return self.process.batch

    def time(self, count: int, image: "np.ndarray") -> list[float]:
        """Seconds of each of `count` calls on this variant's own image instead of `image`."""
        return self.process.time(count, self.image)

    def facts(self, latency: "Latency", precisions: Sequence[Precision], *, last: bool) -> Measured:
        """All that was measured, sizes of `precisions` among it. `last` ends the process before they are written."""
        from vit_export.base.machine import release_memory
        from vit_export.tflite.quantize import write_int8

        memory, found = self.process.memory(), {cast(Precision, "float32"): self.path.stat().st_size}
        if last:
            self.process.close()
        if "int8" in precisions:
            path = self.folder / "int8.tflite"
            with _temporary_errors():
                found["int8"] = write_int8(self.path, self.record, path, scheme="dynamic").bytes
            path.unlink()
        if last:
            self.path.unlink()
        if "float16" in precisions:
            path = self.folder / "float16.tflite"
            found["float16"] = self._write(path, "float16")
            path.unlink()
        release_memory()
        sizes = {precision: found[precision] for precision in precisions}
        return Measured(latency, memory, self.output_shape, self.process.load_seconds, sizes)

    def _write(self, path: Path, precision: Any) -> int:
        from vit_export.tflite.convert import write_tflite

        with _temporary_errors():
            return write_tflite(RandomWeights(self.spec, self.seed), self.record, path, precision=precision).bytes


def measure_variants(
    rows: Sequence[ComparedVariant],
    basis: ComparedVariant,
    threads: int,
    precisions: tuple[Precision, ...],
    seed: int,
    say: "Reporter",
) -> tuple[list[ComparedVariant], ComparedVariant]:
    """`rows` and `basis` with what was measured; the baseline's process stays for all of it, another's for its turn."""
    from vit_export.base.quiet import import_tensorflow
    from vit_export.runtimes.runner import RunnerError
    from vit_export.runtimes.timing.latency import measure

    _require_disk([basis, *rows], basis, precisions)
    say.step("Loading TensorFlow")
    import_tensorflow()
    # The folder is entered first and so left last: no process holds a file in it by then.
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-export-compare-")))
        say.step(f"{basis.spec.name}, which takes turns with the others: writing the float32 file and loading it")
        reference = stack.enter_context(_Running(basis.spec, folder / "baseline", threads, seed))
        medians: list[Latency] = []

        def timed(*candidates: _Running) -> "Latency":
            opened = cast("dict[str, RunnerProcess]", {str(r.path): r for r in (reference, *candidates)})
            subjects = [candidate.subject for candidate in candidates]
            result = measure(reference.subject, subjects, reference.image, threads=threads, opened=opened)
            latency = result.files[subjects[0].path] if subjects else result.reference
            if isinstance(latency, RunnerError):
                raise latency
            medians.append(result.reference)
            return latency

        def turn(row: ComparedVariant, name: str) -> ComparedVariant:
            say.step(f"{name}: writing the float32 file and loading it")
            try:
                with _Running(row.spec, folder / "variant", threads, seed) as running:
                    say.step(f"{name}: timing it in turns with {basis.spec.name}")
                    latency = timed(running)
                    say.step(f"{name}: sizes of {', '.join(precisions)} files")
                    return replace(row, measured=running.facts(latency, precisions, last=True))
            except RunnerError as error:
                return replace(row, error=str(error))

        others = [row for row in rows if row.spec != basis.spec]
        found = {row: turn(row, f"{row.spec.name} ({i} of {len(others)})") for i, row in enumerate(others, 1)}
        say.step(f"{basis.spec.name}: its own figures")
        if not medians:
            timed()
        # A machine changes its pace: the baseline's latency is the middle one of those it had beside the others.
        middle = sorted(medians, key=lambda latency: latency.median_ms)[(len(medians) - 1) // 2]
        wanted = precisions if len(others) < len(rows) else ()
        basis = replace(basis, measured=reference.facts(middle, wanted, last=False))
    return [found.get(row, basis) for row in rows], basis


def _require_disk(rows: Sequence[ComparedVariant], basis: ComparedVariant, precisions: Sequence[str]) -> None:
    """Raise OutputError unless the largest variant's files fit beside the baseline's."""
    # Quantizing takes the float32 file, the quantizer's result and the final file of it at the same time.
    bytes_each = PRECISIONS["float32"].bytes + (2 * PRECISIONS["int8"].bytes if "int8" in precisions else 0)
    largest = max(rows, key=lambda row: row.spec.num_parameters).spec
    need = DISK_MARGIN * (bytes_each * largest.num_parameters + PRECISIONS["float32"].bytes * basis.spec.num_parameters)
    with _temporary_errors():
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
    if free < need:
        raise OutputError(
            f"Measuring {largest.name} takes {need / 1e9:.1f} GB of disk in {folder}, which has {free / 1e9:.1f} GB "
            "free: make room, set TMPDIR to a folder on another disk, or pass --no-measure."
        )


@contextmanager
def _temporary_errors() -> Iterator[None]:
    """One sentence for a refusal of the operating system that fits a folder nobody has chosen."""
    from vit_export.base.files import output_errors

    try:
        with output_errors(Path("the temporary folder")):
            yield
    except OutputError as error:
        cause = getattr(error.__cause__, "strerror", None) or "no space left or no permission"
        raise OutputError(
            f"The temporary folder cannot take the files that are measured ({cause}): "
            "make room there, or set TMPDIR to another folder."
        ) from error


SCHEMA_VERSION = 1


@dataclass(frozen=True)
class VariantComparison:
    """The variants that were compared, and the baseline that each took turns with (chosen or not)."""

    variants: tuple[ComparedVariant, ...]
    baseline: ComparedVariant
    image_size: int
    threads: int
    precisions: tuple[Precision, ...]
    seed: int
    machine: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "schema_version": SCHEMA_VERSION,
            "machine": dict(self.machine),
            "settings": {
                "image_size": self.image_size,
                "threads": self.threads,
                "precisions": list(self.precisions),
                "seed": self.seed,
            },
            "baseline": self.baseline.to_dict(),
            "variants": [row.to_dict() for row in self.variants],
        }
