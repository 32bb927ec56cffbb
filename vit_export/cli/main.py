"""The command line: one sub-command per variant, all with the same options, and `list`."""

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.errors import InputError
from vit_export.cli.bench import bench_command
from vit_export.cli.bundle import bundle_command
from vit_export.cli.closing import closing, default_output
from vit_export.cli.compare import compare_command
from vit_export.cli.framework import CONTEXT, EXPORT, Command, Commands, Given, GivenPath, typed, weights_hint
from vit_export.cli.inspect import inspect_command
from vit_export.cli.verify import verify_command
from vit_export.model.names import FORMATS, INPUTS, OPSETS, PRECISIONS, SCHEME_NAMES, schemes_explained
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import VARIANTS, Variant, get_variant
from vit_export.pipeline.request import ExportRequest

if TYPE_CHECKING:
    from vit_export.cli.progress import ConsoleReporter
    from vit_export.model.preprocessing import Preprocessing
    from vit_export.weights.checkpoint import Checkpoint


_HELP = """Export Vision Transformers to SavedModel, TFLite and ONNX, and verify every file.

\b
vit-export vit_s32 --tflite --int8     an int8 .tflite, verified on photographs
vit-export --weights FILE --onnx       a checkpoint of any sizes
vit-export vit_s32 --help              the options, the same for every variant
vit-export list                        the variants

Exit codes: 0 good, 1 verification found a fault, 2 the input or the call was wrong, 130 interrupted.
"""


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from vit_export.base.versions import versions

        found = versions("vit-export")["vit-export"]
        unknown = "unknown (it runs from a folder, without having been installed)"
        click.echo(f"vit-export, version {unknown if found == 'not installed' else found}")
        ctx.exit()


@click.group(cls=Commands, help=_HELP, context_settings=CONTEXT)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """The command `vit-export`."""


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    *(
        click.option(
            f"--{name.replace('_', '-')}",
            is_flag=True,
            help=row.about + "  [default: all three formats]" * (name == tuple(FORMATS)[-1]),
        )
        for name, row in FORMATS.items()
    ),
    *(
        click.option(f"--{name}", is_flag=True, help=row.about + "  [default]" * (name == "float32"))
        for name, row in PRECISIONS.items()
    ),
    click.option(
        "--int8-scheme",
        type=click.Choice(SCHEME_NAMES),
        help=schemes_explained(),
    ),
    click.option("--min-sqnr", type=float, metavar="DB", help="Budget of auto: signal to noise.  [35]"),
    click.option("--min-agreement", type=float, metavar="P", help="Budget of auto: share with the same top class."),
    click.option(
        "--weights",
        type=Given(),
        metavar="FILE",
        help="A checkpoint: .npz (Google), a Hugging Face folder, .safetensors (Hugging Face, timm, torchvision), "
        ".keras, .weights.h5, a SavedModel of vit-export, hf:owner/name[@revision], https://…[#sha256=…].  "
        "[default: random weights]",
    ),
    click.option("--num-heads", type=int, metavar="N", help="Attention heads, where a checkpoint does not say."),
    click.option("--image-size", type=int, metavar="N", help="Pixels along one side, a multiple of the patch.  [224]"),
    click.option("--num-classes", type=int, metavar="N", help="Classes of the classifier.  [1000, or the weights']"),
    click.option("--features", is_flag=True, help="No classifier: class-token features."),
    click.option("--pooled", is_flag=True, help="No classifier: features after the checkpoint's pooler (pre-logits)."),
    click.option(
        "--labels",
        type=Given(),
        metavar="FILE",
        help="Names of the classes, a line each, or JSON; 'imagenet' for ImageNet-1k's.",
    ),
    click.option(
        "--input",
        type=click.Choice(INPUTS),
        default=INPUTS[0],
        show_default=True,
        help="Pixel values the files take: scaling is folded into the weights, uint8 adds one cast.",
    ),
    click.option("--mean", metavar="R,G,B", help="Of the pixels, on the 0..1 scale.  [the weights' or 0.5,0.5,0.5]"),
    click.option("--std", metavar="R,G,B", help="Likewise."),
    click.option("--resize", type=click.Choice(["squash", "shortest"]), help="Straight to the square, or crop centre."),
    click.option("--crop-fraction", type=float, metavar="F", help="Part of the shortest side that is kept."),
    click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"]), help="Of resizing."),
    click.option(
        "--calibration",
        type=GivenPath(path_type=Path),
        help="Folder of images: the representative dataset and, others of them, verification.  "
        "[default: photographs from scikit-image, in calibration/]",
    ),
    click.option("--calibration-images", type=int, default=128, show_default=True, metavar="N"),
    click.option("--held-out-images", type=int, metavar="N", help="Images that verify.  [32, 8 for large models]"),
    click.option(
        "--output",
        type=GivenPath(path_type=Path),
        help="Folder for the files.  [default: exports/<variant>-<size>]",
    ),
    click.option("--overwrite", is_flag=True, help="Replace files that exist."),
    click.option("--batch", type=int, default=1, show_default=True, metavar="N", help="Static batch of the files."),
    click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads for the latencies."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of random weights and images."),
    click.option(
        "--opset",
        type=int,
        metavar="N",
        help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]}; 22 and below are taken whole by Core ML and QNN.  "
        f"[default: {OPSETS[-1]}; qdq: 20]",
    ),
    click.option("--no-verify", is_flag=True, help="Convert only."),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
    click.option("--quiet", is_flag=True, help="Print nothing but errors and failures."),
)


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _variant_command(variant: Variant) -> click.Command:
    def run(**options: Any) -> None:
        _export(variant, **options)

    sizes = f"patch {variant.patch_size}, {variant.num_layers} layers, width {variant.hidden_size}"
    text = f"Export {variant.name}: {sizes}, {ViTSpec.of(variant).num_parameters / 1e6:.0f} M parameters.\n\n"
    text += f"For {variant.use}."
    return click.command(variant.name, cls=Command, help=text, short_help=f"{sizes}: {variant.use}")(_with_options(run))


