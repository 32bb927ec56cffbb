"""sweep.html: accuracy against time and size of every cell of a sweep, and which file to ship, on a page of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from vit_export.base.errors import InputError
from vit_export.base.numbers import NONE, figure, megabytes, number, percent, seconds, sentence, span, unit
from vit_export.model.names import PRECISIONS
from vit_export.report.budget import Budget
from vit_export.report.candidates import Candidate, of_cell
from vit_export.report.candidates import points as points_told
from vit_export.report.html import capital, facts, fill, typed
from vit_export.report.scatter import LABELLED, Mark, Point, scatter
from vit_export.report.svg import Chart
from vit_export.report.sweep import trouble_of
from vit_export.report.view import Cell as Figure
from vit_export.report.view import Record, base_name, listed, record, records, text

_BADGES = {
    "pass": Markup('<span class="badge pass">✓ pass</span>'),
    "fail": Markup('<span class="badge fail">✕ fail</span>'),
    "refused": Markup('<span class="badge">○ refused</span>'),
    "failed": Markup('<span class="badge fail">✕ broke</span>'),
}
_UNKNOWN = Markup('<span class="badge">not verified</span>')
_FAR = 1.5
"""A limit beyond the greatest cost by this factor is not drawn: it would leave the points no room."""


@dataclass(frozen=True)
class _Cell:
    """A cell as the page shows it: what it is called here, the id of its row, and its figures."""

    entry: Record
    label: str
    number: str
    row: str
    found: Candidate
    on_front: bool
    shipped: bool

    @property
    def id(self) -> str:
        return text(self.entry.get("id"), "unnamed cell")

    @property
    def state(self) -> str:
        status = text(self.entry.get("status"))
        return status if status != "done" else text(self.entry.get("verdict"))

    @property
    def badge(self) -> Markup:
        return _BADGES.get(self.state, _UNKNOWN)

    @property
    def report(self) -> str:
        """The address of its report from the page: whatever it is called, a file below."""
        path = text(self.entry.get("report"))
        return f"./{quote(path, errors='replace')}" if path else ""


def sweep_page(sweep: Mapping[str, Any]) -> str:
    """The page of a sweep's record, the content of a sweep.json; what it lacks is left out.

    Raises:
        InputError: it is no JSON object.
    """
    if not isinstance(sweep, Mapping):
        raise InputError(f"A sweep is of type {type(sweep).__name__}, expected the JSON object of a sweep.json.")
    cells, budget = _cells(sweep), Budget.of(record(sweep.get("budget")))
    evaluation = record(sweep.get("evaluation"))
    models = list(dict.fromkeys(text(cell.entry.get("model")) or "a model" for cell in cells))
    return fill(
        "sweep.html",
        models=", ".join(models) or "no model",
        summary=_summary(cells),
        basics=_basics(sweep, evaluation, budget),
        ship=_ship(sweep, cells),
        rule=_rule(budget, evaluated=bool(evaluation)),
        evaluated=bool(evaluation),
        numbered=len(cells) > LABELLED,
        quality="accuracy" if evaluation else "SQNR",
        charts=_charts(cells, evaluation, budget),
        trouble=_trouble(cells),
        **_table(cells, text(evaluation.get("metric"), "Accuracy"), budget),
        basis=_basis(sweep, evaluation),
        made=[
            (title, rows)
            for title, rows in (
                ("Evaluation", facts(evaluation)),
                ("Budget", facts(sweep.get("budget"))),
                ("Versions", facts(sweep.get("versions"))),
            )
            if rows
        ],
        commands=[typed(command) for command in map(text, listed(sweep.get("commands"))) if command],
    )


def _cells(sweep: Record) -> list[_Cell]:
    entries = records(sweep.get("cells"))
    front, ship = listed(sweep.get("front")), text(record(sweep.get("ship")).get("id"))
    many = len(entries) > LABELLED
    return [
        _Cell(
            entry=entry,
            label=label,
            number=str(place) if many else "",
            row=f"cell-{place}",
            found=of_cell(entry),
            on_front=entry.get("id") in front,
            shipped=ship != "" and entry.get("id") == ship,
        )
        for place, (entry, label) in enumerate(zip(entries, labels_of(entries), strict=True), 1)
    ]


def labels_of(entries: Sequence[Record]) -> list[str]:
    """What tells each cell from the others, in as few words as do it; its id where they do not."""
    parts = [
        {
            "model": text(entry.get("model")),
            "weights": base_name(entry.get("weights")),
            "size": "x".join(map(str, listed(entry.get("image_size")))),
            **{key: text(entry.get(key)) for key in ("format", "precision", "scheme")},
        }
        for entry in entries
    ]
    needed = []
    for key in ("model", "weights", "size", "format", "precision", "scheme"):
        # Weights and sizes that go with the model tell nothing more.
        own = key in ("weights", "size")
        values = {(part["model"] if own else "", part[key]) for part in parts}
        if len(values) > (len({part["model"] for part in parts}) if own else 1):
            needed.append(key)
    labels = [" ".join(filter(None, (part[key] for key in needed))) for part in parts]
    names = [text(entry.get("id"), "unnamed cell") for entry in entries]
    return [label if label and labels.count(label) == 1 else name for label, name in zip(labels, names, strict=True)]


def _summary(cells: Sequence[_Cell]) -> str:
    passed, known = sum(cell.state == "pass" for cell in cells), sum(cell.entry.get("cached") is True for cell in cells)
    many = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
    told = f"{passed} of {many} passed."
    return f"{told} {known} had been done before." if known else told


def _basics(sweep: Record, evaluation: Record, budget: Budget) -> list[tuple[str, str]]:
    threads, images = number(sweep.get("threads")), number(evaluation.get("labelled"))
    processor = text(sweep.get("processor"))
    if processor and threads is not None:
        processor += f", {threads:.0f} thread{'' if threads == 1 else 's'}"
    data = text(evaluation.get("data"))
    rows = [
        ("Budget", f"at most {budget}" if str(budget) else "none given"),
        ("Evaluated on", f"{data}, {images:,.0f} images" if data and images is not None else data or "nothing"),
        ("When", text(sweep.get("date")).replace("T", " ").replace("+00:00", " UTC")),
        ("Processor", processor),
    ]
    return [(name, value) for name, value in rows if value]


def _ship(sweep: Record, cells: Sequence[_Cell]) -> dict[str, Any]:
    found = record(sweep.get("ship"))
    chosen = next((cell for cell in cells if cell.shipped), None)
    return {
        "id": text(found.get("id")),
        "row": chosen.row if chosen else "",
        "file": text(chosen.entry.get("file")) if chosen else "",
        "why": sentence(capital(text(found.get("why"), "nothing was chosen"))),
        "models": [
            (text(row.get("model")), text(row.get("id")), sentence(text(row.get("why"))))
            for row in records(found.get("models"))
        ],
    }


def _trouble(cells: Sequence[_Cell]) -> list[dict[str, Any]]:
    """Each cell that is no choice, and what else is told of cells that were done, of all of them at once."""
    found: dict[tuple[str, str], list[_Cell]] = {}
    for cell in cells:
        if told := trouble_of(cell.entry):
            found.setdefault((cell.id, told), []).append(cell)
        if text(cell.entry.get("status")) == "done" and (noted := text(cell.entry.get("reason"))):
            found.setdefault(("", sentence(noted)), []).append(cell)
    return [
        {
            "note": not name or some[0].state == "refused",
            "badge": some[0].badge if name else "",
            "names": [cell.id for cell in some],
            "text": told,
        }
        for (name, told), some in found.items()
    ]


def _rule(budget: Budget, *, evaluated: bool) -> str:
    kept = "Of the files that passed and stay within the budget" if str(budget) else "Of the files that passed"
    allowed = ", or lose no more points than the budget allows" if budget.points is not None else ""
    accurate = f", those that are as accurate as the most accurate one as far as the images tell{allowed}"
    lost = " Points are lost against the same model’s float reference." if evaluated else ""
    return (
        f"{kept}{accurate if evaluated else ''}; of these the fastest, of those whose intervals overlap with its the "
        f"smallest, of equally small ones the most accurate.{lost}"
    )


def _charts(cells: Sequence[_Cell], evaluation: Record, budget: Budget) -> list[tuple[str, Chart]]:
    """Accuracy by time and by size; of one model that was not evaluated SQNR, of several nothing compares."""
    done = [cell for cell in cells if text(cell.entry.get("status")) == "done"]
    models = {cell.found.model for cell in done}
    if not evaluation and len(models) != 1:
        return []
    metric = text(evaluation.get("metric"), "accuracy") if evaluation else "SQNR of the worst image"
    levels = [] if not evaluation or budget.points is None or len(models) > 1 else _least(done, budget.points)
    charts = []
    for by, name, limit, unit_of_cost in (
        ("time", "milliseconds for one image", budget.ms, "ms"),
        ("size", "size in MB", budget.megabytes, "MB"),
    ):
        points = [point for cell in done if (point := _point(cell, by, evaluated=bool(evaluation))) is not None]
        most = max((point.cost for point in points), default=0.0)
        lines = [] if limit is None or limit > _FAR * most else [Mark(f"{limit:g} {unit_of_cost}", cost=limit)]
        title = capital(f"{metric} by {by}")
        chart = scatter(points, title, name, "%" if evaluation else "dB", f"by-{by}", [*lines, *levels])
        if chart:
            charts.append((title, chart))
    return charts


def _least(cells: Sequence[_Cell], points: float) -> list[Mark]:
    """The least accuracy that the budget allows, of the one model's float reference."""
    for cell in cells:
        share = number(record(record(cell.entry.get("evaluation")).get("reference")).get("share"))
        if share is not None:
            return [Mark(f"{points_told(points)} lost", quality=100 * share - points)]
    return []


