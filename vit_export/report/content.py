"""report.json: everything that was found out, for machines and for the page made of it."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vit_export.base.files import publish
from vit_export.base.json_file import json_text
from vit_export.base.machine import machine
from vit_export.base.signal import json_ready
from vit_export.base.versions import versions
from vit_export.model.artifact import Artifact
from vit_export.model.record import ModelRecord
from vit_export.report.recommendation import recommend
from vit_export.runtimes.places import GPU
from vit_export.verification.checks import HALF_ARITHMETIC, LIMITS
from vit_export.verification.verdict import Verification

SCHEMA_VERSION = 6
FLOATS = ("float32", "float16")


def build_report(
    record: ModelRecord,
    *,
    datasets: dict[str, Any],
    settings: dict[str, Any],
    verification: Verification | None,
    artifacts: Sequence[Artifact],
    commands: Sequence[str] = (),
    advice: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The content of report.json, JSON-ready.

    `record` is the model's. `datasets` (calibration and held-out images with their digests), `settings`, `commands`
    (those that reproduce the result) and `advice` (what to do about files that failed) are taken as given;
    `report.schema.report_schema` describes the whole. `verdict` is 'pass', 'fail' or, without
    `verification`, 'not verified'. Floats that are not finite are the strings 'NaN', 'Infinity' and '-Infinity', which
    JSON itself lacks.
    """
    report = dict(
        json_ready(
            {
                "schema_version": SCHEMA_VERSION,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "verdict": "not verified" if verification is None else verification.verdict,
                "versions": {"python": platform.python_version(), **versions()},
                "machine": machine(),
                "spec": record.spec.to_dict(),
                "preprocessing": record.preprocessing.to_dict(),
                "weights": record.weights,
                "labels": record.labels,
                "datasets": datasets,
                "settings": settings,
                "commands": list(commands),
                "advice": list(advice),
                "artifacts": [artifact.to_dict() for artifact in artifacts],
                "limits": [
                    *({"file": " ".join(filter(None, key)), **asdict(row)} for key, row in LIMITS.items()),
                    *({"file": f"tflite {kind} ({GPU.words})", **asdict(HALF_ARITHMETIC)} for kind in FLOATS),
                ],
                "verification": None if verification is None else verification.to_dict(),
            }
        )
    )
    return {**report, "recommendation": recommend(report)}


def write_report(report: dict[str, Any], path: Path) -> None:
    """Write `report` to `path` as JSON, complete or not at all; an older report there is replaced.

    Raises:
        OutputError: `path` cannot be written.
    """
    with publish(path, overwrite=True) as temporary:
        temporary.write_text(json_text(report) + "\n", encoding="utf-8")
