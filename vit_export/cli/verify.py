"""`vit-export verify`: any files against a reference; exit 0 when all are the same model, 1 when one is not, 2 else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.errors import InputError
from vit_export.base.files import claimed, refuse_existing
from vit_export.base.reporting import Reporter, Silent
from vit_export.cli import options as shared
from vit_export.cli.closing import advice, shipping
from vit_export.cli.finish import finish, progress, say
from vit_export.cli.framework import CONTEXT, Command, typed
from vit_export.cli.options import AS_JSON, FILES, LOCATION, QUIET, TEXT, THREADS, choice, count, flag, pathname
from vit_export.model.names import PAGE_NAME, PRECISIONS, REPORT_NAME

if TYPE_CHECKING:
    from vit_export.pipeline.verify_files import Verified


@click.command("verify", cls=Command, context_settings=CONTEXT, short_help="Verify files against a reference.")
@FILES
@shared.reference(
    "The truth: a SavedModel or float32 file of vit-export, or any checkpoint.  [saved_model/ beside FILE]"
)
@shared.images("--data", ".  [photographs of scikit-image]")
@count("--images", "How many.  [32, 8 for large models, 256 with labels]")
@choice(
    "--labels-from",
    ["folders"],
    "Accuracy, with its 95 % interval: each image lies in a folder called like its class.",
)
@click.option("--labels", type=LOCATION, metavar="FILE", help="Names of the classes, where the reference has none.")
@shared.input_kind("a file of another tool takes.  [normalized]")
@click.option("--output-name", type=TEXT, metavar="NAME", help="The output to compare, where there are several.")
@choice("--precision", tuple(PRECISIONS), "The limits that a file is held to.  [those of its weights' precision]")
@shared.int8_scheme("The limits that an int8 file is held to.", "scheme")
@flag("--probabilities", "The files end in a softmax: compare with the reference's.")
@flag("--locate", "Compare a file that fails layer by layer.")
@shared.places("--on", "Where the files run, several times for several places.  [cpu]")
@shared.GPU_PRECISION
@flag("--no-latency", "Do not time the files.")
@THREADS
@shared.seed("the choice of images")
@pathname("--report", "Write report.html and report.json.", "DIR")
@pathname("--junit", "Write the checks as JUnit XML.")
@shared.overwrite("reports that exist")
@AS_JSON
@QUIET
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
    with progress(quiet=quiet) as reporter, _reports_in(report, reporter):
        written = _planned(report, junit, overwrite=overwrite)
        from vit_export.pipeline.verify_files import VerifyRequest, verify_files

        known = None
        if labels is not None:
            from vit_export.model.labels import read_labels

            known = read_labels(labels)
        request = VerifyRequest(
            files=files, labelled=labels_from is not None, labels=known, latency=not no_latency, **options
        )
        result = verify_files(request, reporter, commands=(typed(),))
        _write(result, report, junit, overwrite=overwrite)

    def show() -> None:
        from rich.console import Console

        from vit_export.report.table import render_table

        render_table(result.verification, Console())
        for line in (*shipping(result.report), *(f"Wrote {path}" for path in written), *advised):
            say(line)

    shown = None if quiet else show
    found, advised = result.verification, advice(result.report)
    finish(
        result.report,
        shown,
        as_json=as_json,
        failures=found.failures,
        advice=advised,
        assumed=found.assumed,
        shown=True,
        passed=result.passed,
    )


@contextmanager
def _reports_in(folder: Path | None, say: Reporter | None) -> Iterator[None]:
    """Have the `folder` of the reports, where there is to be one, for oneself."""
    if folder is None:
        yield
        return
    if folder.is_file():
        raise InputError(f"{folder} is a file, expected a folder for report.html and report.json: give another.")
    with claimed(folder, (say or Silent()).note):
        yield


def _planned(report: Path | None, junit: Path | None, *, overwrite: bool) -> list[Path]:
    """The files that will be written; refused now, not after minutes of work, where one exists."""
    paths = [] if report is None else [report / PAGE_NAME, report / REPORT_NAME]
    if junit is not None:
        paths.append(junit)
    for path in paths:
        refuse_existing(path, overwrite=overwrite, folder=False)
    return paths


def _write(result: "Verified", report: Path | None, junit: Path | None, *, overwrite: bool) -> None:
    if report is not None:
        from vit_export.base.files import move_into
        from vit_export.pipeline.folder import staging, write_reports

        with staging(report) as stage:
            move_into(report, write_reports(result.report, result.pictures, stage), overwrite=overwrite)
    if junit is not None:
        from vit_export.report.junit import write_junit

        write_junit(result.report, junit)