def _point(cell: _Cell, by: str, *, evaluated: bool) -> Point | None:
    found = cell.found
    time, size = found.ms, None if found.bytes is None else found.bytes / 1e6
    cost = size if by == "size" else time.value if time else None
    share = found.accuracy.value if found.accuracy else None
    quality = found.worst_db if not evaluated else None if share is None else 100 * share
    if cost is None or quality is None:
        return None
    right, star = found.accuracy, "★ " if cell.shipped else ""
    precision = text(cell.entry.get("precision"))
    return Point(
        name=cell.id,
        label=cell.label if cell.number else f"{star}{cell.label}",
        cost=cost,
        quality=quality,
        told=found.figures(),
        shape={"tflite": "circle", "onnx": "square"}.get(text(cell.entry.get("format")), "diamond"),
        kind=precision if precision in PRECISIONS else "other",
        failed=cell.state == "fail",
        cost_ends=(time.low, time.high) if by == "time" and time and time.known else (),
        quality_ends=(100 * right.low, 100 * right.high) if right and right.known else (),
        on_front=cell.on_front,
        row=cell.row,
        number=f"{star}{cell.number}" if cell.number else "",
    )


def _table(cells: Sequence[_Cell], metric: str, budget: Budget) -> dict[str, Any]:
    """The headings of the columns in which some cell has a figure, and the rows with theirs."""
    columns = [_figures(cell, metric, budget) for cell in cells]
    filled = [name for name in (columns[0] if columns else ()) if any(row[name].value != NONE for row in columns)]
    return {
        "headings": filled,
        "rows": [
            {
                **{
                    key: getattr(cell, key)
                    for key in ("row", "number", "shipped", "on_front", "label", "id", "badge", "report")
                },
                "figures": [(name, row[name]) for name in filled],
            }
            for cell, row in zip(cells, columns, strict=True)
        ],
    }


