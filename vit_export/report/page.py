"""report.html: one file, made of a report and thumbnails alone, to be read without network, fonts or scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.base.files import publish
from vit_export.base.numbers import NONE, megabytes, number, sentence, shortened
from vit_export.base.text import counted
from vit_export.model.names import FORMATS
from vit_export.report import charts
from vit_export.report.html import capital, facts, fill, shown_value, typed
from vit_export.report.images import failing_images, notable_images, shown_images
from vit_export.report.view import (
    COLUMNS,
    Cell,
    File,
    Record,
    image_names,
    listed,
    read_files,
    record,
    records,
    text,
)

_LIMITS = ("worst_difference", "cosine", "sqnr_db", "agreement", "beyond")


def render_page(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page of `report`, the content of a report.json, with JPEG `pictures` by image name where there are any.

    Whatever a report lacks is left out. `images_shown` names the images that a picture is used of.

    Raises:
        InputError: `report` is no JSON object.
    """
    if not isinstance(report, Mapping):
        raise InputError(f"A report is of type {type(report).__name__}, expected the JSON object of a report.json.")
    return fill("page.html", **_content(report, pictures))


def write_page(report: Mapping[str, Any], pictures: Mapping[str, bytes], path: Path) -> None:
    """Write `render_page` to `path`, complete or not at all; an older page there is replaced.

    Raises:
        InputError: `report` is no JSON object.
        OutputError: `path` cannot be written.
    """
    page = render_page(report, pictures)
    with publish(path, overwrite=True) as temporary:
        temporary.write_text(page, encoding="utf-8")


def images_shown(report: Mapping[str, Any]) -> list[str]:
    """The images, as the report names them, that its page shows: those worth making thumbnails of."""
    names = image_names(report)
    return [names[index] for index in notable_images(read_files(report)[1], len(names))]


def _content(report: Record, pictures: Mapping[str, bytes]) -> dict[str, Any]:
    verification = record(report.get("verification"))
    reference, files = read_files(report)
    names = image_names(report)
    trained = verification.get("trained") is True
    verdict = text(report.get("verdict"), "not verified")
    verdict = verdict if verdict in ("pass", "fail") else "not verified"
    measure = charts.measure_of(files, trained=trained)
    commands = [text(command) for command in listed(report.get("commands")) if text(command)]
    failing = failing_images(files, names)
    return {
        "model": _model(report),
        "verdict": verdict,
        "verdict_word": {"pass": "PASS", "fail": "FAIL"}.get(verdict, "NOT VERIFIED"),
        "summary": _summary(verdict, files, len(names)),
        "basics": _basics(report, reference, names),
        "reference": reference,
        "files": files,
        "trouble": _trouble(reference, files),
        "advice": _advice(report),
        "recommendation": _recommendation(report),
        "warnings": [sentence(w) for w in listed(verification.get("warnings")) if text(w)],
        "assumed": [text(phrase) for phrase in listed(verification.get("assumed")) if text(phrase)],
        "table": _table(reference, files),
        "measure": charts.MEASURES[measure],
        "labelled": measure == "accuracy",
        "size_chart": charts.trade_off(
            files, reference, measure, lambda f: None if f.bytes is None else f.bytes / 1e6, "size in MB", "by-size"
        ),
        "speed_chart": charts.trade_off(
            files, reference, measure, lambda f: f.milliseconds, "milliseconds for one image", "by-time"
        ),
        "difference_chart": charts.differences(files, names),
        "images": shown_images(report, reference, files, names, pictures),
        "failing": failing[0],
        "failing_images": failing[1],
        "layer_charts": [(file, chart) for file in files if (chart := charts.layers(file))],
        "latency_chart": charts.latencies(reference, files),
        "latency_basis": _latency_basis(report, verification),
        "checks": [_checked(file) for file in [*([reference] if reference else []), *files] if file.checks],
        "datasets": _datasets(report),
        "made": _made(report),
        "limits": [
            (text(row.get("file")), *(shown_value(row.get(key, NONE)) for key in _LIMITS))
            for row in records(report.get("limits"))
        ],
        "commands": [typed(command) for command in commands],
    }


def _model(report: Record) -> str:
    spec = record(report.get("spec"))
    name, size = text(spec.get("name"), "A model"), spec.get("image_size")
    # One number of a square, else height and width; a report that somebody wrote may hold anything.
    sides = [number(side) for side in (size if isinstance(size, list) else [size])]
    if None in sides or len(sides) not in (1, 2):
        return name
    return f"{name}, {' × '.join(f'{side:.0f}' for side in sides)} px"


def _summary(verdict: str, files: Sequence[File], images: int) -> str:
    if verdict == "not verified":
        made = "1 file was" if len(files) == 1 else f"{len(files)} files were"
        return f"{made} made; none has been compared with the reference."
    good, on = sum(file.verdict == "pass" for file in files), counted(images, "image")
    if good == len(files) == 1:
        return f"The file is the reference’s model on {on}."
    if good == len(files):
        return f"All {good} files are the reference’s model on {on}."
    return f"{good} of {len(files)} files {'is' if good == 1 else 'are'} the reference’s model on {on}."


