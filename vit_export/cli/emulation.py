"""`python -P -m vit_export.cli.emulation`: set up the arm64 runtimes that run under emulation."""

from pathlib import Path

import click

from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.setting_up import Pieces, output_option, set_up_pieces
from vit_export.runtimes.emulation import launch


@click.command(cls=Command, context_settings=CONTEXT)
@output_option(launch.VARIABLE, launch.ARCHITECTURE)
def main(output: Path | None) -> None:
    """Set up the arm64 builds of ONNX Runtime and LiteRT, to run under qemu's user-mode emulation on this machine.

    What is up to date is left alone.
    """
    from vit_export.runtimes.emulation.install import set_up

    pieces = Pieces("The arm64 runtimes are", launch.VARIABLE, launch.folder(), set_up, "--on arm64")
    set_up_pieces(pieces, output)


if __name__ == "__main__":
    main(prog_name=launch.SET_UP)
