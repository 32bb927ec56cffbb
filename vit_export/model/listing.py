"""The variants with what follows from their sizes, by formula."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vit_export.model.names import PRECISIONS
from vit_export.model.published import PUBLISHED, published_text
from vit_export.model.spec import ImageSize, ViTSpec, checked_size, json_size, shown_size, sides_of
from vit_export.model.variants import VARIANTS, Variant


def list_variants() -> list[str]:
    """Print every variant with its sizes, and accuracies published of checkpoints; return the names, smallest first.

    `VARIANTS` has the names and sizes without printing them.
    """
    rows = listing()
    print(f"{as_text(rows)}\n\n{published_text()}")
    return [row["name"] for row in rows]


def compare_variants(image_size: ImageSize = 224) -> list[dict[str, Any]]:
    """Print the variants side by side at `image_size`, and return their rows (`listing`).

    A size (pixels along one side, or height and width) is rounded up to the next multiple of each patch. All of it
    follows from the sizes, no model is built; `vit-export compare` measures speed and memory too.

    Raises:
        InputError: an image size that no variant can have.
    """
    rows = listing(image_size)
    print(as_text(rows))
    return rows


def listing(image_size: ImageSize = 224) -> list[dict[str, Any]]:
    """One dict per variant at `image_size`, rounded up to the next multiple of its patch; megabytes are of weights.

    Raises:
        InputError: an image size that no variant can have.
    """
    size = checked_size(image_size)
    rows = []
    for variant in VARIANTS.values():
        spec = spec_at(variant, size)
        rows.append(
            {
                **sizes_of(spec),
                "megabytes": {
                    name: round(spec.num_parameters * row.bytes / 1e6, 1) for name, row in PRECISIONS.items()
                },
                "use": variant.use,
                "published": [asdict(known) for known in PUBLISHED if known.variant == variant.name],
            }
        )
    return rows


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` of a listing as a table of at most 80 columns, for a notebook."""
    heads = ("variant", "image", "patch", "tokens", "layers", "width", "mlp", "heads", "parameters", "without top")
    keys = ("image_size", "patch_size", "tokens", "layers", "hidden_size", "mlp_size", "heads")
    cells = [heads]
    for row in rows:
        image, *sizes = (row[key] for key in keys)
        counts = f"{row['parameters']:,}", f"{row['parameters_without_head']:,}"
        cells.append((row["name"], shown_size(image), *map(str, sizes), *counts))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        " ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(line))
        for line in (zip(found, widths, strict=True) for found in cells)
    )


def spec_at(variant: Variant, image_size: ImageSize) -> ViTSpec:
    """The spec of `variant` at `image_size`, each side rounded up to the next multiple of its patch."""
    patch = variant.patch_size
    return ViTSpec.of(variant, image_size=tuple(-(-side // patch) * patch for side in sides_of(image_size)))


def sizes_of(spec: ViTSpec) -> dict[str, Any]:
    """What `spec` is and what follows from it, under the keys that the listing and the comparison share."""
    return {
        "name": spec.name,
        "image_size": json_size(spec.image_size),
        "patch_size": spec.patch_size,
        "tokens": spec.num_tokens,
        "layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "mlp_size": spec.mlp_size,
        "heads": spec.num_heads,
        "parameters": spec.num_parameters,
        "parameters_without_head": spec.with_(num_classes=None).num_parameters,
        "macs": spec.num_macs,
    }


def outputs_of(spec: ViTSpec) -> dict[str, list[int]]:
    """Shapes of the outputs for one image: with classifier, without it, and of the token sequence."""
    width = spec.hidden_size
    return {"logits": [1, spec.output_size], "features": [1, width], "tokens": [1, spec.num_tokens, width]}
