"""evaluation.html and figures.json: what `vit-export evaluate` found, for people and for machines."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import InputError
from vit_export.base.files import publish
from vit_export.base.json_file import json_text
from vit_export.base.machine import machine
from vit_export.base.numbers import NONE, figure, number, percent, shortened, span, unit
from vit_export.base.signal import json_ready
from vit_export.base.text import visible
from vit_export.base.versions import versions
from vit_export.model.names import EVALUATION_PAGE_NAME, FIGURES_NAME
from vit_export.report.html import facts, fill, typed
from vit_export.report.svg import Chart, Picture, by_matplotlib, clamped, linear
from vit_export.report.view import Cell, Record, listed, record, records, text

if TYPE_CHECKING:
    from vit_export.evaluation.evaluate import Evaluation

SHOWN_UNREADABLE = 200
SCHEMA_VERSION = 1

_MEASURES = {"top1": "Top-1", "knn": "k-NN", "agreement": "Same top class as the reference"}
_PITCH = 50


def evaluation_record(evaluation: "Evaluation", commands: Sequence[str] = ()) -> dict[str, Any]:
    """The content of figures.json, JSON-ready: `Evaluation.to_dict`, classes by name, and what it was made with."""
    found = evaluation.to_dict()
    labels = listed(evaluation.subjects[0].record.get("labels"))
    for file in found["files"]:
        for loss in file["worst_classes"]:
            loss["name"] = labels[loss["index"]] if loss["index"] < len(labels) else None
    return dict(
        json_ready(
            {
                "schema_version": SCHEMA_VERSION,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "versions": {"python": platform.python_version(), **versions()},
                "machine": machine(),
                "commands": list(commands),
                **found,
            }
        )
    )


def write_evaluation(found: Mapping[str, Any], folder: Path, *, overwrite: bool = False) -> list[Path]:
    """Write the content of a figures.json, and its page, to `folder`; the paths of both.

    Raises:
        OutputError: one is there already (and `overwrite` is false), or cannot be written.
    """
    contents = {EVALUATION_PAGE_NAME: evaluation_page(found), FIGURES_NAME: json_text(dict(found)) + "\n"}
    for name, content in contents.items():
        with publish(folder / name, overwrite=overwrite) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [folder / name for name in contents]


def evaluation_page(found: Mapping[str, Any]) -> str:
    """The page of an evaluation, the content of a figures.json; what it lacks is left out.

    Raises:
        InputError: it is no JSON object.
    """
    if not isinstance(found, Mapping):
        raise InputError(f"Figures are of type {type(found).__name__}, expected the JSON object of a figures.json.")
    files = records(found.get("files"))
    reference = _name(files[0]) if files else ""
    measure = next((key for key in _MEASURES if any(_share(file, key) is not None for file in files)), "")
    unreadable = [(text(row[0]), text(row[1])) for row in map(listed, listed(found.get("unreadable"))) if len(row) > 1]
    return fill(
        "evaluation.html",
        data=text(found.get("data"), "a data set"),
        heading="Embeddings on" if measure == "knn" else "Accuracy on" if measure == "top1" else "Answers on",
        summary=_summary(found, files),
        basics=_basics(found, reference, len(unreadable)),
        measure=_MEASURES.get(measure, ""),
        chart=_chart(files, measure),
        chart_hint=_hint(measure),
        **_table(files),
        basis=_BASIS,
        losses=_losses(files),
        unreadable=unreadable[:SHOWN_UNREADABLE],
        left_out=f"{len(unreadable):,}",
        more=len(unreadable) - SHOWN_UNREADABLE if len(unreadable) > SHOWN_UNREADABLE else 0,
        paths=[(_name(file), text(file.get("path")), text(file.get("sha256"))) for file in files],
        made=[
            (title, rows)
            for title, key in (("Versions", "versions"), ("Machine", "machine"))
            if (rows := facts(found.get(key)))
        ],
        commands=[typed(command) for command in map(text, listed(found.get("commands"))) if command],
    )


_BASIS = (
    "Intervals are Wilson’s, of 95 %. Lost / gained: images that the reference, or the file, gets right alone; p is "
    "McNemar’s exact test of whether that is chance. Calibration error: expected, of the softmax, in 15 bins. SQNR: of "
    "the outputs against the reference’s."
)


def _summary(found: Record, files: Sequence[Record]) -> str:
    images, labelled = number(found.get("images")), number(found.get("labelled"))
    told = f"{images or 0:,.0f} images, {labelled or 0:,.0f} of them with a class."
    worse = sum(_worse(file) for file in files)
    others = len(files) - 1
    if not labelled or others < 1:
        return told
    if not worse:
        return f"{told} By McNemar’s test no file is worse than the reference."
    counted = "The file is" if others == 1 else f"{worse} of {others} files {'is' if worse == 1 else 'are'}"
    return f"{told} {counted} worse than the reference by more than chance explains."


def _basics(found: Record, reference: str, unreadable: int) -> list[tuple[str, str]]:
    cpu = record(record(found.get("machine")).get("cpu"))
    features = ", ".join(filter(None, map(text, listed(cpu.get("features")))))
    rows = [
        ("Reference", shortened(reference, 60)),
        ("Left out", f"{unreadable:,} that could not be read" if unreadable else ""),
        ("Rows", text(found.get("rows"))),
        ("When", text(found.get("created")).replace("T", " ").replace("+00:00", " UTC")),
        ("Machine", f"{text(cpu.get('model'))} ({features})" if features else text(cpu.get("model"))),
    ]
    return [(name, value) for name, value in rows if value]


def _hint(measure: str) -> str:
    of = "agree with the reference" if measure == "agreement" else "are right"
    return (
        f"The share of images that {of}, with its 95 % interval. Files see the same images, so that intervals which "
        "overlap may still differ: McNemar’s test tells. A cross is worse than the reference by more than chance "
        "explains."
    )


@by_matplotlib
def _chart(files: Sequence[Record], measure: str) -> Chart | None:
    """A row for each file: its share, the interval as a bar; the reference's is a dashed line through all."""
    rows = [(file, share) for file in files if measure and (share := _share(file, measure)) is not None]
    if not rows:
        return None
    ends = {id(file): _ends(file, measure) for file, _ in rows}
    x = linear([100 * v for file, share in rows for v in (share, *ends[id(file)])], room=0.08, least=0.5)
    picture = Picture(_PITCH * len(rows) + 48, (12, 12, 8, 40))
    picture.scale("x", x, f"{_MEASURES[measure]}, %")
    picture.axes.set(ylim=(_PITCH * len(rows), 0), yticks=[])
    at = picture.axes.get_yaxis_transform()
    known = _share(files[0], measure)
    told = []
    for place, (file, share) in enumerate(rows):
        y, worse, name = _PITCH * place + 34, _worse(file), _name(file)
        low_high = [clamped(100 * end, x) for end in ends[id(file)]]
        if known is not None and measure != "agreement":
            picture.line([100 * known] * 2, [y - 11, y + 13], "soft", linestyle="--", linewidth=1, zorder=0)
        colour = "bad" if worse else "other" if file is files[0] else "float32"
        picture.line(low_high, [y] * len(low_high), colour, linewidth=3, alpha=0.55)
        for end in low_high:
            picture.line([end, end], [y - 5, y + 5], colour, linewidth=1.5)
        title = f"{name}: {100 * share:.2f} %, {span(*(100 * end for end in ends[id(file)])) if low_high else ''}"
        shape = "cross" if worse else "diamond" if file is files[0] else "circle"
        look: dict[str, Any] = {"url": f"#file-{files.index(file) + 1}"}
        picture.marks([100 * share], [y], shape, colour, "file", [title.rstrip(", ")], **look)
        note = "reference" if file is files[0] else "worse" if worse else ""
        picture.text(0, y - 18, shortened(visible(name), 34), xycoords=at, xytext=(4, 0), bold=True)
        value = " ".join(filter(None, (note, f"{100 * share:.2f} %")))
        picture.text(1, y - 18, value, "bad" if worse else "soft", xycoords=at, xytext=(-4, 0), ha="right")
        told.append(title.rstrip(", "))
    drawn = picture.markup(_MEASURES[measure], "; ".join(told) + ".", "shares")
    return Chart(drawn, "The dashed line is the reference." if measure != "agreement" else "")


