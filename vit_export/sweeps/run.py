"""A sweep from its request to its record: models, cells, accuracy, latency, what to ship. The order is written here."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vit_export.base.files import claimed
from vit_export.base.json_file import json_text
from vit_export.base.machine import cpu
from vit_export.base.packages import require_tensorflow
from vit_export.base.reporting import Reporter, Silent
from vit_export.base.signal import json_ready
from vit_export.base.text import without_secrets
from vit_export.base.versions import versions
from vit_export.base.wording import worded
from vit_export.model.artifact import Format, InputKind, Precision
from vit_export.model.spec import ImageSize
from vit_export.pipeline.choice import default_photographs
from vit_export.pipeline.plan import require_writable
from vit_export.sweeps.accuracy import Measure, evaluated
from vit_export.sweeps.cell import Cell, Outcome
from vit_export.sweeps.grid import grid_of, require_measurable
from vit_export.sweeps.latency import latencies
from vit_export.sweeps.local import Event, run_locally
from vit_export.sweeps.models import open_models
from vit_export.sweeps.plan import CONVERTED, DEFAULT_OUTPUT, SweepRequest
from vit_export.sweeps.store import CELLS, PAGE, RECORD, Store, write_text
from vit_export.sweeps.telling import Cells, Within

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found, as `sweep.json` has it, and the folder that it is in."""

    record: Mapping[str, Any]
    folder: Path

    def __repr__(self) -> str:
        """The cells in numbers, and the file to ship."""
        ship = self.record["ship"]["id"] or "nothing"
        return f"<SweepResult {len(self.cells)} cells in {self.folder}/, ship {ship}>"

    @property
    def cells(self) -> Sequence[Mapping[str, Any]]:
        """The cells in the order of the grid."""
        cells: Sequence[Mapping[str, Any]] = self.record["cells"]
        return cells

    @property
    def failures(self) -> tuple[str, ...]:
        """A sentence for each reason why cells could not be made or evaluated; a verdict is a result, none of them."""
        return self._reasons("refused", "failed", "done")

    @property
    def not_evaluated(self) -> tuple[str, ...]:
        """Of `failures` those of cells that were made."""
        return self._reasons("done")

    def _reasons(self, *statuses: str) -> tuple[str, ...]:
        ids: dict[str, list[str]] = {}
        for cell in self.cells:
            if cell["reason"] and cell["status"] in statuses:
                ids.setdefault(cell["reason"], []).append(cell["id"])
        more = {reason: f" and {len(some) - 1} more" if len(some) > 1 else "" for reason, some in ids.items()}
        return tuple(f"{some[0]}{more[reason]}: {worded(reason)}" for reason, some in ids.items())

    @property
    def passed(self) -> bool:
        """Whether every cell was made and, with data, evaluated."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return dict(self.record)


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
                outcomes, cached = _made(request, cells, images, store, say)
                evaluations = {} if measure is None else _evaluated(measure, cells, outcomes, store, say)
        except (KeyboardInterrupt, SystemExit):
            say.note(f"What is done stays in {request.output}/: the same command goes on from there.")
            raise
        ready = {id: outcome for id, outcome in outcomes.items() if outcome["status"] == "done"}
        times = latencies(ready, request.threads, store, say) if ready else {}
        told = [_told(cell, outcomes[cell.id], cell.id in cached, evaluations, times) for cell in cells]
        record = _record(request, told, measure, evaluations)
        _write(record, store)
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


def _made(
    request: SweepRequest, cells: Sequence[Cell], images: Path, store: Store, say: Reporter
) -> tuple[dict[str, Outcome], set[str]]:
    """The outcome of every cell by id, and which of them were done already."""
    outcomes: dict[str, Outcome] = {}
    for cell in cells:
        if cell.model.problem is not None:
            outcomes[cell.id] = {"status": "refused", "reason": cell.model.problem, "seconds": 0.0}
        elif (known := store.known(cell.id, cell.key)) is not None:
            outcomes[cell.id] = known
    cached = {id for id, outcome in outcomes.items() if outcome["status"] == "done"}
    missing = {cell.id: cell for cell in cells if cell.id not in outcomes}
    if cached:
        say.note(f"Done already, with the same weights, images, options and versions: {len(cached)} of {len(cells)}.")
    if missing:
        tell = Cells(len(missing), request.workers, say)
        for id in missing:
            store.forget(id)
        for id, outcome in _events(request, missing, images, store):
            if outcome is None:
                tell.begun(id)
                continue
            is_done = outcome["status"] == "done"
            outcomes[id] = store.keep(id, missing[id].key, outcome) if is_done else outcome
            tell.ended(id, _in_words(outcome))
    return outcomes, cached


def _events(request: SweepRequest, cells: Mapping[str, Cell], images: Path, store: Store) -> Iterator[Event]:
    jobs = {id: (cell.job(request, images), store.cell(id).absolute()) for id, cell in cells.items()}
    if request.ray is not None:
        from vit_export.sweeps.cluster import run_on_ray

        return run_on_ray(request.ray, jobs, request.workers)
    return run_locally(jobs, request.workers)


def _in_words(outcome: Outcome) -> str:
    """What is to be said of a cell that has ended; nothing of one that passed."""
    if outcome["status"] != "done":
        return f"{outcome['status']}: {worded(outcome['reason'])}"
    return "" if outcome["verdict"] == "pass" else f"FAIL ({', '.join(outcome['failed_checks'])})"


def _evaluated(
    measure: Measure, cells: Sequence[Cell], outcomes: Mapping[str, Outcome], store: Store, say: Reporter
) -> dict[str, dict[str, Any]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if outcomes[cell.id]["status"] == "done":
            groups.setdefault(cell.model.label, []).append(cell)
    found: dict[str, dict[str, Any]] = {}
    for number, (label, group) in enumerate(groups.items(), 1):
        say.step(f"Accuracy of {label} on {measure.request.data} ({number} of {len(groups)})")
        found |= evaluated(measure, group, outcomes, store, Within(say))
    if not any("problem" in told for told in found.values()):
        store.clear_rows()
    return found


def _told(
    cell: Cell,
    outcome: Outcome,
    cached: bool,
    evaluations: Mapping[str, dict[str, Any]],
    times: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """The cell as the record has it."""
    done = outcome["status"] == "done"
    place = f"{CELLS}/{cell.id}"
    found = dict(evaluations.get(cell.id, {}))
    problem = found.pop("problem", None)
    figures = ("bytes", "verdict", "sqnr_median_db", "sqnr_worst_db", "agreement")
    return {
        **cell.told(),
        "status": outcome["status"],
        "reason": outcome["reason"] or problem,
        "cached": cached,
        "seconds": outcome["seconds"],
        "file": f"{place}/{outcome['file']}" if done else None,
        **{name: outcome.get(name) for name in figures},
        "failed_checks": outcome.get("failed_checks", []),
        "report": f"{place}/{outcome['report']}" if done else None,
        "evaluation": found or None,
        "latency": times.get(cell.id),
    }


def _record(
    request: SweepRequest,
    cells: Sequence[Mapping[str, Any]],
    measure: Measure | None,
    evaluations: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    from vit_export.report.recommendation import choose, front_of

    processor = cpu()
    features = f" ({', '.join(processor.features)})" if processor.features else ""
    budget = {name: getattr(request, name) for name in ("max_ms", "max_drop", "max_mb")}
    evaluation = None
    if measure is not None:
        counted = [found for found in evaluations.values() if "images" in found]
        sizes = {name: counted[0][name] if counted else 0 for name in ("images", "labelled")}
        evaluation = {"data": without_secrets(request.data or ""), "metric": measure.metric, **sizes}
    ready: list[dict[str, Any]] = json_ready(cells)
    record = {
        "schema_version": SCHEMA_VERSION,
        "versions": versions(),
        "processor": f"{processor.model}{features}",
        "threads": request.threads,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "evaluation": evaluation,
        "budget": budget,
        "cells": ready,
        "front": front_of(ready),
        "ship": choose(ready, budget),
    }
    return dict(json_ready(record))


def _write(record: Mapping[str, Any], store: Store) -> None:
    from vit_export.report.sweep_page import sweep_page

    write_text(store.folder / RECORD, json_text(record) + "\n")
    write_text(store.folder / PAGE, sweep_page(record))
