"""What it costs that a model takes the camera's pixels as they are: `--input uint8` beside normalized float32 input.

    python benchmarks/input_kinds.py [--variants vit_s32,vit_s16] [--rounds 200] [--threads 1] [--json]

Random weights, one photograph. Each round runs every file once, in an order that turns, and once
the normalization that an app does for the float32 file. Ratios are medians over the rounds of uint8 to normalized
within a round, with a 95 % interval of that median; "app" adds to each file what has to be done to the pixels first.
"""

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from vit_export.base.machine import cpu
from vit_export.base.quiet import import_tensorflow
from vit_export.images.photographs import write_photographs
from vit_export.images.split import split
from vit_export.model.artifact import Artifact, InputKind
from vit_export.model.input_kinds import feed
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.runner import Runner, open_runner
from vit_export.runtimes.timing.statistics import median_interval

CALIBRATION_IMAGES = 16
KINDS: tuple[InputKind, ...] = ("normalized", "uint8")


def written(spec: ViTSpec, kind: InputKind, calibration: Path, folder: Path) -> tuple[Artifact, ...]:
    """All files of one input kind, with random weights and the default int8 schemes."""
    request = ExportRequest(
        spec=spec,
        output=folder,
        formats=("tflite", "onnx"),
        precisions=("float32", "float16", "int8"),
        input=kind,
        calibration=calibration,
        calibration_images=CALIBRATION_IMAGES,
        verify=False,
    )
    return export(request).artifacts


def rounds_of(runners: dict[InputKind, Runner], photograph: np.ndarray, done: Preprocessing, count: int) -> dict:
    """Milliseconds of each round: of the file, and with what comes before it, by kind."""
    times: dict = {kind: {"file": [], "app": []} for kind in KINDS}
    for number in range(count + 5):
        for kind in KINDS if number % 2 else KINDS[::-1]:
            begun = time.perf_counter()
            images = feed(photograph, kind, done)
            fed = time.perf_counter()
            runners[kind].run(images)
            ended = time.perf_counter()
            if number >= 5:  # the first few warm up
                times[kind]["file"].append(1e3 * (ended - fed))
                times[kind]["app"].append(1e3 * (ended - begun))
    return times


def measure(name: str, rounds: int, threads: int, calibration: Path, folder: Path) -> list[dict]:
    """One row per form: medians in ms, and the ratio of uint8 to normalized with its interval."""
    spec = ViTSpec.of(name)
    done = Preprocessing(spec.image_size)
    photograph = split(calibration, done, 1).representative.pixels()
    rows = []
    for pair in zip(*(written(spec, kind, calibration, folder / f"{name}_{kind}") for kind in KINDS), strict=True):
        runners = {}
        for kind, artifact in zip(KINDS, pair, strict=True):
            runners[kind] = open_runner(Path(artifact.path), artifact.format, threads)
            runners[kind].load()
        times = rounds_of(runners, photograph, done, rounds)
        row = {"variant": name, "format": pair[0].format, "precision": pair[0].precision, "scheme": pair[0].scheme}
        for what in ("file", "app"):
            ratios = np.divide(times["uint8"][what], times["normalized"][what]).tolist()
            interval = median_interval(ratios)
            row[what] = {
                **{kind: float(np.median(times[kind][what])) for kind in KINDS},
                "ratio": float(np.median(ratios)),
                "interval": None if interval is None else [interval.low, interval.high],
            }
        rows.append(row)
    return rows


@click.command()
@click.option("--variants", default="vit_s32,vit_s16", show_default=True)
@click.option("--rounds", default=200, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(variants: str, rounds: int, threads: int, as_json: bool) -> None:
    """Measure and print one line per file, or everything as JSON."""
    import_tensorflow()
    machine = cpu()
    with tempfile.TemporaryDirectory() as work:
        calibration = Path(work) / "photographs"
        write_photographs(calibration)
        rows = [row for name in variants.split(",") for row in measure(name, rounds, threads, calibration, Path(work))]
    if as_json:
        click.echo(json.dumps({"cpu": machine.to_dict(), "threads": threads, "rows": rows}, indent=2))
        return
    click.echo(f"{machine.model}, {threads} thread(s), {rounds} rounds; median ms, normalized and uint8, and the ratio")
    for row in rows:
        text = f"{row['variant']:8} {row['format']:6} {row['precision']:8}"
        for what in ("file", "app"):
            found = row[what]
            text += f"  {what} {found['normalized']:7.2f} {found['uint8']:7.2f}  {found['ratio']:.3f}"
            if found["interval"]:
                text += " ({:.3f} to {:.3f})".format(*found["interval"])
        click.echo(text)


if __name__ == "__main__":
    main()
