"""What `vit-export inspect` found, for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from vit_export.base.numbers import MEGABYTE, three_digits
from vit_export.base.text import shown
from vit_export.inspection.delegates import RUN
from vit_export.model.names import FORMATS
from vit_export.model.spec import shown_sides
from vit_export.report.columns import Row, print_columns, print_pairs

_STYLES = {"problem": "bold red", "remark": "yellow"}

Pair = tuple[str, str]


def render(found: Mapping[str, Any], console: Console) -> None:
    """Print one file's inspection: what it is, its faults, and its delegates where they were asked for."""
    found = shown(found)  # names may be anything, control characters that drive a terminal too
    console.print(Text(found["path"], style="bold"), soft_wrap=True)
    print_pairs(console, [*_rows(found)])
    _findings(found["findings"], console)
    if "delegates" in found:
        _delegates(found["delegates"], console)


def _rows(found: Mapping[str, Any]) -> Iterator[Pair]:
    schema = ", ".join(f"{name} {number}" for name, number in found["schema"].items())
    yield "format", FORMATS[found["format"]].title + (f" ({schema})" if schema else "")
    yield "size", f"{found['bytes'] / MEGABYTE:.1f} MB"
    if found["sha256"]:
        yield "sha256", found["sha256"] + (" (without the files beside it)" if found["external_files"] else "")
    if found["producer"]:
        yield "producer", found["producer"]
    if found["minimum_runtime"]:
        runtime = "TensorFlow Lite" if found["format"] == "tflite" else "ONNX Runtime"
        yield "needs", f"{runtime} {found['minimum_runtime']} or later"
    if found["record"]:
        yield from _record(found["record"])
    for title in ("inputs", "outputs"):
        for index, tensor in enumerate(found[title]):
            yield title if index == 0 else "", _tensor(tensor)
    if found["tflite_metadata"]:
        yield "metadata", _metadata(found["tflite_metadata"])
    for index, (key, text) in enumerate(found["metadata_props"].items()):
        yield "properties" if index == 0 else "", f"{key} = {text}"
    yield from _contents(found)
    for check in found["checks"]:
        said = "as the report beside it says" if check["agrees"] else f"NOT as the report says: {check['report']}"
        yield "check", f"{check['what']} {said}"
    for note in found["notes"]:
        yield "note", note


def _contents(found: Mapping[str, Any]) -> Iterator[Pair]:
    if found["operators"]:
        counts = ", ".join(f"{count} {name}" for name, count in found["operators"].items())
        yield "operators", f"{sum(found['operators'].values())}: {counts}"
    if total := sum(found["weights"].values()):
        parts = sorted(found["weights"].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{dtype} {three_digits(n / MEGABYTE)} MB ({100 * n / total:.1f} %)" for dtype, n in parts)
        yield "weights", shares
    if found["external_files"]:
        yield "beside it", ", ".join(found["external_files"])


def _record(record: Mapping[str, Any]) -> Iterator[Pair]:
    model, pixels = record["model"], record["preprocessing"]
    scheme = f" ({record['scheme']})" if record["scheme"] else ""
    yield "model", f"{model['name']}, {shown_sides(model['image_size'])}, {record['precision']}{scheme}"
    source = record["weights"].get("location") or record["weights"].get("source") or "unknown"
    trained = "trained" if record["weights"].get("trained") else "not trained"
    yield "weights of", f"{source}, {trained}"
    if assumed := record["weights"].get("assumed"):
        yield "assumed", "; ".join(map(str, assumed.values() if isinstance(assumed, Mapping) else [assumed]))
    if record["problem_type"] not in (None, "single_label_classification"):
        yield "answers", record["problem_type"].replace("_", " ")
    if record["fingerprint"]:
        yield "fingerprint", record["fingerprint"]
    crop = f", {pixels['crop_fraction']:g} of it" if pixels["crop_fraction"] != 1 else ""
    mean, std = (", ".join(f"{value:g}" for value in pixels[key]) for key in ("mean", "std"))
    yield "pixels", f"{pixels['resize']}{crop}, {pixels['interpolation']}; mean {mean}; std {std}"
    if record["labels"]:
        yield "labels", f"{record['labels']['count']}: {', '.join(record['labels']['first'])}, …"


def _tensor(tensor: Mapping[str, Any]) -> str:
    shape = ", ".join("?" if size is None else str(size) for size in tensor["shape"])
    text = f"{tensor['name']} [{shape}] {tensor['dtype']}"
    if tensor["layout"]:
        text += f" {tensor['layout']}"
    if tensor["scale"] is not None:
        text += f", scale {tensor['scale']:.6g}, zero point {tensor['zero_point']}"
    return text + (f", {tensor['values']}" if tensor["values"] and tensor["values"] != tensor["dtype"] else "")


def _metadata(metadata: Mapping[str, Any]) -> str:
    told = [f"TFLite Metadata of {metadata['name'] or 'a model without a name'}"]
    for tensor in metadata["inputs"]:
        if "mean" in tensor:
            mean, std = (", ".join(f"{value:g}" for value in tensor[key]) for key in ("mean", "std"))
            told.append(f"mean {mean}, std {std}")
    labels = [len(tensor["labels"]) for tensor in metadata["outputs"] if "labels" in tensor]
    return "; ".join(told + [f"{count} labels" for count in labels])


def _findings(findings: list[Mapping[str, Any]], console: Console) -> None:
    for finding in findings:
        times = f" ({finding['count']})" if finding["count"] > 1 else ""
        title = (f"{finding['severity']:<8}", _STYLES[finding["severity"]]), finding["name"] + times
        console.print(Text.assemble(*title))
        rest = finding["count"] - len(finding["where"])
        if finding["where"]:
            _indented(console, "at", "; ".join(finding["where"]) + (f"; and {rest} more" if rest else ""))
        _indented(console, "why", finding["why"])
        _indented(console, "change", finding["change"])


def _indented(console: Console, name: str, text: str) -> None:
    print_pairs(console, [(f"{name:<7}", text)], indent=9)


def _delegates(verdicts: list[Mapping[str, Any]], console: Console) -> None:
    rows = []
    for verdict in verdicts:
        if verdict["error"]:
            rows.append(Row(verdict["target"], ["–", "–", "–", verdict["basis"]]))
            continue
        whole = verdict["supported"] == verdict["total"]
        taken = Text(f"{verdict['supported']} of {verdict['total']}", style="green" if whole else "yellow")
        share = "–" if verdict["macs"] is None else f"{100 * verdict['macs']:.1f}"
        pieces = str(verdict["partitions"]) if verdict["partitions"] or not verdict["supported"] else "–"
        rows.append(Row(verdict["target"], [taken, pieces, share, verdict["basis"]]))
    print_columns(console, ["target", "ops taken", "pieces", "% of\nMACs", "by"], rows, left=("by",))
    for verdict in verdicts:
        _verdict(verdict, console)


def _verdict(verdict: Mapping[str, Any], console: Console) -> None:
    if not (verdict["refusals"] or verdict["error"] or verdict["basis"] in RUN):
        return
    console.print(Text(verdict["target"], style="bold"))
    if verdict["error"]:
        _indented(console, "", verdict["error"])
    by_change: dict[str, list[str]] = {}
    for refusal in verdict["refusals"]:
        line = f"{refusal['count']} {refusal['op']}: {refusal['reason']}"
        by_change.setdefault(refusal["change"], []).append(line)
    for change, lines in by_change.items():
        for line in lines:
            _indented(console, "not", line)
        _indented(console, "change", change)
    for note in verdict["notes"]:
        _indented(console, "note", note)
    _indented(console, "source", verdict["source"])
