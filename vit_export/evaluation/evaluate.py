"""`vit-export evaluate`: files on a whole data set, in worker processes, shard by shard, resumed at any time."""

import json
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.artifacts.identify import files_of, format_of
from vit_export.artifacts.read import artifact_of, read_facts
from vit_export.base.checks import whole_number
from vit_export.base.errors import InputError, OutputError, VerificationFailed, VitExportError
from vit_export.base.files import digest_of_folder, output_errors, shortened
from vit_export.base.interrupts import heed
from vit_export.base.json_file import json_text
from vit_export.base.python import python_command, python_environment
from vit_export.base.versions import versions
from vit_export.evaluation.classes import SORTED, Classes, classes_of
from vit_export.evaluation.data import DataSet, open_data
from vit_export.evaluation.figures import Figures, figures_of
from vit_export.evaluation.rows import Subject
from vit_export.evaluation.worker import part_name
from vit_export.model.labels import read_labels
from vit_export.model.record import ModelRecord, read_record
from vit_export.runtimes.runner import takes_pixels

if TYPE_CHECKING:
    import pyarrow

    from vit_export.base.reporting import Reporter

JOB_NAME = "evaluation.json"
MAX_WORKERS = 256
TRIES = 3
"""How often a shard is begun whose worker was killed, before it is given up."""

_VERSION = 1
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
    workers: int = 1,
    ray: str | None = None,
    resume: str | Path | None = None,
    reporter: "Reporter | None" = None,
) -> Evaluation:
    """Evaluate the files that `paths` name on all images of `data` (see `data.open_data`).

    `reference` is what they are compared with: a .tflite or .onnx file or a SavedModel of vit-export, without it the
    first of `paths`. `labels` names the classes as data sets call them: a file of names, "imagenet", or "sorted" for
    folders in alphabetical order; without it they are the model's own. `workers` processes take shards, each on one
    thread; `ray` is the address of a Ray cluster whose nodes they are on (or "auto").
    `resume` is a folder for the rows: what is in it already, of these very files and data, is not evaluated again.

    Raises:
        InputError: a file, the data, a label or a number is not what it should be, or `resume` holds other rows.
        OutputError: rows cannot be written.
        VerificationFailed: a file cannot be run, or a worker is killed again and again.
    """
    from vit_export.base.reporting import Silent

    say = reporter or Silent()
    whole_number("workers", workers, 1, MAX_WORKERS)
    say.step("Reading what the files are")
    subjects, record = _subjects(paths, reference)
    say.step(f"Listing {data}")
    found = open_data(data)
    classes = _classes(record, labels, found)
    with ExitStack() as stack:
        folder = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vit-export-rows-")))
            if resume is None
            else Path(resume)
        )
        job = _job(found, subjects, classes, folder)
        _begin(folder, job)
        wanted = [number for number in range(len(found.shards)) if not (folder / part_name(number)).exists()]
        if len(wanted) < len(found.shards):
            say.note(
                f"{len(found.shards) - len(wanted)} of {len(found.shards)} shards are in {shortened(folder)} already."
            )
        say.step(f"Evaluating {len(subjects)} files on {len(found.shards)} shards of images")
        if ray is not None and wanted:
            from vit_export.evaluation.cluster import run_on_ray

            run_on_ray(ray, job, wanted, workers, folder, say)
        else:
            _run(folder / JOB_NAME, wanted, min(workers, max(1, len(wanted))), say)
        say.step("Computing the figures")
        names = [subject.name for subject in subjects]
        figures = figures_of(_tables(folder, len(found.shards)), names)
    if not figures.files:
        name, reason = figures.unreadable[0] if figures.unreadable else ("", "there is none")
        raise InputError(
            f"No image of {shortened(data)} can be read (first: {shortened(name)}, {reason}): give another one."
        )
    kept = None if resume is None else str(resume)
    return Evaluation(figures, data, len(found.shards), len(found.shards) - len(wanted), kept, tuple(subjects))


def _tables(folder: Path, count: int) -> Iterator["pyarrow.Table"]:
    from pyarrow import parquet

    for number in range(count):
        heed()
        yield parquet.read_table(folder / part_name(number))


def _subjects(paths: Sequence[str | Path], reference: str | Path | None) -> tuple[list[Subject], ModelRecord]:
    """The files to evaluate, the reference first, and the reference's record."""
    files = list(files_of(list(paths), "evaluate", once=True))
    first = files[0] if reference is None else Path(reference)
    if reference is not None and not first.exists():
        raise InputError(f"There is no reference {shortened(first)}: give a .tflite or .onnx file, or a SavedModel.")
    everyone = [first, *(file for file in files if file.resolve() != first.resolve())]
    known = _record(first)
    if known is None:
        raise InputError(
            f"{shortened(first.name)} holds no record of vit-export, which says what pixels it takes: give one that "
            "does to --reference."
        )
    names = _names(everyone)
    subjects = []
    for path in everyone:
        record = known if path == first else _record(path) or known
        subjects.append(_subject(names[path], path, record))
    return subjects, known


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """What each file is called: its name, or as much of its path as tells it from another one."""
    names = {path: path.name for path in paths}
    for path, name in names.items():
        if list(names.values()).count(name) > 1:
            names[path] = str(path)
    return names


