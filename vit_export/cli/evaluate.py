"""`vit-export evaluate`: accuracy of files on a whole data set, of any size, from the form that it is in."""

from pathlib import Path

import click

from vit_export.base.errors import InputError
from vit_export.base.files import refuse_existing, shortened
from vit_export.cli import options as shared
from vit_export.cli.finish import finish, progress, say
from vit_export.cli.framework import CONTEXT, Command, typed
from vit_export.cli.options import AS_JSON, FILES, LOCATION, QUIET, TEXT, count, pathname
from vit_export.model.names import EVALUATION_PAGE_NAME, FIGURES_NAME


@click.command("evaluate", cls=Command, context_settings=CONTEXT, short_help="Accuracy of files on a whole data set.")
@FILES
@click.option(
    "--data",
    type=LOCATION,
    metavar="DATA",
    required=True,
    help="A folder with a folder for each class; .tar files (WebDataset: shard-{0000..0063}.tar, also s3://, gs://, "
    "https://); .parquet files with image and label.",
)
@pathname("--reference", "What the files are compared with: a file or SavedModel.  [the first FILE]", "MODEL")
@click.option(
    "--labels",
    type=LOCATION,
    metavar="FILE",
    help="Names of the classes as the data calls them; 'imagenet'; 'sorted' for folders in alphabetical order.  "
    "[the model's]",
)
@count("--knn", "Embeddings: accuracy by the vote of so many nearest neighbours in --train.")
@click.option("--train", type=LOCATION, metavar="DATA", help="The neighbours' images, in any form of --data.")
@count("--workers", "Processes, one thread each.", 1)
@click.option(
    "--ray",
    type=TEXT,
    metavar="ADDRESS",
    help="Workers on a Ray cluster: its address, or 'auto' on one of its nodes.",
)
@pathname("--report", "Write evaluation.html and figures.json.", "DIR")
@shared.overwrite("reports that exist")
@pathname("--resume", "Keep the rows here, and go on with what is here already.", "DIR")
@AS_JSON
@QUIET
def evaluate_command(
    files: tuple[Path, ...],
    data: str,
    reference: Path | None,
    labels: str | None,
    knn: int | None,
    train: str | None,
    workers: int,
    ray: str | None,
    resume: Path | None,
    report: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Count how often each FILE (.tflite, .onnx, SavedModel) is right on all images of a data set.

    Images are streamed: memory does not grow with their number. Each is decoded once and given to all files. Top-1 and
    top-5 come with Wilson's intervals, and McNemar's test says whether a file is worse than the reference. Interrupted,
    the command goes on where it was with the same --resume, and ends with the same figures.
    """
    with progress(quiet=quiet) as reporter:
        written = [] if report is None else _planned(report, overwrite=overwrite)
        from vit_export.evaluation.evaluate import evaluate

        result = evaluate(
            files,
            data,
            reference=reference,
            labels=labels,
            knn=knn,
            train=train,
            workers=workers,
            ray=ray,
            resume=resume,
            reporter=reporter,
        )

        if report is not None:
            from vit_export.report.evaluation_page import evaluation_record, write_evaluation

            write_evaluation(evaluation_record(result, [typed()]), report, overwrite=overwrite)

    def show() -> None:
        from vit_export.report.evaluation import render_evaluation

        named = result.subjects[0].record.get("labels")
        render_evaluation(result.figures, named)
        for path in written:
            say(f"Wrote {path}")

    finish(result.to_dict(), None if quiet else show, as_json=as_json)


def _planned(folder: Path, *, overwrite: bool) -> list[Path]:
    """The files that will be written to `folder`; refused now, not after hours of work, where one exists."""
    if folder.is_file():
        raise InputError(
            f"{shortened(folder)} is a file, expected a folder for {EVALUATION_PAGE_NAME} and {FIGURES_NAME}."
        )
    paths = [folder / EVALUATION_PAGE_NAME, folder / FIGURES_NAME]
    for path in paths:
        refuse_existing(path, overwrite=overwrite, folder=False)
    return paths
