"""Cells over a cluster: each is a task of Ray's on one CPU, and its files come back to this machine.

Checkpoints and images are read where a task is, by the paths that they have here, so every node has to reach them (a
shared folder, hf:owner/name); that they are the same is seen to. A cell whose node is lost is begun again elsewhere.
"""

import html
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError, first_line
from vit_export.base.files import output_errors, publish
from vit_export.base.interrupts import heed
from vit_export.evaluation.cluster import TRIES, joined
from vit_export.sweeps.cell import Outcome, done
from vit_export.sweeps.local import Event

_POLL = 0.2
_FOLDER = "vit-export-cell"


def made(job: dict[str, Any]) -> tuple[Outcome, str, dict[str, bytes]]:
    """Make a cell on a node: its outcome, the folder that it was made in, and the files in that by name."""
    with tempfile.TemporaryDirectory(prefix="vit-export-") as scratch:
        folder = Path(scratch, _FOLDER)
        outcome = done(job, folder)
        names = [path for path in folder.iterdir() if path.is_file()] if outcome["status"] == "done" else []
        return outcome, str(folder), {path.name: path.read_bytes() for path in names}


def run_on_ray(address: str, jobs: Mapping[str, tuple[dict[str, Any], Path]], workers: int) -> Iterator[Event]:
    """Make the cells `jobs` (job and folder by id) on the cluster at `address`, as `local.run_locally` does here.

    Raises:
        InputError: Ray is not installed, or there is no such cluster, or none with a CPU.
    """
    with joined(address) as ray:
        if not ray.cluster_resources().get("CPU"):
            raise InputError(f"The Ray cluster at {address} has no CPU: see `ray status`.")
        # A process for each cell, which gives back what converters keep.
        task = ray.remote(num_cpus=1, max_retries=TRIES - 1, max_calls=1)(made)
        left, running = [*jobs][::-1], dict[Any, str]()
        while left or running:
            while left and len(running) < workers:
                id = left.pop()
                running[task.remote(jobs[id][0])] = id
                yield id, None
            ready, _ = ray.wait(list(running), timeout=_POLL)
            heed()
            for future in ready:
                id = running.pop(future)
                yield id, _outcome(ray, future, jobs[id][1])


def _outcome(ray: Any, future: Any, folder: Path) -> Outcome:
    """What became of a cell, its files in `folder`."""
    try:
        outcome, there, files = ray.get(future)
    except ray.exceptions.RayError as error:
        reason = f"The node that made it was lost {TRIES} times, or Ray failed ({first_line(error)})."
        return {"status": "failed", "reason": reason, "seconds": 0.0}
    found: Outcome = outcome
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        here = {".json": json.dumps(str(folder))[1:-1], ".html": html.escape(str(folder))}.get(Path(name).suffix)
        with publish(folder / name, overwrite=True) as temporary:
            temporary.write_bytes(content if here is None else content.replace(there.encode(), here.encode()))
    return found
