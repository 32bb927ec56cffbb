"""The cells of a sweep: those that are done already, and the others made, here or on a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vit_export.base.reporting import Reporter
from vit_export.base.wording import worded
from vit_export.sweeps.cell import Cell, Outcome
from vit_export.sweeps.local import Event, run_locally
from vit_export.sweeps.plan import SweepRequest
from vit_export.sweeps.store import Store
from vit_export.sweeps.telling import Cells


def outcomes_of(
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
