"""Whether the values of a file fit the 16-bit floats of GPUs, by running it on the CPU on two photographs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_export.artifacts.facts import FileFacts
from vit_export.base.errors import InputError
from vit_export.deployment.half_range import meets_half
from vit_export.images.photographs import photographs_folder
from vit_export.images.split import find_images
from vit_export.inspection.findings import Fault, Finding
from vit_export.model.record import ModelRecord
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError
from vit_export.verification.ranges import IMAGES, beyond_half

LEAVES = Fault(
    "values beyond 16-bit floats",
    "problem",
    "GPUs compute in 16-bit floats, which end at 65504 and lose digits below 6.1e-05: outputs are NaN or wrong there",
    "export again with this release, which brings a residual stream and values of attention into range (docs/gpu.md), "
    "or run the file on the CPU",
)


def findings_in(facts: FileFacts, record: Mapping[str, Any] | None) -> list[Finding]:
    """The finding for a file of ours whose values leave the 16-bit floats that it meets (`half_range.meets_half`).

    On the photographs of scikit-image. None of another tool's file, whose pixels nobody knows, or where it cannot be
    run: that is told elsewhere.
    """
    if record is None or not meets_half(facts.format, record["precision"]):
        return []
    path = Path(facts.path)
    try:
        pictures, _ = find_images(photographs_folder(), ModelRecord.from_dict(dict(record)).preprocessing, limit=IMAGES)
        with RunnerProcess(path, facts.format) as process:
            beyond = beyond_half(path, process, pictures.fed(record.get("input", "normalized")))
    except (InputError, RunnerError):
        return []
    return LEAVES.at([] if beyond is None else [str(beyond)])