def _record(path: Path) -> ModelRecord | None:
    if format_of(path) == "saved_model":
        return read_record(path)
    told = read_facts(path).record
    return None if told is None else ModelRecord.from_dict(told)


def _subject(name: str, path: Path, record: ModelRecord) -> Subject:
    if record.answers in ("multi_label_classification", "regression"):
        raise InputError(
            f"{shortened(name)} answers with {record.answers.replace('_', ' ')}, expected a classifier of one class an "
            "image or an embedding: evaluate counts top classes."
        )
    format = format_of(path)
    if format == "saved_model":
        values, digest = "normalized", digest_of_folder(path)
    else:
        artifact = artifact_of(path)
        entry = artifact.inputs[0]
        values, digest = entry.values or ("uint8" if takes_pixels(entry) else "normalized"), artifact.sha256
    return Subject(name, str(path.resolve()), format, digest, values, record.to_dict())


def _classes(record: ModelRecord, labels: str | None, data: DataSet) -> Classes:
    count = record.spec.num_classes if record.classifies else None
    if labels != SORTED:
        return classes_of(count, record.labels if labels is None else read_labels(labels))
    folders = [Path(str(name)).parent.name for shard in data.shards if shard.kind == "folder" for name in shard.part]
    if not folders:
        raise InputError(
            f"--labels {SORTED} goes by folders, and {shortened(data.location)} has none: give a file of names."
        )
    return classes_of(count, None, folders)


def _job(data: DataSet, subjects: Sequence[Subject], classes: Classes, folder: Path) -> dict[str, Any]:
    found = versions(*_RUNTIMES)
    return {
        "version": _VERSION,
        "data": {"location": data.location, "digest": data.digest},
        "subjects": [subject.to_dict() for subject in subjects],
        "classes": {"count": classes.count, "names": dict(classes.names)},
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
            if any(folder.iterdir()):
                raise OutputError(f"{shortened(folder)} is not empty and holds no rows: give a new folder to --resume.")
            path.write_text(text, encoding="utf-8")
            return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{shortened(path)} is damaged: give a new folder to --resume.") from error
    told = {
        "data": "other data",
        "subjects": "other files",
        "classes": "other classes",
        "runtimes": "other releases of the runtimes",
    }
    wanted = json.loads(text)
    for key, what in told.items():
        if known.get(key) != wanted[key]:
            raise InputError(f"{shortened(folder)} holds the rows of {what}: give a new folder to --resume.")
    path.write_text(text, encoding="utf-8")  # the folder may have moved


def _run(job: Path, wanted: Sequence[int], workers: int, say: "Reporter") -> None:
    """Have `workers` processes evaluate the shards `wanted` of `job`."""
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[VitExportError | None] = queue.SimpleQueue()
    for number in wanted:
        left.put(number)
    stop = threading.Event()
    with ExitStack() as stack:
        threads = [threading.Thread(target=_serve, args=(job, left, done, stop), daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)  # before they are waited for
        count = 0
        while count < len(wanted):
            try:
                failed = done.get(timeout=0.2)
            except queue.Empty:
                heed()
                continue
            if failed is not None:
                raise failed
            count += 1
            say.progress(count, len(wanted))


def _serve(job: Path, left: "queue.SimpleQueue[int]", done: "queue.SimpleQueue[Any]", stop: threading.Event) -> None:
    """Let one worker after another (a killed one is replaced) take shards until none are left."""
    tries: dict[int, int] = {}
    number: int | None = None
    while not stop.is_set():
        try:
            with _worker(job, stop) as worker:
                while not stop.is_set():
                    if number is None:
                        number = left.get_nowait()
                    answer = _asked(worker, number)
                    if answer is None:
                        break
                    done.put(_failure(answer))
                    number = None
        except queue.Empty:
            return
        if number is not None and not stop.is_set():
            tries[number] = tries.get(number, 0) + 1
            if tries[number] == TRIES:
                done.put(VerificationFailed(f"The process that evaluates shard {number} was killed {TRIES} times."))
                return


@contextmanager
def _worker(job: Path, stop: threading.Event) -> Iterator["subprocess.Popen[str]"]:
    worker = subprocess.Popen(
        python_command("-m", "vit_export.evaluation.worker", str(job)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=python_environment(),
        start_new_session=True,  # Ctrl-C is for this process, which then ends the workers
    )

    def end() -> None:
        stop.wait()
        worker.kill()

    threading.Thread(target=end, daemon=True).start()
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


def _asked(worker: "subprocess.Popen[str]", number: int) -> dict[str, Any] | None:
    """The worker's answer on a shard; None where it has died."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        print(number, file=worker.stdin, flush=True)
        line = worker.stdout.readline()
    except (BrokenPipeError, OSError):
        return None
    answer: dict[str, Any] | None = json.loads(line) if line.endswith("\n") else None
    return answer


def _failure(answer: dict[str, Any]) -> VitExportError | None:
    if "error" not in answer:
        return None
    kind: type[VitExportError] = InputError if answer["exit_code"] == 2 else VerificationFailed
    return kind(answer["error"])
