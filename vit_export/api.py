"""The Python API: models of every variant, and an export in one call for a model, a variant or a checkpoint.

`vit_export` itself offers these and the other public names, each imported when it is used.
"""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_export.base.errors import InputError, nearest
from vit_export.base.reporting import Reporter
from vit_export.model.artifact import Format, InputKind, Precision
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import assumptions_told
from vit_export.model.spec import ImageSize, ViTSpec
from vit_export.model.variants import VARIANTS, get_variant
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import ExportResult
from vit_export.pipeline.steps import export as run
from vit_export.weights.checkpoint import Checkpoint, checkpoint_of
from vit_export.weights.open import open_checkpoint

if TYPE_CHECKING:
    import keras

    from vit_export.model.keras_model import VisionTransformer


def create_vit(
    variant: str,
    image_size: ImageSize | None = None,
    num_classes: int | None = None,
    include_top: bool = True,
    weights: "str | Path | None" = None,
    *,
    returns: Sequence[str] = (),
    layer_norm_epsilon: float | None = None,
    gelu: str | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    **kwargs: Any,
) -> "VisionTransformer":
    """Build `variant`, with random weights or those of a checkpoint.

    Args:
        variant: a name of `vit_export.model.variants.VARIANTS`, such as 'vit_b16'.
        image_size: pixels along one side, or (height, width), multiples of the patch size; 224, or the checkpoint's, by
            default. Another size than the checkpoint's resamples its position embedding.
        num_classes: length of the logits; 1000, or the checkpoint's, by default. Another number than the checkpoint's
            gives a new classifier.
        include_top: with a classifier (logits), or without (the token sequence).
        weights: where a checkpoint is, as in `vit-export --weights` (see `weights.open.open_checkpoint`).
        returns: what an export of the model returns (`model.outputs.RETURNS`), if not the usual one; the model itself
            returns what `include_top` says.
        layer_norm_epsilon: epsilon of every LayerNorm; 1e-6, or the checkpoint's, by default.
        gelu: 'erf' (exact) or 'tanh' (the approximation in Google's JAX code); 'erf', or the checkpoint's, by default.
        dropout: rate after embeddings, attention and MLP, in training only.
        seed: makes the random weights reproducible; this seeds Python, NumPy and TensorFlow.
        **kwargs: passed on to `keras.Model` (name, dtype).

    Raises:
        InputError: unknown variant, a size no model can have, or a checkpoint that cannot be loaded or is of another
            variant, epsilon or GELU.
    """
    from vit_export.model.keras_model import build_model
    from vit_export.model.saved_model import assign_parameters

    asked = {"image_size": image_size, "layer_norm_epsilon": layer_norm_epsilon, "gelu": gelu}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if weights is None:
        given["num_classes"] = (1000 if num_classes is None else num_classes) if include_top else None
        spec = ViTSpec.of(variant, **given)
        spec = spec.with_(returns=_outputs(returns))
        return build_model(spec, dropout=dropout, seed=seed, **kwargs)
    checkpoint = open_checkpoint(weights, variant=get_variant(variant), image_size=image_size)
    known = checkpoint.spec
    classes = num_classes if num_classes is not None else known.num_classes
    if include_top and classes is None:
        raise InputError(f"{weights} has no classifier: give num_classes for a new one, or include_top=False.")
    if not include_top or classes is None:
        wanted = checkpoint.returning(_outputs(returns) or ["features"])
        if wanted.num_classes is not None:
            raise InputError("There are no logits without a classifier: leave include_top=False out, or logits.")
    else:
        wanted = checkpoint.spec_for(classes)
        if returns:
            wanted = checkpoint.returning(_outputs(returns), num_classes=classes)
    checkpoint = checkpoint.adapted(wanted.with_(**given), seed=seed or 0)
    for text in (*checkpoint.notes, *assumptions_told(checkpoint.stated)):
        warnings.warn(text, stacklevel=2)
    model = build_model(checkpoint.spec, dropout=dropout, seed=seed, record=checkpoint.record, **kwargs)
    assign_parameters(model, checkpoint.read)
    return model


def _outputs(names: Sequence[str]) -> tuple[str, ...]:
    """The names of outputs as a tuple; a single one, which Python would take apart into letters, is no list."""
    if isinstance(names, str):
        raise InputError(f"returns is {names!r:.60}, expected a list such as ['{names:.60}'].")
    return tuple(names)


