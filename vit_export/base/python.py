"""Another Python beside this one: its command line, which never takes a module from the current folder."""

import os
import subprocess
import sys
from pathlib import Path

from vit_export.base.errors import VitExportError

_ROOT = str(Path(__file__).resolve().parents[2])


def python_command(*arguments: str) -> list[str]:
    """The command line of this very Python with `arguments` (`"-m", module, …` or `"-c", code, …`).

    `-P` leaves the current folder out of the path of imports: `-m` and `-c` would look there first, and run a json.py
    that happens to lie beside somebody's model. PYTHONPATH counts as ever.

    Raises:
        VitExportError: this Python does not know where its own executable is.
    """
    if not sys.executable:
        raise VitExportError(
            "This Python does not know its own executable, so nothing can be run in a process of its own: use an "
            "ordinary Python."
        )
    return [sys.executable, "-P", *arguments]


def python_environment() -> dict[str, str]:
    """The environment in which that Python finds this package and all that this process would import.

    An entry that stands for whatever the current folder is ("", as in an interactive session) is left out.
    """
    paths = dict.fromkeys([_ROOT, *filter(None, sys.path)])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def python_worker(*arguments: str) -> subprocess.Popen[str]:
    """That Python at work: it reads lines of text and answers with lines, and what else it says is not heard.

    Raises:
        VitExportError: this Python does not know where its own executable is.
    """
    return subprocess.Popen(
        python_command(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=python_environment(),
        start_new_session=True,  # Ctrl-C is for this process, which then ends the workers
    )
