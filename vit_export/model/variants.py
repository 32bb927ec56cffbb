"""The table of variants: one literal row each, with the paper table it is taken from.

Sizes: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), table 1 (Base, Large, Huge); Steiner et al.,
"How to train your ViT?" (2022), table 2 (Ti, S). The patch size is the number after the slash.
"""

import re
from dataclasses import dataclass

from vit_export.base.errors import InputError, unknown


@dataclass(frozen=True)
class Variant:
    """One row: the sizes that define a Vision Transformer but for its input size and its head."""

    name: str
    patch_size: int
    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    use: str


_ROWS = (
    Variant("vit_ti16", 16, 12, 192, 768, 3, "microcontrollers' big brothers, old phones, real time on one core"),
    Variant("vit_s32", 32, 12, 384, 1536, 6, "phones in real time; the fewest MACs of the paper's family"),
    Variant("vit_s16", 16, 12, 384, 1536, 6, "phones, when the answer matters more than the frame rate"),
    Variant("vit_b32", 32, 12, 768, 3072, 12, "recent phones and boards; as many MACs as S/16 with more weights"),
    Variant("vit_b16", 16, 12, 768, 3072, 12, "the usual checkpoint to fine-tune; boards with an accelerator"),
    Variant("vit_l32", 32, 24, 1024, 4096, 16, "edge servers; large capacity at few tokens"),
    Variant("vit_l16", 16, 24, 1024, 4096, 16, "edge servers with an accelerator"),
    Variant("vit_h14", 14, 32, 1280, 5120, 16, "servers; teacher for distillation"),
    Variant("vit_h16", 16, 32, 1280, 5120, 16, "servers; about a quarter fewer tokens than H/14"),
)

VARIANTS: dict[str, Variant] = {row.name: row for row in _ROWS}


_CALLED = re.compile(
    r"(?:vit|deit)?-?(tiny|small|base|large|huge|ti|[sblh])[-/]?(?:patch|p)?(14|16|32)"
    r"(?:-[a-z0-9-]+)?(?:\.[a-z0-9]+-[a-z0-9-]+)?"  # timm's sizes and tags; what ends like a file is none
)


def variant_meant(name: str) -> str | None:
    """The variant whose sizes `name` says in another's words: ViT-B/16, vit_base_patch16_224; None for others."""
    called = _CALLED.fullmatch(name.lower().replace("_", "-"))
    if called is None:
        return None
    found = f"vit_{called[1][0].replace('t', 'ti')}{called[2]}"
    return found if found in VARIANTS else None


def get_variant(name: str) -> Variant:
    """Return the row called `name`.

    Raises:
        InputError: no such variant; the message names the nearest one.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        if guess := variant_meant(name):
            raise InputError(f"Unknown variant '{name}': did you mean '{guess}'?") from None
        raise unknown("variant", name, VARIANTS) from None
