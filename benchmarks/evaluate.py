"""Images per second of `vit-export evaluate` beside bare loops that decode, resize and run the same files.

    python benchmarks/evaluate.py [--variant vit_s32] [--images 800] [--workers 1,2] [--rounds 3] [--ray] [--json]

Exports the variant (random weights) to float32 and int8 .tflite, writes photographs of 500 x 375 pixels as JPEG into
one tar for each 100, and evaluates them with each number of workers; as many bare loops at once, each a process with
one thread and its share of the tars, are timed in the same rounds, so that what cores share (caches, clock rate) slows
both. Rates are per worker. Starting workers and loading files is in `whole`, never in the loops. `steady` is without
it: the further images by the further seconds of the whole evaluation against one of a tar for each worker. With --ray
the workers are actors of a Ray cluster on this machine.
"""

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from PIL import Image

from vit_export.base.machine import cpu
from vit_export.base.python import python_command, python_environment
from vit_export.evaluation.evaluate import evaluate
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export

PER_TAR = 100

LOOP = """
import sys, tarfile, time
from pathlib import Path
from vit_export.images.read import decode_image, resize_and_crop
from vit_export.artifacts.read import read_facts
from vit_export.model.input_kinds import feed
from vit_export.model.record import ModelRecord
from vit_export.runtimes.runner import open_runner

paths, tars = [Path(p) for p in sys.argv[1].split(":")], sys.argv[2].split(":")
record = ModelRecord.from_dict(read_facts(paths[0]).record)
runners = [open_runner(path, "tflite", 1) for path in paths]
print("ready", flush=True)
sys.stdin.readline()  # until all loops are
start, count = time.perf_counter(), 0
for name in tars:
    with tarfile.open(name) as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                image = resize_and_crop(decode_image(tar.extractfile(member).read(), ""), record.preprocessing)
                for runner in runners:
                    runner.run(feed(image[None], "normalized", record.preprocessing))
                count += 1
print(count / (time.perf_counter() - start))
"""


def _tars(folder: Path, count: int) -> list[Path]:
    from skimage import data

    photograph = Image.fromarray(data.astronaut())
    made = []
    for start in range(0, count, PER_TAR):
        made.append(folder / f"photos-{start // PER_TAR:04d}.tar")
        with tarfile.open(made[-1], "w") as tar:
            for number in range(start, min(start + PER_TAR, count)):
                file = io.BytesIO()
                photograph.rotate(number).resize((500, 375)).save(file, "JPEG", quality=90)
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size = file.tell()
                file.seek(0)
                tar.addfile(member, file)
    return made


def _loops(paths: Sequence[str], tars: Sequence[Path], count: int) -> float:
    """Images per second of one of `count` bare loops at once (their mean), each over its share of `tars`."""
    loops = []
    for number in range(count):
        command = python_command("-c", LOOP, ":".join(paths), ":".join(map(str, tars[number::count])))
        environment = {**python_environment(), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        loops.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    for loop in loops:
        while (line := loop.stdout.readline()) != "ready\n":
            assert line, "a bare loop ended early"
    for loop in loops:
        print(file=loop.stdin, flush=True)
    return statistics.mean(float(loop.communicate()[0].split()[-1]) for loop in loops)


def _seconds(paths: Sequence[str], data: str, workers: int, ray: str | None) -> float:
    start = time.perf_counter()
    evaluate(paths, data, workers=workers, ray=ray)
    return time.perf_counter() - start


@click.command()
@click.option("--variant", default="vit_s32", show_default=True)
@click.option(
    "--images", default=800, show_default=True, help=f"In tars of {PER_TAR}: twice as many as workers, or more."
)
@click.option("--workers", default="1,2", show_default=True, help="Numbers of workers.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--ray", "on_ray", is_flag=True, help="Workers are Ray's actors.")
@click.option("--json", "as_json", is_flag=True)
def main(variant: str, images: int, workers: str, rounds: int, on_ray: bool, as_json: bool) -> None:
    """Measure images per second and worker."""
    counts = [int(word) for word in workers.split(",")]
    if images < 2 * PER_TAR * max(counts):
        raise click.BadParameter(f"--images is {images}, expected {2 * PER_TAR} or more for each worker")
    if on_ray:
        import ray

        os.environ["PYTHONPATH"] = python_environment()["PYTHONPATH"]
        ray.init(num_cpus=max(counts), include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = export(
            ExportRequest(
                spec=ViTSpec.of(variant), output=folder / "export", formats=("tflite",), precisions=("float32", "int8"),
                verify=False, calibration_images=16,
            )
        )  # fmt: skip
        paths = [artifact.path for artifact in made.artifacts]
        tars = _tars(folder, images)
        found = {count: {name: list[float]() for name in ("loop", "whole", "steady")} for count in counts}
        for _ in range(rounds):
            for count, rates in found.items():
                rates["loop"].append(_loops(paths, tars, count))
                address = "auto" if on_ray else None
                few = _seconds(paths, f"{folder}/photos-{{0000..{count - 1:04d}}}.tar", count, address)
                whole = _seconds(paths, f"{folder}/photos-*.tar", count, address)
                rates["whole"].append(images / whole / count)
                rates["steady"].append((images - count * PER_TAR) / (whole - few) / count)
    medians = {count: {name: statistics.median(seen) for name, seen in rates.items()} for count, rates in found.items()}
    if as_json:
        told = {"cpu": cpu().to_dict(), "images": images, "rounds": rounds, "ray": on_ray, "per_worker": medians}
        json.dump(told, sys.stdout, indent=1)
        return
    print(f"{variant}, {images} images, {len(paths)} files, median of {rounds} rounds, {cpu().model}")
    print(f"{'workers':>7}{'bare loops':>16}{'evaluate, whole':>26}{'steady':>22}   images/s per worker")
    for count, rate in medians.items():
        cells = (f"{rate[name]:.2f} ({rate[name] / rate['loop']:.2f} of it)" for name in ("whole", "steady"))
        print(
            f"{count:7}{rate['loop']:16.2f}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, (26, 22), strict=True))
        )


if __name__ == "__main__":
    main()
