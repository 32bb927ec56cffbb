"""What the commands have in common that fetch what files are run with elsewhere than on this machine's CPU."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from vit_export.base.errors import VitExportError
from vit_export.base.interrupts import heard
from vit_export.cli.finish import say
from vit_export.cli.framework import GivenPath, ended, prepare_streams


@dataclass(frozen=True)
class Pieces:
    """What is set up: `words` with a verb, the `variable` that names its folder, the `folder` it is looked for in.

    `set_up` fills a folder and tells its steps; False where it was up to date. `verify` are options that verify files
    there.
    """

    words: str
    variable: str
    folder: Path
    set_up: Callable[[Path, Callable[[str], None]], bool]
    verify: str


def output_option(variable: str, name: str) -> Callable[[Any], Any]:
    """--output, the folder of what is called `name`."""
    return click.option(
        "--output",
        type=GivenPath(path_type=Path),
        help=f"Folder for the pieces.  [default: ${variable}, or ~/.cache/vit-export/{name}]",
    )


def set_up_pieces(pieces: Pieces, output: Path | None) -> None:
    """Run the command: set up `pieces` in the folder `output`, or where they are looked for."""
    prepare_streams()
    try:
        with heard():
            _set_up(pieces, pieces.folder if output is None else output.expanduser().absolute())
    except VitExportError as error:
        say(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        ended(end)


def _set_up(pieces: Pieces, where: Path) -> None:
    from rich.console import Console

    from vit_export.cli.progress import ConsoleReporter

    with ConsoleReporter(Console(stderr=True)) as reporter:
        done = pieces.set_up(where, reporter.step)
    size = sum(path.lstat().st_size for path in where.rglob("*"))  # a link is no second library
    state = f"set up in {where} ({size / 1e6:.0f} MB)" if done else f"up to date in {where}"
    say(f"{pieces.words} {state}.")
    if where != pieces.folder:
        say(f"For it to be found there: export {pieces.variable}={where}")
    say(f"Next: verify exported files there, vit-export verify FOLDER {pieces.verify}.")
