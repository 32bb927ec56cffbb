"""`vit-export bench`: files of any origin side by side, how long one image takes in each and which is the fastest."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from vit_export.cli.framework import CONTEXT, Command, GivenPath
from vit_export.model.names import TIME_LIMIT


@click.command("bench", cls=Command, context_settings=CONTEXT, short_help="Compare the speed of any files.")
@click.argument("files", nargs=-1, required=True, type=GivenPath(path_type=Path), metavar="FILE...")
@click.option(
    "--baseline",
    type=GivenPath(path_type=Path),
    metavar="FILE",
    help="What the others are compared with.  [a SavedModel, or the first file]",
)
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads of each runtime.")
@click.option(
    "--time-limit",
    type=float,
    default=TIME_LIMIT,
    show_default=True,
    metavar="SECONDS",
    help="For the turns of each file, where its median is not known to 5 % before.",
)
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the random images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
def bench_command(
    files: tuple[Path, ...],
    baseline: Path | None,
    threads: int,
    time_limit: float,
    seed: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the speed of each FILE (.tflite, .onnx or SavedModel, of vit-export or any other tool, or a folder).

    All take turns in one run, each in its own runtime and process, on random images of the size it takes. Medians come
    with 95 % intervals, and files that cannot be told apart share their ranks. Whether the outputs are right is not
    asked: `vit-export verify` judges them.

    Exit codes: 0 all files were measured, 1 one could not be run, 2 the call was wrong.
    """
    from rich.console import Console

    from vit_export.cli.progress import ConsoleReporter

    with ExitStack() as stack:
        say = None if quiet else stack.enter_context(ConsoleReporter(Console(stderr=True)))
        from vit_export.runtimes.benchmark import bench

        result = bench(files, baseline=baseline, threads=threads, time_limit=time_limit, seed=seed, reporter=say)
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False))
    else:
        from vit_export.report.bench import render_benchmark

        render_benchmark(result)
    for failure in result.failures:
        click.echo(f"FAIL  {failure}", err=True)
    if result.failures:
        sys.exit(1)
