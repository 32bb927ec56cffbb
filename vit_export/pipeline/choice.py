"""Which images an export or a verification looks at, where they come from, and how many of them."""

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import input_errors, scratch_errors
from vit_export.base.reporting import Reporter
from vit_export.images.photographs import has_photographs, write_photographs
from vit_export.images.split import DataSplit, split
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.spec import ViTSpec
from vit_export.pipeline.plan import PlannedFile
from vit_export.pipeline.request import ExportRequest

DEFAULT_CALIBRATION = Path("calibration")
HELD_OUT_IMAGES = 32
# One float32 image of ViT-H takes about a second; a few images tell as much about a converter there.
LARGE_MACS, HELD_OUT_IMAGES_LARGE = 50e9, 8


def choose_images(
    request: ExportRequest,
    spec: ViTSpec,
    preprocessing: Preprocessing,
    files: tuple[PlannedFile, ...],
    say: Reporter,
) -> DataSplit | None:
    """The representative dataset and the images that verify, each decoded here and nowhere else; None if unused."""
    calibrates = any(file.precision == "int8" for file in files)
    if not calibrates and not (request.verify and files):
        return None
    say.step("Choosing and reading images")
    count = request.held_out_images or images_to_verify(spec)
    folder = request.calibration
    if folder is None:
        folder = default_photographs(say, keep=True)
    with input_errors(folder):
        data = split(folder, preprocessing, request.calibration_images, count, request.seed)
    for name, reason in data.skipped:
        say.note(f"Skipped {name}: {reason}.")
    if data.note:
        say.note(data.note)
    if not data.held_out:
        others = split(default_photographs(say), preprocessing, 1, count, request.seed)
        data = replace(data, held_out=others.held_out)
    if request.verify and len(data.held_out) < count:
        say.note(f"Verification runs on {len(data.held_out)} held-out images instead of {count}: there are no more.")
    return data


def images_to_verify(spec: ViTSpec) -> int:
    """How many images verification runs on where nobody says: as many as are quick to run."""
    return HELD_OUT_IMAGES_LARGE if spec.num_macs > LARGE_MACS else HELD_OUT_IMAGES


def default_photographs(say: Reporter, *, keep: bool = False) -> Path:
    """The folder with the default set of photographs: calibration/ where it is there, else one that is made.

    With `keep` it is made in calibration/, where the next export finds it; else, or where nothing can be written there,
    in a temporary folder that is gone with the process.

    Raises:
        InputError: calibration/ holds other images, and `keep`.
    """
    if not keep and has_photographs(DEFAULT_CALIBRATION):
        return DEFAULT_CALIBRATION
    if keep:
        try:
            if write_photographs(DEFAULT_CALIBRATION, progress=say.progress):
                say.note(
                    f"Wrote photographs that scikit-image ships to {DEFAULT_CALIBRATION}/, for calibration and "
                    "verification."
                )
            return DEFAULT_CALIBRATION
        except OutputError as error:
            if not isinstance(error.__cause__, OSError):  # there are other images, which somebody may have meant
                raise InputError(
                    f"{error} To calibrate on what is there, pass --calibration {DEFAULT_CALIBRATION}."
                ) from error
            say.note(f"{DEFAULT_CALIBRATION}/ cannot be written, so photographs are cut into a temporary folder.")
    folder = Path(_temporary().name) / DEFAULT_CALIBRATION
    with scratch_errors():
        write_photographs(folder, progress=say.progress)
    return folder


@cache
def _temporary() -> "tempfile.TemporaryDirectory[str]":
    """One for the process, removed when that ends."""
    with scratch_errors():
        return tempfile.TemporaryDirectory(prefix="vit-export-photographs-")
