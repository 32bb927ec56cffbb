"""How a command that works for a while goes: progress on stderr meanwhile, and at the end its result and exit code."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.text import visible

if TYPE_CHECKING:
    from vit_export.cli.progress import ConsoleReporter


def say(text: str, *, err: bool = False) -> None:
    """Print `text`, in which names may be anything, to stdout or stderr."""
    click.echo(visible(text, keep="\n"), err=err)


@contextmanager
def progress(*, quiet: bool) -> "Iterator[ConsoleReporter | None]":
    """A reporter to stderr that says how the block inside ended; None where `quiet`."""
    if quiet:
        yield None
        return
    from rich.console import Console

    from vit_export.cli.progress import ConsoleReporter

    with ConsoleReporter(Console(stderr=True)) as reporter:
        yield reporter


def finish(
    result: Any,
    show: Callable[[], None] | None = None,
    *,
    as_json: bool,
    failures: Sequence[str] = (),
    assumed: Sequence[str] = (),
    advice: Sequence[str] = (),
    shown: bool = False,
    passed: bool = True,
) -> None:
    """Print `result` as JSON or let `show` print it for people, then the `failures` and `advice` to stderr.

    The exit code is 1 unless `passed`.

    Without `show` nothing but JSON, failures, what to do about them and what was `assumed` is printed: a guess is never
    silent. `shown` says that `show` prints all of that itself.
    """
    if as_json:
        from vit_export.base.json_file import json_text
        from vit_export.base.signal import json_ready

        say(json_text(json_ready(result)))
    elif show is not None:
        show()
    if as_json or show is None or not shown:
        for phrase in assumed:
            click.echo(f"ASSUMED  {phrase}", err=True)
        for failure in failures:
            say(f"FAIL  {failure}", err=True)
        for line in advice:
            say(line, err=True)
    if not passed:
        sys.exit(1)