for _row in VARIANTS.values():
    main.add_command(_variant_command(_row))


@main.command(EXPORT, cls=Command, short_help="Export a checkpoint of any sizes (--weights), or VARIANT.")
@click.argument("variant", required=False)
def export_command(variant: str | None, **options: Any) -> None:
    """Export a checkpoint of any sizes (--weights), or VARIANT; the name of this command may be left out."""
    if variant is not None and variant not in VARIANTS and (hint := weights_hint(variant)):
        raise InputError(hint)
    _export(None if variant is None else get_variant(variant), **options)


export_command = _with_options(export_command)  # type: ignore[assignment]


@main.command("list", cls=Command, short_help="Show every variant and what it is for.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--image-size",
    type=int,
    default=224,
    show_default=True,
    metavar="N",
    help="Pixels along one side; rounded up to a multiple of each patch.",
)
def list_command(as_json: bool, image_size: int) -> None:
    """Show every variant: sizes, parameters, MACs, megabytes on disk, and what it is for."""
    from vit_export.cli.list import render_listing
    from vit_export.model.listing import listing

    rows = listing(image_size)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        render_listing(rows)


main.add_command(verify_command)
main.add_command(inspect_command)
main.add_command(bundle_command)
main.add_command(compare_command)
main.add_command(bench_command)


@main.command("calibration", cls=Command, short_help="Write photographs for calibration and verification.")
@click.argument("folder", type=GivenPath(path_type=Path), default=Path("calibration"))
@click.option("--overwrite", is_flag=True, help="Replace an incomplete, changed or older set.")
def calibration_command(folder: Path, overwrite: bool) -> None:
    """Write the default representative dataset: photographs that scikit-image ships, cropped."""
    from vit_export.images.photographs import PHOTOGRAPHS, write_photographs

    written = write_photographs(folder, overwrite=overwrite)
    total = sum(photograph.count for photograph in PHOTOGRAPHS)
    click.echo(f"{folder}: {total} images {'written' if written else 'are up to date'}.")


def _export(variant: Variant | None, *, as_json: bool, quiet: bool, **options: Any) -> None:
    from rich.console import Console

    from vit_export.cli.progress import ConsoleReporter

    with ExitStack() as stack:
        reporter = None if quiet else stack.enter_context(ConsoleReporter(Console(stderr=True)))
        # Everything that can be refused is, before numpy is imported.
        request = _request(variant, reporter, **options)
        from vit_export.pipeline.steps import export

        result = export(request, reporter, commands=(typed(),))
    if as_json:
        click.echo(json.dumps(result.report, indent=2, ensure_ascii=False))
    elif not quiet:
        from vit_export.report.table import render_table

        if result.verification is not None:
            render_table(result.verification, Console())
        click.echo(closing(request, result))
    if (as_json or quiet) and result.verification is not None:
        for failure in result.verification.failures:
            click.echo(f"FAIL  {failure}", err=True)
    if not result.passed:
        sys.exit(1)


