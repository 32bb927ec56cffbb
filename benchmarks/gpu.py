"""Every .tflite precision and scheme on the CPU and on LiteRT's GPU in 16 and in 32 bits, against the float32 file.

    python benchmarks/gpu.py [--weights CHECKPOINT] [--variant vit_s32] [--images 3] [--json FILE]
                             [--schemes float32,float16,dynamic,static,full,w8a16]

The files are made as a user would make them, and compared with the first of them; the GPU is this machine's, or in
software (`make gpu`). A cell is the signal to quantization noise in dB of the worst of a few photographs that
calibrated nothing, and how many operators stay on the CPU, where any do. Times are of a GPU in software and tell
nothing: none is shown.
"""

import json
import tempfile
from pathlib import Path

import click
import numpy as np

from vit_export.base.errors import VitExportError
from vit_export.base.reporting import Silent
from vit_export.base.versions import versions
from vit_export.images.pictures import Pictures
from vit_export.images.split import find_images
from vit_export.model.artifact import Artifact
from vit_export.model.record import read_record
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import VARIANTS
from vit_export.pipeline.choice import default_photographs
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.places import CPU, GPU, GPU_FLOAT32
from vit_export.runtimes.process import RunnerProcess
from vit_export.verification import metrics

PLACES = (CPU, GPU, GPU_FLOAT32)
FLOATS = ("float32", "float16")


def made(folder: Path, weights: str | None, variant: str, name: str) -> Artifact:
    """The .tflite file of a precision or int8 scheme, and the SavedModel beside it."""
    spec = None if weights else ViTSpec.of(VARIANTS[variant])
    precision, scheme = (name, None) if name in FLOATS else ("int8", name)
    request = ExportRequest(
        spec=spec,
        output=folder / name,
        formats=("tflite",),
        precisions=(precision,),
        int8_scheme=scheme,
        weights=weights,
        verify=False,
    )
    (artifact,) = export(request).artifacts
    return artifact


def row(artifact: Artifact, pictures: Pictures, wanted: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
    """The file's outputs on the CPU, and the cells of its row; `wanted` are the outputs it is compared with."""
    cells, first = [], wanted
    for place in PLACES:
        try:
            with RunnerProcess(Path(artifact.path), "tflite", 2, place=place) as process:
                found = process.run(pictures.fed("normalized"))
                device = process.device
        except VitExportError as error:
            cells.append(str(error))
            continue
        first = found if first is None else first
        cell = "-" if found is first else f"{min(metrics.compare(first, found, classes=False).sqnr_db):.1f}"
        cells.append(cell + (f" ({device.counts[1]} on the CPU)" if device and device.counts else ""))
    assert first is not None
    return first, cells


@click.command()
@click.option("--weights", help="A checkpoint, as of --weights of an export; without, random weights of --variant.")
@click.option("--variant", default="vit_s32", show_default=True, type=click.Choice(list(VARIANTS)))
@click.option("--schemes", default="float32,float16,dynamic,static,full,w8a16", show_default=True)
@click.option("--images", default=3, show_default=True)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
def main(weights: str | None, variant: str, schemes: str, images: int, json_file: Path | None) -> None:
    """Make the files, run them in every place and print the table."""
    if reason := GPU.available():
        raise SystemExit(reason)
    rows: dict[str, list[str]] = {}
    wanted = None
    click.echo(f"{'':10}{''.join(f'{place.words:>28}' for place in PLACES)}")
    with tempfile.TemporaryDirectory() as work:
        for name in schemes.split(","):
            artifact = made(Path(work), weights, variant, name)
            preprocessing = read_record(Path(artifact.path).with_name("saved_model")).preprocessing
            pictures, _ = find_images(default_photographs(Silent()) / "held_out", preprocessing, limit=images)
            first, rows[name] = row(artifact, pictures, wanted)
            wanted = first if wanted is None else wanted
            click.echo(f"{name:10}{''.join(f'{cell:>28}' for cell in rows[name])}")
    if json_file is not None:
        told = {"weights": weights or variant, "images": images, "versions": versions("ai-edge-litert"), "rows": rows}
        json_file.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
