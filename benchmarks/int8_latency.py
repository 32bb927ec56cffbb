"""int8 against float32 and against the stock converter: latency of one call, interleaved in one run.

    python benchmarks/int8_latency.py [--variants vit_s32,vit_s16] [--threads 1] [--json]

For each variant, with random weights and the default photographs: our TFLite files (float32 and each int8 scheme), our
ONNX files, and what TFLiteConverter's own full-integer mode makes of the same Keras model. Ratios are of medians.
"""

import json
import tempfile
from pathlib import Path

import click
import numpy as np
from stock import stock_full_int8

from vit_export.base.machine import cpu
from vit_export.base.quiet import import_tensorflow, quiet
from vit_export.images.photographs import write_photographs
from vit_export.images.split import split
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.timing.latency import Subject, measure

CALIBRATION_IMAGES = 32

TARGETS = (
    ("int8 TFLite against stock full int8", "stock_full_int8", "tflite_int8", {"vit_s32": 2.5, "vit_s16": 6.0}),
    ("int8 TFLite against own float32", "tflite_float32", "tflite_int8", {"vit_s32": 4.0, "vit_s16": 5.0}),
    ("int8 ONNX against own float32", "onnx_float32", "onnx_int8", {"vit_s32": 2.7, "vit_s16": 2.7}),
)
"""What is compared, the slower file, the faster one, how many times faster it should be."""


def dense_alone(spec: ViTSpec, folder: Path, images: np.ndarray) -> dict[str, Path]:
    """The Dense layers of `spec` alone, one after the other: what the processor's int8 gains at best, and the floor.

    Patch embedding, then per layer query + key + value, output, and the two of the MLP, with nothing between.
    """
    import tensorflow as tf

    from vit_export.model.record import ModelRecord
    from vit_export.tflite.quantize import Rule, calibrate, write_int8

    random = np.random.default_rng(0)
    d, m, patch, grid = spec.hidden_size, spec.mlp_size, spec.patch_size, spec.grid

    def dense(x: tf.Tensor, outputs: int) -> tf.Tensor:
        kernel = random.standard_normal((outputs, x.shape[1])).astype(np.float32) * x.shape[1] ** -0.5
        return tf.matmul(x, tf.constant(kernel), transpose_b=True) + tf.zeros(outputs)

    @tf.function(input_signature=[tf.TensorSpec((1, spec.image_size, spec.image_size, 3), tf.float32, name="images")])
    def layers(images: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.transpose(tf.reshape(images, (grid, patch, grid, patch * 3)), (0, 2, 1, 3))
        x = dense(tf.reshape(rows, (grid * grid, patch * patch * 3)), d)
        for _ in range(spec.num_layers):
            x = dense(dense(x, d) + dense(x, d) + dense(x, d), d)
            x = dense(dense(x, m), d)
        return {"logits": dense(x[:1], spec.output_size)}

    module = tf.Module()
    module.layers = layers
    with quiet():
        data = tf.lite.TFLiteConverter.from_concrete_functions([layers.get_concrete_function()], module).convert()
    floating, integer = folder / "dense_float32.tflite", folder / "dense_int8.tflite"
    floating.write_bytes(data)
    ranges = calibrate(floating, (image[np.newaxis] for image in images[:4]), 4)
    every = (Rule(".*", "FULLY_CONNECTED", "static"),)
    write_int8(floating, ModelRecord(spec, Preprocessing(spec.image_size)), integer, rules=every, ranges=ranges)
    return {"dense_alone_float32": floating, "dense_alone_int8": integer}


def measure_variant(name: str, threads: int, calibration: Path, folder: Path) -> dict[str, float]:
    """Median milliseconds of one call, by file."""
    spec = ViTSpec.of(name)
    images = split(calibration, Preprocessing(spec.image_size), CALIBRATION_IMAGES).representative.normalized()
    from vit_export.model.keras_model import build_model

    model = build_model(spec, seed=0)
    files = {
        "stock_full_int8": Subject(str(path := stock_full_int8(model, folder, images)), "tflite", path.stat().st_size)
    }
    for label, path in dense_alone(spec, folder, images).items():
        files[label] = Subject(str(path), "tflite", path.stat().st_size)
    for scheme in ("static", "dynamic", "full"):
        request = ExportRequest(
            spec=spec,
            output=folder / scheme,
            formats=("tflite",) if scheme != "dynamic" else ("tflite", "onnx"),
            precisions=("float32", "int8") if scheme != "full" else ("int8",),
            int8_scheme=scheme,
            calibration=calibration,
            calibration_images=CALIBRATION_IMAGES,
            verify=False,
        )
        result = export(request)
        for artifact in result.artifacts:
            special = (
                f"_{artifact.scheme}" if artifact.format == "tflite" and artifact.scheme not in (None, "static") else ""
            )
            label = f"{artifact.format}_{artifact.precision}{special}"
            files[label] = Subject(artifact.path, artifact.format, artifact.bytes)
    reference = Subject(result.saved_model.path, "saved_model", result.saved_model.bytes)
    measured = measure(reference, list(files.values()), images[0], threads=threads, time_limit=60, patience=None)
    medians = {label: measured.files[subject.path].median_ms for label, subject in files.items()}
    return {"keras_saved_model": measured.reference.median_ms, **medians}


@click.command()
@click.option("--variants", default="vit_s32,vit_s16", show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(variants: str, threads: int, as_json: bool) -> None:
    """Measure and print one table per variant, then each ratio beside its target."""
    import_tensorflow()
    machine = cpu()
    results = {}
    with tempfile.TemporaryDirectory() as work:
        calibration = Path(work) / "photographs"
        write_photographs(calibration)
        for name in variants.split(","):
            folder = Path(work) / name
            folder.mkdir()
            results[name] = measure_variant(name, threads, calibration, folder)
    if as_json:
        click.echo(json.dumps({"cpu": machine.to_dict(), "threads": threads, "median_ms": results}, indent=2))
        return
    click.echo(f"{machine.model} ({', '.join(machine.features)}), {threads} thread(s); median ms of one call")
    for label in next(iter(results.values())):
        click.echo(f"{label:26}" + "".join(f"{results[name][label]:12.1f}" for name in results))
    for text, slow, fast, wanted in TARGETS:
        for name, medians in results.items():
            goal = f", target {wanted[name]}" if name in wanted else ""
            click.echo(f"{name}: {text}: {medians[slow] / medians[fast]:.2f} times faster{goal}")


if __name__ == "__main__":
    main()
