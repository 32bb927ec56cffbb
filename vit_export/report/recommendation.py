"""Which file to ship, and why: one rule, for the files of a report and for the cells of a sweep.

1. Files that passed and keep the budget may be shipped. What was measured decides: the median time of an image, the
   size, and the points of accuracy lost against the same model's float reference, an accuracy loss of the conversion.
2. Of these come first those that are accurate enough. Where a data set was evaluated, that is the most accurate one and
   those that the images tell neither from it nor from a better one of their own model; where the budget allows a loss,
   it is all files of these models. Where none was evaluated, it is all files of one model: what passed is its model.
   Between models nothing but accuracy decides, within a time or a size: without an evaluation, or without a limit of
   either, none is chosen.
3. Of these the fastest, and those whose intervals of the time overlap with its; of those the smallest, and those as
   small (to 1 %); of those the most accurate, by SQNR of the worst image where nothing was evaluated. Where nothing was
   timed, all are equally fast.

Where no file keeps the budget, the one that misses it least is told, and by how much.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vit_export.model.names import FORMATS
from vit_export.report.budget import UNBOUND, Budget
from vit_export.report.candidates import AS_SMALL, Candidate, of_cell, of_report
from vit_export.report.view import CPU, File, Record, read_files, record, records, text


def recommend(report: Record) -> dict[str, Any] | None:
    """The recommendation for `report`, JSON-ready; None where no file was verified.

    `file` is the name of the one to ship (None where none passed) and `why` a phrase on it; `formats` has the same of
    each format that a file was made in.
    """
    verification = record(report.get("verification"))
    _, files = read_files(report)
    if not verification or not files:
        return None
    of_kind = {name: [file for file in files if text(file.artifact.get("format")) == name] for name in FORMATS}
    return {
        **_choice("file", _candidates(files)),
        "formats": [{"format": name, **_choice("file", _candidates(some))} for name, some in of_kind.items() if some],
    }


def _candidates(files: Sequence[File]) -> list[Candidate]:
    """One for each file: of those that ran in several places by its first row, passed if it did so everywhere.

    The CPU's is the first where it ran there, and its times the ones to compare: not every phone has that GPU.
    """
    first, failed = dict[str, File](), {file.name for file in files if file.verdict != "pass"}
    for file in sorted(files, key=lambda file: file.place != CPU):
        first.setdefault(file.name, file)
    return [replace(of_report(file), passed=name not in failed) for name, file in first.items()]


def recommendation_told(report: Record) -> str:
    """The recommendation that `report` holds in one line, without a full stop; empty where it has none."""
    found = record(report.get("recommendation"))
    if not found:
        return ""
    name = text(found.get("file"))
    if not name:
        return f"none of these files: {text(found.get('why'))}"
    others = [
        f"of {FORMATS[row['format']].title} {row['file']}, {text(row.get('why'))}"
        for row in records(found.get("formats"))
        if text(row.get("format")) in FORMATS and text(row.get("file")) not in ("", name)
    ]
    untrained = record(report.get("verification")).get("trained") is False
    caution = ["the weights are untrained, so this goes by size and speed alone"] if untrained else []
    return "; ".join([f"{name}, {text(found.get('why'))}", *others, *caution])


def ship_told(sweep: Record) -> list[str]:
    """What a sweep's record says to ship: a phrase, and where no one file was chosen one for each model."""
    found = record(sweep.get("ship"))
    chosen, why = text(found.get("id")), text(found.get("why"))
    if chosen:
        return [f"{chosen}, {why}"]
    each = [
        f"of {text(row.get('model'))}: {', '.join(filter(None, (text(row.get('id')), text(row.get('why')))))}"
        for row in records(found.get("models"))
    ]
    undecided = any(text(row.get("id")) for row in records(found.get("models")))
    return [why if undecided else f"none of these files: {why}", *each]


def choose(cells: Sequence[Record], budget: Record) -> dict[str, Any]:
    """The cell of a sweep to ship under `budget` (see `Budget`), JSON-ready.

    `id` is that of the cell (None where there is none) and `why` a phrase on it. Where the cells are of several models,
    `models` has the same of each, with the name of the `model`.
    """
    limits, made = Budget.of(budget), _made(cells)
    of_model = {file.model: [other for other in made if other.model == file.model] for file in made}
    found = _choice("id", made, limits)
    if len(of_model) > 1:
        found["models"] = [{"model": some[0].model_name, **_choice("id", some, limits)} for some in of_model.values()]
    return found


def front_of(cells: Sequence[Record]) -> list[str]:
    """The ids of the cells that no other beats in time, size and accuracy (see `Candidate.beats`), the fastest first.

    Files that passed alone are on it. Without an evaluation each model has a front of its own. What was not timed or
    evaluated where others were has no place. Every file that is not on the front is beaten by one that is, and none on
    it by another, but for circles of which each is equal to the next in all that the next does not win.
    """
    left = [file for file in _made(cells) if file.passed]
    left = [file for file in left if file.ms] or left
    left = [file for file in left if file.accuracy] or left
    front: list[Candidate] = []
    while left:
        unbeaten = [file for file in left if not any(other.beats(file) for other in left)] or left
        front += unbeaten
        left = [file for file in left if file not in unbeaten and not any(other.beats(file) for other in unbeaten)]
    return [file.name for file in sorted(front, key=lambda f: (f.ms.value if f.ms else 0.0, f.bytes or 0.0))]


def _made(cells: Sequence[Record]) -> list[Candidate]:
    return [of_cell(cell) for cell in records(cells) if cell.get("status") == "done"]