def _basics(report: Record, reference: File | None, names: Sequence[str]) -> list[tuple[str, str]]:
    """What was verified against what, when, and on which machine."""
    machine, weights = record(report.get("machine")), record(report.get("weights"))
    cpu, memory = _cpu(report), number(machine.get("memory_bytes"))
    cores, features = number(cpu.get("cores")), [text(f) for f in listed(cpu.get("features"))]
    held_out = record(record(report.get("datasets")).get("held_out"))
    processor = text(cpu.get("model"))
    if features:
        processor += f" ({', '.join(filter(None, features))})"
    if cores is not None:
        processor += f", {counted(cores, 'core')}"
    if memory is not None and processor:
        processor += f", {memory / 1e9:.0f} GB"
    origin = text(weights.get("location")) or text(weights.get("source"))
    if origin:
        origin += "" if weights.get("trained") is True else " (untrained)" if weights.get("trained") is False else ""
    images = f"{len(names)} held-out" + (f" from {text(held_out.get('folder'))}" if held_out else "") if names else ""
    rows = [
        ("Reference", f"{reference.name}, {megabytes(reference.bytes)}" if reference else ""),
        ("Weights", origin),
        ("Images", images),
        ("When", text(report.get("created")).replace("T", " ").replace("+00:00", " UTC")),
        ("Machine", processor),
    ]
    return [(name, value) for name, value in rows if value]


def _cpu(report: Record) -> Record:
    """The processor that the files ran on, or that of the export where none did."""
    return record(record(report.get("verification")).get("cpu")) or record(record(report.get("machine")).get("cpu"))


def _trouble(reference: File | None, files: Sequence[File]) -> list[dict[str, Any]]:
    """Each file at fault with its failures, the causes that fit, and where it departs, as sentences."""
    found = []
    for file in [*([reference] if reference else []), *files]:
        if file.failed:
            causes = [sentence(cause["detail"]) for cause in records(file.entry.get("causes")) if cause.get("detail")]
            departure = text(file.part("location").get("detail"))
            found.append(
                {
                    "file": file,
                    "failures": [sentence(failure) for failure in file.failures],
                    "causes": causes,
                    "departure": sentence(departure) if departure else "",
                }
            )
    return found


def _advice(report: Record) -> list[dict[str, Any]]:
    """What to do about files that failed: their names, a sentence, and the command where there is one."""
    return [
        {
            "files": [text(name) for name in listed(row.get("files")) if text(name)],
            "text": sentence(capital(text(row.get("text")))),
            "command": typed(text(row.get("command"))),
        }
        for row in records(report.get("advice"))
    ]


def _recommendation(report: Record) -> dict[str, Any] | None:
    """Which file to ship and why, and the same of each format; None where the report does not say."""
    found = record(report.get("recommendation"))
    if not found:
        return None
    rows = [
        (FORMATS[row["format"]].title, text(row.get("file")), sentence(text(row.get("why"))))
        for row in records(found.get("formats"))
        if text(row.get("format")) in FORMATS and text(row.get("file"))
    ]
    untrained = record(report.get("verification")).get("trained") is False
    return {
        "file": text(found.get("file")),
        "why": sentence(capital(text(found.get("why")))),
        "formats": rows if len(rows) > 1 else [],
        "untrained": untrained,
    }


def _table(reference: File | None, files: Sequence[File]) -> dict[str, Any]:
    rows = [*([reference] if reference else []), *files]
    size = reference.bytes if reference else None
    cells = [file.cells(size) for file in rows]
    filled = [key for key in COLUMNS if any(row[key] not in (Cell(NONE), Cell("")) for row in cells)]
    return {
        "headings": [COLUMNS[key] for key in filled],
        "rows": [(file, [(COLUMNS[key], row[key]) for key in filled]) for file, row in zip(rows, cells, strict=True)],
    }


def _checked(file: File) -> dict[str, Any]:
    """A file's checks with what was measured and the limit, then what else its record says."""

    def shown(value: Any) -> str:
        return NONE if value is None else shortened(shown_value(value), 40)

    return {
        "file": file,
        "rows": [
            {
                "name": text(check.get("name")),
                "passed": check.get("passed") is not False,
                "value": shown(check.get("value")),
                "limit": shown(check.get("limit")),
                "detail": sentence(text(check.get("detail"))),
            }
            for check in file.checks
        ],
        "notes": [sentence(note) for note in listed(file.artifact.get("notes")) if text(note)],
        "facts": facts({"sha256": file.artifact.get("sha256"), **record(file.artifact.get("quantization"))}),
    }


def _latency_basis(report: Record, verification: Record) -> str:
    """What a call is and how the files were timed."""
    threads = number(verification.get("threads"))
    plans = {
        "together": "All files were resident and took turns.",
        "pairs": "The reference took turns with one file at a time.",
        "blocks": "The reference was too big to be resident beside another file: they took turns in blocks.",
    }
    plan = plans.get(text(verification.get("latency_plan")), "")
    on = "" if threads is None else f"One call on {counted(threads, 'thread')}"
    model = text(_cpu(report).get("model"))
    return " ".join(filter(None, (f"{on}{f', {model}' if model else ''}." if on else "", plan)))


def _datasets(report: Record) -> list[dict[str, Any]]:
    """The image sets with their digests and names."""
    titles = {"representative": "Calibration set", "held_out": "Held-out set"}
    sets = record(report.get("datasets"))
    return [
        {
            "title": titles.get(key, str(key)),
            "folder": text(value.get("folder")),
            "digest": text(value.get("digest")),
            "files": [text(name) for name in listed(value.get("files"))],
        }
        for key, value in sets.items()
        if isinstance(value, Mapping) and value
    ]


def _made(report: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """How the files came about, as titled lists of facts; empty ones are left out."""
    datasets = record(report.get("datasets"))
    skipped = [": ".join(map(str, listed(item))) for item in listed(datasets.get("skipped"))]
    groups = {
        "Model": facts(report.get("spec")),
        "Weights": facts(report.get("weights")),
        "Preprocessing": facts(report.get("preprocessing")),
        "Settings": facts(report.get("settings")),
        "Images left out": [(str(n), reason) for n, reason in enumerate(skipped, 1)],
        "Versions": facts(report.get("versions")),
        "Machine": facts(report.get("machine")),
    }
    return [(title, rows) for title, rows in groups.items() if rows]
