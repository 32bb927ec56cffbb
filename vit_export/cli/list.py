"""`vit-export list`: the variants with what follows from their sizes, by formula."""

from typing import Any

from vit_export.base.numbers import three_digits


def render_listing(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table that fits 80 columns, and under it what each variant is for."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("variant", no_wrap=True)
    for heading in ("size", "patch", "tokens", "layers", "width", "heads", "M par.", "GMACs", "f32 MB", "f16", "int8"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        sizes = [str(row[key]) for key in ("image_size", "patch_size", "tokens", "layers", "hidden_size", "heads")]
        counts = [three_digits(row["parameters"] / 1e6), three_digits(row["macs"] / 1e9)]
        table.add_row(row["name"], *sizes, *counts, *(f"{n:.0f}" for n in row["megabytes"].values()))
    console = Console()
    console.print(table)
    for row in rows:
        console.print(f"{row['name']:<9} {row['use']}", highlight=False, soft_wrap=True)
