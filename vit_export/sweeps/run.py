"""A sweep from its request to its record: models, cells, accuracy, latency, what to ship. The order is written here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vit_export.base.files import claimed
from vit_export.base.packages import require_tensorflow
from vit_export.base.reporting import Reporter, Silent
from vit_export.model.artifact import Format, InputKind, Precision
from vit_export.model.spec import ImageSize
from vit_export.pipeline.choice import default_photographs
from vit_export.pipeline.plan import require_writable
from vit_export.sweeps.accuracy import Measure, evaluations_of
from vit_export.sweeps.grid import grid_of, require_measurable
from vit_export.sweeps.latency import latencies
from vit_export.sweeps.making import outcomes_of
from vit_export.sweeps.models import open_models
from vit_export.sweeps.plan import CONVERTED, DEFAULT_OUTPUT, SweepRequest
from vit_export.sweeps.record import SweepResult, record_of, told_of, write_record
from vit_export.sweeps.store import Store


def sweep(
    models: Sequence[str | Path],
    output: str | Path = DEFAULT_OUTPUT,
    *,
    formats: Sequence[Format] = CONVERTED,
    precisions: Sequence[Precision] = ("float32", "float16", "int8"),
    int8_schemes: Sequence[str] = (),
    image_sizes: Sequence[ImageSize] = (),
    features: bool = False,
    input: InputKind = "normalized",
    calibration: str | Path | None = None,
    calibration_images: int = 128,
    held_out_images: int | None = None,
    data: str | None = None,
    labels: str | None = None,
    knn: int | None = None,
    train: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    threads: int = 1,
    max_ms: float | None = None,
    max_drop: float | None = None,
    max_mb: float | None = None,
    reporter: Reporter | None = None,
) -> SweepResult:
    """Export, verify and measure every file of a grid into the folder `output`, and say which to ship.

        sweep(["vit_s32", "vit_s16"], "out/", int8_schemes=["auto", "dynamic", "qdq"], data="val/", max_drop=0.5)

    Args:
        models: names of variants (random weights) and checkpoints, or where they are.
        output: the folder; a cell in it that is done with the same weights, images, options and versions stays.
        formats: of 'tflite' and 'onnx'.
        precisions: of 'float32', 'float16' and 'int8'.
        int8_schemes: see `names.SCHEMES`; each is made in the formats that have it, none for each format's default.
        image_sizes: pixels along one side, or (height, width); those of the models where there is none.
        features: without classifier.
        input: what the files take as an image (see `input_kinds.KINDS`).
        calibration: a folder of images that calibrate and verify; photographs that scikit-image ships when None.
        calibration_images: how many calibrate.
        held_out_images: how many verify; as many as are quick to run when None.
        data: a data set on which accuracy is counted, as `evaluate` takes it; not counted when None.
        labels: names of the classes as the data calls them, as `evaluate` takes them.
        knn: accuracy of embeddings by the vote of so many neighbours.
        train: the data set of the neighbours.
        workers: cells that are made at a time, and processes that evaluate, each on one thread.
        ray: address of a Ray cluster whose nodes they are on, or 'auto'.
        threads: of each runtime when latency is measured.
        max_ms: milliseconds that the file to ship may take for one image.
        max_drop: points of accuracy that it may lose against its own float32 file.
        max_mb: megabytes that it may have.
        reporter: is told steps, progress and notes.

    Raises:
        InputError: the grid has what cannot be; nothing was made.
        OutputError: the folder holds something else, another process works in it, or it cannot be written.
    """
    request = SweepRequest(  # which brings sequences and paths of any kind into its own
        models=models,  # type: ignore[arg-type]
        output=output,  # type: ignore[arg-type]
        formats=formats,  # type: ignore[arg-type]
        precisions=precisions,  # type: ignore[arg-type]
        int8_schemes=int8_schemes,  # type: ignore[arg-type]
        image_sizes=image_sizes,  # type: ignore[arg-type]
        features=features,
        input=input,
        calibration=calibration,  # type: ignore[arg-type]
        calibration_images=calibration_images,
        held_out_images=held_out_images,
        data=data,
        labels=labels,
        knn=knn,
        train=train,
        workers=workers,
        ray=ray,
        threads=threads,
        max_ms=max_ms,
        max_drop=max_drop,
        max_mb=max_mb,
    )
    return run(request, reporter)


def run(request: SweepRequest, reporter: Reporter | None = None) -> SweepResult:
    """The sweep that `request` asks for (see `sweep`)."""
    say = reporter or Silent()
    require_tensorflow()
    require_writable(request.output)
    say.step("Reading the models")
    models = open_models(request, say)
    require_measurable(request, models)
    if request.data is not None:
        say.step("Reading the data")
    measure = Measure.of(request, say)
    if request.adds_reference:
        say.note("Accuracy is counted against float32 files, so they are made too.")
    with claimed(request.output, say.note):
        store = Store(request.output)
        store.require_ours()
        images = request.calibration or default_photographs(say, keep=True)
        cells = grid_of(request, models, images, say)
        try:
            with _workers(request, say):
                outcomes, cached = outcomes_of(request, cells, images, store, say)
                evaluations = {} if measure is None else evaluations_of(measure, cells, outcomes, store, say)
        except (KeyboardInterrupt, SystemExit):
            say.note(f"What is done stays in {request.output}/: the same command goes on from there.")
            raise
        ready = {id: outcome for id, outcome in outcomes.items() if outcome["status"] == "done"}
        times = latencies(ready, request.threads, store, say) if ready else {}
        told = [
            told_of(cell, outcomes[cell.id], cell.id in cached, evaluations.get(cell.id), times.get(cell.id))
            for cell in cells
        ]
        record = record_of(request, told, measure, evaluations)
        write_record(record, store)
    return SweepResult(record, request.output)


@contextmanager
def _workers(request: SweepRequest, say: Reporter) -> Iterator[None]:
    """Join the cluster, where there is to be one, for all that is done on it."""
    if request.ray is None:
        yield
        return
    from vit_export.evaluation.cluster import joined

    say.step(f"Joining the Ray cluster at {request.ray}")
    with joined(request.ray):
        yield
