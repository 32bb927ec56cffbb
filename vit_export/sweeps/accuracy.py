"""How often the files of a sweep are right: those of one model and size together, against its own float32 file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import InputError, VitExportError
from vit_export.base.reporting import Reporter
from vit_export.evaluation.data import open_data
from vit_export.evaluation.evaluate import Evaluation, evaluate
from vit_export.sweeps.cell import Cell, Outcome
from vit_export.sweeps.keys import code, identity_of_data, key_of
from vit_export.sweeps.plan import SweepRequest
from vit_export.sweeps.store import EVALUATION, ROWS, Store
from vit_export.sweeps.telling import Within
from vit_export.verification.metrics import Accuracy

if TYPE_CHECKING:
    from vit_export.evaluation.figures import FileFigures


@dataclass(frozen=True)
class Measure:
    """What accuracy is measured by: the request's data sets, told by their bytes."""

    request: SweepRequest
    identity: Mapping[str, Any]

    @classmethod
    def of(cls, request: SweepRequest, say: Reporter) -> "Measure | None":
        """The measure of `request`, None where it names no data.

        Raises:
            InputError: a data set or the file of labels cannot be read.
        """
        if request.data is None:
            return None
        labels = request.labels
        if labels is not None and Path(labels).is_file():
            from vit_export.model.labels import read_labels

            labels = key_of(labels=read_labels(labels))
        train = None if request.train is None else identity_of_data(open_data(request.train), say)
        data = identity_of_data(open_data(request.data), say)
        return cls(request, {"data": data, "labels": labels, "knn": request.knn, "train": train})

    @property
    def metric(self) -> str:
        """What a share is of."""
        return "top-1" if self.request.knn is None else "k-NN"

    def key(self, outcome: Outcome, reference: Outcome) -> str:
        """The content key of an evaluation."""
        digests = [dict(entry["sha256"]) for entry in (outcome, reference)]
        return key_of(files=digests, code=code(), **self.identity)


def evaluations_of(
    measure: Measure, cells: Sequence[Cell], outcomes: Mapping[str, Outcome], store: Store, say: Reporter
) -> dict[str, dict[str, Any]]:
    """The evaluation of every cell that is done, by id, or a sentence why there is none, as `problem`."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        if outcomes[cell.id]["status"] == "done":
            groups.setdefault(cell.model.label, []).append(cell)
    found: dict[str, dict[str, Any]] = {}
    for number, (label, group) in enumerate(groups.items(), 1):
        say.step(f"Accuracy of {label} on {measure.request.data} ({number} of {len(groups)})")
        found |= _of_group(measure, group, outcomes, store, Within(say))
    if not any("problem" in told for told in found.values()):
        store.clear_rows()
    return found


def _of_group(
    measure: Measure, cells: Sequence[Cell], outcomes: Mapping[str, Outcome], store: Store, say: Reporter
) -> dict[str, dict[str, Any]]:
    """The evaluation of each of `cells`, files of one model and size, by id; the others have a sentence as `problem`.

    What is known is not evaluated again. Rows of an evaluation that ends half-way stay, and the next one goes on.
    """
    floats = [cell for cell in cells if cell.precision == "float32" and outcomes[cell.id]["verdict"] == "pass"]
    if not floats:
        problem = "It is not evaluated: no float32 file of this model passed, to count against."
        return {cell.id: {"problem": problem} for cell in cells}
    reference = floats[0]
    keys = {cell.id: measure.key(outcomes[cell.id], outcomes[reference.id]) for cell in cells}
    found = {}
    for cell in cells:
        if (known := store.read(store.cell(cell.id) / EVALUATION, keys[cell.id])) is not None:
            found[cell.id] = known
    missing = [cell for cell in cells if cell.id not in found]
    if not missing:
        return found
    paths = {cell.id: store.cell(cell.id) / outcomes[cell.id]["file"] for cell in cells}
    rows = store.folder / ROWS / key_of(keys=sorted(keys[cell.id] for cell in missing))[:16]
    request = measure.request
    assert request.data is not None
    try:
        result = evaluate(
            [paths[cell.id] for cell in missing],
            request.data,
            reference=paths[reference.id],
            labels=request.labels,
            knn=request.knn,
            train=request.train,
            workers=request.workers,
            ray=request.ray,
            resume=rows,
            reporter=say,
        )
        figures = _figures(result, [paths[cell.id] for cell in missing], paths[reference.id])
    except VitExportError as error:
        return {**found, **{cell.id: {"problem": f"It is not evaluated: {error.written}"} for cell in missing}}
    for cell in missing:
        told = _told(figures[paths[cell.id]], figures[paths[reference.id]], result)
        found[cell.id] = store.write(store.cell(cell.id) / EVALUATION, keys[cell.id], told)
    return found


def _figures(result: Evaluation, paths: Sequence[Path], reference: Path) -> dict[Path, "FileFigures"]:
    """The figures by path."""
    names = {Path(subject.path): subject.name for subject in result.subjects}
    by_name = {file.name: file for file in result.figures.files}
    found = {path: by_name[names[path.resolve()]] for path in (*paths, reference)}
    if any(_share(file) is None for file in found.values()):
        raise InputError("no image of --data has a class.")
    return found


def _share(file: "FileFigures") -> Accuracy | None:
    return file.knn or file.top1


def _told(file: "FileFigures", reference: "FileFigures", result: Evaluation) -> dict[str, Any]:
    own, known = _share(file), _share(reference)
    assert own is not None
    assert known is not None
    return {
        "accuracy": asdict(own),
        "reference": asdict(known),
        "drop": 100 * (known.share - own.share),
        "mcnemar": file.mcnemar and file.mcnemar.to_dict(),
        "images": result.figures.images,
        "labelled": result.figures.labelled,
    }
