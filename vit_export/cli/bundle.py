"""`vit-export bundle`: one zip per target, with the model, the code that runs it, and what was measured."""

from pathlib import Path

import click

from vit_export.cli.finish import finish, say
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, PATH, flag, overwrite, pathname

TARGETS = ("android", "ios", "linux", "web")


@click.command("bundle", cls=Command, context_settings=CONTEXT, short_help="Pack a file with the code that runs it.")
@click.argument("file", type=PATH)
@click.option(
    "--target",
    "targets",
    type=click.Choice(TARGETS),
    multiple=True,
    required=True,
    help="Where it is to run; may be given several times.",
)
@pathname("--licence", "The licence of the weights.")
@pathname("--output", "Folder of the zips.  [beside FILE]", "DIR")
@flag("--ort", "ONNX Runtime's own format, with the operators that a smaller build needs.")
@overwrite("zips that exist")
@AS_JSON
def bundle_command(
    file: Path,
    targets: tuple[str, ...],
    licence: Path | None,
    output: Path | None,
    ort: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Pack FILE, a .tflite or .onnx file of vit-export, into one zip for each target.

    Each holds the model, labels, metadata, a model card, the code that makes an image into an answer, and instructions.
    """
    from vit_export.base.numbers import megabytes
    from vit_export.bundles.pack import bundle

    made = bundle(file, tuple(dict.fromkeys(targets)), licence=licence, output=output, ort=ort, overwrite=overwrite)

    def show() -> None:
        for entry in made:
            say(f"Wrote {entry.path} ({megabytes(entry.bytes)})")
        for note in dict.fromkeys(note for entry in made for note in entry.notes):
            say(f"Note: {note}", err=True)

    finish([entry.to_dict() for entry in made], show, as_json=as_json)
