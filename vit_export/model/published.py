"""Accuracies that were published of checkpoints, which are facts of those weights and of no others.

Source: the table "Available ViT models" in the README of https://github.com/google-research/vision_transformer (commit
c6de1e5, read 2026-11-26): the checkpoints that its authors recommend (Steiner et al., "How to train your ViT?", 2022).
There is none of L/32, H/14 and H/16.
"""

import textwrap
from dataclasses import dataclass

SOURCE = "README of github.com/google-research/vision_transformer"
IMAGE_SIZE = 384
_FOLDER = "https://storage.googleapis.com/vit_models/augreg"


@dataclass(frozen=True)
class Published:
    """The checkpoint of `variant` at `location`, and how much of `dataset` it classifies right, in per cent (top-1)."""

    variant: str
    top_1: float
    location: str
    dataset: str = "ImageNet-1k"
    image_size: int = IMAGE_SIZE
    source: str = SOURCE


def _augreg(variant: str, top_1: float, upstream: str, rate: str) -> Published:
    tuned = f"imagenet2012-steps_20k-lr_{rate}-res_{IMAGE_SIZE}"
    return Published(variant, top_1, f"{_FOLDER}/{upstream}-sd_0.0--{tuned}.npz")


PUBLISHED = (
    _augreg("vit_ti16", 78.22, "Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0", "0.03"),
    _augreg("vit_s32", 79.58, "S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0", "0.01"),
    _augreg("vit_s16", 83.73, "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0", "0.03"),
    _augreg("vit_b32", 83.59, "B_32-i21k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.0", "0.01"),
    _augreg("vit_b16", 85.49, "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0", "0.03"),
    _augreg("vit_l16", 85.59, "L_16-i21k-300ep-lr_0.001-aug_strong1-wd_0.1-do_0.0", "0.01"),
)
"""Fine-tuned from ImageNet-21k at 384 pixels, and evaluated at that size, on ImageNet-1k."""


def published_text(width: int = 80) -> str:
    """The figures in sentences, in lines of at most `width` columns."""
    figures = ", ".join(f"{row.variant} {row.top_1:.2f} %" for row in PUBLISHED)
    return textwrap.fill(
        "Published top-1 accuracy, of Google's AugReg checkpoints alone (random weights have none), fine-tuned from "
        f"ImageNet-21k and evaluated on ImageNet-1k at {IMAGE_SIZE} pixels: {figures}. Source: {SOURCE}.",
        width=width,
        break_on_hyphens=False,
    )
