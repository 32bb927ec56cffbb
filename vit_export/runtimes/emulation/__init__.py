"""The runtimes' arm64 builds on another machine, under user-mode emulation: what a phone computes, never how fast.

`python -P -m vit_export.cli.emulation` sets the pieces up (install.py); a RunnerProcess with `emulate="arm64"` starts
them (launch.py).
"""

from vit_export.runtimes.emulation.launch import available

__all__ = ["available"]
