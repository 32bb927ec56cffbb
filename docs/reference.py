"""The pages under Reference, written while the site is built: from `--help` and from docstrings, so they cannot be old.

Docstrings are read without being imported: TensorFlow need not be installed.
"""

from collections.abc import Iterator

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import vit_export
from vit_export.cli.framework import EXPORT
from vit_export.cli.main import main
from vit_export.model.variants import VARIANTS

COLUMNS = 78

FACTORIES = {f"create_{variant}" for variant in VARIANTS}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the two pages; mkdocs calls it."""
    for name, lines in (("cli", _command_line()), ("python", _python())):
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines)))
    return files


def _command_line() -> Iterator[str]:
    yield "# The command line\n"
    with click.Context(main, info_name="vit-export") as context:
        yield from _help("vit-export", main, context)
        variants = ", ".join(f"`{name}`" for name in VARIANTS)
        yield f"Every variant ({variants}) is a command with the options of `export`.\n"
        for name in main.list_commands(context):
            command = main.get_command(context, name)
            if command is None or command.hidden or name in VARIANTS:
                continue
            with click.Context(command, info_name=name, parent=context) as inner:
                title = "vit-export export, vit-export VARIANT" if name == EXPORT else f"vit-export {name}"
                yield from _help(title, command, inner)


def _help(title: str, command: click.Command, context: click.Context) -> Iterator[str]:
    context.terminal_width = COLUMNS
    yield f"## {title}\n"
    yield f"```text\n{command.get_help(context)}\n```\n"


def _python() -> Iterator[str]:
    yield "# The Python interface\n"
    yield "All of these are imported from `vit_export`; [the guide](../python.md) shows them at work.\n"
    yield f"{', '.join(f'`{name}`' for name in sorted(FACTORIES))} are `create_vit` of one variant each.\n"
    for name, home in vit_export._HOMES.items():
        if name not in FACTORIES:
            yield f"::: {home}.{name}\n"
