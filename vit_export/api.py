"""The Python API: models of every variant, and an export in one call for a model, a variant or a checkpoint.

`vit_export` itself offers these and the other public names, each imported when it is used.
"""

import inspect
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec

from vit_export.base.errors import InputError, nearest
from vit_export.base.reporting import Reporter
from vit_export.base.wording import worded
from vit_export.model.artifact import Format, InputKind, Layout, Precision
from vit_export.model.labels import check_labels
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, assumptions_told
from vit_export.model.spec import ImageSize, ViTSpec
from vit_export.model.variants import VARIANTS
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import ExportResult
from vit_export.pipeline.steps import export as run
from vit_export.weights.checkpoint import Checkpoint, checkpoint_of
from vit_export.weights.open import open_checkpoint

if TYPE_CHECKING:
    import keras

    from vit_export.model.keras_model import VisionTransformer

P = ParamSpec("P")


def create_vit(
    variant: str | None = None,
    image_size: ImageSize | None = None,
    num_classes: int | None = None,
    include_top: bool = True,
    weights: str | Path | Checkpoint | None = None,
    *,
    num_heads: int | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    returns: Sequence[str] = (),
    layer_norm_epsilon: float | None = None,
    gelu: str | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    name: str | None = None,
    dtype: Any = None,
    trainable: bool = True,
) -> "VisionTransformer":
    """Build a Vision Transformer, a `keras.Model`, with random weights or those of a checkpoint.

        create_vit("vit_b16", num_classes=10)                       # logits [batch, 10]
        create_vit("vit_b16", include_top=False)                    # tokens [batch, 197, 768]
        create_vit(weights="hf:google/vit-base-patch16-224")        # of the checkpoint's variant

    It takes float32 images [batch, height, width, 3], scaled as `model.record.preprocessing` says.

    Args:
        variant: a name of `VARIANTS`, such as 'vit_b16'; may be left out where `weights` are given.
        image_size: pixels along one side, or (height, width), multiples of the patch size; 224, or the checkpoint's, by
            default. Another size than the checkpoint's resamples its position embedding.
        num_classes: length of the logits; 1000, or the checkpoint's, by default. Another number than the checkpoint's
            gives a new classifier.
        include_top: with a classifier (logits), or without (the token sequence, class token first).
        weights: a checkpoint, or where one is: a file, a folder, 'hf:owner/name' or 'https://…' (`open_checkpoint`).
        num_heads: attention heads, where a checkpoint does not say.
        preprocessing: the pixels the model takes, where a checkpoint does not say, or says what does not fit.
        labels: names of the classes in their order (`read_labels` reads a file); those of the checkpoint when None.
        returns: what an export of the model returns (`model.outputs.RETURNS`), if not the usual one; the model itself
            returns what `include_top` says.
        layer_norm_epsilon: epsilon of every LayerNorm; 1e-6, or the checkpoint's, by default.
        gelu: 'erf' (exact) or 'tanh' (the approximation in Google's JAX code); 'erf', or the checkpoint's, by default.
        dropout: rate after embeddings, attention and MLP, in training only.
        seed: makes the random weights reproducible; this seeds Python, NumPy and TensorFlow.
        name: of the `keras.Model`; the variant's by default.
        dtype: policy of its layers, such as 'mixed_float16'; Keras' global one by default.
        trainable: whether its weights are, as `model.trainable`.

    Raises:
        InputError: unknown variant, a size no model can have, or a checkpoint that cannot be loaded or is of another
            variant, epsilon or GELU.
    """
    from vit_export.model.in_memory import assign_parameters
    from vit_export.model.keras_model import build_model

    options: dict[str, Any] = {"dropout": dropout, "seed": seed, "dtype": dtype, "trainable": trainable}
    if name is not None:
        options["name"] = name
    asked = {"image_size": image_size, "layer_norm_epsilon": layer_norm_epsilon, "gelu": gelu}
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if weights is None:
        if variant is None:
            raise InputError(f"There is nothing to build: name a variant ({', '.join(VARIANTS)}), or give weights.")
        _refuse_needless("a variant", num_heads=num_heads)
        given["num_classes"] = (1000 if num_classes is None else num_classes) if include_top else None
        spec = ViTSpec.of(variant, **given)
        spec = spec.with_(returns=_outputs(returns))
        if labels is not None:
            check_labels(labels, spec.num_classes)
        pixels = replace(preprocessing or Preprocessing(spec.image_size), image_size=spec.image_size)
        options["record"] = ModelRecord(spec, pixels, {"source": "random"}, None if labels is None else tuple(labels))
        return build_model(spec, **options)
    checkpoint = _opened(weights, variant, num_heads, image_size, preprocessing)
    known = checkpoint.spec
    classes = num_classes if num_classes is not None else known.num_classes
    if include_top and classes is None:
        where = "The checkpoint" if isinstance(weights, Checkpoint) else weights
        raise InputError(f"{where} has no classifier: give num_classes for a new one, or include_top=False.")
    if not include_top or classes is None:
        wanted = checkpoint.returning(_outputs(returns) or ["features"])
        if wanted.num_classes is not None:
            raise InputError("There are no logits without a classifier: leave include_top=False out, or logits.")
    else:
        wanted = checkpoint.spec_for(classes)
        if returns:
            wanted = checkpoint.returning(_outputs(returns), num_classes=classes)
    checkpoint = checkpoint.adapted(wanted.with_(**given), seed=seed or 0)
    if labels is not None:
        check_labels(labels, checkpoint.spec.num_classes)
        checkpoint = checkpoint.described(labels=tuple(labels))
    for text in (*checkpoint.notes, *assumptions_told(checkpoint.stated)):
        warnings.warn(worded(text), stacklevel=2)
    model = build_model(checkpoint.spec, record=checkpoint.record, **options)
    assign_parameters(model, checkpoint.read)
    model.keep_as_recorded()
    return model


