"""The files that benchmarks/real.py compares: what all are made of, and how this package makes its own."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from real_weights import CACHE, checkpoint

from vit_export.base.reporting import Reporter
from vit_export.images.photographs import write_photographs
from vit_export.images.split import DataSplit, split
from vit_export.model.artifact import Format, Precision
from vit_export.model.names import FORMATS, SCHEMES
from vit_export.model.record import ModelRecord, read_record
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export

Runtime = Literal["tflite", "onnx", "openvino"]

CALIBRATION_IMAGES, HELD_OUT_IMAGES = 128, 32


@dataclass(frozen=True)
class File:
    """One row of the table: how the file called `label` is made, and what runs it.

    `prepare` makes what is given to more files than this one, and is not counted as its seconds. `basis` is the label
    of the float32 file whose time its own is compared with; `missing` says what has to be installed to make the file.
    """

    label: str
    runtime: Runtime
    basis: str
    make: Callable[[], Path]
    prepare: Callable[[], object] = lambda: None
    ours: bool = True
    missing: str = ""


class Material:
    """What files are made of: the trained weights as a SavedModel, images, and float32 files for other quantizers.

    Everything is written below `folder`, each thing when it is first asked for.
    """

    def __init__(self, folder: Path, reporter: Reporter) -> None:
        self.folder, self._reporter = folder, reporter
        self._made: dict[str, Path] = {}

    def prepare(self) -> None:
        """Make what more than one file needs, so that it does not count as any file's seconds."""
        _ = self.saved_model, self.calibration

    @cached_property
    def photographs(self) -> Path:
        """The folder of the default representative dataset."""
        folder = CACHE / "photographs"
        write_photographs(folder)
        return folder

    @cached_property
    def saved_model(self) -> Path:
        """The float model in Keras, which every answer is compared with."""
        done = self._export(weights=checkpoint(), formats=())
        return Path(done.saved_model.path)

    @cached_property
    def record(self) -> ModelRecord:
        """The record of that model."""
        return read_record(self.saved_model)

    @cached_property
    def data(self) -> DataSplit:
        """The default photographs: those that calibrate, and those of other scenes that judge."""
        return split(self.photographs, self.record.preprocessing, CALIBRATION_IMAGES, HELD_OUT_IMAGES)

    @cached_property
    def keras_model(self) -> Any:
        """The Keras model, for the stock converter."""
        from vit_export.model.keras_model import build_model
        from vit_export.model.saved_model import SavedModelParameters, assign_parameters

        source = SavedModelParameters(self.saved_model)
        model = build_model(source.spec)
        assign_parameters(model, source.read)
        return model

    @cached_property
    def calibration(self) -> np.ndarray:
        """The images that calibrate, as other quantizers are given them: float32 [n, s, s, 3]."""
        return self.data.representative.normalized()

    def exported(self, format: Format, precision: Precision, scheme: str | None = None, **more: Any) -> Path:
        """The file that this package makes, as a user would ask for it; the same one when it is asked for again."""
        key = f"{format} {precision} {scheme} {more}"
        if key not in self._made:
            asked = {"formats": (format,), "precisions": (precision,), "int8_scheme": scheme, **more}
            self._made[key] = Path(self._export(weights=self.saved_model, **asked).artifacts[0].path)
        return self._made[key]

    def _export(self, **asked: Any) -> Any:
        output = self.folder / "ours" / (f"opset{asked['opset']}" if "opset" in asked else "")
        request = ExportRequest(
            spec=None,
            output=output,
            calibration=self.photographs,
            calibration_images=CALIBRATION_IMAGES,
            verify=False,
            **asked,
        )
        return export(request, self._reporter)


def basis(format: str) -> str:
    """The label of this package's float32 file of a format."""
    return f"{format} float32"


def ours(material: Material) -> list[File]:
    """The files of this package: float, then every int8 scheme of the vocabulary."""
    floats: list[tuple[Format, Precision]] = [("tflite", "float32"), ("tflite", "float16"), ("onnx", "float32")]
    rows = [
        File(f"{format} {precision}", format, basis(format), lambda f=format, p=precision: material.exported(f, p))
        for format, precision in floats
    ]
    for row in SCHEMES:
        rows.append(
            File(
                f"{row.format} int8 {row.name}",
                row.format,
                basis(row.format),
                lambda row=row: material.exported(row.format, "int8", row.name),
            )
        )
    return sorted(rows, key=lambda row: list(FORMATS).index(row.runtime))
