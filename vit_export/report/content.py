"""report.json: everything that was found out, for machines and for the page made of it."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vit_export.base.files import publish
from vit_export.base.machine import machine
from vit_export.base.signal import json_ready
from vit_export.base.versions import versions
from vit_export.model.artifact import Artifact, Format, Precision, TensorSpec
from vit_export.model.names import REPORT_NAME
from vit_export.verification.checks import LIMITS
from vit_export.verification.verdict import Verification

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    pass

SCHEMA_VERSION = 2


def build_report(
    *,
    spec: dict[str, Any],
    preprocessing: dict[str, Any],
    weights: dict[str, Any],
    datasets: dict[str, Any],
    settings: dict[str, Any],
    verification: Verification | None,
    artifacts: Sequence[Artifact],
    labels: Sequence[str] | None = None,
    commands: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of report.json, JSON-ready.

    `spec`, `preprocessing`, `weights`, `labels` of the classes (None where unknown), `datasets` (calibration and
    held-out images with their digests), `settings` and `commands`, the shell commands that reproduce the result, are
    taken as given; `report.schema.report_schema` describes the whole. `verdict` is 'pass', 'fail' or, without
    `verification`, 'not verified'. Floats that are not finite are the strings 'NaN', 'Infinity' and '-Infinity', which
    JSON itself lacks.
    """
    return dict(
        json_ready(
            {
                "schema_version": SCHEMA_VERSION,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "verdict": "not verified" if verification is None else verification.verdict,
                "versions": {"python": platform.python_version(), **versions()},
                "machine": machine(),
                "spec": spec,
                "preprocessing": preprocessing,
                "weights": weights,
                "labels": None if labels is None else list(labels),
                "datasets": datasets,
                "settings": settings,
                "commands": list(commands),
                "artifacts": [artifact.to_dict() for artifact in artifacts],
                "limits": [{"file": " ".join(filter(None, key)), **asdict(row)} for key, row in LIMITS.items()],
                "verification": None if verification is None else verification.to_dict(),
            }
        )
    )


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write `report` to `path` as JSON, complete or not at all; an older report there is replaced.

    Raises:
        OutputError: `path` cannot be written.
    """
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    with publish(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def earlier_reports(folder: Path) -> list[dict[str, Any]]:
    """What the report in `folder` says and those it replaced, newest first; none where nothing can be understood."""
    try:
        report = json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(report, dict):
        return []
    before = report.pop("earlier_reports", [])
    return [report, *(older for older in before if isinstance(older, dict))] if isinstance(before, list) else [report]


def recorded(path: Path) -> Artifact | None:
    """What the newest report.json beside the file `path` says of it; None where none does."""
    for report in earlier_reports(path.parent):
        artifacts = report.get("artifacts")
        for entry in artifacts if isinstance(artifacts, list) else ():
            if isinstance(entry, dict) and Path(str(entry.get("path"))).name == path.name:
                return _artifact(entry, path)
    return None


def _artifact(entry: Mapping[str, Any], path: Path) -> Artifact | None:
    known = {f.name for f in fields(Artifact)}
    values = {key: value for key, value in entry.items() if key in known}
    try:
        values["inputs"], values["outputs"] = (tuple(map(_tensor, values[key])) for key in ("inputs", "outputs"))
        for key in ("extra_files", "notes"):
            values[key] = tuple(str(text) for text in values.get(key, ()))
        artifact = Artifact(**{**values, "path": str(path)})
    except (KeyError, TypeError, ValueError):  # somebody else's report.json
        return None
    good = artifact.format in get_args(Format) and artifact.precision in get_args(Precision)
    return artifact if good and isinstance(artifact.bytes, int) and isinstance(artifact.sha256, str) else None


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**entry, "shape": tuple(entry["shape"])})
