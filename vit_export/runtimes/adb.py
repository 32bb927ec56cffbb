"""Android devices by adb, Android's own command: which one is meant, files to it and from it, commands on it."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vit_export.base.errors import InputError, VitExportError
from vit_export.base.files import shortened

_SECONDS = 30
"""For what answers at once; copying and measuring have no limit, since a large file over a cable takes minutes."""
_UNAUTHORISED = "unauthorized"
_NO_SPACE = "no space left on device"


class DeviceError(VitExportError):
    """A device refused a file or a command, or went away."""

    exit_code = 2


@dataclass(frozen=True)
class Device:
    """One Android device: its serial number as adb has it, and the command that speaks to it."""

    adb: str
    serial: str

    def shell(self, command: Sequence[str], folder: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run `command` there, in `folder`, however it ends."""
        line = shlex.join(command)
        if folder is not None:
            line = f"cd {shlex.quote(folder)} && LD_LIBRARY_PATH=. {line}"
        return self._run("shell", line)

    def push(self, path: Path, target: str) -> None:
        """Copy the file at `path` to `target` there.

        Raises:
            DeviceError: the device has no room, or refuses.
        """
        done = self._run("push", str(path), target)
        if done.returncode:
            told = f"{done.stdout}\n{done.stderr}"
            if _NO_SPACE in told.lower():
                raise DeviceError(
                    f"{self.serial} has no room for {shortened(path.name)} ({path.stat().st_size / 1e6:.0f} MB) in "
                    "/data/local/tmp: delete something on the device."
                )
            raise DeviceError(f"{self.serial} did not take {shortened(path.name)}: {reason(done)}.")

    def read(self, path: str) -> bytes:
        """The bytes of a file there; none where there is no such file."""
        done = subprocess.run([self.adb, "-s", self.serial, "exec-out", "cat", path], capture_output=True, check=False)
        return done.stdout if done.returncode == 0 else b""

    def property(self, name: str) -> str:
        """One of the device's properties, such as ro.product.model; empty where it has none."""
        return self._run("shell", f"getprop {shlex.quote(name)}", timeout=_SECONDS).stdout.strip()

    def _run(self, *arguments: str, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        command = [self.adb, "-s", self.serial, *arguments]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=timeout
            )
        except subprocess.TimeoutExpired as error:
            raise DeviceError(f"{self.serial} did not answer within {_SECONDS} seconds: plug it in again.") from error


def device(serial: str | None = None) -> Device:
    """The device called `serial`, or the one in ANDROID_SERIAL, or the only one there is.

    Raises:
        InputError: there is no adb, no such device, several, or one that does not trust this computer.
    """
    adb = shutil.which("adb")
    if adb is None:
        raise InputError(
            "There is no adb on the path, expected the command of Android's platform-tools: install them "
            "(https://developer.android.com/tools/releases/platform-tools)."
        )
    try:
        done = subprocess.run(
            [adb, "devices"], capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"adb did not answer within {_SECONDS} seconds: run adb kill-server, then try again."
        ) from error
    if done.returncode:
        raise InputError(f"adb devices failed ({reason(done)}): run adb kill-server, then try again.")
    # "List of devices attached", then a line for each: serial, tab, state. Lines with a star are about the daemon.
    states = dict(line.split("\t")[:2] for line in done.stdout.splitlines() if "\t" in line and line[0] != "*")
    wanted = serial or os.environ.get("ANDROID_SERIAL")
    listed = ", ".join(map(shortened, states))
    if not states:
        raise InputError(
            "adb sees no device: plug one in by USB, turn on USB debugging in its developer options, and allow this "
            "computer."
        )
    if wanted is None and len(states) > 1:
        raise InputError(f"adb sees several devices ({listed}): say which by --serial.")
    if wanted is not None and wanted not in states:
        raise InputError(f"adb sees no device {shortened(wanted)}, expected one of {listed}: give it to --serial.")
    chosen = wanted or next(iter(states))
    if states[chosen] == _UNAUTHORISED:
        raise InputError(f"{shortened(chosen)} does not trust this computer: unlock it and allow USB debugging.")
    if states[chosen] != "device":
        raise InputError(
            f"{shortened(chosen)} is {shortened(states[chosen])}, expected a device that is ready: plug it in again."
        )
    return Device(adb, chosen)


def reason(done: subprocess.CompletedProcess[str]) -> str:
    """What a command of adb said last."""
    lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1].strip()[:200].rstrip(".") if lines else f"exit code {done.returncode}"
