"""`vit-export <variant>` and `vit-export export`: one command per variant, all with the same options."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.errors import InputError, unknown
from vit_export.cli import options as shared
from vit_export.cli.closing import advice, closing, default_output, shipping
from vit_export.cli.finish import finish, progress, say
from vit_export.cli.framework import EXPORT, Command, is_location, typed, weights_hint
from vit_export.cli.options import AS_JSON, LOCATION, QUIET, TEXT, THREADS, choice, count, flag, pathname
from vit_export.model.labels import read_labels
from vit_export.model.names import (
    DEFAULT_MIN_SQNR,
    DEFAULT_MIN_SQNR_UNTRAINED,
    FORMATS,
    HUB_NAME,
    INPUTS,
    OPSETS,
    PRECISIONS,
    SEARCHED,
    schemes_explained,
)
from vit_export.model.outputs import RETURNS
from vit_export.model.spec import ImageSize, ViTSpec, require_name
from vit_export.model.variants import VARIANTS, Variant, get_variant
from vit_export.pipeline.request import ExportRequest

if TYPE_CHECKING:
    from vit_export.cli.progress import ConsoleReporter
    from vit_export.weights.checkpoint import Checkpoint

_FIRST = next(iter(PRECISIONS))
"""The precision of files where none is asked for."""

PROJECTED = (
    "The files return the pooled embedding, the projection by which the family compares images (--returns features: "
    "what is projected)."
)
"""What is said where nobody asked for an output, and a model without classifier has two."""

_OPTIONS: tuple[shared.Option, ...] = (
    *(
        flag(f"--{name.replace('_', '-')}", row.about + "  [default: all three formats]" * (name == [*FORMATS][-1]))
        for name, row in FORMATS.items()
    ),
    *(flag(f"--{name}", row.about + "  [default]" * (name == _FIRST)) for name, row in PRECISIONS.items()),
    shared.int8_scheme(schemes_explained()),
    click.option(
        "--min-sqnr",
        type=float,
        metavar="DB",
        help=f"Budget of {SEARCHED}: signal to noise.  "
        f"[{DEFAULT_MIN_SQNR:g}, of random weights {DEFAULT_MIN_SQNR_UNTRAINED:g}]",
    ),
    click.option(
        "--min-agreement", type=float, metavar="P", help=f"Budget of {SEARCHED}: share with the same top class."
    ),
    click.option(
        "--weights",
        type=LOCATION,
        metavar="PATH",
        help="A checkpoint: .npz (Google), a Hugging Face folder, .safetensors (Hugging Face, timm, torchvision), "
        ".keras (keras_hub's, too), .weights.h5, a SavedModel or folder of vit-export, hf:owner/name[@revision], "
        "https://…[#sha256=…].  [default: random weights]",
    ),
    count("--num-heads", "Attention heads, where a checkpoint does not say."),
    shared.image_size(", multiples of the patch.  [the weights' or 224]"),
    count("--num-classes", "Classes of the classifier.  [the weights' or 1000]"),
    click.option(
        "--returns",
        type=TEXT,
        metavar="NAMES",
        help=f"What the files return, one or several: {','.join(RETURNS)}.  [logits; without classifier "
        "features, or a projection]",
    ),
    flag("--features", "Short for --returns features: what is pooled, without classifier."),
    flag("--pooled", "Short for --returns pooled: behind the checkpoint's pooler or projection."),
    flag("--l2-normalize", "Divide features and pooled embeddings by their length."),
    click.option(
        "--labels",
        type=LOCATION,
        metavar="FILE",
        help="Names of the classes, a line each, or JSON; 'imagenet' for ImageNet-1k's.",
    ),
    shared.input_kind("the files take: scaling is folded into the weights, uint8 adds one cast.", INPUTS[0]),
    click.option("--mean", metavar="R,G,B", help="Of the pixels, on the 0..1 scale.  [the weights' or 0.5,0.5,0.5]"),
    click.option("--std", metavar="R,G,B", help="Of the pixels, likewise."),
    choice("--resize", ["squash", "shortest"], "Straight to the size, or crop centre."),
    click.option("--crop-fraction", type=float, metavar="F", help="Part of the shortest side that is kept."),
    choice("--interpolation", ["bilinear", "bicubic"], "Of resizing."),
    shared.images(
        "--calibration",
        ": the representative dataset and, others of them, verification.  "
        "[default: photographs from scikit-image, in calibration/]",
    ),
    count("--calibration-images", "Images that calibrate int8.", 128),
    count("--held-out-images", "Images that verify.  [32, 8 for large models]"),
    click.option(
        "--name",
        type=TEXT,
        metavar="NAME",
        help="What the files and their folder are called.  [the checkpoint's own name, or the variant's]",
    ),
    pathname("--output", "Folder for the files.  [exports/<name>-<size>]", "DIR"),
    shared.overwrite("files that exist"),
    shared.batch_size(),
    shared.layout(),
    flag(
        "--hf-layout",
        f"Also a folder {HUB_NAME}/ that optimum and transformers.js load: NCHW, any batch, config.json, "
        "preprocessor_config.json (ONNX).",
    ),
    THREADS,
    shared.seed("random weights and the choice of images"),
    count(
        "--opset",
        f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]}; 22 and below are taken whole by Core ML and QNN.  "
        f"[default: {OPSETS[-1]}; qdq and symmetric: 20; w8a16: 21]",
    ),
    flag("--no-verify", "Convert only, compare nothing."),
    shared.places("--verify-on", "Verify there besides the CPU: gpu, arm64."),
    AS_JSON,
    QUIET,
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def variant_command(variant: Variant) -> click.Command:
    """The command called like `variant`."""

    def run(**options: Any) -> None:
        _export(variant, **options)

    sizes = f"patch {variant.patch_size}, {variant.num_layers} layers, width {variant.hidden_size}"
    text = f"Export {variant.name}: {sizes}, {ViTSpec.of(variant).num_parameters / 1e6:.0f} M parameters.\n\n"
    text += f"For {variant.use}."
    return click.command(variant.name, cls=Command, help=text, short_help=f"{sizes}: {variant.use}")(_with_options(run))


@click.command(EXPORT, cls=Command, short_help="Export the checkpoint at PATH, of any sizes.")
@click.argument("subject", required=False, type=LOCATION, metavar="[PATH|VARIANT]")
@_with_options
def export_command(subject: str | None, weights: str | None, **options: Any) -> None:
    """Export the checkpoint at PATH (as --weights takes it), or VARIANT; the name of this command may be left out."""
    variant = None
    if subject is not None and subject not in VARIANTS and is_location(subject):
        if weights is not None:
            raise InputError("A checkpoint is given twice, by itself and to --weights: give one of the two.")
        weights = subject
    elif subject is not None:
        if subject not in VARIANTS and (hint := weights_hint(subject)):
            raise InputError(hint)
        variant = get_variant(subject)
    _export(variant, weights=weights, **options)


def _export(variant: Variant | None, *, as_json: bool, quiet: bool, **options: Any) -> None:
    with progress(quiet=quiet) as reporter:
        # Everything that can be refused is, before numpy is imported.
        request = _request(variant, reporter, **options)
        from vit_export.pipeline.steps import export

        result = export(request, reporter, commands=(typed(),))

    def show() -> None:
        from rich.console import Console

        from vit_export.report.table import render_table

        if result.verification is not None:
            render_table(result.verification, Console())
        for line in (*shipping(result.report), closing(request, result), *advised):
            say(line)

    advised = advice(result.report)
    failures = () if result.verification is None else result.verification.failures
    shown = None if quiet else show
    finish(
        result.report,
        shown,
        as_json=as_json,
        failures=failures,
        advice=advised,
        assumed=tuple(result.report.get("weights", {}).get("assumed", {}).values()),
        shown=True,
        passed=result.passed,
    )


def _request(
    variant: Variant | None,
    reporter: "ConsoleReporter | None",
    *,
    saved_model: bool,
    weights: str | None,
    num_heads: int | None,
    image_size: ImageSize | None,
    num_classes: int | None,
    returns: str | None,
    features: bool,
    pooled: bool,
    l2_normalize: bool,
    labels: str | None,
    name: str | None,
    output: Path | None,
    no_verify: bool,
    **options: Any,
) -> ExportRequest:
    """The request that the options of a command describe."""
    names = _returned(returns, features=features, pooled=pooled)
    if name is not None:
        require_name("name", name)
    if names and "logits" not in names and num_classes is not None:
        given = "--returns" if returns else "--features" if features else "--pooled"
        raise InputError(f"{given} makes a model without classifier, --num-classes sizes one: give one of the two.")
    chosen = {"saved_model": saved_model, "tflite": options.pop("tflite"), "onnx": options.pop("onnx")}
    formats = tuple(f for f in FORMATS if chosen[f]) or tuple(FORMATS)
    precisions = tuple(p for p in PRECISIONS if options.pop(p)) or (_FIRST,)
    if formats == ("saved_model",) and precisions != (_FIRST,):
        raise InputError(
            f"--{precisions[-1]} is of .tflite and .onnx files, a SavedModel is always float32: add --tflite or --onnx "
            "or leave it out."
        )
    if options["int8_scheme"] and "int8" not in precisions:
        raise InputError("--int8-scheme says how to quantize to int8: add --int8, or leave it out.")
    pixels = _pixels({key: options.pop(key) for key in ("mean", "std", "resize", "crop_fraction", "interpolation")})
    checkpoint, preprocessing = None, None
    if weights is not None:
        checkpoint = _opened(
            weights, reporter, variant=variant, num_heads=num_heads, image_size=image_size, pixels=pixels
        ).named(name)
        spec = checkpoint.returning(names, num_classes=num_classes, l2_normalize=l2_normalize)
        spec = spec if image_size is None else spec.with_(image_size=image_size)
        if checkpoint.projects and not names and "pooled" in spec.outputs and not checkpoint.own:
            checkpoint = replace(checkpoint, notes=(*checkpoint.notes, PROJECTED))
    elif variant is None:
        raise InputError(
            "There is nothing to export: give a checkpoint, or name a variant ('vit-export list' shows them)."
        )
    elif "pooled" in names or num_heads is not None:
        given = ("--pooled" if pooled else "--returns pooled") if "pooled" in names else "--num-heads"
        raise InputError(f"{given} belongs to a checkpoint: give --weights, or leave it out.")
    else:
        if reporter is not None and os.path.lexists(variant.name):
            reporter.note(
                f"{variant.name} is the variant, with random weights: what this folder has by that name is "
                f"./{variant.name}."
            )
        spec = ViTSpec.of(
            variant,
            image_size=224 if image_size is None else image_size,
            num_classes=1000 if num_classes is None else num_classes,
        )
        spec = spec.returning(names or tuple(spec.outputs), l2_normalize=l2_normalize)
        if pixels:
            from vit_export.model.preprocessing import Preprocessing

            preprocessing = Preprocessing(spec.image_size, **pixels)
        spec = spec if name is None else spec.with_(name=name)
    return ExportRequest(
        spec=spec,
        output=output or default_output(spec),
        formats=formats,
        precisions=precisions,
        weights=checkpoint,
        preprocessing=preprocessing,
        returns=names,
        l2_normalize=l2_normalize,
        name=name,
        labels=None if labels is None else read_labels(labels),
        verify=not no_verify,
        **options,
    )


def _opened(weights: str, reporter: "ConsoleReporter | None", **said: Any) -> "Checkpoint":
    """The checkpoint at `weights`, of which the options `said` something."""
    from vit_export.weights.open import open_checkpoint
    from vit_export.weights.remote.fetch import shown

    if reporter is None:
        return open_checkpoint(weights, **said)
    reporter.step(f"Opening {shown(weights)}")
    checkpoint = open_checkpoint(weights, **said, progress=reporter.progress, note=reporter.note)
    reporter.done()
    return checkpoint


def _returned(names: str | None, *, features: bool, pooled: bool) -> tuple[str, ...]:
    """The outputs that --returns, or one of its short forms, asks for; none where nothing is said."""
    short = ["features"] * features + ["pooled"] * pooled
    if len(short) > 1:
        raise InputError(
            "--features are taken before the checkpoint's pooler, --pooled after it: give one of the two, or both as "
            "--returns features,pooled."
        )
    if names is None:
        return tuple(short)
    if short:
        raise InputError(f"--{short[0]} is short for --returns {short[0]}: name all outputs in --returns.")
    found = tuple(name.strip() for name in names.split(","))
    for name in found:
        if name not in RETURNS:
            raise unknown("output", name, RETURNS)
        if found.count(name) > 1:
            raise InputError(f"--returns has {name} twice: give each once.")
    return found


def _pixels(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Preprocessing` that were given."""
    given = {key: value for key, value in options.items() if value is not None}
    for key in ("mean", "std"):
        if key in given:
            given[key] = _three(f"--{key}", given[key])
    if given.get("resize") == "squash":
        given.setdefault("crop_fraction", 1.0)
    return given


def _three(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(f"{option} is '{text}', expected three numbers such as 0.485,0.456,0.406.")
    return values
