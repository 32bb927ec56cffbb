"""`vit-export list`: the variants with what follows from their sizes, by formula, and the families of checkpoints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from vit_export.base.numbers import three_digits
from vit_export.cli.finish import finish, say
from vit_export.cli.framework import CONTEXT, Command
from vit_export.cli.options import AS_JSON, flag, image_size
from vit_export.model.spec import ImageSize, shown_size


@click.command("list", cls=Command, context_settings=CONTEXT, short_help="Show every variant and what it is for.")
@AS_JSON
@image_size("; rounded up to multiples of each patch.", 224)
@flag("--families", "Show which encoders' checkpoints are taken instead, in which layouts, and which are not.")
def list_command(as_json: bool, image_size: ImageSize, families: bool) -> None:
    """Show every variant: sizes, parameters, MACs, megabytes on disk, and what it is for."""
    if families:
        from vit_export.weights.families import families as listed

        found = listed()
        finish(found, lambda: render_families(found), as_json=as_json)
        return
    from vit_export.model.listing import listing

    rows = listing(image_size)

    def show() -> None:
        from rich.console import Console

        from vit_export.model.published import published_text

        render_listing(rows)
        say(f"\n{published_text(min(80, Console().width))}")

    finish(rows, show, as_json=as_json)


if TYPE_CHECKING:
    from rich.console import Console

SIZES = {
    **{"size": "image_size", "patch": "patch_size", "tokens": "tokens", "layers": "layers"},
    **{"width": "hidden_size", "mlp": "mlp_size", "heads": "heads"},
}
"""Headings and the keys of a row."""


def render_listing(rows: Sequence[dict[str, Any]], console: "Console | None" = None) -> None:
    """Print the rows as a table and under it what each variant is for.

    Rows that know them end with the megabytes of their weights.
    """
    from rich.console import Console

    from vit_export.report.columns import Row, print_columns

    sized = all("megabytes" in row for row in rows)
    headings = ["f32 MB", "f16", "int8"] if sized else []
    made = []
    for row in rows:
        last = [f"{megabytes:.0f}" for megabytes in row["megabytes"].values()] if sized else []
        counts = three_digits(row["parameters"] / 1e6), three_digits(row["macs"] / 1e9)
        sizes = [shown_size(row[key]) if key == "image_size" else str(row[key]) for key in SIZES.values()]
        made.append(Row(row["name"], [*sizes, *counts, *last]))
    console = console or Console()
    print_columns(console, ["variant", *SIZES, "M par.", "GMACs", *headings], made)
    for row in rows:
        console.print(f"{row['name']:<9} {row['use']}", highlight=False, markup=False, soft_wrap=True)


def render_families(found: Mapping[str, Sequence[Mapping[str, Any]]], console: "Console | None" = None) -> None:
    """Print which encoders are taken, from which layouts and what of them files return, and which are not."""
    from rich.console import Console
    from rich.text import Text

    from vit_export.report.columns import print_pairs

    console = console or Console()
    for row in (*found["families"], *found["refused"]):
        taken = "returns" in row
        console.print(Text(row["name"], "bold"), soft_wrap=True)
        said = [(("from", "")[place > 0], layout) for place, layout in enumerate(_layouts(row))]
        said += [("differs", row["differs"]), ("returns", row["returns"])] if taken else [("not taken", row["why"])]
        print_pairs(console, said)


def _layouts(row: Mapping[str, Any]) -> list[str]:
    named = (("Hugging Face", row["huggingface"]), ("timm", row["timm"]), ("", row.get("others", ())))
    return [f"{name} {value}".strip() for name, values in named for value in values]
