"""Shards over processes of this machine: each worker is started anew where the system killed it."""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import VerificationFailed, VitExportError
from vit_export.base.interrupts import heed
from vit_export.base.python import python_worker
from vit_export.evaluation.worker import failure

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter

TRIES = 3
"""How often a shard is begun whose worker was killed, before it is given up."""


def run_locally(job: Path, wanted: Sequence[int], workers: int, say: "Reporter") -> None:
    """Have `workers` processes evaluate the shards `wanted` of the job in the file `job`.

    Raises:
        InputError: a shard cannot be read.
        VerificationFailed: a file cannot be run, or a worker is killed again and again.
    """
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[VitExportError | None] = queue.SimpleQueue()
    for number in wanted:
        left.put(number)
    stop = threading.Event()
    with ExitStack() as stack:
        threads = [threading.Thread(target=_serve, args=(job, left, done, stop), daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)  # before they are waited for
        count = 0
        while count < len(wanted):
            try:
                failed = done.get(timeout=0.2)
            except queue.Empty:
                heed()
                continue
            if failed is not None:
                raise failed
            count += 1
            say.progress(count, len(wanted))


def _serve(job: Path, left: "queue.SimpleQueue[int]", done: "queue.SimpleQueue[Any]", stop: threading.Event) -> None:
    """Let one worker after another (a killed one is replaced) take shards until none are left."""
    tries: dict[int, int] = {}
    number: int | None = None
    while not stop.is_set():
        try:
            with _worker(job, stop) as worker:
                while not stop.is_set():
                    if number is None:
                        number = left.get_nowait()
                    answer = _asked(worker, number)
                    if answer is None:
                        break
                    done.put(failure(answer))
                    number = None
        except queue.Empty:
            return
        if number is not None and not stop.is_set():
            tries[number] = tries.get(number, 0) + 1
            if tries[number] == TRIES:
                done.put(VerificationFailed(f"The process that evaluates shard {number} was killed {TRIES} times."))
                return


@contextmanager
def _worker(job: Path, stop: threading.Event) -> Iterator["subprocess.Popen[str]"]:
    worker = python_worker("-m", "vit_export.evaluation.worker", str(job))

    def end() -> None:
        stop.wait()
        worker.kill()

    threading.Thread(target=end, daemon=True).start()
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def _asked(worker: "subprocess.Popen[str]", number: int) -> dict[str, Any] | None:
    """The worker's answer on a shard; None where it has died."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        print(number, file=worker.stdin, flush=True)
        line = worker.stdout.readline()
    except (BrokenPipeError, OSError):
        return None
    answer: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
    return answer
