"""Cells over processes of this machine: so many at a time, each in a process of its own on one thread."""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vit_export.base.pool import pool
from vit_export.base.python import answer_of, python_worker
from vit_export.sweeps.cell import Outcome

Event = tuple[str, Outcome | None]
"""A cell's id, and what became of it; None where it is begun."""


def run_locally(jobs: Mapping[str, tuple[dict[str, Any], Path]], workers: int) -> Iterator[Event]:
    """Make the cells `jobs` (job and folder by id), `workers` at a time; tell of each when it begins and ends."""

    def serve(left: Iterator[str], stop: threading.Event) -> Iterator[Event]:
        for id in left:
            yield id, None
            yield id, _made(*jobs[id], stop)

    with pool(jobs, workers, serve) as events:
        yield from events


def _made(job: dict[str, Any], folder: Path, stop: threading.Event) -> Outcome:
    """What a process of its own made of a job; it is killed as soon as `stop` is set."""
    with python_worker("-m", "vit_export.sweeps.worker", until=stop) as worker:
        found: Outcome | None = answer_of(worker, [job, str(folder)])
        if found is not None:
            return found
        code = worker.wait()
    how = f"was killed (signal {-code}), as the system does without memory" if code < 0 else f"ended with {code}"
    return {"status": "failed", "reason": f"The process that made it {how}.", "seconds": 0.0}
