"""Fetch the Vulkan driver in software: lavapipe of Debian 13's Mesa, and the libraries that it needs, through apt.

The packages come from Debian's own archive, checked by apt with the key in its keyring, into lists and a cache of their
own: neither the system's packages nor its sources are touched.
"""

import json
import os
from pathlib import Path

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import publish
from vit_export.runtimes.debian import Step, Wanted, last_line, remove, require_tools, run, unpack
from vit_export.runtimes.gpu import launch

_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SUITE = "trixie"
_ARCHIVE = "VIT_EXPORT_DEBIAN"
"""Names the archive on systems that are not Debian, whose own sources have none."""
_ASK = "from vit_export.runtimes.gpu.vulkan import tell; tell()"


def set_up(where: Path, step: Step) -> bool:
    """Fill the folder `where`, telling each `step`; False where it is up to date already.

    It appears complete or not at all; an older one is replaced.

    Raises:
        InputError: this machine cannot run it, or a piece cannot be had.
        OutputError: the folder cannot be written, or holds something else.
    """
    if reason := launch.unfit():
        raise InputError(reason)
    pieces = launch.read_pieces(where)
    if pieces is not None and pieces.get("layout") == launch.LAYOUT:
        return False
    if pieces is None and (where.is_file() or (where.is_dir() and any(where.iterdir()))):
        raise OutputError(f"{where} holds something else: choose another folder with --output.")
    require_tools("the driver comes from Debian's packages, so set it up on Debian or Ubuntu.")
    if not _KEYS.is_file():
        raise InputError(
            f"{_KEYS} is missing, by which Debian's packages are checked: install it (apt-get install "
            "debian-archive-keyring)."
        )
    archive = _archive()
    wanted = Wanted(
        "Mesa's Vulkan driver in software",
        ("mesa-vulkan-drivers", "libvulkan1"),
        "amd64",
        f"check the network and apt's proxy ({archive} is asked)",
        source=f"deb [signed-by={_KEYS}] {archive} {_SUITE} main",
    )
    with publish(where, overwrite=True) as folder:
        folder.mkdir()
        unpack(wanted, folder / "root", step)
        _keep_what_runs(folder / "root")
        (folder / "run").mkdir(mode=0o700)
        (folder / "shaders").mkdir()
        step("Trying it")
        found = {"layout": launch.LAYOUT, "device": _device(folder)}
        (folder / launch.PIECES).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return True


def _archive() -> str:
    """The address of Debian's archive: of the system's own sources, or what the environment names.

    Raises:
        InputError: neither says.
    """
    if named := os.environ.get(_ARCHIVE):
        return named
    asked = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)", "Created-By: Packages"]
    for line in run(asked).stdout.splitlines():
        origin, label, address = line.split()[:3] if len(line.split()) >= 3 else ("", "", "")
        if (origin, label) == ("Debian", "Debian"):
            return address
    raise InputError(
        f"The system's own package sources have no archive of Debian's: give the address of one in ${_ARCHIVE}."
    )


def _keep_what_runs(root: Path) -> None:
    """The libraries and lavapipe alone: drivers of hardware, documentation and the like are half of all bytes."""
    keep = ("usr", "usr/lib", "usr/share", "usr/share/vulkan", "usr/share/vulkan/icd.d", launch.DRIVER)
    folders = (root, root / "usr", root / "usr/share", root / "usr/share/vulkan", root / "usr/share/vulkan/icd.d")
    for folder in folders:
        for path in folder.iterdir():
            if path.relative_to(root).as_posix() not in keep:
                remove(path)
    for path in (root / launch.LIBRARIES).iterdir():
        of_hardware = path.name.startswith("libvulkan_") and path.name != "libvulkan_lvp.so"
        if of_hardware or path.name == "gconv":
            remove(path)
    driver = root / launch.DRIVER
    text = json.loads(driver.read_text(encoding="utf-8"))
    # Relative to this file: the folder is moved into its place when it is complete.
    text["ICD"]["library_path"] = "../../../lib/x86_64-linux-gnu/libvulkan_lvp.so"
    driver.write_text(json.dumps(text), encoding="utf-8")


def _device(folder: Path) -> str:
    """The name of the device that the driver in `folder` offers."""
    command, environment = launch.in_software(folder, _ASK)
    done = run(command, environment)
    try:
        return str(next(name for name, kind in json.loads(done.stdout) if kind == "software"))
    except (ValueError, TypeError, StopIteration):
        raise InputError(
            f"Mesa's Vulkan driver does not run here ({last_line(done.stderr)}): Debian 12 and 13 and Ubuntu 22.04 "
            "and 24.04 should."
        ) from None
