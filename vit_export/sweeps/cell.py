"""One cell of a sweep: one file of one model at one size. What it is, how it is made, and what its record says."""

import os
import shlex
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError, StructureError, VitExportError, first_line
from vit_export.base.files import digest_of_folder
from vit_export.base.numbers import number
from vit_export.base.signal import json_ready
from vit_export.model.artifact import Format, Precision
from vit_export.model.names import PAGE_NAME, SAVED_MODEL_NAME
from vit_export.model.spec import ViTSpec, shown_size, sides_of
from vit_export.sweeps.keys import code
from vit_export.sweeps.models import Model
from vit_export.sweeps.plan import SweepRequest
from vit_export.weights.remote.fetch import is_remote

Outcome = dict[str, Any]
"""What became of a cell, JSON-ready: `status`, `reason` and, where it is done, its file and figures."""


@dataclass(frozen=True)
class Cell:
    """A file to make; `key` is its content key, "" where the model cannot be exported.

    `looked_at` tells the images that its export looks at (`keys.identity_of_images`).
    """

    model: Model
    format: Format
    precision: Precision
    scheme: str | None
    looked_at: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def id(self) -> str:
        """What it is called: 'vit_s32-224-tflite-int8-auto'."""
        return "-".join(filter(None, (self.model.label, self.format, self.precision, self.scheme)))

    def told(self) -> dict[str, Any]:
        """What a record says of it before anything is made."""
        record, size = self.model.record, self.model.size
        return {
            "id": self.id,
            "key": self.key,
            "model": self.model.name,
            "weights": self.model.given if self.model.location else None,
            "trained": None if record is None else record.trained,
            "image_size": None if size is None else list(sides_of(size)),
            "format": self.format,
            "precision": self.precision,
            "scheme": self.scheme,
        }

    def job(self, request: SweepRequest, images: Path) -> dict[str, Any]:
        """What `done` needs to make it, JSON-ready: calibrated on and verified with those in the folder `images`."""
        assert self.model.record is not None
        location = self.model.location
        here = location is not None and not is_remote(location)
        return {
            "spec": self.model.record.spec.to_dict(),
            "location": os.path.abspath(str(location)) if here else location,
            "identity": json_ready(self.model.identity),
            "looked_at": json_ready(self.looked_at),
            "code": code(),
            "format": self.format,
            "precision": self.precision,
            "scheme": self.scheme,
            "features": request.features,
            "input": request.input,
            "images": str(images.absolute()),
            "calibration_images": request.calibration_images,
            "held_out_images": request.held_out_images,
            "command": self.command(request),
        }

    def command(self, request: SweepRequest) -> str:
        """The command that makes this file alone."""
        words = ["vit-export", self.model.given, f"--{self.format}", f"--{self.precision}"]
        words += ["--int8-scheme", self.scheme] if self.scheme else []
        words += ["--image-size", shown_size(self.model.size)] if self.model.size else []
        words += ["--features"] if request.features else []
        words += ["--input", request.input] if request.input != "normalized" else []
        words += ["--calibration", str(request.calibration)] if request.calibration else []
        return shlex.join(words)


def done(job: Mapping[str, Any], folder: Path) -> Outcome:
    """Make the cell that `job` says in `folder`: one export with its verification, nothing timed.

    Whatever goes wrong is told: 'refused' where there can be no such file, 'failed' where making it broke. The
    SavedModel that the file was made of and compared with is not kept.
    """
    began = time.monotonic()
    try:
        outcome = _exported(job, folder)
    except InputError as error:
        return {"status": "refused", "reason": error.written, "seconds": time.monotonic() - began}
    except VitExportError as error:
        return {"status": "failed", "reason": error.written, "seconds": time.monotonic() - began}
    except Exception as error:  # a fault of this cell is none of the others'
        reason = f"{type(error).__name__}: {first_line(error)}"
        return {"status": "failed", "reason": reason, "seconds": time.monotonic() - began}
    return {**outcome, "seconds": time.monotonic() - began}


def _exported(job: Mapping[str, Any], folder: Path) -> Outcome:
    from vit_export.pipeline.request import ExportRequest
    from vit_export.pipeline.steps import export

    spec = ViTSpec.from_dict(job["spec"])
    request = ExportRequest(
        spec=spec,
        output=folder,
        formats=(job["format"],),
        precisions=(job["precision"],),
        int8_scheme=job["scheme"],
        weights=job["location"],
        returns=("features",) if job["features"] else (),
        input=job["input"],
        calibration=Path(job["images"]),
        calibration_images=job["calibration_images"],
        held_out_images=job["held_out_images"],
        name=spec.name,
        overwrite=True,
    )
    report = export(request, commands=(job["command"],), latency=False).report
    shutil.rmtree(folder / SAVED_MODEL_NAME)
    _require_same(job, report)
    return _of_report(report, folder)


def _require_same(job: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Raise StructureError unless a cell was made of what its key says.

    Files may change while a sweep goes on, and on another machine the same path may lead to others.
    """
    weights = (
        {"saved_model": digest_of_folder(Path(job["location"]))}
        if "saved_model" in job["identity"]
        else report["weights"]
    )
    random = "random" in job["identity"]
    images = {side: known["digest"] for side, known in job["looked_at"].items()}
    if job["code"] != code():
        what = "by other versions"
    elif not random and any(weights.get(name) != value for name, value in job["identity"].items()):
        what = "of other weights"
    elif any(report["datasets"][side]["digest"] != digest for side, digest in images.items()):
        what = "with other images"
    else:
        return
    raise StructureError(f"It was made {what} than there were when the sweep began: begin the sweep again.")


def _of_report(report: Mapping[str, Any], folder: Path) -> Outcome:
    """What report.json says of the only file of an export."""
    verification = report["verification"]
    entry = verification["files"][0]
    artifact, comparison = entry["artifact"], entry["comparison"] or {}
    files = [Path(path).name for path in (artifact["path"], *artifact["extra_files"])]
    decibels = [value for each in comparison.get("sqnr_db", ()) if (value := number(each)) is not None]
    checks = [*verification["reference"]["checks"], *entry["checks"]]
    return {
        "status": "done",
        "reason": None,
        "file": files[0],
        "files": files,
        "bytes": sum((folder / name).stat().st_size for name in files),
        "verdict": verification["verdict"],
        "failed_checks": [check["name"] for check in checks if not check["passed"]],
        "sqnr_median_db": statistics.median(decibels) if decibels else None,
        "sqnr_worst_db": min(decibels, default=None),
        "agreement": comparison.get("agreement"),
        "report": PAGE_NAME,
    }
