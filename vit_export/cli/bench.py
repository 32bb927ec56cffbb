"""`vit-export bench`: files of any origin side by side, how long one image takes in each and which is the fastest."""

from pathlib import Path

import click

from vit_export.base.errors import InputError
from vit_export.cli.finish import finish, progress
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, FILES, TEXT, THREADS, flag, image_size, pathname, seed
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
@flag("--adb", "On an Android device by adb instead, on its CPU and GPU; .tflite files.")
@click.option("--serial", type=TEXT, metavar="SERIAL", help="The device, where adb sees several.")
@pathname("--benchmark-model", "LiteRT's benchmark_model for Android, with its libraries beside it.")
@AS_JSON
@flag("--quiet", "No progress, only the result.")
def bench_command(
    files: tuple[Path, ...],
    baseline: Path | None,
    threads: int,
    time_limit: float,
    seed: int,
    image_size: ImageSize | None,
    adb: bool,
    serial: str | None,
    benchmark_model: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare the speed of each FILE (.tflite, .onnx or SavedModel, of vit-export or any other tool, or a folder).

    All take turns in one run, each in its own runtime and process, on random images of the size it takes. Medians come
    with 95 % intervals, and files that cannot be told apart share their ranks. Whether the outputs are right is not
    asked: `vit-export verify` judges them.

    With --adb nothing runs here: the files and --benchmark-model are copied to the device, take turns on its CPU and
    its GPU, and are deleted again; what a report beside them measured stands next to the device's times.

    Exit codes: 0 all files were measured, 1 one could not be run, 2 the call was wrong.
    """
    if adb:
        _on_device(files, benchmark_model, serial, threads, as_json=as_json, quiet=quiet)
        return
    if serial or benchmark_model:
        raise InputError("--serial and --benchmark-model are for an Android device: give --adb too.")
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


def _on_device(
    files: tuple[Path, ...], tool: Path | None, serial: str | None, threads: int, *, as_json: bool, quiet: bool
) -> None:
    if tool is None:
        raise InputError(
            "--adb needs LiteRT's benchmark_model, built for Android's arm64: give the file to --benchmark-model "
            "(docs/guides/android.md says where it comes from)."
        )
    with progress(quiet=quiet) as say:
        from vit_export.runtimes.on_device import bench_on_device

        result = bench_on_device(files, tool, serial=serial, threads=threads, reporter=say)

    def show() -> None:
        from vit_export.report.on_device import render_on_device

        render_on_device(result)

    finish(result.to_dict(), show, as_json=as_json, failures=result.failures, passed=not result.failures)
