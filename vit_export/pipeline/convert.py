"""The step between the SavedModel and verification: every planned file, from the stored parameters alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_export.base.files import input_errors
from vit_export.base.machine import release_memory
from vit_export.base.quiet import import_tensorflow
from vit_export.images.read import load_pixels
from vit_export.images.split import DataSplit
from vit_export.model.artifact import Artifact
from vit_export.model.input_kinds import feed
from vit_export.model.names import DEFAULT_MIN_SQNR, SEARCHED
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import SavedModelParameters
from vit_export.pipeline.plan import PlannedFile
from vit_export.pipeline.request import ExportRequest

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter


def convert(
    request: ExportRequest,
    record: ModelRecord,
    saved_model: Path,
    files: tuple[PlannedFile, ...],
    data: DataSplit | None,
    stage: Path,
    say: "Reporter",
) -> tuple[Artifact, ...]:
    """Every planned file, from the parameters in the SavedModel alone."""
    if not files:
        return ()
    import_tensorflow()
    source = SavedModelParameters(saved_model)
    made = []
    tflite = _TFLite(request, source, record, data, stage, say)
    for file in files:
        scheme = f" ({file.scheme})" if file.scheme else ""
        say.step(f"Converting to {file.format} {file.precision}{scheme}")
        if file.format == "tflite":
            made.append(tflite.write(file))
        elif file.scheme == "qdq":
            made.append(_qdq(request, source, record, stage / file.path.name, data, say))
        else:
            from vit_export.onnx.convert import write_onnx

            made.append(
                write_onnx(
                    source,
                    record,
                    stage / file.path.name,
                    precision=file.precision,
                    scheme=file.scheme,
                    opset=request.opset,
                    batch=request.batch,
                    input=request.input,
                )
            )
        for note in made[-1].notes:
            say.note(f"{file.path.name}: {note}")
        release_memory()
    return tuple(made)


def _qdq(
    request: ExportRequest,
    source: SavedModelParameters,
    record: ModelRecord,
    path: Path,
    data: DataSplit | None,
    say: "Reporter",
) -> Artifact:
    from vit_export.int8.modes import static
    from vit_export.int8.tune import images_wanted, tune
    from vit_export.onnx.int8 import write_qdq_onnx

    images = _Images.of(data, record.preprocessing, request)
    say.step("Tuning int8 (qdq) layer by layer")
    tuning = tune(source, images.normalized(images_wanted(record.spec)), static(record.spec), say.progress)
    say.step(f"Calibrating on {len(images.paths)} images")
    return write_qdq_onnx(
        source,
        record,
        path,
        tuning,
        images,
        opset=request.opset,
        batch=request.batch,
        input=request.input,
        progress=say.progress,
    )


class _TFLite:
    """Makes the .tflite files; int8 is tuned and calibrated on the representative dataset."""

    def __init__(
        self,
        request: ExportRequest,
        source: SavedModelParameters,
        record: ModelRecord,
        data: DataSplit | None,
        stage: Path,
        say: "Reporter",
    ) -> None:
        self.request, self.source, self.record = request, source, record
        self.data, self.stage, self.say = data, stage, say

    def write(self, file: PlannedFile) -> Artifact:
        """Write one planned file into the staging folder."""
        from vit_export.tflite.convert import write_tflite

        path = self.stage / file.path.name
        if file.precision != "int8":
            return write_tflite(self.source, self.record, path, precision=file.precision, **self._shape())
        return self._int8(path, file.scheme or "static")

    def _int8(self, path: Path, scheme: str) -> Artifact:
        from vit_export.tflite.int8 import prepare, write_int8_tflite

        images = _Images.of(self.data, self.record.preprocessing, self.request)
        if scheme == SEARCHED:
            return self._searched(path, images)
        self.say.step(f"Tuning int8 ({scheme}) layer by layer")
        recipe = prepare(self.source, scheme, images.normalized, progress=self.say.progress)
        if recipe.calibrates:
            self.say.step(f"Calibrating on {len(images.paths)} images")
        return write_int8_tflite(
            self.source, self.record, path, recipe, images, **self._shape(), progress=self.say.progress
        )

    def _searched(self, path: Path, images: "_Images") -> Artifact:
        from vit_export.int8.search import Budget
        from vit_export.tflite.auto import find_recipe
        from vit_export.tflite.int8 import write_int8_tflite

        request, say = self.request, self.say
        sqnr = DEFAULT_MIN_SQNR if request.min_sqnr is request.min_agreement is None else request.min_sqnr
        recipe, choice = find_recipe(
            self.source, self.record, self.stage, images.normalized, images, Budget(sqnr, request.min_agreement),
            **self._shape(), step=say.step, progress=say.progress,
        )  # fmt: skip
        for text in choice.explained():
            say.note(f"{path.name}: {text}.")
        say.step("Writing the mix that was chosen")
        artifact = write_int8_tflite(
            self.source, self.record, path, recipe, images, **self._shape(), progress=say.progress
        )
        return replace(artifact, quantization={**(artifact.quantization or {}), "search": choice.to_dict()})

    def _shape(self) -> dict[str, Any]:
        return {"batch": self.request.batch, "input": self.request.input}


class _Images(Sequence[np.ndarray]):
    """The representative dataset in static batches, as the files take them, read when they are asked for.

    The last batch is filled up from the first images.
    """

    def __init__(self, paths: tuple[Path, ...], preprocessing: Preprocessing, request: ExportRequest) -> None:
        self.paths, self.preprocessing, self.request = paths, preprocessing, request

    @classmethod
    def of(cls, data: DataSplit | None, preprocessing: Preprocessing, request: ExportRequest) -> "_Images":
        """The representative dataset of `data`."""
        if data is None:
            raise AssertionError("int8 needs images, and none were chosen: see plan.NEEDS_IMAGES")
        return cls(data.representative.paths(), preprocessing, request)

    def __len__(self) -> int:
        return (len(self.paths) + self.request.batch - 1) // self.request.batch

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, paths = index * self.request.batch, self.paths
        chosen = [paths[i % len(paths)] for i in range(first, first + self.request.batch)]
        return feed(self._pixels(chosen), self.request.input, self.preprocessing)

    def normalized(self, count: int, leaving: int = 0) -> np.ndarray:
        """At most `count` images, spread over all but the last `leaving`: float32 [n, size, size, 3], normalized.

        At least one, whatever is left.
        """
        paths = self.paths[: max(1, len(self.paths) - leaving)]
        count = min(count, len(paths))
        chosen = [paths[i * len(paths) // count] for i in range(count)]
        return normalize(self._pixels(chosen), self.preprocessing)

    def _pixels(self, paths: Sequence[Path]) -> np.ndarray:
        with input_errors(paths[0].parent):
            return load_pixels(paths, self.preprocessing)