def _opened(
    weights: str | Path | Checkpoint,
    variant: str | None,
    num_heads: int | None,
    image_size: ImageSize | None,
    preprocessing: Preprocessing | None,
    reporter: Reporter | None = None,
) -> Checkpoint:
    """The checkpoint at `weights`, with what the caller says of it."""
    if isinstance(weights, Checkpoint):
        _refuse_needless("a checkpoint that is open", num_heads=num_heads)
        if variant is not None and variant != weights.spec.name:
            raise InputError(f"The checkpoint is {weights.spec.name}, not {variant!r:.40}: leave the variant out.")
        return weights if preprocessing is None else weights.described(preprocessing)
    told: dict[str, Any] = {} if reporter is None else {"progress": reporter.progress, "note": reporter.note}
    pixels = {} if preprocessing is None else dict(vars(preprocessing))
    pixels.pop("image_size", None)  # which follows the model's
    return open_checkpoint(weights, variant=variant, num_heads=num_heads, image_size=image_size, pixels=pixels, **told)


def _refuse_needless(who: str, **said: Any) -> None:
    """Raise InputError where anything is `said` of what already knows it."""
    for name, value in said.items():
        if value is not None:
            raise InputError(f"{name} is {value!r:.40}, which {who} says itself: leave it out.")


def _outputs(names: Sequence[str]) -> tuple[str, ...]:
    """The names of outputs as a tuple; a single one, which Python would take apart into letters, is no list."""
    if isinstance(names, str):
        raise InputError(f"returns is {names!r:.60}, expected a list such as ['{names:.60}'].")
    return tuple(names)


def _factory(
    variant: str, build: "Callable[Concatenate[str, P], VisionTransformer]"
) -> "Callable[P, VisionTransformer]":
    """`build` for one variant, with its other arguments."""

    def create(*arguments: P.args, **options: P.kwargs) -> "VisionTransformer":
        return build(variant, *arguments, **options)

    row, signature = VARIANTS[variant], inspect.signature(build)
    create.__name__ = create.__qualname__ = f"create_{variant}"
    create.__doc__ = (
        f"Build {variant}: `create_vit('{variant}', …)`, whose other arguments it has.\n\n"
        f"Patches of {row.patch_size} pixels, {row.num_layers} layers, width {row.hidden_size}, {row.num_heads} heads, "
        f"{ViTSpec.of(row).num_parameters / 1e6:.0f} M parameters.\nFor {row.use}."
    )
    others = [parameter for name, parameter in signature.parameters.items() if name != "variant"]
    create.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return create


