"""`vit-export list`: the variants with what follows from their sizes, by formula, and the families of checkpoints."""

from collections.abc import Iterable, Mapping, Sequence
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
        from vit_export.model.published import published_text

        render_listing(rows)
        say(f"\n{published_text()}")

    finish(rows, show, as_json=as_json)


if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SIZES = {
    **{"size": "image_size", "patch": "patch_size", "tokens": "tokens", "layers": "layers"},
    **{"width": "hidden_size", "mlp": "mlp_size", "heads": "heads"},
}
"""Headings and the keys of a row."""

FAMILY_COLUMNS = 115
"""Of the table of families, whose cells are names."""


def render_listing(rows: Sequence[dict[str, Any]], console: "Console | None" = None) -> None:
    """Print the rows as a table and under it what each variant is for.

    Megabytes of weights make it 80 columns wide, shapes of outputs, where rows have those instead, up to 100.
    """
    from rich.console import Console

    shapes = all("outputs" in row for row in rows)
    headings = ["logits", "features", "token sequence"] if shapes else ["f32 MB", "f16", "int8"]
    cells = []
    for row in rows:
        last = ["×".join(map(str, shape)) for shape in row["outputs"].values()] if shapes else []
        last = last or [f"{megabytes:.0f}" for megabytes in row["megabytes"].values()]
        counts = three_digits(row["parameters"] / 1e6), three_digits(row["macs"] / 1e9)
        sizes = [shown_size(row[key]) if key == "image_size" else row[key] for key in SIZES.values()]
        cells.append([row["name"], *sizes, *counts, *last])
    console = console or Console()
    console.print(table(["variant", *SIZES, "M par.", "GMACs", *headings], cells))
    for row in rows:
        console.print(f"{row['name']:<9} {row['use']}", highlight=False, markup=False, soft_wrap=True)


def render_families(found: Mapping[str, Sequence[Mapping[str, Any]]], console: "Console | None" = None) -> None:
    """Print which encoders are taken, from which layouts and what of them files return, and which are not."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0), header_style="bold")
    for heading, width in (("family", 17), ("from", 40), ("what differs", 28), ("files return", 24)):
        made.add_column(heading, width=width, overflow="fold")
    for row in found["families"]:
        made.add_row(*map(Text, (row["name"], _layouts(row), row["differs"], row["returns"])))
    for row in found["refused"]:
        made.add_row(*map(Text, (row["name"], _layouts(row), row["why"], "not taken")))
    (console or Console(width=FAMILY_COLUMNS)).print(made)


def _layouts(row: Mapping[str, Any]) -> str:
    named = (("Hugging Face", row["huggingface"]), ("timm", row["timm"]), ("", row.get("others", ())))
    return "\n".join(f"{name} {value}".strip() for name, values in named for value in values)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> "Table":
    """A table of names at the left and figures at the right, without lines."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for place, heading in enumerate(headings):
        made.add_column(Text(heading), justify="right" if place else "left", no_wrap=place > 0, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return made
