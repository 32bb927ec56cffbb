"""`vit-export bench`: files of any origin side by side, how long one image takes in each and which is the fastest."""

from pathlib import Path

import click

from vit_export.cli.finish import finish, progress
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, FILES, THREADS, flag, image_size, pathname, seed
from vit_export.model.names import TIME_LIMIT
from vit_export.model.spec import ImageSize


@click.command("bench", cls=Command, context_settings=CONTEXT, short_help="Compare the speed of any files.")
@FILES
@pathname("--baseline", "What the others are compared with.  [a SavedModel, or the first file]")
@THREADS
@click.option(
    "--time-limit",
    type=float,
    default=TIME_LIMIT,
    show_default=True,
    metavar="SECONDS",
    help="For the turns of each file, where its median is not known to 5 % before.",
)
@seed("the random images")
@image_size(", where a file leaves that open.  [224]")
@AS_JSON
@flag("--quiet", "No progress, only the result.")
def bench_command(
    files: tuple[Path, ...],
    baseline: Path | None,
    threads: int,
    time_limit: float,
    seed: int,
    image_size: ImageSize | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the speed of each FILE (.tflite, .onnx or SavedModel, of vit-export or any other tool, or a folder).

    All take turns in one run, each in its own runtime and process, on random images of the size it takes. Medians come
    with 95 % intervals, and files that cannot be told apart share their ranks. Whether the outputs are right is not
    asked: `vit-export verify` judges them.

    Exit codes: 0 all files were measured, 1 one could not be run, 2 the call was wrong.
    """
    with progress(quiet=quiet) as say:
        from vit_export.runtimes.benchmark import bench

        result = bench(
            files,
            baseline=baseline,
            threads=threads,
            time_limit=time_limit,
            seed=seed,
            image_size=image_size,
            reporter=say,
        )

    def show() -> None:
        from vit_export.report.bench import render_benchmark

        render_benchmark(result)

    finish(result.to_dict(), show, as_json=as_json, failures=result.failures, passed=not result.failures)
