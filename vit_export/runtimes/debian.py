"""Debian packages unpacked in a folder, by apt and with its signatures, without touching the system's own packages.

apt works on lists, a cache and a package state of its own; packages are unpacked, not installed: none of their scripts
runs.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vit_export.base.errors import InputError, OutputError
from vit_export.base.scratch import owned_folder

Step = Callable[[str], None]

# The hooks of the system's configuration (a notification, the cleaning of the system's own cache) are not for these
# lists: APT::Update holds them.
_APT = """\
#clear APT::Architectures;
#clear APT::Update;
APT::Architecture "%(architecture)s";
APT::Architectures { "%(architecture)s"; };
APT::Install-Recommends "false";
Acquire::Languages "none";
Dir::State "%(folder)s/state";
Dir::State::status "%(folder)s/status";
Dir::Cache "%(folder)s/cache";
Dir::Cache::archives "archives";
Dir::Log "%(folder)s/log";
"""
_OWN_SOURCE = """\
Dir::Etc::sourcelist "%(folder)s/sources.list";
Dir::Etc::sourceparts "-";
"""


@dataclass(frozen=True)
class Wanted:
    """What to fetch: `what` it is in words, its `packages` (apt adds what they need) for `architecture`.

    `source` is a line of a sources.list where they do not come from the system's own sources. `otherwise` says what to
    check where apt cannot get them.
    """

    what: str
    packages: Sequence[str]
    architecture: str
    otherwise: str
    source: str | None = None


def require_tools(why: str) -> None:
    """Raise InputError unless apt-get and dpkg-deb can be run; `why` says in words what they are for."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise InputError(f"{tool} is not on the PATH: {why}")


def unpack(wanted: Wanted, root: Path, step: Step) -> None:
    """Fill the new folder `root` with the files of the packages that are `wanted`, telling each `step`.

    Raises:
        InputError: apt cannot get a package.
        OutputError: `root` cannot be written.
    """
    with owned_folder("vit-export-apt-") as apt:
        apt.chmod(0o755)  # run by root, apt downloads as a user without rights
        for folder in ("state/lists/partial", "cache/archives/partial", "log"):
            (apt / folder).mkdir(parents=True)
        (apt / "status").touch()  # no package is installed in there yet
        configuration = apt / "apt.conf"
        text = _APT + (_OWN_SOURCE if wanted.source else "")
        configuration.write_text(text % {"folder": apt, "architecture": wanted.architecture}, encoding="utf-8")
        if wanted.source:
            (apt / "sources.list").write_text(f"{wanted.source}\n", encoding="utf-8")
        apt_get = ["apt-get", "-c", str(configuration), "-q", "-y"]
        whose = "Debian's" if wanted.source else "the system's"
        step(f"Reading {whose} package lists for {wanted.architecture}")
        # One source that cannot be read, or has no such architecture, is a warning; the packages may all be in others.
        warnings = run([*apt_get, "update"]).stderr
        step(f"Downloading {wanted.what}")
        fetched = run([*apt_get, "install", "--download-only", *wanted.packages])
        if fetched.returncode:
            said = last_line(warnings, "E: Failed", "W: Failed", "E:", default="") or last_line(fetched.stderr, "E:")
            raise InputError(f"apt-get cannot get the packages of {wanted.what} ({said}): {wanted.otherwise}.")
        step("Unpacking it")
        root.mkdir()
        for package in sorted((apt / "cache/archives").glob("*.deb")):
            unpacked = run(["dpkg-deb", "-x", str(package), str(root)])
            if unpacked.returncode:
                raise OutputError(
                    f"{package.name} cannot be unpacked in {root.parent} ({last_line(unpacked.stderr)}): free some "
                    "space there, or choose another folder with --output."
                )


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def run(command: list[str], environment: Mapping[str, str] = os.environ) -> "subprocess.CompletedProcess[str]":
    """Run `command` to its end, whatever that is, and keep what it says, in English."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env={**environment, "LC_ALL": "C.UTF-8"},
        check=False,
    )


def last_line(text: str, *beginnings: str, default: str = "it does not say why") -> str:
    """The last line of `text`, of those with the first of `beginnings` that any line has; without a full stop."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for beginning in beginnings:
        if chosen := [line for line in lines if line.startswith(beginning)]:
            return chosen[-1].removeprefix("E:").removeprefix("W:").removeprefix("ERROR:").strip().rstrip(".")[:300]
    return lines[-1].rstrip(".")[:300] if lines and not beginnings else default
