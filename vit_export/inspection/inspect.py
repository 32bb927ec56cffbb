"""Everything that a file says of itself and what follows from it, JSON-ready: what `vit-export inspect` shows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vit_export.artifacts.description import PRODUCER
from vit_export.artifacts.facts import RECORD_KEY, FileFacts
from vit_export.artifacts.identify import format_of
from vit_export.artifacts.onnx_file import load_structure, properties_of
from vit_export.artifacts.read import read_facts
from vit_export.artifacts.runtime_versions import minimum_onnx_runtime, needs_of
from vit_export.artifacts.tflite_metadata import read_tflite_metadata
from vit_export.base.files import digest_of_file, digest_of_folder, input_errors, size_of
from vit_export.inspection import mediapipe, onnx_findings, tflite_findings
from vit_export.inspection.delegates import GPU_NAME, Verdict, assess, targets
from vit_export.inspection.findings import NO_LABELS, NO_NORMALIZATION, Finding
from vit_export.inspection.onnx_graph import read_onnx_graphs
from vit_export.inspection.operators import Graph
from vit_export.inspection.tflite_graph import read_tflite_graphs
from vit_export.model.artifact import TensorSpec
from vit_export.model.record import ModelRecord, read_record
from vit_export.model.saved_model import INPUT_NAME
from vit_export.report.earlier import recorded

_FIRST = 3  # labels that are shown
_LONG = 200  # characters of a metadata text that are shown


def inspect_file(path: str | Path, *, digest: bool = True, delegates: bool = False) -> dict[str, Any]:
    """What the .tflite file, .onnx file or SavedModel of vit-export at `path` is, JSON-ready.

    `digest` reads the whole file once, for its sha256, and compares it with the report beside it. `delegates` adds the
    verdict of each target, for which the CPU's runtime loads the file in a process of its own, and whether the values
    of a .tflite file fit the 16-bit floats of GPUs, for which it is run on two photographs.

    Raises:
        InputError: it is no model, or damaged, or its external data is missing.
    """
    path = Path(path)
    if format_of(path) == "saved_model":
        return _saved_model(path, digest=digest)
    facts = read_facts(path)
    metadata = read_tflite_metadata(path) if facts.format == "tflite" else None
    if facts.format == "tflite":
        graphs = read_tflite_graphs(path)
        needs = needs_of(path)
        findings = tflite_findings.findings_in(graphs, needs) + mediapipe.findings_in(facts, metadata)
        runtime = needs.release
    else:
        graphs = read_onnx_graphs(path)
        findings = onnx_findings.findings_in(graphs)
        runtime = minimum_onnx_runtime(facts.schema)
    findings += _untold(facts, metadata)
    if delegates:
        from vit_export.inspection import half_range

        findings += half_range.findings_in(facts, facts.record)
    found = {
        **_common(path, facts.format, facts.bytes, facts.record, digest=digest),
        "producer": facts.producer,
        "schema": facts.schema,
        "minimum_runtime": runtime,
        "inputs": [asdict(spec) for spec in facts.inputs],
        "outputs": [asdict(spec) for spec in facts.outputs],
        "operators": dict(sorted(facts.operators.items(), key=lambda item: (-item[1], item[0]))),
        "weights": facts.weights,
        "external_files": list(facts.extra_files),
        "tflite_metadata": metadata,
        "metadata_props": _properties(path) if facts.format == "onnx" else {},
        "notes": list(facts.notes),
        "findings": [finding.to_dict() for finding in findings],
    }
    if delegates:
        found["delegates"] = [asdict(verdict) for verdict in verdicts(path, graphs)]
    return found


def verdicts(path: Path, graphs: Sequence[Graph]) -> list[Verdict]:
    """What each target for the file at `path` makes of its main graph: by their runtimes, then by the tables.

    The CPU is asked, and LiteRT's GPU where it can be.

    Graphs inside operators (bodies of If and While) run where their operator runs, and no delegate takes those.
    """
    from vit_export.inspection.runtimes import ask_cpu, ask_gpu
    from vit_export.runtimes import gpu

    main = graphs[0]
    asked, rows = [ask_cpu(path, main)], targets(main.format)
    if main.format == "tflite" and gpu.available() is None:
        asked.append(ask_gpu(path, main))
        rows = tuple(target for target in rows if target.name != GPU_NAME)
    return [*asked, *(assess(target, main) for target in rows)]


def _saved_model(path: Path, *, digest: bool) -> dict[str, Any]:
    """What is told of a SavedModel of this package: its record alone, for the graph is TensorFlow's to read."""
    record = read_record(path)
    spec = record.spec
    image = TensorSpec(INPUT_NAME, (None, *spec.image_sides, 3), "float32", "NHWC", values="normalized")
    with input_errors(path):
        nbytes = size_of(path)
    return {
        **_common(path, "saved_model", nbytes, record.to_dict(), digest=digest),
        "producer": PRODUCER,
        "schema": {},
        "minimum_runtime": None,
        "inputs": [asdict(image)],
        "outputs": [asdict(TensorSpec(name, (None, *shape), "float32")) for name, shape in spec.outputs.items()],
        "operators": {},
        "weights": {"float32": 4 * spec.num_parameters},
        "external_files": [],
        "tflite_metadata": None,
        "metadata_props": {},
        "notes": [],
        "findings": [f.to_dict() for f in _unlabelled(record.to_dict(), None)],
    }