def _request(
    variant: Variant | None,
    reporter: "ConsoleReporter | None",
    *,
    saved_model: bool,
    weights: str | None,
    num_heads: int | None,
    image_size: int | None,
    num_classes: int | None,
    features: bool,
    pooled: bool,
    labels: str | None,
    output: Path | None,
    no_verify: bool,
    **options: Any,
) -> ExportRequest:
    """The request that the options of a command describe."""
    headless = features or pooled
    if features and pooled:
        raise InputError("--features are taken before the checkpoint's pooler, --pooled after it: give one of the two.")
    if headless and num_classes is not None:
        flag = "--features" if features else "--pooled"
        raise InputError(f"{flag} makes a model without classifier, --num-classes sizes one: give one of the two.")
    chosen = {"saved_model": saved_model, "tflite": options.pop("tflite"), "onnx": options.pop("onnx")}
    formats = tuple(f for f in FORMATS if chosen[f]) or tuple(FORMATS)
    first = next(iter(PRECISIONS))
    precisions = tuple(p for p in PRECISIONS if options.pop(p)) or (first,)
    if formats == ("saved_model",) and precisions != (first,):
        raise InputError(
            f"--{precisions[-1]} is of .tflite and .onnx files, a SavedModel is always float32: add --tflite or --onnx "
            "or leave it out."
        )
    if options["int8_scheme"] and "int8" not in precisions:
        raise InputError("--int8-scheme says how to quantize to int8: add --int8, or leave it out.")
    checkpoint = None
    if weights is not None:
        checkpoint = _opened(weights, variant, num_heads, reporter)
        spec = _wanted(checkpoint, image_size, num_classes, features=features, pooled=pooled)
    elif variant is None:
        raise InputError("There is nothing to export: name a variant ('vit-export list' shows them) or give --weights.")
    elif pooled or num_heads is not None:
        raise InputError(
            f"{'--pooled' if pooled else '--num-heads'} belongs to a checkpoint: give --weights, or leave it out."
        )
    else:
        spec = ViTSpec.of(
            variant,
            image_size=224 if image_size is None else image_size,
            num_classes=None if features else 1000 if num_classes is None else num_classes,
        )
    pixels = {key: options.pop(key) for key in ("mean", "std", "resize", "crop_fraction", "interpolation")}
    return ExportRequest(
        spec=spec,
        output=output or default_output(spec),
        formats=formats,
        precisions=precisions,
        weights=checkpoint,
        preprocessing=_preprocessing(spec, checkpoint, pixels),
        labels=None if labels is None else _labels(labels),
        verify=not no_verify,
        **options,
    )


def _opened(
    weights: str, variant: Variant | None, num_heads: int | None, reporter: "ConsoleReporter | None"
) -> "Checkpoint":
    from vit_export.weights.open import open_checkpoint
    from vit_export.weights.remote.fetch import shown

    if reporter is None:
        return open_checkpoint(weights, variant=variant, num_heads=num_heads)
    reporter.step(f"Opening {shown(weights)}")
    checkpoint = open_checkpoint(
        weights, variant=variant, num_heads=num_heads, progress=reporter.progress, note=reporter.note
    )
    reporter.done()
    return checkpoint


def _wanted(
    checkpoint: "Checkpoint", image_size: int | None, num_classes: int | None, *, features: bool, pooled: bool
) -> ViTSpec:
    """What to export of `checkpoint`: the model it is, but for what was asked for."""
    known = checkpoint.spec
    if pooled and known.pre_logits_size is None:
        raise InputError("The checkpoint has no pooler (pre-logits layer), so there are no --pooled features.")
    # A bare model of another package brings along a pooler that its own features do without.
    bare = known.num_classes is None and num_classes is None and not checkpoint.own
    if pooled:
        wanted = known.with_(num_classes=None)
    elif features or bare:
        wanted = known.with_(num_classes=None, pre_logits_size=None)
    else:
        wanted = known if num_classes is None else checkpoint.spec_for(num_classes)
    return wanted if image_size is None else wanted.with_(image_size=image_size)


def _preprocessing(spec: ViTSpec, checkpoint: "Checkpoint | None", given: dict[str, Any]) -> "Preprocessing | None":
    """The checkpoint's preprocessing with what was `given`, or None when nothing was."""
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return None
    from dataclasses import replace

    from vit_export.model.preprocessing import Preprocessing

    for key in ("mean", "std"):
        if key in given:
            given[key] = _three(f"--{key}", given[key])
    if given.get("resize") == "squash":
        given.setdefault("crop_fraction", 1.0)
    base = checkpoint.preprocessing if checkpoint else Preprocessing(spec.image_size)
    return replace(base, image_size=spec.image_size, **given)


def _three(option: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3:
        raise InputError(f"{option} is '{text}', expected three numbers such as 0.485,0.456,0.406.")
    return values


def _labels(text: str) -> tuple[str, ...]:
    from vit_export.model.labels import read_labels

    return read_labels(text)
