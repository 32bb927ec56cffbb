"""`vit-export inspect`: what model files are, what is wrong with them, and which accelerators take them."""

from pathlib import Path

import click

from vit_export.cli.finish import finish
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, FILES, flag


@click.command("inspect", cls=Command, context_settings=CONTEXT, short_help="Show what a model file is.")
@FILES
@flag(
    "--delegates",
    "Which operators each accelerator takes, in how many pieces; the CPU's runtime loads the file.",
    "--where",
    "delegates",
)
@flag("--no-sha256", "Do not read the whole file (about a second for each GB).")
@AS_JSON
def inspect_command(files: tuple[Path, ...], delegates: bool, no_sha256: bool, as_json: bool) -> None:
    """Show what each FILE is: a .tflite or .onnx file of any tool, a SavedModel of vit-export, or a folder of files.

    Its model and weights, inputs and outputs, operators, and every fault that keeps it from running somewhere, with
    what to change. No weights are loaded. Exit codes: 0, or 2 where a FILE is no model.
    """
    from rich.console import Console

    from vit_export.artifacts.identify import files_of
    from vit_export.inspection.inspect import inspect_file
    from vit_export.inspection.table import render

    console = Console()
    found = []
    for path in files_of(files, "inspect"):
        entry = inspect_file(path, digest=not no_sha256, delegates=delegates)
        found.append(entry)
        if not as_json:
            if len(found) > 1:
                console.print()
            render(entry, console)
    finish({"files": found}, as_json=as_json)
