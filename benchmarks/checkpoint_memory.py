"""Time and peak memory of exporting a large checkpoint, from files as their packages write them.

    python benchmarks/checkpoint_memory.py [--variants vit_l16,vit_h14] [--layout huggingface,google,timm]
    python benchmarks/checkpoint_memory.py --float32-onnx        also to ONNX

Each checkpoint holds random values, written a tensor at a time: Hugging Face's in shards of 1 GB with its config
files, timm's in one safetensors file, Google's in one .npz. It is exported by `vit-export --weights CHECKPOINT --tflite
--float16 --no-verify` in a process of its own. Peak memory is measured as in export_memory.py; mapped pages of a file
count in both columns. `--log` shows what the command printed, the seconds of each step among it.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
from process_tree import limit, run, weights

from vit_export.model.spec import ViTSpec

# The writers of every layout are the tests': written independently of what reads them.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.layouts import SeededParameters, write_google, write_huggingface, write_timm

SHARD_BYTES = 10**9
WRITERS = {
    "huggingface": lambda folder, source: write_huggingface(folder, source, shard_bytes=SHARD_BYTES),
    "google": write_google,
    "timm": write_timm,
}
FILES = {"float16 TFLite": ("--tflite", "--float16"), "float32 ONNX": ("--onnx", "--float32")}


def measure(variant: str, layout: str, kinds: list[str], log: bool, work: Path) -> None:
    """Write one checkpoint, export it to each of `kinds` and print a line for each."""
    spec = ViTSpec.of(variant)
    folder = work / "checkpoint"
    folder.mkdir()
    began = time.monotonic()
    checkpoint = WRITERS[layout](folder, SeededParameters(spec))
    click.echo(f"{variant}, {layout}: written in {time.monotonic() - began:.0f} s", err=True)
    for kind in kinds:
        usage = run(["--weights", str(checkpoint), *FILES[kind], "--no-verify", "--output", str(work / "out")], work)
        failed = "" if usage.code == 0 else f"  EXIT {usage.code}"
        peak = f"{weights(spec):9.2f} GB{usage.largest:9.2f} GB{usage.tree:9.2f} GB{limit(spec):9.2f} GB"
        click.echo(f"{f'{variant}, {layout}, {kind}':40}{peak}{usage.seconds:8.0f} s{failed}")
        if log or usage.code:
            click.echo((work / "log.txt").read_text(), err=True)
        (work / "log.txt").unlink()
        shutil.rmtree(work / "out", ignore_errors=True)
    shutil.rmtree(folder)


@click.command()
@click.option("--variants", default="vit_l16,vit_h14", show_default=True)
@click.option("--layout", default="huggingface,google", show_default=True, help="Of huggingface, google, timm.")
@click.option("--float32-onnx", is_flag=True, help="Export to ONNX too.")
@click.option("--log", is_flag=True, help="Show what each command printed.")
@click.option("--work", type=click.Path(path_type=Path), default=Path(), help="Folder for 7 GB of files.  [here]")
def main(variants: str, layout: str, float32_onnx: bool, log: bool, work: Path) -> None:
    """Measure and print one line per checkpoint and file."""
    kinds = list(FILES)[: 2 if float32_onnx else 1]
    click.echo(f"{'export':40}{'weights':>12}{'largest':>12}{'tree':>12}{'limit':>12}{'time':>10}")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        for variant in variants.split(","):
            for name in layout.split(","):
                measure(variant, name, kinds, log, Path(folder).resolve())


if __name__ == "__main__":
    main()
