"""`python -P -m vit_export.cli.gpu`: set up the Vulkan driver in software on which LiteRT's GPU runs."""

from pathlib import Path

import click

from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.setting_up import Pieces, output_option, set_up_pieces
from vit_export.runtimes.gpu import launch


@click.command(cls=Command, context_settings=CONTEXT)
@output_option(launch.VARIABLE, launch.NAME)
def main(output: Path | None) -> None:
    """Set up Mesa's Vulkan driver in software, on which LiteRT's GPU computes on a machine without one.

    What is up to date is left alone.
    """
    from vit_export.runtimes.gpu.install import set_up

    pieces = Pieces("The GPU in software is", launch.VARIABLE, launch.folder(), set_up, "--on gpu --images 3")
    set_up_pieces(pieces, output)


if __name__ == "__main__":
    main(prog_name=launch.SET_UP)
