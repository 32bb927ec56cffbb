"""LiteRT's GPU on this machine: on a Vulkan device that is there, or in software by Mesa's lavapipe.

`python -P -m vit_export.cli.gpu` fetches the driver in software (install.py); a RunnerProcess at the place `gpu` starts
with it (launch.py), and runs a .tflite file by LiteRT's `CompiledModel` (runner.py).
"""

from vit_export.runtimes.gpu.launch import available

__all__ = ["available"]
