"""The runtimes' arm64 builds on another machine, under user-mode emulation: what a phone computes, never how fast.

`python -m vit_export.emulation` sets the pieces up (install.py); a RunnerProcess with `emulate="arm64"` starts them
(launch.py).
"""

from vit_export.emulation.launch import available

__all__ = ["available"]
