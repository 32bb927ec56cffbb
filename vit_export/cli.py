"""The command line: one sub-command per variant, all with the same options, and `list`."""

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vit_export.compare import compare_command
from vit_export.errors import InputError, VitExportError, nearest
from vit_export.plan import FORMATS, INPUTS, INT8_SCHEMES, OPSETS, PRECISIONS, ExportRequest
from vit_export.spec import ViTSpec
from vit_export.variants import VARIANTS, Variant, get_variant

if TYPE_CHECKING:
    from vit_export.preprocess import Preprocessing
    from vit_export.weights.checkpoint import Checkpoint

EXPORT = "export"
_SCHEMES = sorted({scheme for schemes in INT8_SCHEMES.values() for scheme in schemes})


class Commands(click.Group):
    """A group that answers a mistyped command with the nearest one, and every error with one sentence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options without a command in front of them are those of `export`: `vit-export --weights FILE --tflite`."""
        own = {option for parameter in self.get_params(ctx) for option in parameter.opts}
        if args and args[0].startswith("-") and args[0].partition("=")[0] not in own:
            args = [EXPORT, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command named by `args`, or a usage error that names the nearest."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            guess = nearest(name, self.list_commands(ctx))
            hint = f"Did you mean '{guess}'?" if guess else "'vit-export list' shows them all."
            raise click.UsageError(f"Unknown variant or command '{name}'. {hint}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the table, smallest variant first."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what this package raises on purpose becomes one line and an exit code."""
        try:
            return super().invoke(ctx)
        except VitExportError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="vit-export")
def main() -> None:
    r"""Export Vision Transformers to SavedModel, TFLite and ONNX, and verify every file.

    \b
    vit-export vit_s32 --tflite --int8     an int8 .tflite file, verified on photographs
    vit-export --weights FILE --onnx       a checkpoint: its variant, size and classes are read from it
    vit-export vit_s32 --help              the options, the same for every variant
    vit-export list                        the variants

    Exit codes: 0 good, 1 verification found a fault, 2 the input or the call was wrong.
    """


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--saved-model", "saved_model", is_flag=True, help="SavedModel only (it is always the first step)."),
    click.option("--tflite", is_flag=True, help="TFLite, for Android, iOS and boards."),
    click.option("--onnx", is_flag=True, help="ONNX, for ONNX Runtime.  [default: all three formats]"),
    click.option("--float32", is_flag=True, help="The reference's precision.  [default]"),
    click.option("--float16", is_flag=True, help="Half the size; for GPUs and NPUs."),
    click.option("--int8", is_flag=True, help="A quarter of the size, and faster on CPUs."),
    click.option(
        "--int8-scheme",
        type=click.Choice(_SCHEMES),
        help="static: ranges from images (TFLite's default); dynamic: no images needed (ONNX's default); "
        "full: integer in and out (TFLite).",
    ),
    click.option(
        "--weights",
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
        "--labels", metavar="FILE", help="Names of the classes, a line each, or JSON; 'imagenet' for ImageNet-1k's."
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
        type=click.Path(path_type=Path),
        help="Folder of images: the representative dataset and, others of them, verification.  "
        "[default: photographs from scikit-image, in calibration/]",
    ),
    click.option("--calibration-images", type=int, default=128, show_default=True, metavar="N"),
    click.option("--held-out-images", type=int, metavar="N", help="Images that verify.  [32, 8 for large models]"),
    click.option(
        "--output", type=click.Path(path_type=Path), help="Folder for the files.  [default: exports/<variant>-<size>]"
    ),
    click.option("--overwrite", is_flag=True, help="Replace files that exist."),
    click.option("--batch", type=int, default=1, show_default=True, metavar="N", help="Static batch of the files."),
    click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads for the latencies."),
    click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of random weights and images."),
    click.option("--opset", type=int, metavar="N", help=f"ONNX opset, {OPSETS[0]} to {OPSETS[-1]}."),
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
    return click.command(variant.name, help=text, short_help=f"{sizes}: {variant.use}")(_with_options(run))


for _row in VARIANTS.values():
    main.add_command(_variant_command(_row))


@main.command(EXPORT)
@click.argument("variant", required=False)
def export_command(variant: str | None, **options: Any) -> None:
    """Export a checkpoint of any sizes (--weights), or VARIANT; the name of this command may be left out."""
    _export(None if variant is None else get_variant(variant), **options)


export_command = _with_options(export_command)  # type: ignore[assignment]


@main.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--image-size", type=int, metavar="N", help="Pixels along one side.  [224]")
def list_command(as_json: bool, image_size: int | None) -> None:
    """Show every variant: sizes, parameters, MACs, megabytes on disk, and what it is for."""
    from vit_export.listing import listing, render_listing

    rows = listing(image_size or 224)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        render_listing(rows)


main.add_command(compare_command)


@main.command("calibration")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("calibration"))
@click.option("--overwrite", is_flag=True, help="Replace a set that exists.")
def calibration_command(folder: Path, overwrite: bool) -> None:
    """Write the default representative dataset: photographs that scikit-image ships, cropped."""
    from vit_export.photographs import write_photographs

    written = write_photographs(folder, overwrite=overwrite)
    click.echo(f"Wrote photographs to {folder}/." if written else f"{folder}/ is up to date.")


def _export(variant: Variant | None, *, as_json: bool, quiet: bool, **options: Any) -> None:
    from rich.console import Console

    from vit_export.progress import ConsoleReporter

    # Ended from outside, clean up as for Ctrl-C: the default would leave the staging folder behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if quiet:
        result = _run(variant, None, options)
    else:
        with ConsoleReporter(Console(stderr=True)) as reporter:
            result = _run(variant, reporter, options)
    if as_json:
        click.echo(json.dumps(result.report, indent=2, ensure_ascii=False))
    elif not quiet:
        if result.verification is not None:
            from vit_export.report import render_table

            render_table(result.verification, Console())
        click.echo(_closing(result))
    elif result.verification is not None:
        for failure in result.verification.failures:
            click.echo(f"FAIL  {failure}", err=True)
    if not result.passed:
        sys.exit(1)


def _run(variant: Variant | None, reporter: Any, options: dict[str, Any]) -> Any:
    """The result of the export that `options` describe; everything that can be refused is, before numpy is imported."""
    request = _request(variant, reporter, **options)
    from vit_export.pipeline import export

    return export(request, reporter)


def _request(
    variant: Variant | None,
    reporter: Any,
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
    if headless and num_classes is not None:
        flag = "--features" if features else "--pooled"
        raise InputError(f"{flag} makes a model without classifier, --num-classes sizes one: give one of the two.")
    chosen = {"saved_model": saved_model, "tflite": options.pop("tflite"), "onnx": options.pop("onnx")}
    formats = tuple(f for f in FORMATS if chosen[f]) or FORMATS
    precisions = tuple(p for p in PRECISIONS if options.pop(p)) or PRECISIONS[:1]
    if options["int8_scheme"] and "int8" not in precisions:
        raise InputError("--int8-scheme says how to quantize to int8: add --int8, or leave it out.")
    checkpoint = None
    if weights is not None:
        checkpoint = _opened(weights, variant, num_heads, reporter)
        spec = _wanted(checkpoint.spec, image_size, num_classes, headless=headless, pooled=pooled)
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
        output=output or Path("exports") / f"{spec.name}-{spec.image_size}",
        formats=formats,
        precisions=precisions,
        weights=checkpoint,
        preprocessing=_preprocessing(spec, checkpoint, pixels),
        labels=None if labels is None else _labels(labels),
        verify=not no_verify,
        **options,
    )


def _opened(weights: str, variant: Variant | None, num_heads: int | None, reporter: Any) -> "Checkpoint":
    from vit_export.weights.sources import open_checkpoint

    if reporter is None:
        return open_checkpoint(weights, variant=variant, num_heads=num_heads)
    reporter.step(f"Opening {weights}")
    return open_checkpoint(
        weights, variant=variant, num_heads=num_heads, progress=reporter.progress, note=reporter.note
    )


def _wanted(
    known: ViTSpec, image_size: int | None, num_classes: int | None, *, headless: bool, pooled: bool
) -> ViTSpec:
    """What to export of a checkpoint of the spec `known`: as it is, but for what was asked for."""
    if pooled and known.pre_logits_size is None:
        raise InputError("The checkpoint has no pooler (pre-logits layer), so there are no --pooled features.")
    classes = known.num_classes if num_classes is None else num_classes
    changes: dict[str, Any] = {"num_classes": None if headless else classes}
    if changes["num_classes"] is None and not pooled:
        changes["pre_logits_size"] = None
    if image_size is not None:
        changes["image_size"] = image_size
    return known.with_(**changes)


def _preprocessing(spec: ViTSpec, checkpoint: "Checkpoint | None", given: dict[str, Any]) -> "Preprocessing | None":
    """The checkpoint's preprocessing with what was `given`, or None when nothing was."""
    given = {key: value for key, value in given.items() if value is not None}
    if not given:
        return None
    from dataclasses import replace

    from vit_export.preprocess import Preprocessing

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
    from vit_export.labels import read_labels

    return read_labels(text)


def _closing(result: Any) -> str:
    """Where the result is and what one would type next."""
    lines = [f"Files and report.json: {result.report_path.parent}/"]
    saved = shlex.quote(result.saved_model.path)
    made = {(a.format, a.precision) for a in result.artifacts}
    if not result.passed:
        lines.append("At least one file is not the same model: see the failures above before shipping any of them.")
    elif ("tflite", "int8") not in made:
        lines.append(f"Next: vit-export --weights {saved} --tflite --int8")
    elif not any(f == "onnx" for f, _ in made):
        lines.append(f"Next: vit-export --weights {saved} --onnx --int8")
    else:
        lines.append(f"Next: run one of them, for example {shlex.quote(result.artifacts[0].path)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
