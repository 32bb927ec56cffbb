"""The machine an export runs on: its cores, and memory given back between the steps."""

import ctypes
import gc
import os
from contextlib import suppress


def usable_cores() -> int:
    """Cores that this process may use (fewer than the machine's in a container or under taskset)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return usable or 1


def release_memory() -> None:
    """Collect garbage and return what the allocator keeps of it to the system.

    glibc keeps freed blocks of a model's tensors for later; after a conversion of ViT-H that is gigabytes, which the
    processes of the verification, running beside, may need.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # other allocators have no malloc_trim, and no need of it
        ctypes.CDLL(None).malloc_trim(0)
