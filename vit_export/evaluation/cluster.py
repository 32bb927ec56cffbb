"""Shards over a cluster: Ray's actors call the same function as local workers, the driver writes what they return.

Each actor takes one CPU and keeps the files loaded. They go into Ray's object store once, and from there to each node
once; the data are read where the actor is, so every node has to reach them (a shared folder, s3://, gs://, https://). A
shard whose node is lost is begun again elsewhere.
"""

import logging
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import InputError, VerificationFailed, VitExportError, first_line
from vit_export.base.files import shortened
from vit_export.base.interrupts import heed
from vit_export.base.python import python_command, python_environment
from vit_export.evaluation.rows import write_rows
from vit_export.evaluation.worker import failure, part_name, shard_rows, told

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter

TRIES = 5
"""How often a shard is begun whose node was lost."""

_ANSWERING, _JOINING = 5, 30
"""Seconds that something may take to answer at a cluster's address, and to let this machine join."""
_JOINED = "joined"
_JOIN = f"""
import logging, sys
import ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    print({_JOINED!r})
except Exception as error:
    print((str(error).splitlines() or [type(error).__name__])[0])
"""
_POLL = 0.2
_PATIENCE = 120


class Worker:
    """One CPU of a node: the files of a job, written there once, and the shards it is told."""

    def __init__(self, job: dict[str, Any], files: dict[str, bytes]) -> None:
        self._job = job
        self._folder = tempfile.TemporaryDirectory(prefix="vit-export-")
        self._paths = {}
        for entry in job["subjects"]:
            path = Path(self._folder.name, f"{entry['sha256'][:16]}{Path(entry['path']).suffix}")
            path.write_bytes(files[entry["sha256"]])
            self._paths[entry["sha256"]] = str(path)

    def ready(self) -> None:
        """Answer, once there was a CPU for this worker."""

    def rows(self, number: int) -> bytes | dict[str, Any]:
        """The rows of a shard as a Parquet file; why there are none (see `told`) where that cannot be."""
        try:
            return shard_rows(self._job, number, self._paths)
        except VitExportError as error:
            return told(error)


def run_on_ray(
    address: str, job: dict[str, Any], wanted: Sequence[int], workers: int, folder: Path, say: "Reporter"
) -> None:
    """Have `workers` actors of the cluster at `address` evaluate the shards `wanted` of `job`; rows go to `folder`.

    Raises:
        InputError: Ray is not installed, there is no such cluster, a file is no single file, or a shard cannot be read.
        VerificationFailed: a file cannot be run, or a shard's node is lost again and again.
    """
    files = {entry["sha256"]: _content(entry) for entry in job["subjects"]}
    with joined(address) as ray:
        _run(ray, job, files, wanted, workers, folder, say)


@contextmanager
def joined(address: str) -> Iterator[Any]:
    """Be a part of the Ray cluster at `address` in the block, which is given the module `ray`.

    Where this process is a part of a cluster already, it stays one.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray, which is not installed: pip install 'vit-export[cluster]'.") from error
    if ray.is_initialized():
        yield ray
        return
    _require_cluster(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_cluster(address: str) -> None:
    """Raise InputError unless a Ray cluster can be joined at `address`.

    Where nobody answers, or somebody else does (the dashboard's port), Ray tries for minutes and then ends the process:
    so another one joins first, for as long as `_JOINING`.
    """
    host, _, port = address.rpartition(":")
    try:
        if "://" not in address and port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), _ANSWERING).close()
        done = subprocess.run(
            python_command("-c", _JOIN, address),
            capture_output=True,
            text=True,
            env=python_environment(),
            timeout=_JOINING,
            check=False,
        )
        reason = (done.stdout.split("\n")[-2:] or [""])[0] or "Ray ended without a word"
    except subprocess.TimeoutExpired:
        reason = f"what answers there let nobody join within {_JOINING} seconds"
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if reason != _JOINED:
        raise InputError(f"There is no Ray cluster at {shortened(address)} ({reason.rstrip('.')}): see `ray status`.")


def _content(entry: dict[str, Any]) -> bytes:
    path = Path(entry["path"])
    if not path.is_file():
        raise InputError(f"{entry['name']} is a folder, which --ray does not send: give a .tflite or .onnx file.")
    return path.read_bytes()


def _run(
    ray: Any,
    job: dict[str, Any],
    files: dict[str, bytes],
    wanted: Sequence[int],
    workers: int,
    folder: Path,
    say: "Reporter",
) -> None:
    sent, kept = ray.put(job), ray.put(files)
    actor = ray.remote(num_cpus=1)(Worker)
    left, tries, done = list(reversed(wanted)), dict[int, int](), 0
    running: dict[Any, tuple[Any, int | None]] = {}  # workers by what they were told: a shard, or to be there
    idle: list[Any] = []

    def start() -> None:
        worker = actor.remote(sent, kept)
        running[worker.ready.remote()] = worker, None  # which waits for a free CPU, for ever where there is none

    for _ in range(min(workers, len(wanted))):
        start()
    asked = time.monotonic()
    while done < len(wanted):
        while idle and left:
            worker, number = idle.pop(), left.pop()
            running[worker.rows.remote(number)] = worker, number
        ready, _ = ray.wait(list(running), timeout=_POLL)
        heed()
        nobody = all(shard is None for _, shard in running.values())
        if not ready and nobody and time.monotonic() - asked > _PATIENCE:
            raise InputError(f"The Ray cluster had no free CPU within {_PATIENCE} seconds: see `ray status`.")
        for future in ready:
            asked = time.monotonic()
            worker, shard = running.pop(future)
            try:
                found = ray.get(future)
            except ray.exceptions.RayActorError as error:
                start()
                if shard is None:
                    continue
                tries[shard] = tries.get(shard, 0) + 1
                if tries[shard] == TRIES:
                    raise VerificationFailed(
                        f"The node that evaluates shard {shard} was lost {TRIES} times ({first_line(error)})."
                    ) from error
                say.note(f"A node was lost: shard {shard} is begun again.")
                left.append(shard)
                continue
            if shard is not None:
                if isinstance(found, dict) and (failed := failure(found)) is not None:
                    raise failed
                write_rows(found, folder / part_name(shard))
                done += 1
                say.progress(done, len(wanted))
            idle.append(worker)