def _table(files: Sequence[Record]) -> dict[str, Any]:
    rows = [_figures(file) for file in files]
    filled = [name for name in (rows[0] if rows else ()) if any(row[name].value != NONE for row in rows)]
    return {
        "headings": filled,
        "files": [
            {
                "row": f"file-{place}",
                "name": _name(file),
                "is_reference": place == 1,
                "worse": _worse(file),
                "figures": [(name, row[name]) for name in filled],
            }
            for place, (file, row) in enumerate(zip(files, rows, strict=True), 1)
        ],
    }


def _figures(file: Record) -> dict[str, Cell]:
    test, error, loss = record(file.get("mcnemar")), number(file.get("calibration_error")), number(file.get("loss"))
    lost, gained, p = (number(test.get(key)) for key in ("lost", "gained", "p"))
    compared = lost is not None and gained is not None
    return {
        **{name: _accuracy(file, key) for name, key in (("Top-1", "top1"), ("Top-5", "top5"), ("k-NN", "knn"))},
        "Same top class": _accuracy(file, "agreement"),
        "Lost / gained": Cell(
            f"{lost:.0f} / {gained:.0f}" if compared else NONE, "" if p is None else f"p = {p:.2g}", _worse(file)
        ),
        "Calibration error": Cell(percent(error)),
        "Cross-entropy": Cell(figure(loss)),
        "Median SQNR": Cell(unit(number(file.get("sqnr_median_db")), "dB")),
        "Worst SQNR": Cell(unit(number(file.get("sqnr_worst_db")), "dB")),
    }


def _accuracy(file: Record, key: str) -> Cell:
    share = _share(file, key)
    ends = [f"{100 * end:.2f}" for end in _ends(file, key)]
    value = NONE if share is None else f"{100 * share:.2f}\N{NO-BREAK SPACE}%"
    return Cell(value, " to ".join(ends) if share is not None else "")


def _losses(files: Sequence[Record]) -> list[tuple[str, ...]]:
    """A row for each class that a file loses: of which file, its name, how many it loses, has, had, of how many."""
    rows = []
    for file in files:
        for loss in records(file.get("worst_classes")):
            right, had, total = (number(loss.get(key)) for key in ("correct", "reference_correct", "total"))
            if right is None or had is None or total is None:
                continue
            index = number(loss.get("index"))
            name = text(loss.get("name")) or ("a class" if index is None else f"class {index:g}")
            rows.append((_name(file), name, *(f"{count:g}" for count in (had - right, right, had, total))))
    return rows


def _name(file: Record) -> str:
    return text(file.get("name"), "unnamed file")


def _worse(file: Record) -> bool:
    return record(file.get("mcnemar")).get("worse") is True


def _share(file: Record, key: str) -> float | None:
    return number(record(file.get(key)).get("share"))


def _ends(file: Record, key: str) -> list[float]:
    sides = [number(record(file.get(key)).get(side)) for side in ("low", "high")]
    return [side for side in sides if side is not None] if None not in sides else []