def _choice(key: str, made: Sequence[Candidate], budget: Budget = UNBOUND) -> dict[str, Any]:
    """The choice as `key` (a name, or None) and `why`."""
    passed = [file for file in made if file.passed]
    kept = [file for file in passed if budget.kept(file)]
    if not kept:
        return {key: None, "why": _none(made, passed, budget)}
    refusal = _undecided(kept, budget)
    if refusal:
        return {key: None, "why": refusal}
    enough, among = _accurate(kept, _counted(len(kept), budget), budget)
    timed = [file for file in enough if file.ms]
    alike = enough
    if timed:
        fastest = min(timed, key=lambda file: file.ms.value if file.ms else 0.0)
        alike = [file for file in timed if file.as_fast(fastest)]
    chosen, reason = _among(alike, bool(timed), among)
    if len(kept) == 1:
        stays = f" and stays within {budget}" if str(budget) else ""
        reason = "the only file" if len(made) == 1 else f"the only one of {len(made)} files that passed{stays}"
    elif len(enough) == 1:
        reason = f"the most accurate of {among}"
    cautions = [budget.unsure(chosen), _left_open(passed, chosen, budget)]
    if key == "id" and chosen.untrained:
        cautions.append("the weights are untrained, so this goes by size and speed alone")
    return {key: chosen.name, "why": "; ".join(filter(None, (f"{reason}: {chosen.figures()}", *cautions)))}


def _left_open(passed: Sequence[Candidate], chosen: Candidate, budget: Budget) -> str:
    """A faster file of the chosen one's model of which the measurement does not say that it breaks the budget."""
    faster = [
        file
        for file in passed
        if file.model == chosen.model and file.ms and chosen.ms and file.ms.value < chosen.ms.value
    ]
    unsettled = [file for file in faster if budget.left_open(file)]
    if not unsettled:
        return ""
    first = min(unsettled, key=lambda file: file.ms.value if file.ms else 0.0)
    return f"{first.name} is faster, and what was measured leaves open whether it stays within the budget, too"


def _counted(count: int, budget: Budget) -> str:
    return f"{count} files that passed{f' and stay within {budget}' if str(budget) else ''}"


def _none(made: Sequence[Candidate], passed: Sequence[Candidate], budget: Budget) -> str:
    """Why there is nothing to choose from."""
    if not passed:
        return "no file passed" if made else "no file was made"
    nearest = min(passed, key=budget.missed)
    lacking = budget.unmeasured(nearest)
    missed = f"{nearest.name} was not {lacking}" if lacking else f"{nearest.name} ({budget.misses(nearest)})"
    if len(passed) == 1:
        return f"the only file that passed does not stay within {budget}: {missed}"
    missed = missed if lacking else f"the nearest is {missed}"
    return f"none of {len(passed)} files that passed stays within {budget}; {missed}"


def _undecided(kept: Sequence[Candidate], budget: Budget) -> str:
    """Why models that were compared are not chosen between; empty where they are, or where there is only one."""
    models = len({file.model for file in kept})
    if models == 1:
        return ""
    if not any(file.accuracy for file in kept):
        return f"which of {models} models is a question of their accuracy, which was not evaluated (--data)"
    if budget.ms is None and budget.megabytes is None:
        return f"which of {models} models depends on what it may cost: --max-ms or --max-mb says so"
    return ""


def _accurate(kept: Sequence[Candidate], counted: str, budget: Budget) -> tuple[Sequence[Candidate], str]:
    """Those that are accurate enough, and what they are called."""
    scored = [file for file in kept if file.accuracy]
    if not scored:
        return kept, counted
    most = max(file.accuracy.value for file in scored if file.accuracy)
    # Of few images several may be equally good.
    best = [file for file in scored if file.accuracy and file.accuracy.value == most]

    def tied(file: Candidate) -> bool:
        # Compared image by image with its own model's files, one may be worse that is not told from another model's.
        own = [other for other in scored if other.model == file.model and _more_accurate(other, file)]
        return not own and any(file.as_accurate(other) for other in best)

    enough = [file for file in scored if tied(file)]
    if budget.points is not None:
        models = {file.model for file in enough}
        enough = [file for file in scored if file.model in models]
    if len(enough) in (1, len(kept)):
        return enough, counted
    beyond = not all(map(tied, enough))
    reason = "the loss is allowed" if beyond else "the images do not tell them apart"
    return enough, f"the {len(enough)} most accurate ({reason}) of {counted}"


def _more_accurate(one: Candidate, other: Candidate) -> bool:
    right, less = one.accuracy, other.accuracy
    return right is not None and less is not None and right.value > less.value and not one.as_accurate(other)


def _among(alike: Sequence[Candidate], timed: bool, among: str) -> tuple[Candidate, str]:
    """The one to take of files that are equally fast, and the reason."""
    least = min(file.bytes or 0.0 for file in alike)
    small = [file for file in alike if (file.bytes or 0.0) <= AS_SMALL * least]
    chosen = max(small, key=lambda file: (file.accuracy.value if file.accuracy else 0.0, file.worst_db or 0.0))
    if len(alike) == 1:
        return chosen, f"the fastest of {among}"
    others = [file.name for file in alike if file is not chosen]
    if not timed:
        best = "smallest" if len(small) == 1 else "most accurate of the small ones"
        return chosen, f"the {best} of {among}, none of which was timed"
    called = others[0] if len(others) == 1 else f"{len(others)} others"
    speed = f"as fast as {called} (their intervals overlap)"
    if len(small) == 1:
        return chosen, f"{speed} and {'smaller' if len(others) == 1 else 'the smallest of them'}"
    accurate = "more accurate" if len(small) == 2 else "the most accurate"
    return chosen, f"{speed}, {'of one size' if len(small) == len(alike) else 'the smallest'} and {accurate}"
