"""`vit-export calibration`: the photographs that calibrate and verify where no folder of images is given."""

from pathlib import Path

import click

from vit_export.cli.finish import say
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import PATH, overwrite


@click.command(
    "calibration",
    cls=Command,
    context_settings=CONTEXT,
    short_help="Write photographs for calibration and verification.",
)
@click.argument("folder", type=PATH, default=Path("calibration"))
@overwrite("an incomplete, changed or older set")
def calibration_command(folder: Path, overwrite: bool) -> None:
    """Write the default representative dataset: photographs that scikit-image ships, cropped."""
    from vit_export.images.photographs import PHOTOGRAPHS, write_photographs

    written = write_photographs(folder, overwrite=overwrite)
    total = sum(photograph.count for photograph in PHOTOGRAPHS)
    say(f"{folder}: {total} images {'written' if written else 'are up to date'}.")