def _figures(cell: _Cell, metric: str, budget: Budget) -> dict[str, Figure]:
    found, entry = cell.found, cell.entry
    time, right, drop = found.ms, found.accuracy, found.drop
    test = record(record(entry.get("evaluation")).get("mcnemar"))
    lost, gained, p = (number(test.get(key)) for key in ("lost", "gained", "p"))
    spent = number(entry.get("seconds"))

    def beyond(limit: float | None, value: float | None) -> bool:
        return limit is not None and value is not None and value > limit

    size = None if found.bytes is None else found.bytes / 1e6
    return {
        "One image": Figure(
            unit(time.value if time else None, "ms"),
            span(time.low, time.high) if time and time.known else "",
            beyond(budget.ms, time.value if time else None),
        ),
        "Size": Figure(megabytes(found.bytes), "", beyond(budget.megabytes, size)),
        capital(metric): Figure(
            percent(right.value) if right else NONE,
            span(100 * right.low, 100 * right.high) if right and right.known else "",
        ),
        "Points lost": Figure(
            _two(drop.value) if drop else NONE,
            f"{_two(drop.low)} to {_two(drop.high)}" if drop and drop.known else "",
            beyond(budget.points, drop.value if drop else None),
        ),
        "Lost / gained": Figure(
            NONE if lost is None or gained is None else f"{lost:.0f} / {gained:.0f}",
            "" if p is None else f"p = {p:.2g}",
        ),
        "Worst SQNR": Figure(
            unit(found.worst_db, "dB"),
            "" if (median := number(entry.get("sqnr_median_db"))) is None else f"median {figure(median)}",
        ),
        "Same top class": Figure(percent(number(entry.get("agreement")))),
        "Made in": Figure(seconds(spent), "before" if entry.get("cached") is True and spent is not None else ""),
    }


def _two(value: float) -> str:
    """Two digits after the dot, and no sign of a nothing."""
    return f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _basis(sweep: Record, evaluation: Record) -> str:
    timed = "Times are medians for one image, measured after all cells, with nothing beside."
    lost = (
        " Points lost: against the same model’s float reference on the same images, with the interval of pairs "
        "(Agresti and Min). Lost / gained: images that the reference, or the file, gets right alone, and "
        "McNemar’s exact test."
    )
    return timed + (lost if evaluation else "") + " SQNR is that of the images of the verification."
