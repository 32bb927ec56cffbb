"""Images per second of `vit-export evaluate` beside a bare loop that decodes, resizes and runs the same files.

    python benchmarks/evaluate.py [--variant vit_s32] [--images 600] [--workers 1,2] [--rounds 3] [--json]

Exports the variant (random weights) to float32 and int8 .tflite, writes photographs of 500 x 375 pixels as JPEG into
one tar for each 100, and evaluates them with each number of workers; the bare loop, in a process of its own with one
thread, is timed in the same rounds. A rate is per core: by the number of workers. Starting workers and loading files is
left out of the loop and in the evaluation, so short runs do it an injustice.
"""

import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import click
from PIL import Image

from vit_export.base.machine import cpu
from vit_export.base.python import python_command, python_environment
from vit_export.evaluation.evaluate import evaluate
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export

LOOP = """
import io, sys, tarfile, time
from pathlib import Path
import numpy as np
from PIL import Image
from vit_export.images.read import decode_image, resize_and_crop
from vit_export.artifacts.read import read_facts
from vit_export.model.input_kinds import feed
from vit_export.model.record import ModelRecord
from vit_export.runtimes.runner import open_runner

paths, tars = [Path(p) for p in sys.argv[1].split(":")], sys.argv[2].split(":")
record = ModelRecord.from_dict(read_facts(paths[0]).record)
runners = [open_runner(path, "tflite", 1) for path in paths]
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
    for start in range(0, count, 100):
        made.append(folder / f"photos-{start // 100:04d}.tar")
        with tarfile.open(made[-1], "w") as tar:
            for number in range(start, min(start + 100, count)):
                file = io.BytesIO()
                photograph.rotate(number).resize((500, 375)).save(file, "JPEG", quality=90)
                member = tarfile.TarInfo(f"{number:06d}.jpg")
                member.size = file.tell()
                file.seek(0)
                tar.addfile(member, file)
    return made


@click.command()
@click.option("--variant", default="vit_s32", show_default=True)
@click.option("--images", default=600, show_default=True)
@click.option("--workers", default="1,2", show_default=True, help="Numbers of workers.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(variant: str, images: int, workers: str, rounds: int, as_json: bool) -> None:
    """Measure images per second and core."""
    counts = [int(word) for word in workers.split(",")]
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
        rates: dict[str, list[float]] = {"loop": [], **{str(count): [] for count in counts}}
        for _ in range(rounds):
            command = python_command("-c", LOOP, ":".join(paths), ":".join(map(str, tars)))
            environment = {**python_environment(), "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            rates["loop"].append(float(done.stdout.split()[-1]))
            for count in counts:
                start = time.perf_counter()
                evaluate(paths, f"{folder}/photos-*.tar", workers=count)
                rates[str(count)].append(images / (time.perf_counter() - start) / count)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    if as_json:
        json.dump({"cpu": cpu().to_dict(), "images": images, "per_core": medians}, sys.stdout, indent=1)
        return
    print(f"{variant}, {images} images, {len(paths)} files, {cpu().model}")
    for name, rate in medians.items():
        what = "bare loop" if name == "loop" else f"evaluate --workers {name}"
        print(f"{what:24} {rate:7.2f} images/s per core   {rate / medians['loop']:.2f} of the loop")


if __name__ == "__main__":
    main()