def _common(path: Path, format: str, nbytes: int, record: Mapping[str, Any] | None, *, digest: bool) -> dict[str, Any]:
    sha256 = None
    if digest:
        with input_errors(path):
            sha256 = digest_of_folder(path) if path.is_dir() else digest_of_file(path)
    return {
        "path": str(path),
        "format": format,
        "bytes": nbytes,
        "sha256": sha256,
        "record": None if record is None else _record(record),
        "checks": _checks(path, nbytes, sha256),
    }


def _record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a file of ours holds of itself, its labels by their number and the first few."""
    model = ModelRecord.from_dict(dict(record))
    labels = model.labels
    return {
        "model": model.spec.to_dict(),
        "precision": record.get("precision", "float32"),
        "scheme": record.get("scheme"),
        "input": record.get("input", "normalized"),
        "preprocessing": model.preprocessing.to_dict(),
        "weights": dict(model.weights),
        "fingerprint": model.fingerprint,
        "problem_type": model.answers,
        "labels": None if labels is None else {"count": len(labels), "first": list(labels[:_FIRST])},
    }


def _checks(path: Path, nbytes: int, sha256: str | None) -> list[dict[str, Any]]:
    """What the report beside the file says of it against what it is: one row each, `agrees` or not."""
    known = recorded(path)
    if known is None:
        return []
    rows = [("bytes", known.bytes, nbytes)]
    if sha256 is not None:
        rows.append(("sha256", known.sha256, sha256))  # type: ignore[arg-type]
    return [{"what": what, "report": said, "file": found, "agrees": said == found} for what, said, found in rows]


def _untold(facts: FileFacts, metadata: Mapping[str, Any] | None) -> list[Finding]:
    """What an app needs to know and the file does not say."""
    normalized = facts.record is not None or any("mean" in entry for entry in (metadata or {}).get("inputs", ()))
    image = any(spec.layout for spec in facts.inputs)
    return [
        *([NO_NORMALIZATION.found()] if image and not normalized else []),
        *(_unlabelled(facts.record, metadata) if image or facts.record else []),
    ]


def _unlabelled(record: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None) -> list[Finding]:
    if record is not None and record["spec"].get("num_classes") is None:
        return []
    told = (record or {}).get("labels") or any("labels" in entry for entry in (metadata or {}).get("outputs", ()))
    return [] if told else [NO_LABELS.found()]


def _properties(path: Path) -> dict[str, str]:
    """The metadata_props of an .onnx file but for our record."""
    entries = properties_of(load_structure(path))
    return {
        key: text if len(text) <= _LONG else f"{text[:_LONG]}…" for key, text in entries.items() if key != RECORD_KEY
    }
