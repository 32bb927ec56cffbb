"""`vit-export sweep`: every file of a grid of models, formats, precisions, schemes and sizes, and which to ship."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from vit_export.base.errors import InputError
from vit_export.base.files import shortened
from vit_export.cli import options as shared
from vit_export.cli.finish import finish, progress, say
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, LOCATION, QUIET, TEXT, THREADS, count, flag, number, pathname
from vit_export.model.names import FORMATS, PRECISIONS, schemes_explained

_PLAN = ".toml"


@click.command("sweep", cls=Command, context_settings=CONTEXT, short_help="Many models and files side by side.")
@click.argument("models", nargs=-1, required=True, type=LOCATION, metavar="PLAN.toml|MODEL...")
@flag("--tflite", FORMATS["tflite"].about)
@flag("--onnx", f"{FORMATS['onnx'].about}  [default: both formats]")
@flag("--float32", PRECISIONS["float32"].about)
@flag("--float16", PRECISIONS["float16"].about)
@flag("--int8", f"{PRECISIONS['int8'].about}  [default: all three precisions]")
@shared.int8_scheme(f"Once or several times, each in the formats that have it. {schemes_explained()}", several=True)
@shared.image_size(", once or several times.  [the weights' or 224]", several=True)
@flag("--features", "Without classifier.")
@shared.input_kind("the files take.", "normalized")
@shared.images(
    "--calibration", ", which calibrates and verifies.  [default: photographs from scikit-image, in calibration/]"
)
@count("--calibration-images", "Images that calibrate int8.", 128)
@count("--held-out-images", "Images that verify.  [32, 8 for large models]")
@click.option("--data", type=LOCATION, metavar="DATA", help="Count accuracy on this data set, as `evaluate` does.")
@click.option(
    "--labels", type=LOCATION, metavar="FILE", help="Names of the classes as the data calls them, as in `evaluate`."
)
@count("--knn", "Embeddings: accuracy by the vote of so many nearest neighbours in --train.")
@click.option("--train", type=LOCATION, metavar="DATA", help="The neighbours' images, in any form of --data.")
@number("--max-ms", "Budget of the file to ship: milliseconds for an image.")
@number("--max-drop", "Budget: points of accuracy lost against the model's own float32 file.")
@number("--max-mb", "Budget: megabytes.")
@pathname("--output", "Folder for all of it; what is done there stays.  [exports/sweep]", "DIR")
@count("--workers", "Cells at a time, each in a process with one thread.", 1)
@click.option("--ray", type=TEXT, metavar="ADDRESS", help="Workers on a Ray cluster: its address, or 'auto'.")
@THREADS
@AS_JSON
@QUIET
@click.pass_context
def sweep_command(ctx: click.Context, models: tuple[str, ...], as_json: bool, quiet: bool, **options: Any) -> None:
    """Export and verify every MODEL in all formats, precisions, schemes and sizes asked for, and say which to ship.

    MODEL is a variant, or a checkpoint as `vit-export PATH` takes it. PLAN.toml has the same in a file: `models`, and
    keys called like these options, which win over it. Cells that are done with the same weights, images, options and
    versions are not done again. Latency is measured at the end, alone, all files taking turns.

    Exit codes: 0 all cells are measured, whatever their verdicts, 1 one could not be made or evaluated, 2 the call was
    wrong.
    """
    with progress(quiet=quiet) as reporter:
        from vit_export.sweeps.plan import SweepRequest
        from vit_export.sweeps.run import run

        result = run(SweepRequest(**_arguments(ctx, models, options)), reporter)

    def show() -> None:
        from vit_export.report.sweep import render_sweep

        render_sweep(result.record)
        for sentence in result.not_evaluated:
            say(sentence)
        say(f"All files, sweep.html and sweep.json: {result.folder}/")

    shown = None if quiet else show
    finish(result.to_dict(), shown, as_json=as_json, failures=result.failures, shown=True, passed=result.passed)


def _arguments(ctx: click.Context, models: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a request: what is typed, else what a plan says, else the defaults of the folder."""
    from vit_export.sweeps.plan import CONVERTED, files_asked, read_plan

    planned: dict[str, Any] = {"models": list(models)}
    if any(model.lower().endswith(_PLAN) for model in models):
        if len(models) > 1:
            raise InputError("A plan names its models itself: give it alone, or models without it.")
        planned = read_plan(Path(models[0]))
        if "models" not in planned:
            raise InputError(f'{shortened(models[0])} names no models: add models = ["vit_s32"], or checkpoints.')
    flags = {name: options.pop(name) for name in (*CONVERTED, *PRECISIONS, "features")}

    def of(source: ParameterSource) -> dict[str, Any]:
        return {name: value for name, value in options.items() if ctx.get_parameter_source(name) is source}

    typed = {**of(ParameterSource.COMMANDLINE), **files_asked(flags)}
    return {**of(ParameterSource.DEFAULT_MAP), **planned, **typed}
