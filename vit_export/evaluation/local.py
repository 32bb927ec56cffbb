"""Shards over processes of this machine: each worker is started anew where the system killed it."""

import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vit_export.base.errors import VerificationFailed
from vit_export.base.pool import pool
from vit_export.base.python import answer_of, python_worker
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
    with pool(wanted, workers, partial(_done, job)) as shards:
        for count, _ in enumerate(shards, 1):
            say.progress(count, len(wanted))


def _done(job: Path, left: Iterator[int], stop: threading.Event) -> Iterator[int]:
    """Let one worker after another (a killed one is replaced) take shards until none are left; each when it is done."""
    number, tries = next(left, None), 0
    while number is not None and not stop.is_set():
        with python_worker("-m", "vit_export.evaluation.worker", str(job), until=stop) as worker:
            while number is not None and (answer := answer_of(worker, number)) is not None:
                if (failed := failure(answer)) is not None:
                    raise failed
                yield number
                number, tries = next(left, None), 0
        tries += 1
        if tries == TRIES and not stop.is_set():
            raise VerificationFailed(f"The process that evaluates shard {number} was killed {TRIES} times.")
