"""Defaults of options: `vit-export.toml`, else `[tool.vit-export]` of pyproject.toml, in the current folder."""

import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vit_export.base.errors import nearest

FILES = {"vit-export.toml": (), "pyproject.toml": ("tool", "vit-export")}
_FILE = "vit_export.defaults"


def read_defaults(ctx: click.Context, commands: Mapping[str, click.Command]) -> dict[str, dict[str, Any]]:
    """The defaults in the file, by command and parameter; a usage error names what is none of `commands` and theirs."""
    ctx.meta[_FILE], tables = next(((path, told) for path in FILES if (told := _tables(path)) is not None), ("", {}))
    found: dict[str, dict[str, Any]] = {}
    for command, table in _items(ctx, tables):
        if command not in commands:
            raise _refused(ctx, f"'{command}', which is no command", nearest(command, commands))
        options = {max(p.opts, key=len)[2:]: p for p in commands[command].params if not getattr(p, "is_flag", False)}
        values = found.setdefault(command, {})
        for name, value in _items(ctx, table):
            if name not in options:
                text = f"'{name}', which is no option of {command} that takes a value"
                raise _refused(ctx, text, nearest(name.replace("-", "_"), options))
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                raise _refused(ctx, f"{value!r:.40} as {name}, expected text or a number, as one would type it")
            values[options[name].name or ""] = [str(value)] if options[name].multiple else str(value)
    return found


def from_defaults(ctx: click.Context) -> dict[str, str]:
    """The options whose values come from the file."""
    taken = [p for p in ctx.command.params if ctx.get_parameter_source(p.name or "") is ParameterSource.DEFAULT_MAP]
    values = {max(p.opts, key=len): (ctx.default_map or {})[p.name] for p in taken}
    return {name: value if isinstance(value, str) else value[0] for name, value in values.items()}


def said(ctx: click.Context) -> str:
    """What comes from the file, in one line; "" where nothing does."""
    words = [word for row in from_defaults(ctx).items() for word in row]
    return f"Defaults of {ctx.meta[_FILE]}: {shlex.join(words)}" if words else ""


def _tables(path: str) -> Any:
    """What `path` says of this package; None where there is no such file, or nothing of it in there."""
    try:
        content = Path(path).read_bytes()
        # What is wrong with a pyproject.toml that does not mention this package is no matter of it.
        found: Any = tomllib.loads(content.decode()) if b"vit-export" in content or not FILES[path] else {}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise click.UsageError(
            f"The defaults in {path} cannot be read ({error}): correct it, or move it away."
        ) from error
    for key in FILES[path]:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _items(ctx: click.Context, table: Any) -> Any:
    if not isinstance(table, dict):
        raise _refused(ctx, f"{table!r:.40}, expected a table called like a command ([export] threads = 2)")
    return table.items()


def _refused(ctx: click.Context, what: str, guess: str | None = None) -> click.UsageError:
    return click.UsageError(f"{ctx.meta[_FILE]} has {what}: {f'did you mean {guess!r}?' if guess else 'remove it.'}")
