"""Time and peak memory of whole `vit-export` commands, for every variant on one machine.

    python benchmarks/export_memory.py [--variants vit_s32,vit_h14] [--verify/--no-verify]
    python benchmarks/export_memory.py --from-saved-model vit_h14

The first form exports each variant to SavedModel and float32 ONNX, to float32, float16 and int8 TFLite in one command,
and to int8 alone in either format; the second makes a SavedModel once and times each conversion from it, without
verification. Peak memory is sampled over the whole process tree as proportional set size (shared and mapped pages
counted once), and read per process as the kernel's high-water mark, whichever process is largest. `limit` is 1.5 times
the float32 weights + 1.5 GB.
"""

import subprocess
import tempfile
from pathlib import Path

import click
from process_tree import Usage, limit, run

from vit_export.images.photographs import write_photographs
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import VARIANTS

ALL_FILES = (
    ("--onnx", "--float32"),
    ("--tflite", "--float32", "--float16", "--int8"),
    ("--tflite", "--int8"),
    ("--onnx", "--int8"),
)
CONVERSIONS = (("--tflite", "--float32"), ("--tflite", "--float16"), ("--onnx", "--float32"))
TARGETS = {"--tflite": 2.6, "--onnx": 4.0}
SECONDS_TARGET = 60


def _print(name: str, usage: Usage, aim: str) -> None:
    failed = "" if usage.code == 0 else f"  EXIT {usage.code}"
    click.echo(f"{name:44}{usage.seconds:8.0f} s{usage.largest:9.2f} GB{usage.tree:9.2f} GB   {aim}{failed}")


def every_variant(names: list[str], verify: bool, folder: Path) -> None:
    """One command per variant and format, everything from nothing."""
    for name in names:
        for files in ALL_FILES:
            options = [] if verify else ["--no-verify"]
            usage = run([name, *files, *options, "--output", str(folder / "out")], folder)
            _print(" ".join((name, *files)), usage, f"limit {limit(ViTSpec.of(name)):.2f} GB")
            subprocess.run(["rm", "-rf", str(folder / "out")], check=True)


def from_saved_model(name: str, folder: Path) -> None:
    """Each conversion from a SavedModel that exists."""
    usage = run([name, "--saved-model", "--output", str(folder / "base")], folder)
    _print(f"{name} --saved-model", usage, "")
    for files in CONVERSIONS:
        saved_model = folder / "base" / "saved_model"
        arguments = [name, "--weights", str(saved_model), *files, "--no-verify", "--output", str(folder / "base")]
        usage = run(arguments, folder)
        _print(" ".join((name, "--weights …", *files)), usage, f"targets {SECONDS_TARGET} s, {TARGETS[files[0]]} GB")


@click.command()
@click.option("--variants", default=",".join(VARIANTS), show_default=True)
@click.option("--from-saved-model", "saved", metavar="VARIANT")
@click.option("--verify/--no-verify", default=True, show_default=True)
def main(variants: str, saved: str | None, verify: bool) -> None:
    """Measure and print one line per command."""
    with tempfile.TemporaryDirectory(dir=".") as work:
        folder = Path(work).resolve()
        write_photographs(folder / "calibration")
        click.echo(f"{'command':44}{'time':>10}{'largest':>12}{'tree':>12}")
        if saved:
            from_saved_model(saved, folder)
        else:
            every_variant(variants.split(","), verify, folder)


if __name__ == "__main__":
    main()