# A line each and no loop, so that editors and type checkers know them; a test holds them to the table of variants.
create_vit_ti16 = _factory("vit_ti16", create_vit)
create_vit_s32 = _factory("vit_s32", create_vit)
create_vit_s16 = _factory("vit_s16", create_vit)
create_vit_b32 = _factory("vit_b32", create_vit)
create_vit_b16 = _factory("vit_b16", create_vit)
create_vit_l32 = _factory("vit_l32", create_vit)
create_vit_l16 = _factory("vit_l16", create_vit)
create_vit_h14 = _factory("vit_h14", create_vit)
create_vit_h16 = _factory("vit_h16", create_vit)


def export(
    model: "keras.Model | ViTSpec | Checkpoint | str | Path",
    output: str | Path,
    *,
    formats: Sequence[Format] = ("tflite",),
    precisions: Sequence[Precision] = ("float32",),
    int8_scheme: str | None = None,
    min_sqnr: float | None = None,
    min_agreement: float | None = None,
    num_heads: int | None = None,
    image_size: ImageSize | None = None,
    num_classes: int | None = None,
    returns: Sequence[str] = (),
    l2_normalize: bool = False,
    labels: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    input: InputKind = "normalized",
    calibration: str | Path | None = None,
    calibration_images: int = 128,
    held_out_images: int | None = None,
    batch: int | Literal["dynamic"] = 1,
    layout: Layout = "NHWC",
    hf_layout: bool = False,
    threads: int = 1,
    seed: int = 0,
    opset: int | None = None,
    verify: bool = True,
    overwrite: bool = False,
    trained: bool | None = None,
    name: str | None = None,
    verify_on: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> ExportResult:
    """Export `model` to the folder `output`: SavedModel, the files asked for, labels.txt and report.json, verified.

        export(model, "out/", formats=["tflite", "onnx"], precisions=["float32", "int8"], labels=names)
        assert export("hf:google/vit-base-patch16-224", "out/").passed

    Args:
        model: a VisionTransformer (or a functional or sequential model of one and a head), a ViTBackbone or
            ViTImageClassifier of keras_hub, a ViTSpec or the name of a variant (random weights), or a checkpoint, or
            where one is.
        output: the folder; nothing in it is replaced without `overwrite=True`.
        formats: of 'tflite' and 'onnx'; the SavedModel is always written.
        precisions: of 'float32', 'float16' and 'int8'.
        int8_scheme: see `names.SCHEMES`; the default of each format when None.
        min_sqnr: budget of the int8 scheme 'auto': signal to noise of the outputs, in dB.
        min_agreement: budget of 'auto': share of images with the same top class.
        num_heads: attention heads, where a checkpoint does not say.
        image_size: pixels along one side, or (height, width), of a variant (224 when None) or for a checkpoint, whose
            position embedding is resampled.
        num_classes: of a variant (1000 when None), or of a new classifier for a checkpoint.
        returns: what the files return, some of 'logits', 'pooled', 'features' and 'tokens' (`model.outputs.RETURNS`):
            one file, several named outputs. By default logits, or what a model without classifier embeds images by.
        l2_normalize: divide features and pooled embeddings by their length.
        labels: names of the classes in their order (`read_labels` reads a file); those the model knows when None.
        preprocessing: the pixels the model was trained on; what the model knows when None.
        input: what the files take as an image (see `input_kinds.KINDS`).
        calibration: a folder of images, of which some calibrate int8 and others verify; photographs that scikit-image
            ships when None.
        calibration_images: how many calibrate.
        held_out_images: how many verify; as many as are quick to run when None.
        batch: of the files; 'dynamic' for any number of images at a time (ONNX).
        layout: 'NHWC', or 'NCHW' for what .onnx files take.
        hf_layout: also a folder that optimum and transformers.js load (ONNX).
        threads: of each runtime that verifies.
        seed: of random weights and of the choice of images.
        opset: of the .onnx files; what suits the precision when None.
        verify: whether to verify; False converts only.
        overwrite: whether files that exist are replaced.
        trained: whether the weights were learnt, so that agreement of classes is judged; when None, what the checkpoint
            or the model's record says, or that the model was fitted.
        name: what the files are called by; when None the checkpoint's own name, or that of the model's `spec`.
        verify_on: places where files are verified besides this machine's CPU, 'gpu' and 'arm64' (docs/gpu.md).
        reporter: is told steps, progress and notes.

    Raises:
        InputError: the request cannot be fulfilled.
        OutputError: something exists already or cannot be written.
    """
    spec: ViTSpec | None
    weights: str | Path | Checkpoint | None
    sizes = {"image_size": image_size, "num_classes": num_classes}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if isinstance(model, str) and model in VARIANTS:
        _refuse_needless("a variant", num_heads=num_heads)
        spec, weights = ViTSpec.of(model, **sizes), None
    elif isinstance(model, str | Path | Checkpoint):
        _refuse_mistyped(model)
        spec, weights = None, model
        if sizes or num_heads is not None:
            weights = _opened(model, None, num_heads, image_size, preprocessing, reporter)
            spec = weights.returning(_outputs(returns), num_classes=num_classes, l2_normalize=l2_normalize)
            spec = spec if image_size is None else spec.with_(image_size=image_size)
    else:
        _refuse_needless("a model", num_heads=num_heads, **sizes)
        spec, weights = _subject(model)
    request = ExportRequest(  # which brings sequences and paths of any kind into its own
        spec=spec,
        output=output,  # type: ignore[arg-type]
        formats=formats,  # type: ignore[arg-type]
        precisions=precisions,  # type: ignore[arg-type]
        int8_scheme=int8_scheme,
        min_sqnr=min_sqnr,
        min_agreement=min_agreement,
        weights=weights,
        preprocessing=preprocessing,
        labels=labels,  # type: ignore[arg-type]
        input=input,
        calibration=calibration,  # type: ignore[arg-type]
        calibration_images=calibration_images,
        held_out_images=held_out_images,
        batch=batch,
        layout=layout,
        hf_layout=hf_layout,
        threads=threads,
        seed=seed,
        opset=opset,
        verify=verify,
        overwrite=overwrite,
        trained=trained,
        name=name,
        verify_on=verify_on,  # type: ignore[arg-type]
        returns=returns,  # type: ignore[arg-type]
        l2_normalize=l2_normalize,
    )
    return run(request, reporter)


def _subject(model: Any) -> tuple[ViTSpec | None, Checkpoint | None]:
    """The spec and the weights of a model in memory: one of the two."""
    if isinstance(model, ViTSpec):
        return model, None
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
    from vit_export.model.in_memory import ModelParameters
    from vit_export.model.keras_model import was_fitted

    transformer, notes = as_vision_transformer(model)
    record = transformer.current_record
    if was_fitted(model):
        record = record.saying(trained=True, fitted_in="python")
    # A model in mixed precision computes in float16: the reference has to be built from its float32 variables.
    exact = transformer if transformer.is_float32 else None
    return None, checkpoint_of(ModelParameters(transformer), record, model=exact, notes=notes)


def _refuse_mistyped(model: str | Path | Checkpoint) -> None:
    """Raise InputError where `model` is no path but almost the name of a variant."""
    if isinstance(model, Checkpoint):
        return
    text = str(model)
    guess = nearest(text, VARIANTS) if re.fullmatch(r"[A-Za-z]+[-_]?[A-Za-z]*[-_]?\d+", text) else None
    if guess and not os.path.lexists(text):
        raise InputError(f"There is no {text}, neither a variant nor a checkpoint: did you mean '{guess}'?")
