"""`python -P -m vit_export.cli.emulation`: set up the arm64 runtimes that run under emulation."""

import sys
from pathlib import Path

import click

from vit_export.base.errors import VitExportError
from vit_export.base.interrupts import heard
from vit_export.cli.finish import say
from vit_export.cli.framework import CONTEXT, Command, GivenPath, ended, prepare_streams
from vit_export.runtimes.emulation import launch


@click.command(cls=Command, context_settings=CONTEXT)
@click.option(
    "--output",
    type=GivenPath(path_type=Path),
    help=f"Folder for the pieces.  [default: ${launch.VARIABLE}, or ~/.cache/vit-export/{launch.ARCHITECTURE}]",
)
def main(output: Path | None) -> None:
    """Set up the arm64 builds of ONNX Runtime and LiteRT, to run under qemu's user-mode emulation on this machine.

    What is up to date is left alone.
    """
    prepare_streams()
    try:
        with heard():
            _set_up(launch.folder() if output is None else output.expanduser().absolute())
    except VitExportError as error:
        say(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        ended(end)


def _set_up(where: Path) -> None:
    from rich.console import Console

    from vit_export.base.files import size_of
    from vit_export.cli.progress import ConsoleReporter
    from vit_export.runtimes.emulation.install import set_up

    with ConsoleReporter(Console(stderr=True)) as reporter:
        done = set_up(where, reporter.step)
    state = f"set up in {where} ({size_of(where) / 1e6:.0f} MB)" if done else f"up to date in {where}"
    say(f"The arm64 runtimes are {state}.")
    if where != launch.folder():
        say(f"For them to be found there: export {launch.VARIABLE}={where}")
    say("Next: verify exported files with them, vit-export verify FOLDER --emulate arm64.")


if __name__ == "__main__":
    main(prog_name=launch.SET_UP)
