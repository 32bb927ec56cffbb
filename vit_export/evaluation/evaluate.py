"""`vit-export evaluate`: files on a whole data set, in worker processes, shard by shard, resumed at any time."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import output_errors, shortened
from vit_export.base.interrupts import heed
from vit_export.base.json_file import json_text
from vit_export.base.versions import versions
from vit_export.evaluation.classes import Classes
from vit_export.evaluation.data import DataSet, open_data
from vit_export.evaluation.figures import Figures, figures_of
from vit_export.evaluation.local import run_locally
from vit_export.evaluation.neighbours import with_neighbours
from vit_export.evaluation.rows import Subject
from vit_export.evaluation.subjects import classes_for, classes_of_neighbours, subjects_of
from vit_export.evaluation.worker import part_name

if TYPE_CHECKING:
    import pyarrow

    from vit_export.base.reporting import Reporter

JOB_NAME = "evaluation.json"
MAX_WORKERS = 256
MAX_NEIGHBOURS = 1000
TRAINING = "train"
"""The folder of the training images' rows, in that of the others."""

_VERSION = 2
"""Of what a shard holds and its rows say: parts of different ones are not mixed."""
_RUNTIMES = ("ai-edge-litert", "onnxruntime", "tensorflow", "pillow", "numpy")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found: `figures`, on which data by which files, and where the rows are (None: not kept)."""

    figures: Figures
    data: str
    shards: int
    resumed: int
    folder: str | None
    subjects: tuple[Subject, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        files = {subject.name: {"path": subject.path, "sha256": subject.sha256} for subject in self.subjects}
        figures = self.figures.to_dict()
        figures["files"] = [{**files[entry["name"]], **entry} for entry in figures["files"]]
        return {
            "data": self.data,
            "reference": self.subjects[0].name,
            "shards": self.shards,
            "resumed_shards": self.resumed,
            "rows": self.folder,
            **figures,
        }


def evaluate(
    paths: Sequence[str | Path],
    data: str,
    *,
    reference: str | Path | None = None,
    labels: str | None = None,
    knn: int | None = None,
    train: str | None = None,
    workers: int = 1,
    ray: str | None = None,
    resume: str | Path | None = None,
    reporter: "Reporter | None" = None,
) -> Evaluation:
    """Evaluate the files that `paths` name on all images of `data` (see `data.open_data`).

    `reference` is what they are compared with: a .tflite or .onnx file or a SavedModel of vit-export, without it the
    first of `paths`. `labels` names the classes as data sets call them: a file of names, "imagenet", or "sorted" for
    folders in alphabetical order; without it they are the model's own. Embeddings are judged by the vote of their `knn`
    nearest neighbours among the images of `train` (see `neighbours`). `workers` processes take shards, each on one
    thread; `ray` is the address of a Ray cluster whose nodes they are on (or "auto"). `resume` is a folder for the
    rows: what is in it already, of these very files and data, is not evaluated again.

    Raises:
        InputError: a file, the data, a label or a number is not what it should be, or `resume` holds other rows.
        OutputError: rows cannot be written.
        VerificationFailed: a file cannot be run, or a worker is killed again and again.
    """
    from vit_export.base.reporting import Silent

    say = reporter or Silent()
    whole_number("workers", workers, 1, MAX_WORKERS)
    if (knn is None) != (train is None):
        raise InputError("--knn is the number of neighbours among the images of --train: give both, or neither.")
    if knn is not None:
        whole_number("knn", knn, 1, MAX_NEIGHBOURS)
    say.step("Reading what the files are")
    subjects, record = subjects_of(paths, reference)
    if knn is not None and record.classifies:
        raise InputError(f"{subjects[0].name} is a classifier, --knn judges embeddings: export it with --features.")
    say.step(f"Listing {data}")
    found = open_data(data)
    known = None if train is None else open_data(train)
    classes = classes_for(record, labels, found) if known is None else classes_of_neighbours(labels, known)
    names = [subject.name for subject in subjects]
    with ExitStack() as stack:
        folder = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-export-rows-")))
            if resume is None
            else Path(resume)
        )
        todo = _Todo(subjects, classes, workers, ray, knn is not None, say)
        resumed = todo.done(found, folder)
        if known is not None:
            resumed += todo.done(known, folder / TRAINING)
        say.step("Computing the figures")
        figures = figures_of(_tables(folder, len(found.shards)), names)
        if known is not None and knn is not None and figures.files:
            neighbours = _tables(folder / TRAINING, len(known.shards))
            figures = with_neighbours(figures, list(neighbours), lambda: _tables(folder, len(found.shards)), knn)
    if not figures.files:
        name, reason = figures.unreadable[0] if figures.unreadable else ("", "there is none")
        raise InputError(
            f"No image of {shortened(data)} can be read (first: {shortened(name)}, {reason}): give another one."
        )
    kept = None if resume is None else str(resume)
    return Evaluation(figures, data, len(found.shards), resumed, kept, tuple(subjects))


@dataclass(frozen=True)
class _Todo:
    """What is done with every data set: by which files, for which classes, by whom."""

    subjects: Sequence[Subject]
    classes: Classes
    workers: int
    ray: str | None
    embeddings: bool
    say: "Reporter"

    def done(self, data: DataSet, folder: Path) -> int:
        """Have the rows of all shards of `data` in `folder`; how many were there."""
        job = _job(data, self.subjects, self.classes, folder, embeddings=self.embeddings)
        _begin(folder, job)
        count = len(data.shards)
        wanted = [number for number in range(count) if not (folder / part_name(number)).exists()]
        if len(wanted) < count:
            self.say.note(f"{count - len(wanted)} of {count} shards are in {shortened(folder)} already.")
        self.say.step(f"Evaluating on {data.location} (files: {len(self.subjects)}, shards: {count})")
        if wanted and self.ray is not None:
            from vit_export.evaluation.cluster import run_on_ray

            run_on_ray(self.ray, job, wanted, self.workers, folder, self.say)
        elif wanted:
            run_locally(folder / JOB_NAME, wanted, self.workers, self.say)
        return count - len(wanted)


def _tables(folder: Path, count: int) -> Iterator["pyarrow.Table"]:
    from pyarrow import parquet

    for number in range(count):
        heed()
        yield parquet.read_table(folder / part_name(number))


def _job(
    data: DataSet, subjects: Sequence[Subject], classes: Classes, folder: Path, *, embeddings: bool
) -> dict[str, Any]:
    found = versions(*_RUNTIMES)
    return {
        "version": _VERSION,
        "data": {"location": data.location, "digest": data.digest},
        "subjects": [subject.to_dict() for subject in subjects],
        "classes": {"count": classes.count, "names": dict(classes.names)},
        "embeddings": embeddings,
        "runtimes": {name: found[name] for name in _RUNTIMES},
        "shards": [asdict(shard) for shard in data.shards],
        "folder": str(folder.resolve()),
    }


def _begin(folder: Path, job: dict[str, Any]) -> None:
    """Write the job into `folder`, or see that the one in it is the same.

    Raises:
        InputError: it is another one.
        OutputError: the folder cannot be written.
    """
    path = folder / JOB_NAME
    text = json_text(job)
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(".part-*"):  # of workers that were killed
            unfinished.unlink(missing_ok=True)
        if not path.exists():
            if any(entry.name != TRAINING for entry in folder.iterdir()):
                raise OutputError(f"{shortened(folder)} is not empty and holds no rows: give a new folder to --resume.")
            path.write_text(text, encoding="utf-8")
            return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{shortened(path)} is damaged: give a new folder to --resume.") from error
    told = {
        "version": "another release",
        "data": "other data",
        "subjects": "other files",
        "classes": "other classes",
        "embeddings": "another kind (without --knn, or with it)",
        "runtimes": "other releases of the runtimes",
    }
    wanted = json.loads(text)
    for key, what in told.items():
        if known.get(key) != wanted[key]:
            raise InputError(f"{shortened(folder)} holds the rows of {what}: give a new folder to --resume.")
    path.write_text(text, encoding="utf-8")  # the folder may have moved
