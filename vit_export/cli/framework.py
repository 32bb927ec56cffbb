"""What every command of the command line shares: how options are checked, and how errors and signals end it."""

import codecs
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from vit_export.base.errors import InputError, OutputError, VitExportError, nearest
from vit_export.base.files import shortened
from vit_export.base.interrupts import heard
from vit_export.base.packages import installed
from vit_export.base.text import message, without_secrets

EXPORT = "export"
_TYPED, _SPELLED = "vit_export.typed", "vit_export.spelled"
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

INTERRUPTED = 128 + signal.SIGINT

# What the operating system says of the paths a user gave or of their disk; any other OSError is a bug to be seen whole.
_REFUSALS = (
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ELOOP,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)


class Given(click.ParamType):
    """Text that names something: not empty, not the next option, and text that a report can hold."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`value` as it is; a usage error where nothing was named."""
        if isinstance(value, str):
            if not value.strip():
                self.fail("it is empty, expected a name: give one, or leave the option out.", param, ctx)
            if value.startswith("--"):
                self.fail(f"'{value}' is an option, expected a value before it (./{value} is a file).", param, ctx)
            if any("\ud800" <= character <= "\udfff" for character in value):
                self.fail(f"{value!a} is not UTF-8, expected a name that is: rename it.", param, ctx)
        return value


class GivenPath(click.Path, Given):
    """A path of the same kind; nothing has to be there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`value` as a `pathlib.Path`."""
        return click.Path.convert(self, Given.convert(self, value, param, ctx), param, ctx)


class Command(click.Command):
    """A command whose refusals speak of options as they are typed: --held-out-images, not held_out_images."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            name, is_, rest = str(error).partition(" is ")
            options = {p.name: max(p.opts, key=len) for p in self.params if isinstance(p, click.Option)}
            if is_ and name in options:
                raise InputError(f"{options[name]} is {rest}") from error
            raise


class Commands(click.Group):
    """A group that answers a mistyped command with the nearest one, and every error with one sentence."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line; click's own refusals, which repeat what was typed, are made harmless in `invoke`."""
        prepare_streams()
        return super().main(*args, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options without a command in front of them are those of `export`: `vit-export --weights FILE --tflite`."""
        ctx.meta[_TYPED] = list(args)
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if args and args[0].startswith("-") and args[0].partition("=")[0] not in own:
            args = [EXPORT, *args]
        with harmless():
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named by `args`, or a usage error that names the nearest."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            text = weights_hint(name)
            if text is None:
                guess = nearest(name, self.list_commands(ctx))
                hint = f"Did you mean '{guess}'?" if guess else "'vit-export list' shows them all."
                text = f"Unknown variant or command '{shortened(name)}'. {hint}"
            raise click.UsageError(text, ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the table, smallest variant first."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what this package raises on purpose becomes one line and an exit code."""
        try:
            with heard(), harmless(), installed():
                return super().invoke(ctx)
        except VitExportError as error:
            text, code = str(error), error.exit_code
        except (KeyboardInterrupt, SystemExit) as end:
            ended(end)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            text, code = message(_refusal(error)), 2
        click.echo(f"Error: {text}", err=True)
        ctx.exit(code)


def ended(end: KeyboardInterrupt | SystemExit) -> NoReturn:
    """End as a signal or `sys.exit` asks; of a move that failed on the way, say where its files are."""
    error = end.__context__
    while error is not None and not isinstance(error, OutputError):
        error = error.__context__
    if error is not None:
        click.echo(f"Error: {error}", err=True)
    if isinstance(end, SystemExit):
        raise end
    click.echo("Interrupted: what was not complete is removed.", err=True)
    sys.exit(INTERRUPTED)


@contextmanager
def harmless() -> Iterator[None]:
    """What click refuses in the block repeats what was typed: names of files that a shell put there may be anything."""
    try:
        yield
    except click.ClickException as error:
        error.message = message(error.message, keep="\n\t")  # type: ignore[misc]
        raise


def prepare_streams() -> None:
    """A stream that the shell closed (2>&-) leads nowhere, and one whose encoding lacks a letter spells it.

    A closed one would give its number to the next file that is opened, into which everybody's errors were written.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    codecs.register_error(_SPELLED, _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_SPELLED)


def _spelled(error: UnicodeError) -> tuple[str, int]:
    r"""What an encoding lacks as JSON spells it, and `text.visible`: '\u00e9'."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


def typed() -> str:
    """The command as it was typed, to be typed again; of an address that may hold a password, what may be shown."""
    from vit_export.weights.remote.fetch import shown

    words = []
    for word in click.get_current_context().meta[_TYPED]:
        option, is_, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(f"{option}{is_}{without_secrets(shown(value))}")
    return shlex.join(["vit-export", *words])


def weights_hint(name: str) -> str | None:
    """The sentence for a `name`, given as a variant, that is or looks like a checkpoint; None where it does not."""
    if "://" in name:  # an address may hold a password: it is not repeated
        return "An address is no variant: give it to --weights."
    if name.lower().startswith("hf:") or os.path.isfile(name) or (os.sep in name and os.path.isdir(name)):
        return f"'{shortened(name)}' is no variant: give a checkpoint to --weights."
    if _HUB_ID.fullmatch(name):
        return f"'{name}' is no variant and no file: for a repository of the Hugging Face hub give --weights hf:{name}."
    return f"'{shortened(name)}' is no variant, and there is no such file." if os.sep in name else None


def _refusal(error: OSError) -> str:
    what = (error.strerror or str(error)).lower()
    if error.errno == errno.EFBIG:
        return f"A file would become larger than is allowed ({what}{_of(error)}): raise the limit (ulimit -f)."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk takes no more ({what}{_of(error)}): free some space, or choose another folder."
    return f"A path cannot be used ({what}{_of(error)}): give another one."


def _of(error: OSError) -> str:
    return "" if error.filename is None else f": {shortened(os.fsdecode(error.filename))}"
