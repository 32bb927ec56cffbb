"""Another Python beside this one, which never takes a module from the current folder: its command line, its answers."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vit_export.base.errors import VitExportError

_ROOT = str(Path(__file__).resolve().parents[2])
_POLL = 0.2


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


@contextmanager
def python_worker(*arguments: str, until: threading.Event) -> Iterator[subprocess.Popen[str]]:
    """That Python at work in the block: it reads lines and answers with lines, and what else it says is not heard.

    It is killed when the block ends, and as soon as `until` is set.

    Raises:
        VitExportError: this Python does not know where its own executable is, or no process can be started.
    """
    try:
        worker = subprocess.Popen(
            python_command(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=python_environment(),
            start_new_session=True,  # Ctrl-C is for this process, which then ends the workers
        )
    except OSError as error:  # no memory, or no more processes
        reason = (error.strerror or str(error)).lower()
        raise VitExportError(
            f"No process can be started as a worker ({reason}): close other programs, or ask for fewer --workers."
        ) from error

    def watch() -> None:
        while worker.poll() is None:
            if until.wait(_POLL):
                worker.kill()
                return

    try:
        threading.Thread(target=watch, daemon=True).start()
        yield worker
    finally:
        worker.kill()
        worker.wait()
        for pipe in filter(None, (worker.stdin, worker.stdout)):
            with suppress(OSError):  # what it has not read is written once more
                pipe.close()


def answer_of(worker: subprocess.Popen[str], question: Any) -> Any:
    """What a worker of `python_worker` answers, in JSON as the question is; None where it has died."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        print(json.dumps(question), file=worker.stdin, flush=True)
        line = worker.stdout.readline()
    except OSError:
        return None
    return json.loads(line) if line.endswith("\n") else None
