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
from click.shell_completion import CompletionItem

from vit_export.base.errors import InputError, OutputError, VitExportError, nearest
from vit_export.base.files import shortened
from vit_export.base.interrupts import heard
from vit_export.base.packages import installed
from vit_export.base.text import message, without_secrets
from vit_export.base.wording import shell_reads
from vit_export.cli.defaults import from_defaults, read_defaults, said
from vit_export.cli.vocabulary import GROUPS, command_meant, meant, not_there
from vit_export.model.variants import VARIANTS, variant_meant

EXPORT = "export"
_TYPED, _SPELLED = "vit_export.typed", "vit_export.spelled"
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

INTERRUPTED = 128 + signal.SIGINT
NOBODY_READS = 128 + signal.SIGPIPE  # click and rich would end with 1, which is a fault that verification found

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
_FILES = (".safetensors", ".npz", ".keras", ".h5", ".json", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".tflite")
"""How no repository of the hub is called, but files are."""
_SUFFIX = re.compile(r"\.[A-Za-z]\w*$")


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
    """A command with its options in groups; refusals name options as they are typed: --held-out-images."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options below the headings of `GROUPS`, each group in the same order in every command."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        rows = {max(p.opts, key=len): row for p in options if (row := p.get_help_record(ctx)) is not None}
        groups = {heading: [rows.pop(name) for name in names if name in rows] for heading, names in GROUPS.items()}
        for heading, group in {**groups, "Other": [*rows.values()]}.items():
            if group:
                with formatter.section(heading):
                    formatter.write_dl(group)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `args`; of an option that there is not, say which one is meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            known = {option for parameter in self.get_params(ctx) for option in parameter.opts}
            text = not_there(error.option_name)
            if found := meant(error.option_name, known):
                text = f"Did you mean {' or '.join(map(repr, found))}?"
            if text:
                raise click.UsageError(f"No such option '{error.option_name}'. {text}", ctx) from error
            raise
        except click.BadParameter as error:
            if error.param is not None and max(error.param.opts, key=len) in from_defaults(ctx):
                raise click.BadParameter(f"{error.message} ({said(ctx)})", ctx, error.param) from error
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if text := said(ctx):
            click.echo(message(text), err=True)
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
        with shell_reads():
            return super().main(*args, **options)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options without a command in front of them are those of `export`: `vit-export --tflite PATH`."""
        ctx.meta[_TYPED] = list(args)
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        is_own = bool(args) and args[0].partition("=")[0] in own
        if args and args[0].startswith("-") and not is_own:
            args = [EXPORT, *args]
        with harmless():
            if not is_own and not ctx.resilient_parsing:
                found = read_defaults(
                    ctx, {name: self.commands[name] for name in self.commands if name not in VARIANTS}
                )
                ctx.default_map = {**found, **dict.fromkeys(VARIANTS, found.get(EXPORT, {}))}
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named by `args`, `export` where they begin with a checkpoint; else a usage error."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if is_location(name):
                return super().resolve_command(ctx, [EXPORT, *args])
            shape = variant_meant(name)
            text = "" if ctx.resilient_parsing else None if shape else weights_hint(name)
            if text is None:
                guess = command_meant(name) or shape or nearest(name, self.list_commands(ctx))
                hint = f"Did you mean '{guess}'?" if guess else "'vit-export list' shows them all."
                if shape:
                    hint += " It has random weights; trained ones are given as a file or as hf:owner/name."
                text = f"Unknown variant or command '{shortened(name)}'. {hint}"
            if text:
                raise click.UsageError(text, ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and variants; a checkpoint, which may stand there too, is a file as the shell knows them."""
        own = super().shell_complete(ctx, incomplete)
        if incomplete.startswith("-"):  # those of `export`, which need no command before them
            own += [item for item in self.commands[EXPORT].shell_complete(ctx, incomplete) if item.value != "--help"]
            return own
        return [CompletionItem(incomplete, type="file"), *own]

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
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python still flushes
            sys.exit(NOBODY_READS)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            text, code = message(_refusal(error)), 2
        click.echo(f"Error: {text}", err=True)
        ctx.exit(code)


def ended(end: KeyboardInterrupt | SystemExit) -> NoReturn:
    """End as a signal or `sys.exit` asks; of a move that failed on the way, say where its files are."""
    error = end.__context__
    if isinstance(error, BrokenPipeError):
        sys.exit(NOBODY_READS)
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
    """The command as it was typed, to be typed again, with the defaults of the folder; no address shows a password."""
    from vit_export.weights.remote.fetch import shown

    ctx, words = click.get_current_context(), []
    for word in (*ctx.meta[_TYPED], *(f"{name}={value}" for name, value in from_defaults(ctx).items())):
        option, is_, value = word.partition("=") if word.startswith("--") else ("", "", word)
        words.append(f"{option}{is_}{without_secrets(shown(value))}")
    return shlex.join(["vit-export", *words])


def is_location(word: str) -> bool:
    """Whether `word`, in the place of a command or variant, says where a checkpoint is: something there, an address."""
    return "://" in word or word.lower().startswith("hf:") or os.path.exists(word)


def weights_hint(name: str) -> str | None:
    """The sentence for a `name`, given as a variant, that looks like a checkpoint and is none; None for others."""
    if _HUB_ID.fullmatch(name) and not name.lower().endswith(_FILES):
        return f"'{name}' is no variant and no file: for a repository of the Hugging Face hub give hf:{name}."
    if os.sep in name or _SUFFIX.search(name):
        return f"'{shortened(name)}' is no variant, and there is no such file."
    return None


def _refusal(error: OSError) -> str:
    what = (error.strerror or str(error)).lower()
    if error.errno == errno.EFBIG:
        return f"A file would become larger than is allowed ({what}{_of(error)}): raise the limit (ulimit -f)."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk takes no more ({what}{_of(error)}): free some space, or choose another folder."
    return f"A path cannot be used ({what}{_of(error)}): give another one."


def _of(error: OSError) -> str:
    return "" if error.filename is None else f": {shortened(os.fsdecode(error.filename))}"
