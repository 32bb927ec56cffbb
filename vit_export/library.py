"""The Python API of an export: one call for a model in memory, a variant or a checkpoint."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.errors import InputError
from vit_export.pipeline import ExportResult, Reporter
from vit_export.pipeline import export as run
from vit_export.plan import ExportRequest
from vit_export.preprocess import Preprocessing
from vit_export.records import Format, InputKind, Precision
from vit_export.saved_model import ModelParameters
from vit_export.spec import ViTSpec
from vit_export.variants import VARIANTS
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.sources import checkpoint_of

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
        input: what the files take as an image (see `pixels.KINDS`).
        calibration: a folder of images, of which some calibrate int8 and others verify; photographs that scikit-image
            ships when None.
        trained: whether the weights were learnt, so that agreement of classes is judged; when None, whether the model
            was fitted or its weights loaded.
        reporter: is told steps, progress and notes.
        **more: the other fields of `ExportRequest` (batch, threads, seed, opset, verify, overwrite, …).

    Raises:
        InputError: the request cannot be fulfilled.
        OutputError: something exists already or cannot be written.
    """
    spec, weights, notes = _subject(model, trained)
    request = ExportRequest(
        spec=spec,
        output=Path(output),
        formats=tuple(formats),
        precisions=tuple(precisions),
        int8_scheme=int8_scheme,
        weights=weights,
        preprocessing=preprocessing,
        labels=None if labels is None else tuple(labels),
        input=input,
        calibration=None if calibration is None else Path(calibration),
        **more,
    )
    if reporter is not None:
        for text in notes:
            reporter.note(text)
    return run(request, reporter)


def _subject(model: Any, trained: bool | None) -> tuple[ViTSpec | None, "str | Path | Checkpoint | None", list[str]]:
    """The spec, the weights and what is to be said of them."""
    if isinstance(model, ViTSpec):
        return model, None, []
    if isinstance(model, str) and model in VARIANTS:
        return ViTSpec.of(model), None, []
    if isinstance(model, str | Path):
        return None, model, []
    if isinstance(model, Checkpoint):
        return None, model, []
    from vit_export.quiet import import_tensorflow

    import_tensorflow()
    import keras

    if not isinstance(model, keras.Model):
        raise InputError(
            f"A {type(model).__name__} cannot be exported: expected a Keras model, a ViTSpec, the name of a variant or "
            "the path of a checkpoint."
        )
    from vit_export.functional import as_vision_transformer

    transformer, note = as_vision_transformer(model)
    record = transformer.record
    if trained is None:
        trained = record.trained or _was_fitted(model)
    record = replace(record, spec=transformer.spec, weights={**record.weights, "trained": trained})
    if _was_fitted(model):
        record = replace(record, weights={**record.weights, "fitted_in": "python"})
    # A model in mixed precision computes in float16: the reference has to be built from its float32 variables.
    exact = transformer.dtype_policy.name == "float32"
    checkpoint = checkpoint_of(ModelParameters(transformer), record, model=transformer if exact else None)
    return None, checkpoint, [note] if note else []


def _was_fitted(model: Any) -> bool:
    """Whether an optimizer has made a step with this model."""
    optimizer = getattr(model, "optimizer", None)
    return optimizer is not None and int(optimizer.iterations.numpy()) > 0
