"""The machine an export runs on: its cores, and memory given back between the steps."""

import ctypes
import gc
import os
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
"""Flags of /proc/cpuinfo that decide how fast float and int8 matrices multiply (x86, then arm64)."""


@dataclass(frozen=True)
class Cpu:
    """The processor latencies were measured on; `cores` is what this process may use."""

    model: str
    features: tuple[str, ...]
    cores: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {"model": self.model, "features": list(self.features), "cores": self.cores}


def cpu() -> Cpu:
    """The processor of this machine: model and FEATURES from /proc/cpuinfo where it exists, else what Python knows."""
    rows: dict[str, str] = {}
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                rows.setdefault(key.strip(), value.strip())
    flags = set(rows.get("flags", rows.get("Features", "")).split())
    model = rows.get("model name") or rows.get("Hardware") or platform.processor() or platform.machine()
    return Cpu(model, tuple(f for f in FEATURES if f in flags), usable_cores())


def machine() -> dict[str, Any]:
    """What ran the verification: processor, its features that matter, usable cores, memory in bytes, system."""
    import psutil

    return {
        "cpu": cpu().to_dict(),
        "memory_bytes": psutil.virtual_memory().total,
        "platform": platform.platform(),
    }