def _factory(variant: str) -> "Callable[..., VisionTransformer]":
    def create(*arguments: Any, **options: Any) -> "VisionTransformer":
        return create_vit(variant, *arguments, **options)

    create.__name__ = create.__qualname__ = f"create_{variant}"
    create.__doc__ = f"Build {variant}: `create_vit('{variant}', …)` with its other arguments."
    return create


FACTORIES = {f"create_{variant}": _factory(variant) for variant in VARIANTS}
"""A factory for each variant: create_vit_s16(…) and so on."""

globals().update(FACTORIES)


def export(
    model: "keras.Model | ViTSpec | str | Path",
    output: str | Path,
    *,
    formats: Sequence[Format] = ("tflite",),
    precisions: Sequence[Precision] = ("float32",),
    int8_scheme: str | None = None,
    returns: Sequence[str] = (),
    l2_normalize: bool = False,
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
            ViTBackbone or ViTImageClassifier of keras_hub, a ViTSpec or the name of a variant (random weights), or
            where a checkpoint is.
        output: the folder; nothing in it is replaced without `overwrite=True`.
        formats: of 'tflite' and 'onnx'; the SavedModel is always written.
        precisions: of 'float32', 'float16' and 'int8'.
        int8_scheme: see `names.SCHEMES`; the default of each format when None.
        returns: what the files return, some of 'logits', 'pooled', 'features' and 'tokens' (`model.outputs.RETURNS`):
            one file, several named outputs. By default logits, or what a model without classifier embeds images by.
        l2_normalize: divide features and pooled embeddings by their length.
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
    spec, weights = _subject(model)
    request = ExportRequest(  # which brings sequences and paths of any kind into its own
        spec=spec,
        output=output,  # type: ignore[arg-type]
        formats=formats,  # type: ignore[arg-type]
        precisions=precisions,  # type: ignore[arg-type]
        int8_scheme=int8_scheme,
        returns=returns,  # type: ignore[arg-type]
        l2_normalize=l2_normalize,
        weights=weights,
        preprocessing=preprocessing,
        labels=labels,  # type: ignore[arg-type]
        input=input,
        calibration=calibration,  # type: ignore[arg-type]
        trained=trained,
        **more,
    )
    return run(request, reporter)


def _subject(model: Any) -> tuple[ViTSpec | None, "str | Path | Checkpoint | None"]:
    """The spec and the weights that `export` was given as its `model`: one of the two."""
    if isinstance(model, ViTSpec):
        return model, None
    if isinstance(model, str) and model in VARIANTS:
        return ViTSpec.of(model), None
    if isinstance(model, str | Path):
        _refuse_mistyped(model)
        return None, model
    if isinstance(model, Checkpoint):
        return None, model
    from vit_export.base.quiet import import_tensorflow

    import_tensorflow()
    import keras

    if not isinstance(model, keras.Model):
        raise InputError(
            f"A {type(model).__name__} cannot be exported: expected a Keras model, a ViTSpec, the name of a variant or "
            "the path of a checkpoint."
        )
    from vit_export.weights.keras_hub_model import checkpoint_of_keras_hub, is_keras_hub_model

    if is_keras_hub_model(model):
        return None, checkpoint_of_keras_hub(model)
    from vit_export.model.functional import as_vision_transformer
    from vit_export.model.keras_model import was_fitted
    from vit_export.model.saved_model import ModelParameters

    transformer, note = as_vision_transformer(model)
    record = transformer.current_record
    if was_fitted(model):
        record = record.saying(trained=True, fitted_in="python")
    # A model in mixed precision computes in float16: the reference has to be built from its float32 variables.
    exact = transformer if transformer.is_float32 else None
    notes = (note,) if note else ()
    return None, checkpoint_of(ModelParameters(transformer), record, model=exact, notes=notes)


def _refuse_mistyped(model: str | Path) -> None:
    """Raise InputError where `model` is no path but almost the name of a variant."""
    text = str(model)
    guess = nearest(text, VARIANTS) if re.fullmatch(r"[A-Za-z]+[-_]?[A-Za-z]*[-_]?\d+", text) else None
    if guess and not os.path.lexists(text):
        raise InputError(f"There is no {text}, neither a variant nor a checkpoint: did you mean '{guess}'?")
