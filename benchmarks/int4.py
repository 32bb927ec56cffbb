"""Would 4-bit weights earn their place? Accuracy on trained digits, size and latency at full size.

    python benchmarks/int4.py [--variant vit_s32]

Dense weights alone are quantized, symmetric per output channel, activations per token while running (`dynamic`), by
AI Edge Quantizer; 8 bits beside 4 in the same run.
"""

import sys
import tempfile
from pathlib import Path

import click
import numpy as np

from vit_export.base.machine import cpu
from vit_export.base.quiet import import_tensorflow, quiet
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec
from vit_export.runtimes.runner import open_runner
from vit_export.runtimes.timing.latency import Subject, measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def quantize(float_path: Path, bits: int) -> Path:
    """The file with Dense weights of so many bits."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer

    weights = qtyping.TensorQuantizationConfig(
        num_bits=bits,
        symmetric=True,
        granularity=qtyping.QuantGranularity.CHANNELWISE,
        dtype=qtyping.TensorDataType.INT,
    )
    operation = qtyping.OpQuantizationConfig(None, weights, qtyping.ComputePrecision.INTEGER, explicit_dequantize=False)
    made = quantizer.Quantizer(str(float_path))
    algorithm = algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT
    made.update_quantization_recipe(".*", qtyping.TFLOperationName.FULLY_CONNECTED, operation, algorithm)
    path = float_path.with_name(f"int{bits}.tflite")
    with quiet():
        made.quantize(None, serialize_to_path=str(path))
    return path


def digits(folder: Path) -> None:
    """Decibels, agreement and accuracy on the digits that were not trained on."""
    from helpers.digits import PREPROCESSING, SPEC, DigitsParameters, held_out, pictures

    from vit_export.tflite.write import write_tflite

    pixels, labels = pictures()
    images, right = normalize(pixels[held_out()], PREPROCESSING), labels[held_out()]
    exact = folder / "float32.tflite"
    write_tflite(DigitsParameters(), ModelRecord(SPEC, PREPROCESSING), exact)
    wanted = open_runner(exact, "tflite").run(images)
    click.echo(f"digits float32: accuracy {100 * (wanted.argmax(1) == right).mean():.1f} %")
    for bits in (8, 4):
        found = open_runner(quantize(exact, bits), "tflite").run(images)
        decibels = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())
        same = 100 * (found.argmax(1) == wanted.argmax(1)).mean()
        accuracy = 100 * (found.argmax(1) == right).mean()
        click.echo(f"digits int{bits}: {decibels:.1f} dB, top class as float32 {same:.1f} %, accuracy {accuracy:.1f} %")


def full_size(variant: str, folder: Path) -> None:
    """Size and median latency on one thread, interleaved."""
    from vit_export.tflite.write import write_tflite
    from vit_export.weights.random import RandomWeights

    spec = ViTSpec.of(variant)
    exact = folder / "float32.tflite"
    write_tflite(RandomWeights(spec, 0), ModelRecord(spec, Preprocessing(spec.image_size)), exact)
    files = [exact, quantize(exact, 8), quantize(exact, 4)]
    subjects = [Subject(str(path), "tflite", path.stat().st_size) for path in files]
    image = np.random.default_rng(0).uniform(-1, 1, (spec.image_size, spec.image_size, 3)).astype(np.float32)
    measured = measure(subjects[0], subjects[1:], image, threads=1, time_limit=60, patience=None)
    click.echo(f"{variant} float32: {exact.stat().st_size / 1e6:.1f} MB, {measured.reference.median_ms:.1f} ms")
    for path in files[1:]:
        size, latency = path.stat().st_size / 1e6, measured.files[str(path)].median_ms
        click.echo(f"{variant} {path.stem}: {size:.1f} MB, {latency:.1f} ms")


@click.command()
@click.option("--variant", default="vit_s32", show_default=True)
def main(variant: str) -> None:
    """Measure and print."""
    import_tensorflow()
    click.echo(f"{cpu().model} ({', '.join(cpu().features)})")
    for part in (digits, lambda folder: full_size(variant, folder)):
        with tempfile.TemporaryDirectory() as folder:
            part(Path(folder))


if __name__ == "__main__":
    main()
