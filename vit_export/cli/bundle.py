"""`vit-export bundle`: one zip per target, with the model, the code that runs it, and what was measured."""

import json
from pathlib import Path

import click

from vit_export.cli.framework import CONTEXT, Command, GivenPath

TARGETS = ("android", "ios", "linux", "web")


@click.command("bundle", cls=Command, context_settings=CONTEXT, short_help="Pack a file with the code that runs it.")
@click.argument("file", type=GivenPath(path_type=Path))
@click.option(
    "--target",
    "targets",
    type=click.Choice(TARGETS),
    multiple=True,
    required=True,
    help="Where it is to run; may be given several times. Web pages run .onnx files.",
)
@click.option("--licence", type=GivenPath(path_type=Path), metavar="FILE", help="The licence of the weights.")
@click.option("--output", type=GivenPath(path_type=Path), metavar="DIR", help="Folder of the zips.  [beside FILE]")
@click.option("--ort", is_flag=True, help="ONNX Runtime's own format, with the operators that a smaller build needs.")
@click.option("--overwrite", is_flag=True, help="Replace zips that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
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
    if as_json:
        click.echo(json.dumps([entry.to_dict() for entry in made], indent=2, ensure_ascii=False))
        return
    for entry in made:
        click.echo(f"Wrote {entry.path} ({megabytes(entry.bytes)})")
    for note in dict.fromkeys(note for entry in made for note in entry.notes):
        click.echo(f"Note: {note}", err=True)
