"""`vit-export verify`: any files against a reference; exit 0 when all are the same model, 1 when one is not, 2 else."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.errors import InputError
from vit_export.cli.framework import CONTEXT, Command, Given, GivenPath, typed
from vit_export.model.names import INPUTS, PAGE_NAME, PRECISIONS, REPORT_NAME, SCHEME_NAMES

if TYPE_CHECKING:
    from vit_export.pipeline.verify_files import Verified

ARCHITECTURES = ("arm64",)


@click.command("verify", cls=Command, context_settings=CONTEXT, short_help="Verify files against a reference.")
@click.argument("files", nargs=-1, required=True, type=GivenPath(path_type=Path), metavar="FILE...")
@click.option(
    "--reference",
    type=Given(),
    metavar="MODEL",
    help="The truth: a SavedModel of vit-export, or any checkpoint that --weights takes.  [saved_model/ beside FILE]",
)
@click.option("--data", type=GivenPath(path_type=Path), metavar="DIR", help="Images.  [photographs of scikit-image]")
@click.option("--images", type=int, metavar="N", help="How many.  [32, 8 for large models, 256 with labels]")
@click.option(
    "--labels-from",
    type=click.Choice(["folders"]),
    help="Accuracy, with its 95 % interval: each image lies in a folder called like its class.",
)
@click.option("--labels", type=Given(), metavar="FILE", help="Names of the classes, where the reference has none.")
@click.option("--input", type=click.Choice(INPUTS), help="Pixel values a file of another tool takes.  [normalized]")
@click.option("--output-name", type=Given(), metavar="NAME", help="The output to compare, where there are several.")
@click.option("--precision", type=click.Choice(tuple(PRECISIONS)), help="What a file goes by.  [that of its weights]")
@click.option("--int8-scheme", "scheme", type=click.Choice(SCHEME_NAMES), help="Likewise, of an int8 file.")
@click.option("--probabilities", is_flag=True, help="The files end in a softmax: compare with the reference's.")
@click.option("--locate", is_flag=True, help="Compare a file that fails layer by layer.")
@click.option("--emulate", type=click.Choice(ARCHITECTURES), help="Run the files in the runtimes' builds for it.")
@click.option("--no-latency", is_flag=True, help="Outputs alone.")
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads for the latencies.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the choice of images.")
@click.option("--report", type=GivenPath(path_type=Path), metavar="DIR", help="Write report.html and report.json.")
@click.option("--junit", type=GivenPath(path_type=Path), metavar="FILE", help="Write the checks as JUnit XML.")
@click.option("--overwrite", is_flag=True, help="Replace reports that exist.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors and failures.")
def verify_command(
    files: tuple[Path, ...],
    labels_from: str | None,
    labels: str | None,
    report: Path | None,
    junit: Path | None,
    no_latency: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Verify that each FILE (.tflite or .onnx, of vit-export or any other tool, or a folder of them) is the reference.

    Outputs of the worst image, determinism, order, what the file says of itself, latency, memory. Exit codes: 0 all
    are the reference's model, 1 one is not, 2 the call was wrong.
    """
    from rich.console import Console

    from vit_export.cli.progress import ConsoleReporter

    written = _planned(report, junit, overwrite=overwrite)
    with ExitStack() as stack:
        say = None if quiet else stack.enter_context(ConsoleReporter(Console(stderr=True)))
        from vit_export.pipeline.verify_files import VerifyRequest, verify_files

        known = None
        if labels is not None:
            from vit_export.model.labels import read_labels

            known = read_labels(labels)
        request = VerifyRequest(
            files=files, labelled=labels_from is not None, labels=known, latency=not no_latency, **options
        )
        result = verify_files(request, say, commands=(typed(),))
        _write(result, report, junit)
    if as_json:
        click.echo(json.dumps(result.report, indent=2, ensure_ascii=False))
    elif not quiet:
        from vit_export.report.table import render_table

        render_table(result.verification, Console())
        for path in written:
            click.echo(f"Wrote {path}")
    if as_json or quiet:
        for failure in result.verification.failures:
            click.echo(f"FAIL  {failure}", err=True)
    if not result.passed:
        sys.exit(1)


def _planned(report: Path | None, junit: Path | None, *, overwrite: bool) -> list[Path]:
    """The files that will be written; refused now, not after minutes of work, where one exists."""
    from vit_export.base.files import refuse_existing

    paths = [] if report is None else [report / PAGE_NAME, report / REPORT_NAME]
    if junit is not None:
        paths.append(junit)
    if report is not None and report.is_file():
        raise InputError(f"{report} is a file, expected a folder for report.html and report.json: give another.")
    for path in paths:
        refuse_existing(path, overwrite=overwrite, folder=False)
    return paths


def _write(result: "Verified", report: Path | None, junit: Path | None) -> None:
    if report is not None:
        from vit_export.report.content import write_report
        from vit_export.report.page import images_shown, write_page
        from vit_export.report.thumbnails import thumbnails

        write_report(result.report, report / REPORT_NAME)
        pictures = thumbnails(result.pictures, images_shown(result.report))
        write_page(result.report, pictures, report / PAGE_NAME)
    if junit is not None:
        from vit_export.report.junit import write_junit

        write_junit(result.report, junit)
