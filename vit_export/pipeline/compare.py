"""What `vit-export compare` tells: what `list` says of variants, and what `bench` measures of their files.

Each float32 .tflite file, with random weights, takes turns with the baseline's: a machine that slows down does so for
both, so the ratio holds where the milliseconds do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError, unknown
from vit_export.base.files import scratch_errors, scratch_folder
from vit_export.model.artifact import Precision
from vit_export.model.listing import outputs_of, sizes_of, spec_at
from vit_export.model.names import MAX_THREADS, PRECISIONS
from vit_export.model.spec import ImageSize, ViTSpec, checked_size, json_size
from vit_export.model.variants import VARIANTS, Variant, get_variant

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter
    from vit_export.runtimes.benchmark import BenchedFile

SECONDS = 6.0
"""For the turns of each file: variants are many."""

Row = dict[str, Any]


def compare(
    variants: Sequence[str | Variant] | None = None,
    *,
    image_size: ImageSize = 224,
    threads: int = 1,
    precisions: Sequence[str] = tuple(PRECISIONS),
    measure: bool = True,
    seed: int = 0,
    baseline: str | Variant = "vit_s32",
    reporter: "Reporter | None" = None,
) -> dict[str, Any]:
    """Compare `variants` (all by default), names or rows of one's own, at `image_size` (a side, or height and width).

    The result is JSON-ready: a row for each of the `variants` and one for the `baseline`, chosen or not. Rows have the
    keys of `list`, `outputs` (shapes for one image: with classifier, without it, and of the token sequence) and, if
    anything was, what was `measured`: `latency` of one call (its speedup relative to the baseline), `memory_bytes`,
    `load_seconds` and `output_shape` of the float32 file, and `file_bytes` of the `precisions` (int8 is the dynamic
    scheme). A variant that cannot be run has an `error` instead. Sizes of images are rounded up to the next multiple of
    each patch. Files are written to a temporary folder, which is gone afterwards whatever happens.

    Raises:
        InputError: an unknown variant or precision, one name for two variants, or a value out of range.
        OutputError: the disk of the temporary folder has too little space.
        RunnerError: the baseline cannot be run.
    """
    from vit_export.base.machine import machine
    from vit_export.base.reporting import Silent

    names = [variants] if isinstance(variants, str) else variants or list(VARIANTS)
    chosen = [get_variant(name) if isinstance(name, str) else name for name in (baseline, *names)]
    by_name = {variant.name: variant for variant in chosen}
    if twice := [variant.name for variant in chosen if by_name[variant.name] != variant]:
        raise InputError(f"Two different variants are called '{twice[0]}': give each a name of its own.")
    image_size = checked_size(image_size)
    whole_number("threads", threads, 1, MAX_THREADS)
    whole_number("seed", seed, 0, 2**32 - 1)
    if wrong := [name for name in precisions if name not in PRECISIONS]:
        raise unknown("precision", wrong[0], PRECISIONS)
    if not precisions:
        raise InputError(f"No precision is given: choose from {','.join(PRECISIONS)}.")
    wanted = [precision for precision in PRECISIONS if precision in precisions]
    settings = {"image_size": json_size(image_size), "threads": threads, "precisions": wanted, "seed": seed}
    specs = {name: spec_at(variant, image_size) for name, variant in by_name.items()}
    rows = {
        name: {**sizes_of(spec), "use": by_name[name].use, "outputs": outputs_of(spec), "measured": None, "error": None}
        for name, spec in specs.items()
    }
    shown = list(dict.fromkeys(variant.name for variant in chosen[1:]))
    if measure:
        _measure(rows, specs, settings, shown, reporter or Silent())
    found = {"baseline": rows[chosen[0].name], "variants": [rows[name] for name in shown]}
    return {"schema_version": 1, "machine": machine(), "settings": settings, **found}


def _measure(
    rows: Mapping[str, Row], specs: Mapping[str, ViTSpec], settings: Row, shown: Sequence[str], say: "Reporter"
) -> None:
    """Fill `rows`, the baseline's first, with what is measured; beside its file there is one other at a time."""
    from vit_export.base.quiet import import_tensorflow
    from vit_export.runtimes.benchmark import bench
    from vit_export.runtimes.runner import RunnerError

    base, *others = specs
    precisions, threads, seed = settings["precisions"], settings["threads"], settings["seed"]
    largest = max(specs.values(), key=lambda spec: spec.num_parameters)
    # int8 is quantized beside its float32 file and then written again; a file is a little more than its weights.
    each = PRECISIONS["float32"].bytes + (2 * PRECISIONS["int8"].bytes if "int8" in precisions else 0)
    need = 1.05 * (each * largest.num_parameters + PRECISIONS["float32"].bytes * specs[base].num_parameters)
    with scratch_folder("vit-export-compare-", need, f"Measuring {largest.name}", "pass --no-measure") as folder:
        say.step("Loading TensorFlow")
        import_tensorflow()
        say.step(f"{base}, which takes turns with the others: writing its files")
        own, known = _write(specs[base], folder, precisions if base in shown else (), seed)
        measured: list[BenchedFile] = []
        for index, name in enumerate(others or [base], 1):
            who = f"{name} ({index} of {len(others) or 1})"
            say.step(f"{who}: writing its files")
            path, facts = (own, known) if name == base else _write(specs[name], folder, precisions, seed)
            say.step(f"{who}: timing it in turns with {base}")
            files = bench([path], baseline=own, threads=threads, time_limit=SECONDS, seed=seed).files
            if files[0].error:
                raise RunnerError(files[0].error)
            measured.append(files[0])
            rows[name].update(_figures(files[-1], facts))
            if path != own:
                path.unlink()
        # A machine changes its pace: the baseline's latency is the middle one of those it had beside the others.
        measured.sort(key=lambda file: file.latency.median_ms if file.latency else 0.0)
        rows[base].update(_figures(measured[(len(measured) - 1) // 2], known))


def _figures(file: "BenchedFile", facts: Row) -> Row:
    if file.latency is None or file.memory is None:
        return {"error": file.error}
    latency = {"relative_speed": file.latency.speedup, "latency": file.latency.to_dict()}
    return {"measured": {**latency, "memory_bytes": asdict(file.memory), "load_seconds": file.load_seconds, **facts}}


def _write(spec: ViTSpec, folder: Path, precisions: Sequence[Precision], seed: int) -> tuple[Path, Row]:
    """The float32 file, which stays, with its output's shape and the bytes of the files of all `precisions`."""
    from vit_export.base.machine import release_memory
    from vit_export.model.record import ModelRecord
    from vit_export.tflite.quantize import write_int8
    from vit_export.tflite.write import write_tflite
    from vit_export.weights.random import RandomWeights

    source, path, other = RandomWeights(spec, seed), folder / f"{spec.name}_float32.tflite", folder / "other.tflite"
    record = ModelRecord.random(spec, seed)
    with scratch_errors():
        exact = write_tflite(source, record, path)
        sizes = {"float32": exact.bytes}
        if "float16" in precisions:
            sizes["float16"] = write_tflite(source, record, other, precision="float16").bytes
            other.unlink()
        if "int8" in precisions:
            sizes["int8"] = write_int8(path, record, other, scheme="dynamic").bytes
            other.unlink()
    release_memory()
    wanted = {precision: sizes[precision] for precision in precisions}
    return path, {"output_shape": list(exact.outputs[0].shape), "file_bytes": wanted}
