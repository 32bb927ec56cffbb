"""The command line: one sub-command per variant, all with the same options, and `list`."""

import json
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from vit_export.errors import InputError, VitExportError, nearest
from vit_export.plan import FORMATS, INT8_SCHEMES, OPSETS, PRECISIONS, ExportRequest
from vit_export.spec import ViTSpec
from vit_export.variants import VARIANTS, Variant

_SCHEMES = sorted({scheme for schemes in INT8_SCHEMES.values() for scheme in schemes})


class Commands(click.Group):
    """A group that answers a mistyped command with the nearest one, and every error with one sentence."""

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
    click.option("--image-size", type=int, metavar="N", help="Pixels along one side, a multiple of the patch.  [224]"),
    click.option("--num-classes", type=int, metavar="N", help="Classes of the classifier.  [1000]"),
    click.option("--features", is_flag=True, help="No classifier: class-token features."),
    click.option(
        "--weights", type=click.Path(path_type=Path), help="A SavedModel of vit-export.  [default: random weights]"
    ),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        help="Folder of images: the representative dataset and, others of them, verification.  "
        "[default: photographs from scikit-image, in calibration/]",
    ),
    click.option("--calibration-images", type=int, default=128, show_default=True, metavar="N"),
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


def _variant_command(variant: Variant) -> click.Command:
    def run(**options: Any) -> None:
        _export(variant, **options)

    for option in reversed(_OPTIONS):
        run = option(run)
    sizes = f"patch {variant.patch_size}, {variant.num_layers} layers, width {variant.hidden_size}"
    text = f"Export {variant.name}: {sizes}, {ViTSpec.of(variant).num_parameters / 1e6:.0f} M parameters.\n\n"
    text += f"For {variant.use}."
    return click.command(variant.name, help=text, short_help=f"{sizes}: {variant.use}")(run)


for _row in VARIANTS.values():
    main.add_command(_variant_command(_row))


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


@main.command("calibration")
@click.argument("folder", type=click.Path(path_type=Path), default=Path("calibration"))
@click.option("--overwrite", is_flag=True, help="Replace a set that exists.")
def calibration_command(folder: Path, overwrite: bool) -> None:
    """Write the default representative dataset: photographs that scikit-image ships, cropped."""
    from vit_export.photographs import write_photographs

    written = write_photographs(folder, overwrite=overwrite)
    click.echo(f"Wrote photographs to {folder}/." if written else f"{folder}/ is up to date.")


def _export(variant: Variant, *, as_json: bool, quiet: bool, **options: Any) -> None:
    request = _request(variant, **options)
    from rich.console import Console

    from vit_export.pipeline import Silent, export
    from vit_export.progress import ConsoleReporter
    from vit_export.report import render_table

    # Ended from outside, clean up as for Ctrl-C: the default would leave the staging folder behind.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    console = Console(stderr=True)
    if quiet:
        result = export(request, Silent())
    else:
        with ConsoleReporter(console) as reporter:
            result = export(request, reporter)
    if as_json:
        click.echo(json.dumps(result.report, indent=2, ensure_ascii=False))
    elif not quiet:
        if result.verification is not None:
            render_table(result.verification, Console())
        click.echo(_closing(result, request))
    elif result.verification is not None:
        for failure in result.verification.failures:
            click.echo(f"FAIL  {failure}", err=True)
    if not result.passed:
        sys.exit(1)


def _request(
    variant: Variant,
    *,
    saved_model: bool,
    image_size: int | None,
    num_classes: int | None,
    features: bool,
    weights: Path | None,
    output: Path | None,
    no_verify: bool,
    **options: Any,
) -> ExportRequest:
    """The request that the options of a variant's command describe."""
    if features and num_classes is not None:
        raise InputError("--features makes a model without classifier, --num-classes sizes one: give one of the two.")
    chosen = {"saved_model": saved_model, "tflite": options.pop("tflite"), "onnx": options.pop("onnx")}
    formats = tuple(f for f in FORMATS if chosen[f]) or FORMATS
    precisions = tuple(p for p in PRECISIONS if options.pop(p)) or PRECISIONS[:1]
    if weights is not None:
        spec = _checked(variant, weights, image_size, num_classes, features)
    else:
        spec = ViTSpec.of(
            variant,
            image_size=224 if image_size is None else image_size,
            num_classes=None if features else 1000 if num_classes is None else num_classes,
        )
    if options["int8_scheme"] and "int8" not in precisions:
        raise InputError("--int8-scheme says how to quantize to int8: add --int8, or leave it out.")
    return ExportRequest(
        spec=spec,
        output=output or Path("exports") / f"{variant.name}-{spec.image_size}",
        formats=formats,
        precisions=precisions,
        weights=weights,
        verify=not no_verify,
        **options,
    )


def _checked(
    variant: Variant, weights: Path, image_size: int | None, num_classes: int | None, features: bool
) -> ViTSpec:
    """The spec in `weights`, after making sure that it is the variant and sizes that were asked for."""
    from vit_export.saved_model import read_record

    known = read_record(weights).spec
    wanted = known.with_(num_classes=None) if features else known
    asked = {
        "variant": (variant.name, known.name),
        "--image-size": (image_size, known.image_size),
        "--num-classes": (num_classes, known.num_classes),
    }
    for what, (asked_for, found) in asked.items():
        if asked_for is not None and asked_for != found:
            raise InputError(f"{weights} holds {what} {found}, {asked_for} was asked for: give the one that it holds.")
    return wanted


def _closing(result: Any, request: ExportRequest) -> str:
    """Where the result is and what one would type next."""
    lines = [f"Files and report.json: {request.output}/"]
    saved = shlex.quote(result.saved_model.path)
    name = result.report["spec"]["name"]
    made = {(a.format, a.precision) for a in result.artifacts}
    if not result.passed:
        lines.append("At least one file is not the same model: see the failures above before shipping any of them.")
    elif ("tflite", "int8") not in made:
        lines.append(f"Next: vit-export {name} --weights {saved} --tflite --int8")
    elif not any(f == "onnx" for f, _ in made):
        lines.append(f"Next: vit-export {name} --weights {saved} --onnx --int8")
    else:
        lines.append(f"Next: run one of them, for example {shlex.quote(result.artifacts[0].path)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
