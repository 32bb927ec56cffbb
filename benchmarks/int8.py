"""int8 and the answer: signal to quantization noise and agreement of every scheme, with and without outliers.

    python benchmarks/int8.py [--models digits,vit_s16,vit_b16] [--factors 1,10,30,100] [--speed vit_s32,vit_s16]

`digits` is a ViT trained on scikit-learn's digits (tests/helpers/digits.py), judged on the 449 digits that it was not
trained on; the others have heavy-tailed random weights and are judged on photographs that did not calibrate. An outlier
factor makes 4 channels of every LayerNorm and of every V so many times as large, without changing the function
(tests/helpers/outliers.py). `stock` is what TFLiteConverter's full-integer mode makes of the same model, `plain` our
default without its rewrites. Each cell: dB of the outputs / % of images with the same top class. `--speed` compares
latencies, interleaved in one run.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from stock import stock_full_int8

from vit_export.base.machine import cpu
from vit_export.base.quiet import import_tensorflow
from vit_export.images.photographs import write_photographs
from vit_export.images.split import split
from vit_export.int8.modes import static
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.runtimes.timing.latency import Subject, measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

CALIBRATION, HELD_OUT = 128, 64

TARGETS = {
    "static": 38.0,
    "dynamic": 43.0,
    "full": 28.0,
    "w8a16": 41.0,
    "onnx dynamic": 35.0,
    "onnx qdq": 35.0,
    "onnx symmetric": 35.0,
    "onnx w8a16": 41.0,
}
"""dB that the trained model should keep, whatever its outliers."""


class HeavyTailed:
    """A `ParameterSource` of full size: Student's t with 4 degrees of freedom, scaled as initialisers do."""

    def __init__(self, spec: ViTSpec) -> None:
        self.spec = spec

    def read(self, name: str) -> np.ndarray:
        """The parameter called `name`."""
        from vit_export.model.parameters import parameter_specs

        index, found = next((i, p) for i, p in enumerate(parameter_specs(self.spec)) if p.name == name)
        random = np.random.default_rng(index)
        if name.endswith("scale"):
            return random.uniform(0.5, 1.5, found.shape).astype(np.float32)
        values = random.standard_t(4, found.shape) / 2**0.5
        fan_in = int(np.prod(found.shape[:-1]))
        spread = fan_in**-0.5 if name.endswith("kernel") else 0.02
        return (values * spread).astype(np.float32)


