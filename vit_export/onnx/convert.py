"""One planned .onnx file, of any precision and scheme, from the stored parameters alone."""

from vit_export.base.reporting import Reporter
from vit_export.images.pictures import Pictures
from vit_export.int8.budget import Budget
from vit_export.int8.modes import full_float, static
from vit_export.int8.tune import images_wanted, tune
from vit_export.model.artifact import Artifact, FileOptions, PlannedFile
from vit_export.model.names import needs_images
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.onnx.int8 import write_qdq_onnx
from vit_export.onnx.write import write_onnx


def convert(
    source: ParameterSource,
    record: ModelRecord,
    file: PlannedFile,
    pictures: Pictures | None,
    budget: Budget | None,
    options: FileOptions,
    reporter: Reporter,
) -> Artifact:
    """Write `file`; `pictures` are the representative dataset, which static int8 is tuned and calibrated on.

    No scheme of this format searches for a `budget`.

    Raises:
        InputError: a weight that float16 cannot hold, an opset or input that does not exist.
        OutputError: the file cannot be written.
    """
    assert budget is None, f"ONNX has no int8 scheme with a budget, {file.scheme} was asked for"
    if not needs_images(file.format, file.scheme):
        reporter.step(f"Converting to {file.label}")
        return write_onnx(
            source,
            record,
            file.path,
            precision=file.precision,
            scheme=file.scheme,
            opset=options.opset,
            batch=options.batch,
            input=options.input,
        )
    assert pictures is not None, "static int8 needs images: see names.needs_images"
    reporter.step(f"Tuning int8 ({file.scheme}) layer by layer")
    spec = record.spec
    modes = full_float(spec) if file.scheme == "w8a16" else static(spec)
    tuning = tune(source, pictures.normalized(images_wanted(spec)), modes, reporter.progress)
    reporter.step(f"Calibrating on {len(pictures)} images")
    return write_qdq_onnx(
        source,
        record,
        file.path,
        tuning,
        pictures.batches(options.batch, options.input),
        scheme=file.scheme or "qdq",
        opset=options.opset,
        batch=options.batch,
        input=options.input,
        progress=reporter.progress,
    )
