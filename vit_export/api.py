"""The Python API of an export: one call for a model in memory, a variant or a checkpoint."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import InputError, nearest
from vit_export.export.pipeline import ExportResult, Reporter
from vit_export.export.pipeline import export as run
from vit_export.export.plan import ExportRequest
from vit_export.model.artifact import Format, InputKind, Precision
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.saved_model import ModelParameters
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import VARIANTS
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.open import checkpoint_of

if TYPE_CHECKING:
    import keras


def export(
    model: "keras.Model | ViTSpec | str | Path",
    output: str | Path,
    *,
    formats: Sequence[Format] = ("tflite",),
    precisions: Sequence[Precision] = ("float32",),
    int8_scheme: str | None = None,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    input: InputKind = "normalized",
    calibration: str | Path | None = None,
    trained: bool | None = None,
    reporter: Reporter | None = None,
    **more: Any,
) -> ExportResult:
    """Export `model` to the folder `output`: SavedModel, the files asked for, labels.txt and report.json, verified.

    Args:
        model: a VisionTransformer (or a functional model of one without top and a Dense head on its class token), a
            ViTSpec or the name of a variant (random weights), or where a checkpoint is.
        output: the folder; nothing in it is replaced without `overwrite=True`.
        formats: of 'tflite' and 'onnx'; the SavedModel is always written.
        precisions: of 'float32', 'float16' and 'int8'.
        int8_scheme: see `plan.INT8_SCHEMES`; the default of each format when None.
        labels: names of the classes in their order; those the model knows when None.
        preprocessing: the pixels the model was trained on; what the model knows when None.
        input: what the files take as an image (see `input_kinds.KINDS`).
        calibration: a folder of images, of which some calibrate int8 and others verify; photographs that scikit-image
            ships when None.
        trained: whether the weights were learnt, so that agreement of classes is judged; when None, what the checkpoint
            or the model's record says, or that the model was fitted.
        reporter: is told steps, progress and notes.
        **more: the other fields of `ExportRequest` (batch, threads, seed, opset, verify, overwrite, …).

    Raises:
        InputError: the request cannot be fulfilled.
        OutputError: something exists already or cannot be written.
    """
    spec, weights, notes = _subject(model)
    request = ExportRequest(  # which brings sequences and paths of any kind into its own
        spec=spec,
        output=output,  # type: ignore[arg-type]
        formats=formats,  # type: ignore[arg-type]
        precisions=precisions,  # type: ignore[arg-type]
        int8_scheme=int8_scheme,
        weights=weights,
        preprocessing=preprocessing,
        labels=labels,  # type: ignore[arg-type]
        input=input,
        calibration=calibration,  # type: ignore[arg-type]
        trained=trained,
        **more,
    )
    if reporter is not None:
        for text in notes:
            reporter.note(text)
    return run(request, reporter)


def _subject(model: Any) -> tuple[ViTSpec | None, "str | Path | Checkpoint | None", list[str]]:
    """The spec, the weights and what is to be said of them."""
    if isinstance(model, ViTSpec):
        return model, None, []
    if isinstance(model, str) and model in VARIANTS:
        return ViTSpec.of(model), None, []
    if isinstance(model, str | Path):
        _refuse_mistyped(model)
        return None, model, []
    if isinstance(model, Checkpoint):
        return None, model, []
    from vit_export.base.quiet import import_tensorflow

    import_tensorflow()
    import keras

    if not isinstance(model, keras.Model):
        raise InputError(
            f"A {type(model).__name__} cannot be exported: expected a Keras model, a ViTSpec, the name of a variant or "
            "the path of a checkpoint."
        )
    from vit_export.model.functional import as_vision_transformer
    from vit_export.model.keras_model import was_fitted

    transformer, note = as_vision_transformer(model)
    record = transformer.current_record
    if was_fitted(model):
        record = replace(record, weights={**record.weights, "trained": True, "fitted_in": "python"})
    # A model in mixed precision computes in float16: the reference has to be built from its float32 variables.
    exact = transformer.is_float32
    checkpoint = checkpoint_of(ModelParameters(transformer), record, model=transformer if exact else None)
    return None, checkpoint, [note] if note else []


def _refuse_mistyped(model: str | Path) -> None:
    """Raise InputError where `model` is no path but almost the name of a variant."""
    text = str(model)
    guess = nearest(text, VARIANTS) if re.fullmatch(r"[A-Za-z]+[-_]?[A-Za-z]*[-_]?\d+", text) else None
    if guess and not os.path.lexists(text):
        raise InputError(f"There is no {text}, neither a variant nor a checkpoint: did you mean '{guess}'?")