def subject(name: str, work: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """A model's parameters, the images that calibrate it and those that judge it, normalized."""
    if name == "digits":
        from helpers.digits import PREPROCESSING, DigitsParameters, held_out, pictures

        images, out = pictures()[0], held_out()
        return (
            DigitsParameters(),
            normalize(images[~out][:CALIBRATION], PREPROCESSING),
            normalize(images[out], PREPROCESSING),
        )
    spec = ViTSpec.of(name)
    folder = work / "photographs"
    write_photographs(folder)
    data = split(folder, Preprocessing(spec.image_size), CALIBRATION, HELD_OUT)
    return HeavyTailed(spec), data.representative.normalized(), data.held_out.normalized()


def files_of(source: Any, seen: np.ndarray, folder: Path, *, stock: bool) -> dict[str, Callable[[], Path]]:
    """How each file is made, by its name in the table."""
    from vit_export.int8.recipe import Recipe
    from vit_export.int8.tune import Tuning
    from vit_export.onnx.int8 import write_int8_onnx
    from vit_export.tflite.int8 import prepare, write_int8_tflite

    record = ModelRecord(source.spec, Preprocessing(source.spec.image_size))
    batches = list(seen[:, np.newaxis])

    def pick(count: int) -> np.ndarray:
        return seen[:: max(1, len(seen) // count)][:count]

    def tflite(name: str, recipe: Callable[[], Recipe]) -> Path:
        path = folder / f"{name}.tflite"
        write_int8_tflite(source, record, path, recipe(), batches)
        return path

    def onnx(scheme: str) -> Path:
        path = folder / f"{scheme}.onnx"
        tuning = prepare(source, scheme, pick).tuning if scheme == "w8a16" else None
        write_int8_onnx(source, record, path, batches, tuning, scheme=scheme)
        return path

    plain = Recipe("static", static(source.spec), Tuning())
    made = {
        scheme: lambda s=scheme: tflite(s, lambda: prepare(source, s, pick))
        for scheme in ("static", "dynamic", "full", "w8a16")
    }
    made["plain"] = lambda: tflite("plain", lambda: plain)
    if stock:
        made["stock"] = lambda: stock_of(source, folder, seen)
    return {
        **made,
        **{f"onnx {scheme}": lambda s=scheme: onnx(s) for scheme in ("dynamic", "qdq", "symmetric", "w8a16")},
    }


def stock_of(source: Any, folder: Path, images: np.ndarray) -> Path:
    """The file of the stock converter, of the same parameters."""
    from vit_export.model.keras_model import build_model
    from vit_export.model.saved_model import assign_parameters

    model = build_model(source.spec)
    assign_parameters(model, source.read)
    return stock_full_int8(model, folder, images)


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """The outputs of the file at `path`, in float."""
    runner = open_runner(path, path.suffix[1:], None)
    runner.load()
    return runner.run(images)


def judge(wanted: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Signal to noise in dB, and the share of images with the same top class."""
    noise = float(np.square(wanted - found, dtype=np.float64).sum())
    signal = float(np.square(wanted, dtype=np.float64).sum())
    return 10 * np.log10(signal / noise), float((wanted.argmax(1) == found.argmax(1)).mean())


def measure_model(name: str, factors: list[float], work: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Decibels and agreement by file and factor."""
    from helpers.outliers import Outliers

    from vit_export.tflite.write import write_tflite

    plain, seen, unseen = subject(name, work)
    exact = work / "float32.tflite"
    write_tflite(plain, ModelRecord(plain.spec, Preprocessing(plain.spec.image_size)), exact, overwrite=True)
    wanted = answers(exact, unseen)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for factor in factors:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            for label, make in files_of(Outliers(plain, factor), seen, Path(folder), stock=name == "digits").items():
                click.echo(f"{name}, outliers x {factor:g}: {label}", err=True)
                found.setdefault(label, {})[f"{factor:g}"] = judge(wanted, answers(make(), unseen))
    return found


def measure_speed(name: str, work: Path) -> dict[str, float]:
    """Median ms of one call on one thread: each int8 file, what a part of it costs, and the floor."""
    from int8_latency import dense_alone

    from vit_export.int8.modes import LayerModes, uniform
    from vit_export.int8.recipe import Recipe
    from vit_export.onnx.write import write_onnx
    from vit_export.tflite.int8 import write_int8_tflite

    plain, seen, _ = subject(name, work)
    spec, batches = plain.spec, list(seen[:32, np.newaxis])
    record = ModelRecord(spec, Preprocessing(spec.image_size))
    mixes = {
        "static, float products": LayerModes("static", "float", "static"),
        "dynamic, int8 products": LayerModes("dynamic", "int8", "dynamic"),
    }
    with tempfile.TemporaryDirectory(dir=work) as folder:
        made = {label: make() for label, make in files_of(plain, seen[:32], Path(folder), stock=False).items()}
        for label, layer in mixes.items():
            made[label] = Path(folder) / f"{label}.tflite"
            recipe = Recipe("mixed", uniform(spec, layer, patch="dynamic", head="dynamic"))
            write_int8_tflite(plain, record, made[label], recipe, batches)
        made["onnx dynamic, decomposed"] = Path(folder) / "opset13.onnx"
        write_onnx(plain, record, made["onnx dynamic, decomposed"], precision="int8", opset=13)
        made["Dense layers alone"] = dense_alone(spec, Path(folder), seen)["dense_alone_int8"]
        subjects = {label: Subject(str(p), p.suffix[1:], p.stat().st_size) for label, p in made.items()}
        basis = subjects.pop("plain")
        measured = measure(basis, list(subjects.values()), seen[0], threads=1, time_limit=90, patience=None)
        medians = {label: measured.files[s.path].median_ms for label, s in subjects.items()}
        return {"plain": measured.reference.median_ms, **medians}


@click.command()
@click.option("--models", default="digits,vit_s16,vit_b16", show_default=True)
@click.option("--factors", default="1,10,30,100", show_default=True)
@click.option("--speed", default="vit_s32,vit_s16", show_default=True, help="Variants to time; empty for none.")
@click.option("--json", "as_json", is_flag=True)
def main(models: str, factors: str, speed: str, as_json: bool) -> None:
    """Measure and print one table per model, then the speeds."""
    import_tensorflow()
    levels = [float(f) for f in factors.split(",")]
    with tempfile.TemporaryDirectory() as work:
        quality = {name: measure_model(name, levels, Path(work)) for name in models.split(",") if name}
        times = {name: measure_speed(name, Path(work)) for name in speed.split(",") if name}
    if as_json:
        click.echo(json.dumps({"cpu": cpu().to_dict(), "quality": quality, "median_ms": times}, indent=2))
        return
    for name, rows in quality.items():
        click.echo(f"\n{name:14}" + "".join(f"{f'x {f}':>17}" for f in next(iter(rows.values()))))
        for label, cells in rows.items():
            text = "".join(f"{db:9.1f} / {100 * same:5.1f}" for db, same in cells.values())
            goal = f"   target {TARGETS[label]:g}" if name == "digits" and label in TARGETS else ""
            click.echo(f"{label:14}{text}{goal}")
    for name, medians in times.items():
        click.echo(f"\n{name}: median ms of one call on one thread; of plain's, of the Dense layers alone")
        for label, ms in medians.items():
            click.echo(f"{label:26}{ms:8.1f}{ms / medians['plain']:8.2f}{ms / medians['Dense layers alone']:8.2f}")


if __name__ == "__main__":
    main()
