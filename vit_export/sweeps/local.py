"""Cells over processes of this machine: so many at a time, each in a process of its own on one thread."""

import json
import queue
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from vit_export.base.interrupts import heed
from vit_export.base.python import python_worker
from vit_export.sweeps.cell import Outcome

Event = tuple[str, Outcome | None]
"""A cell's id, and what became of it; None where it is begun."""


def run_locally(jobs: Mapping[str, tuple[dict[str, Any], Path]], workers: int) -> Iterator[Event]:
    """Make the cells `jobs` (job and folder by id), `workers` at a time; tell of each when it begins and ends."""
    left: queue.SimpleQueue[str] = queue.SimpleQueue()
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    for id in jobs:
        left.put(id)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                id = left.get_nowait()
            except queue.Empty:
                return
            events.put((id, None))
            events.put((id, _made(*jobs[id], stop)))

    with ExitStack() as stack:
        threads = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(jobs)))]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)  # before they are waited for
        ended = 0
        while ended < len(jobs):
            try:
                event = events.get(timeout=0.2)
            except queue.Empty:
                heed()
                continue
            ended += event[1] is not None
            yield event


def _made(job: dict[str, Any], folder: Path, stop: threading.Event) -> Outcome:
    """What a process of its own made of a job; it is killed as soon as `stop` is set."""
    worker = python_worker("-m", "vit_export.sweeps.worker")

    def watch() -> None:
        while worker.poll() is None:
            if stop.wait(0.2):
                worker.kill()

    threading.Thread(target=watch, daemon=True).start()
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        print(json.dumps([job, str(folder)]), file=worker.stdin, flush=True)
        answer = worker.stdout.readline()
    except OSError:
        answer = ""
    finally:
        with suppress(OSError):  # what it has not read is written once more
            worker.stdin.close()
        code = worker.wait()
        worker.stdout.close()
    if answer.endswith("\n"):
        found: Outcome = json.loads(answer)
        return found
    how = f"was killed (signal {-code}), as the system does without memory" if code < 0 else f"ended with {code}"
    return {"status": "failed", "reason": f"The process that made it {how}.", "seconds": 0.0}
