"""One planned .tflite file, of any precision and scheme, from the stored parameters alone."""

from vit_export.base.reporting import Reporter
from vit_export.images.pictures import Pictures
from vit_export.int8.budget import Budget
from vit_export.model.artifact import Artifact, FileOptions, PlannedFile
from vit_export.model.parameters import ParameterSource
from vit_export.model.record import ModelRecord
from vit_export.tflite.auto import write_within
from vit_export.tflite.int8 import prepare, write_int8_tflite
from vit_export.tflite.write import write_tflite


def convert(
    source: ParameterSource,
    record: ModelRecord,
    file: PlannedFile,
    pictures: Pictures | None,
    budget: Budget | None,
    options: FileOptions,
    reporter: Reporter,
) -> Artifact:
    """Write `file`; `pictures` are the representative dataset, which int8 is tuned and calibrated on.

    With a `budget` the modes of its scheme are searched for.

    Raises:
        InputError: a weight that float16 cannot hold, an input that does not exist.
        OutputError: the file cannot be written.
    """
    if file.precision != "int8":
        reporter.step(f"Converting to {file.label}")
        return write_tflite(
            source, record, file.path, precision=file.precision, batch=options.batch, input=options.input
        )
    assert pictures is not None, "int8 is calibrated on images: see pipeline.choice"
    if budget is not None:
        return write_within(budget, source, record, file.path, pictures, options, reporter)
    scheme = file.scheme or "static"
    reporter.step(f"Tuning int8 ({scheme}) layer by layer")
    recipe = prepare(source, scheme, pictures.normalized, progress=reporter.progress)
    if recipe.calibrates:
        reporter.step(f"Calibrating on {len(pictures)} images")
    return write_int8_tflite(
        source,
        record,
        file.path,
        recipe,
        pictures.batches(options.batch, options.input),
        batch=options.batch,
        input=options.input,
        progress=reporter.progress,
    )
