"""The table of `vit-export sweep`: each cell with its figures, what is on the front, and which file to ship."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from vit_export.base.numbers import MEGABYTE, NONE, number, sentence, three_digits
from vit_export.base.text import visible
from vit_export.report.columns import Cell, Row, print_columns
from vit_export.report.recommendation import ship_told
from vit_export.report.view import Record, listed, record, records, text

STATES = {"refused": ("refused", "yellow"), "failed": ("broke", "bold red")}
"""What is said of a cell that was not done, by its status."""
_VERDICTS = {"pass": ("pass", "green"), "fail": ("FAIL", "bold red")}
_MARK = "*"


def render_sweep(sweep: Record, console: Console | None = None) -> None:
    """Print a row for each cell of a sweep's record, in its order, then what went wrong and which file to ship."""
    console = console or Console()
    cells, evaluation = records(sweep.get("cells")), record(sweep.get("evaluation"))
    front, ship = listed(sweep.get("front")), text(record(sweep.get("ship")).get("id"))
    scored = [f"{text(evaluation.get('metric'), 'right')}\n%", "\n±", "points\nlost"] if evaluation else []
    rows = []
    for cell in cells:
        mark = _MARK if cell.get("id") in front else ""
        style = "bold" if ship and cell.get("id") == ship else ""
        rows.append(Row(visible(text(cell.get("id"))), [*_cells(cell, mark, scored=bool(scored))], style))
    print_columns(console, ("\ncell", "\nms", "\nMB", *scored, "worst\ndB", "", "\nverdict"), rows, left=("\nverdict",))
    for line in _legend(sweep, cells, evaluation, front):
        console.print(Text(visible(line), style="dim"))
    for cell in cells:
        for trouble in _trouble(cell):
            console.print(trouble, soft_wrap=True)
    for place, line in enumerate(ship_told(sweep)):
        console.print(Text(f"{'  ' if place else 'Ship: '}{visible(sentence(line))}"), soft_wrap=True)


def trouble_of(cell: Record) -> str:
    """Why a cell has no file to ship: the reason that it was not done, or the checks that it failed; else empty."""
    if text(cell.get("status")) in STATES:
        return sentence(text(cell.get("reason"), "no reason is known"))
    failed = ", ".join(text(name) for name in listed(cell.get("failed_checks")))
    return f"It fails {failed or 'verification'}." if cell.get("verdict") == "fail" else ""


def _cells(cell: Record, mark: str, *, scored: bool) -> Iterator[Cell]:
    latency, size = record(cell.get("latency")), number(cell.get("bytes"))
    yield three_digits(number(latency.get("ms")))
    yield three_digits(None if size is None else size / MEGABYTE)
    if scored:
        evaluation = record(cell.get("evaluation"))
        accuracy = record(evaluation.get("accuracy"))
        share, low, high, drop = map(
            number, (accuracy.get("share"), accuracy.get("low"), accuracy.get("high"), evaluation.get("drop"))
        )
        yield NONE if share is None else f"{100 * share:.2f}"
        yield NONE if low is None or high is None else f"{50 * (high - low):.2f}"
        yield NONE if drop is None else f"{drop:.2f}"
    worst = number(cell.get("sqnr_worst_db"))
    yield NONE if worst is None else f"{worst:.1f}"
    yield mark
    status = text(cell.get("status"))
    told = STATES.get(status) or _VERDICTS.get(text(cell.get("verdict")), ("not verified", "yellow"))
    yield Text(*told)


def _legend(sweep: Record, cells: Sequence[Record], evaluation: Record, front: Sequence[object]) -> Iterator[str]:
    threads, processor = number(sweep.get("threads")), text(sweep.get("processor"))
    if any(cell.get("latency") for cell in cells) and processor:
        on = "" if threads is None else f"{threads:.0f} thread{'' if threads == 1 else 's'} of "
        yield f"ms: one image on {on}{processor}, measured after all cells, with nothing beside."
    if evaluation:
        images, labelled = number(evaluation.get("images")), number(evaluation.get("labelled"))
        count = images if labelled is None else labelled
        yield (
            f"{text(evaluation.get('metric'))}: on {'' if count is None else f'{count:,.0f} images of '}"
            f"{text(evaluation.get('data'))}, ±: half of the 95 % interval; points lost: against the same model's "
            "float reference."
        )
    yield "dB: signal to noise of the worst image of the verification."
    if front:
        other = "other file" if evaluation else "other file of its model"
        measure = "accuracy" if evaluation else "SQNR"
        yield f"{_MARK}: on the front, no {other} that passed beats it in time, size and {measure}."
    known = sum(cell.get("cached") is True for cell in cells)
    if known:
        yield f"{known} of {len(cells)} cells were done already."


def _trouble(cell: Record) -> Iterator[Text]:
    if told := trouble_of(cell):
        word, style = STATES.get(text(cell.get("status"))) or _VERDICTS["fail"]
        yield Text.assemble((f"{word:<8}", style), visible(f"{text(cell.get('id'))}: {told}"))
