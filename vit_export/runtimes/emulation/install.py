"""Fetch what arm64 emulation needs: the system's own arm64 Python, through apt, and the runtimes' wheels, through pip.

Neither the system's packages nor its list of architectures are touched: apt works on lists and a cache of its own,
with the system's sources and keys; its packages are unpacked, not installed.
"""

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import publish
from vit_export.base.python import python_command
from vit_export.base.versions import versions
from vit_export.runtimes.debian import Step, Wanted, last_line, remove, require_tools, run, unpack
from vit_export.runtimes.emulation import launch

_OLDEST = (3, 11)
_WANTED = Wanted(
    "the arm64 Python",
    ("python3", "libstdc++6"),
    launch.ARCHITECTURE,
    "check the network, and that the system's package sources offer arm64 (Ubuntu's do not by default: docs/arm64.md)",
)

_ASK = (
    "import json, platform, sys; "
    "print(json.dumps([list(sys.version_info[:3]), platform.libc_ver()[1], platform.machine()]))"
)
_TRY = (
    "import onnxruntime, ai_edge_litert.interpreter, numpy; from vit_export.runtimes.process import serve; "
    "print(numpy.__version__)"
)


def set_up(where: Path, step: Step) -> bool:
    """Fill the folder `where`, telling each `step`; False where it is up to date already.

    It appears complete or not at all; an older one is replaced.

    Raises:
        InputError: this machine cannot emulate arm64, or a piece cannot be had.
        OutputError: the folder cannot be written, or holds something else.
    """
    if reason := launch.unfit(launch.ARCHITECTURE):
        raise InputError(reason)
    pieces = launch.read_pieces(where)
    if pieces is not None and launch.stale(pieces) is None:
        return False
    if pieces is None and (where.is_file() or (where.is_dir() and any(where.iterdir()))):
        raise OutputError(f"{where} holds something else: choose another folder with --output.")
    _require_tools()
    with publish(where, overwrite=True) as folder:
        folder.mkdir()
        _unpack_python(folder / "root", step)
        step("Starting the arm64 Python")
        python, glibc = _ask(folder)
        step("Downloading the arm64 wheels of both runtimes")
        _install_wheels(folder / "site", python, glibc)
        step("Trying both runtimes")
        numpy = _emulated(folder, _TRY)
        found = {"layout": launch.LAYOUT, "python": ".".join(map(str, python)), "numpy": numpy}
        found |= versions(*launch.RUNTIMES)
        (folder / launch.PIECES).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return True


def _require_tools() -> None:
    require_tools(
        "the arm64 Python comes from Debian's or Ubuntu's packages, so set the emulation up on such a system."
    )
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"This Python ({sys.prefix}) has no pip, which fetches the arm64 wheels: run 'python -P -m ensurepip' or "
            "'uv pip install pip'."
        )


def _unpack_python(root: Path, step: Step) -> None:
    unpack(_WANTED, root, step)
    _keep_what_runs(root)


def _keep_what_runs(root: Path) -> None:
    """Libraries and Python alone: every other file would only hide the machine's own of that name."""
    for path in [*root.iterdir(), *(root / "usr").iterdir(), *(root / "usr/bin").iterdir()]:
        name = path.relative_to(root).as_posix()
        if name not in ("lib", "usr", "usr/bin", "usr/lib") and not name.startswith("usr/bin/python3"):
            remove(path)
    if not (root / "lib").exists():  # where /lib is a link to /usr/lib, no package of ours brings the link
        (root / "lib").symlink_to("usr/lib")
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(launch.cpuinfo(), encoding="ascii")


def _ask(folder: Path) -> tuple[tuple[int, ...], str]:
    """The version of the arm64 Python and of its C library, by its own word."""
    version, glibc, machine = json.loads(_emulated(folder, _ASK))
    if machine != "aarch64":
        raise InputError(f"The Python in {folder} is of {machine}, expected aarch64.")
    if tuple(version[:2]) < _OLDEST:
        raise InputError(
            f"This system's arm64 Python is {version[0]}.{version[1]}, expected {_OLDEST[0]}.{_OLDEST[1]} or newer: "
            "use a newer release of the system (Debian 12, Ubuntu 24.04)."
        )
    return tuple(version), glibc


def _install_wheels(site: Path, python: Sequence[int], glibc: str) -> None:
    major, minor = (int(part) for part in glibc.split(".")[:2])
    platforms = [f"manylinux_{major}_{n}_aarch64" for n in range(minor, 16, -1)] + ["manylinux2014_aarch64"]
    # numpy only carries the arrays: any release does that this Python takes, which may be older than the one here.
    wanted = ["numpy>=2,<3", *(f"{name}=={version}" for name, version in versions(*launch.RUNTIMES).items())]
    pip = python_command("-m", "pip", "install", "--target", str(site), "--no-compile", "--no-input", "--quiet")
    pip += ["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp"]
    pip += [f"--python-version={python[0]}.{python[1]}", *(f"--platform={name}" for name in platforms)]
    done = run([*pip, *wanted])
    if done.returncode:
        raise InputError(
            f"pip cannot get the arm64 wheels ({last_line(done.stderr, 'ERROR:')}): check the network and pip's "
            "settings."
        )


def _emulated(folder: Path, code: str) -> str:
    """What the arm64 Python prints that runs `code`."""
    done = run(launch.command(folder, code), launch.environment())
    if done.returncode:
        raise InputError(
            f"The arm64 Python does not run under {launch.emulator()} ({last_line(done.stderr)}): "
            "qemu 7.2 and newer are known to run it."
        )
    return done.stdout.strip()
