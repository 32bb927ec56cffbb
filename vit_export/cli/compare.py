"""`vit-export compare`: variants side by side, what follows from their sizes and what this machine measures.

Measured is the exported float32 .tflite file with random weights, in turns with the baseline's (vit_s32): a machine
that slows down does so for both, so the ratio holds where the milliseconds do not. No figure is written down here.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from vit_export.base.errors import InputError, nearest
from vit_export.cli.framework import CONTEXT, Command, GivenPath
from vit_export.model.artifact import Precision
from vit_export.model.spec import MAX_IMAGE_SIZE, ViTSpec
from vit_export.model.variants import VARIANTS, Variant, get_variant
from vit_export.pipeline.compare import ComparedVariant, Measured, VariantComparison, measure_variants

if TYPE_CHECKING:
    from vit_export.base.reporting import Reporter

__all__ = ["ComparedVariant", "Measured", "VariantComparison", "compare", "compare_command"]

BASELINE = "vit_s32"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MAX_SEED = 2**32 - 1


def compare(
    variants: Sequence[str | Variant] | None = None,
    *,
    image_size: int = 224,
    threads: int = 1,
    precisions: Sequence[str] = PRECISIONS,
    measure: bool = True,
    seed: int = 0,
    baseline: str | Variant = BASELINE,
    reporter: "Reporter | None" = None,
) -> VariantComparison:
    """Compare `variants` (all by default), names or rows of one's own, at `image_size` pixels along one side.

    The size is rounded up to the next multiple of each variant's patch. Files are written to a temporary folder, which
    is gone afterwards whatever happens; `precisions` are those whose size is measured. A variant that cannot be run has
    an `error` instead of figures.

    Raises:
        InputError: an unknown variant, or a value out of range.
        OutputError: the disk of the temporary folder has too little space.
        RunnerError: the baseline cannot be run.
    """
    from vit_export.base.machine import machine
    from vit_export.base.reporting import Silent
    from vit_export.model.names import MAX_THREADS

    chosen = _chosen(variants, baseline)
    _require("image_size", image_size, 1, MAX_IMAGE_SIZE)
    _require("threads", threads, 1, MAX_THREADS)
    _require("seed", seed, 0, MAX_SEED)
    wanted = _precisions(precisions)
    basis, *rows = (_by_formula(variant, image_size) for variant in (_row(baseline), *chosen))
    if measure:
        rows, basis = measure_variants(rows, basis, threads, wanted, seed, reporter or Silent())
    return VariantComparison(tuple(rows), basis, image_size, threads, wanted, seed, machine())


def _by_formula(variant: Variant, image_size: int) -> ComparedVariant:
    size = -(-image_size // variant.patch_size) * variant.patch_size
    return ComparedVariant(ViTSpec.of(variant, image_size=size), variant.use)


def _row(variant: str | Variant) -> Variant:
    return get_variant(variant) if isinstance(variant, str) else variant


def _chosen(variants: Sequence[str | Variant] | None, baseline: str | Variant) -> list[Variant]:
    """The rows to compare, each once.

    Raises:
        InputError: a name that does not exist, or one name for two different rows.
    """
    names = [variants] if isinstance(variants, str) else variants or list(VARIANTS)
    rows = list(dict.fromkeys(_row(variant) for variant in names))
    known: dict[str, Variant] = {}
    for row in (_row(baseline), *rows):
        if known.setdefault(row.name, row) != row:
            raise InputError(f"Two different variants are called '{row.name}': give each a name of its own.")
    return rows


def _require(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InputError(f"{name} is {value!r}, expected a whole number from {least} to {most}.")


def _precisions(given: Sequence[str]) -> tuple[Precision, ...]:
    """The chosen of PRECISIONS, in their order."""
    for name in given:
        if name not in PRECISIONS:
            guess = nearest(name, PRECISIONS)
            hint = f"did you mean '{guess}'?" if guess else f"choose from {','.join(PRECISIONS)}."
            raise InputError(f"Unknown precision '{name}': {hint}")
    if not given:
        raise InputError(f"No precision is given: choose from {','.join(PRECISIONS)}.")
    return tuple(precision for precision in PRECISIONS if precision in given)


@click.command("compare", cls=Command, context_settings=CONTEXT, short_help="Compare variants: sizes, speed, memory.")
@click.argument("variants", nargs=-1)
@click.option("--image-size", type=int, default=224, show_default=True, metavar="N", help="Pixels along one side.")
@click.option("--threads", type=int, default=1, show_default=True, metavar="N", help="Threads for the latencies.")
@click.option("--precisions", metavar="LIST", help=f"File sizes to measure.  [default: {','.join(PRECISIONS)}]")
@click.option("--no-measure", is_flag=True, help="Only what follows from the sizes; takes no time.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--plot", type=GivenPath(path_type=Path), metavar="FILE", help="Draw the latencies as FILE, an .svg.")
@click.option("--overwrite", is_flag=True, help="Replace the plot if it exists.")
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of the random weights.")
def compare_command(
    variants: tuple[str, ...],
    image_size: int,
    threads: int,
    precisions: str | None,
    no_measure: bool,
    as_json: bool,
    plot: Path | None,
    overwrite: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Compare VARIANTS (all by default): sizes by formula; speed, memory and file sizes measured.

    Each variant's float32 .tflite file, with random weights, takes turns with that of vit_s32. The image size is
    rounded up to a multiple of each patch. Files go to a temporary folder (set TMPDIR for another one).
    """
    if no_measure and (plot or precisions is not None):
        option, what = ("--plot", "draws") if plot else ("--precisions", "says")
        raise InputError(f"{option} {what} what is measured and --no-measure measures nothing: give one of the two.")
    from rich.console import Console

    from vit_export.base.reporting import Silent
    from vit_export.cli.plot import check_plot, render_comparison, write_plot
    from vit_export.cli.progress import ConsoleReporter

    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    with ExitStack() as stack:
        say = Silent() if quiet or no_measure else stack.enter_context(ConsoleReporter(Console(stderr=True)))
        comparison = compare(
            variants,
            image_size=image_size,
            threads=threads,
            precisions=PRECISIONS if precisions is None else [p.strip() for p in precisions.split(",") if p.strip()],
            measure=not no_measure,
            seed=seed,
            reporter=say,
        )
    if as_json:
        click.echo(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False))
    else:
        render_comparison(comparison)
    if plot is not None:
        write_plot(comparison, plot, overwrite=overwrite)
        if not quiet:
            click.echo(f"Wrote {plot}.", err=True)
    if failed := [row for row in comparison.variants if row.error]:
        for row in failed:
            click.echo(f"FAIL  {row.spec.name} was not measured: {row.error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    from vit_export.cli.framework import Commands

    Commands(commands={"compare": compare_command}).main(["compare", *sys.argv[1:]], prog_name="vit-export")
