"""The command line: the group `vit-export`, and the commands that it has."""

import click

from vit_export.cli.bench import bench_command
from vit_export.cli.bundle import bundle_command
from vit_export.cli.compare import compare_command
from vit_export.cli.evaluate import evaluate_command
from vit_export.cli.export import export_command, variant_command
from vit_export.cli.framework import CONTEXT, Commands
from vit_export.cli.inspect import inspect_command
from vit_export.cli.list import list_command
from vit_export.cli.photographs import calibration_command
from vit_export.cli.predict import predict_command
from vit_export.cli.sweep import sweep_command
from vit_export.cli.verify import verify_command
from vit_export.model.variants import VARIANTS

_HELP = """Export Vision Transformers to SavedModel, TFLite and ONNX, and verify every file.

\b
vit-export PATH --tflite --int8      a checkpoint to an int8 .tflite, verified
vit-export vit_s32 --onnx            a variant with random weights
vit-export predict FILE IMAGE        what an exported file says of an image
vit-export export --help             the options, the same for every variant

PATH is a file or folder of weights, hf:owner/name or https://…

Exit codes: 0 good, 1 verification found a fault, 2 the input or the call was wrong, 130 interrupted, 141 the reader of
the output went away.
"""


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from vit_export.base.versions import versions

        found = versions("vit-export")["vit-export"]
        unknown = "unknown (it runs from a folder, without having been installed)"
        click.echo(f"vit-export, version {unknown if found == 'not installed' else found}")
        ctx.exit()


@click.group(cls=Commands, help=_HELP, context_settings=CONTEXT, subcommand_metavar="PATH|VARIANT|COMMAND [ARGS]...")
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """The command `vit-export`."""


for command in (
    *map(variant_command, VARIANTS.values()),
    export_command,
    list_command,
    predict_command,
    verify_command,
    evaluate_command,
    sweep_command,
    inspect_command,
    bundle_command,
    compare_command,
    bench_command,
    calibration_command,
):
    main.add_command(command)
