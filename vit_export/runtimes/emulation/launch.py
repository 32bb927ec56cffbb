"""Start an arm64 Python under qemu's user-mode emulation, from a folder that `install` has filled.

qemu runs the one process; there is no virtual machine, no container, and no privilege is needed. Of the paths that the
process opens, those that exist below `<folder>/root` are taken from there (qemu's -L): the arm64 loader, C library and
Python, and a /proc/cpuinfo. Everything else, the model and this package among it, is the machine's own.
"""

import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from vit_export.base.files import cache_folder
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.base.versions import versions

ARCHITECTURE = "arm64"
RUNTIMES = ("onnxruntime", "ai-edge-litert")
SET_UP = "python -P -m vit_export.cli.emulation"
VARIABLE = "VIT_EXPORT_ARM64"
PIECES = "pieces.json"
LAYOUT = 1
"""Counts up when a folder set up before can no longer be used."""

CPU = "cortex-a76"
"""A core of common phones and boards, with the int8 dot products and the float16 arithmetic that the runtimes use."""

_CORES = 4
_CPUINFO = """\
processor\t: {core}
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""

# -I and -S: neither the current folder nor packages of the host's Pythons, which are built for another processor. For
# the same reason this package comes by its own path, not with the site-packages folder that it may be installed in.
_START = """
import sys
from importlib.util import module_from_spec, spec_from_file_location
sys.path.insert(0, {site!r})
spec = spec_from_file_location("vit_export", {package!r})
sys.modules["vit_export"] = module_from_spec(spec)
spec.loader.exec_module(sys.modules["vit_export"])
{code}
"""


def folder() -> Path:
    """Where the pieces are: $VIT_EXPORT_ARM64, or `arm64` in this package's cache folder ($VIT_EXPORT_CACHE)."""
    if given := os.environ.get(VARIABLE):
        return Path(given).expanduser().absolute()
    return cache_folder() / ARCHITECTURE


def available(architecture: str) -> str | None:
    """None where files can be run by `architecture` builds of the runtimes under emulation, else why not, a sentence.

    Nothing is started to find out.
    """
    if reason := unfit(architecture):
        return reason
    where = folder()
    pieces = read_pieces(where)
    if pieces is None:
        return f"The arm64 runtimes are not set up (looked for in {where}): run '{SET_UP}'."
    if reason := stale(pieces):
        return f"{reason}: run '{SET_UP}' again."
    return None


def unfit(architecture: str) -> str | None:
    """Why this machine cannot emulate `architecture`, whatever has been set up; None where it can."""
    if architecture != ARCHITECTURE:
        return f"'{architecture}' cannot be emulated: expected {ARCHITECTURE}."
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "This machine is arm64 itself: leave the emulation out, and the arm64 builds run at their full speed."
    if not sys.platform.startswith("linux"):
        return f"arm64 is emulated by qemu's user mode, which needs Linux, not {sys.platform}: use a Linux machine."
    if emulator() is None:
        return (
            "qemu-aarch64-static is not on the PATH: install it (Debian's and Ubuntu's package is qemu-user-static: "
            "apt-get install qemu-user-static)."
        )
    return None


def emulator() -> str | None:
    """The path of qemu's user mode for arm64, or None; newer packages leave the "-static" out of its name."""
    return shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")


def read_pieces(where: Path) -> dict[str, Any] | None:
    """What was set up in the folder `where`, or None where nothing (complete) was."""
    try:
        pieces = parse_json(json_bytes(where / PIECES))
    except (OSError, ValueError):
        return None
    return pieces if isinstance(pieces, dict) and (where / "root").is_dir() else None


def stale(pieces: dict[str, Any]) -> str | None:
    """Why `pieces` do not do for the runtimes installed here, without a full stop; None where they do."""
    if pieces.get("layout") != LAYOUT:
        return "The arm64 runtimes were set up by another release of vit-export"
    for name, wanted in versions(*RUNTIMES).items():
        if pieces.get(name) != wanted:
            return f"The arm64 {name} is {pieces.get(name)}, the one installed here {wanted}"
    return None


def cpuinfo() -> str:
    """A /proc/cpuinfo of CPU: both runtimes look there for what the processor can do, and crash on another's."""
    return "".join(_CPUINFO.format(core=core) for core in range(_CORES))


def command(where: Path, code: str) -> list[str]:
    """The command line by which the arm64 Python in the folder `where` runs `code`.

    It finds this package, the arm64 wheels and the standard library, and nothing else.
    """
    root = where / "root"
    package = Path(__file__).resolve().parents[2] / "__init__.py"
    start = _START.format(site=str(where / "site"), package=str(package), code=code)
    qemu = [emulator() or "qemu-aarch64-static", "-cpu", CPU, "-L", str(root)]
    return [*qemu, str(root / "usr/bin/python3"), "-I", "-S", "-c", start]


def environment() -> dict[str, str]:
    """The parent's environment without what would load libraries of its own processor."""
    return {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "LD_LIBRARY_PATH")}
