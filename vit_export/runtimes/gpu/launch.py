"""Start this Python so that LiteRT's GPU finds a Vulkan driver: the machine's own, or Mesa's in software.

The driver in software is a newer distribution's (LiteRT's Dawn refuses Mesa 22), in a folder that `install` has filled
together with the C library that it was built for. This very Python is started by that C library's loader, which takes
newer libraries from the folder and all others from the machine: no container, no privilege, the same packages.
"""

import json
import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vit_export.base.files import cache_folder
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.base.python import python_command, python_environment
from vit_export.runtimes.gpu.vulkan import Device

SET_UP = "python -P -m vit_export.cli.gpu"
VARIABLE = "VIT_EXPORT_GPU"
NAME = "gpu"
PIECES = "pieces.json"
LAYOUT = 1
"""Counts up when a folder set up before can no longer be used."""

LIBRARIES = "usr/lib/x86_64-linux-gnu"
LOADER = f"{LIBRARIES}/ld-linux-x86-64.so.2"
DRIVER = "usr/share/vulkan/icd.d/lvp_icd.json"
ACCELERATOR = "libLiteRtWebGpuAccelerator.so"
GLIBC = (2, 41)
"""The C library of the folder: a machine's own may not be newer, or its libraries would not find their symbols."""

_ASK = "from vit_export.runtimes.gpu.vulkan import tell; tell()"
_PATIENCE = 60.0  # seconds


def folder() -> Path:
    """Where the driver in software is: $VIT_EXPORT_GPU, or `gpu` in this package's cache folder."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser().absolute()
    return cache_folder() / NAME


def available() -> str | None:
    """None where files can be run by LiteRT's GPU, on hardware or in software, else why not, a sentence."""
    if find_spec("ai_edge_litert") is None or not (_litert() / ACCELERATOR).is_file():
        return f"The installed ai-edge-litert has no {ACCELERATOR}: its wheels for Linux on x86 have."
    if own_device() is not None:
        return None
    if reason := unfit():
        return reason
    where = folder()
    pieces = read_pieces(where)
    if pieces is None:
        return f"There is no GPU here, and none in software is set up (looked for in {where}): run '{SET_UP}'."
    if pieces.get("layout") != LAYOUT:
        return f"The GPU in software was set up by another release of vit-export: run '{SET_UP}' again."
    return None


def unfit() -> str | None:
    """Why this machine cannot run the driver in software, whatever has been set up; None where it can."""
    if not sys.platform.startswith("linux") or platform.machine().lower() not in ("x86_64", "amd64"):
        return (
            f"A GPU in software is run on Linux on x86 processors, not on {sys.platform} on {platform.machine()}: use "
            "such a machine, or one with a GPU and its Vulkan driver."
        )
    library, version = platform.libc_ver()
    if library != "glibc":
        return "A GPU in software needs a Python that is linked with glibc: use an ordinary Linux distribution."
    if tuple(int(part) for part in version.split(".")[:2]) > GLIBC:
        return (
            f"This system's C library ({version}) is newer than that of the driver in software ({GLIBC[0]}."
            f"{GLIBC[1]}): use a machine with Debian 12 or 13, or Ubuntu 22.04 or 24.04."
        )
    return None


def read_pieces(where: Path) -> dict[str, Any] | None:
    """What was set up in the folder `where`, or None where nothing (complete) was."""
    try:
        pieces = parse_json(json_bytes(where / PIECES))
    except (OSError, ValueError):
        return None
    return pieces if isinstance(pieces, dict) and (where / "root" / LOADER).is_file() else None


@lru_cache(maxsize=1)
def own_device() -> Device | None:
    """The GPU of this machine that Vulkan offers, None where there is none; asked once, in a process of its own."""
    environment = {**python_environment(), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            python_command("-c", _ASK), capture_output=True, timeout=_PATIENCE, env=environment, check=False
        )
        found = [Device(*row) for row in json.loads(done.stdout)]
    except (OSError, ValueError, TypeError, subprocess.TimeoutExpired):
        return None
    return next((device for device in found if device.real), None)


def command(code: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment by which this Python runs `code` with a Vulkan driver."""
    if own_device() is not None:
        return python_command("-c", code), python_environment()
    return in_software(folder(), code)


def in_software(where: Path, code: str) -> tuple[list[str], dict[str, str]]:
    """`command`, with the driver in the folder `where`."""
    root = where / "root"
    # By the name that it has in a virtual environment, Python finds that; what is loaded is the program behind it.
    named, *arguments = python_command("-c", code)
    loader = [str(root / LOADER), "--argv0", named, "--library-path", str(root / LIBRARIES), os.path.realpath(named)]
    told = {
        "VK_DRIVER_FILES": str(root / DRIVER),
        "XDG_RUNTIME_DIR": str(where / "run"),  # LiteRT fails without one
        "MESA_SHADER_CACHE_DIR": str(where / "shaders"),  # what a file's operators were compiled to, minutes' worth
        "MESA_SHADER_CACHE_MAX_SIZE": "512M",
    }
    environment = {name: value for name, value in python_environment().items() if name not in _NOT_PASSED}
    return [*loader, *arguments], {**environment, **told}


_NOT_PASSED = ("LD_PRELOAD", "LD_LIBRARY_PATH", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES", "VK_INSTANCE_LAYERS")


def _litert() -> Path:
    spec = find_spec("ai_edge_litert")
    return Path(spec.origin if spec and spec.origin else ".").parent
