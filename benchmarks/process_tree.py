"""Time and peak memory of one `vit-export` command and of the processes it starts."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from vit_export.base.python import python_command
from vit_export.model.spec import ViTSpec


@dataclass
class Usage:
    """What one command took: wall seconds, GB of the largest process, GB of the tree, exit code."""

    seconds: float
    largest: float
    tree: float
    code: int


def limit(spec: ViTSpec) -> float:
    """GB that an export of `spec` may take: 1.5 times its float32 weights, and 1.5 GB for the libraries."""
    return 1.5 * weights(spec) + 1.5


def weights(spec: ViTSpec) -> float:
    """GB of the float32 weights of `spec`."""
    return spec.num_parameters * 4 / 1e9


def run(arguments: list[str], folder: Path) -> Usage:
    """Run `vit-export` with `arguments` in `folder`, sampling its process tree; what it prints goes to log.txt there.

    Peak memory is sampled over the whole tree as proportional set size (shared and mapped pages counted once), and
    read per process as the kernel's high-water mark, whichever process is largest.
    """
    began = time.monotonic()
    with open(folder / "log.txt", "a") as log:
        child = psutil.Popen(
            python_command("-m", "vit_export", *arguments), cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
        largest = tree = 0.0
        while child.poll() is None:
            resident, proportional = zip(*_sample(child), strict=True) if child.is_running() else ((0,), (0,))
            largest, tree = max(largest, *resident), max(tree, sum(proportional))
            time.sleep(0.1)
    return Usage(time.monotonic() - began, largest / 1e9, tree / 1e9, child.returncode)


def _sample(root: psutil.Process) -> Iterator[tuple[int, int]]:
    """(high-water mark, proportional set size) in bytes of each process of the tree."""
    yield 0, 0
    try:
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            mark = next(int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM"))
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            pss = next(int(row.split()[1]) * 1024 for row in rollup.splitlines() if row.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
        yield mark, pss
