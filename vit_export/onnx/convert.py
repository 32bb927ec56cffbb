"""One planned .onnx file, of any precision and scheme, from the stored parameters alone."""

from vit_export.base.reporting import Reporter
from vit_export.images.pictures import Pictures
from vit_export.int8.budget import Budget
from vit_export.int8.modes import TUNED_FOR
from vit_export.int8.tune import images_wanted, tune
from vit_export.model.artifact import Artifact, FileOptions, PlannedFile
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.onnx.int8 import write_int8_onnx
from vit_export.onnx.qdq import NUMBERS
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
    """Write `file`; `pictures` are the representative dataset, which int8 is calibrated on.

    No scheme of this format searches for a `budget`.

    Raises:
        InputError: a weight that float16 cannot hold, an opset or input that does not exist.
        OutputError: the file cannot be written.
    """
    assert budget is None, f"ONNX has no int8 scheme with a budget, {file.scheme} was asked for"
    batch = None if options.dynamic_batch else options.batch
    if file.precision != "int8":
        reporter.step(f"Converting to {file.label}")
        return write_onnx(
            source,
            record,
            file.path,
            precision=file.precision,
            opset=options.opset,
            batch=batch,
            input=options.input,
            layout=options.layout,
            transformers_names=options.transformers_names,
        )
    assert pictures is not None, "int8 is calibrated on images: see pipeline.choice"
    scheme, tuning = file.scheme or "dynamic", None
    if scheme in NUMBERS and NUMBERS[scheme].tuned:
        reporter.step(f"Tuning int8 ({scheme}) layer by layer")
        images = pictures.normalized(images_wanted(record.spec))
        tuning = tune(source, images, TUNED_FOR[scheme](record.spec), reporter.progress)
    reporter.step(f"Calibrating on {len(pictures)} images")
    return write_int8_onnx(
        source,
        record,
        file.path,
        pictures.batches(options.batch, options.input),
        tuning,
        scheme=scheme,
        opset=options.opset,
        batch=batch,
        input=options.input,
        layout=options.layout,
        transformers_names=options.transformers_names,
        progress=reporter.progress,
    )
