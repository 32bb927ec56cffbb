"""Where a fault is inside a file: its residual stream beside the reference's, layer by layer."""

from vit_export.verification.layers.follow import locate

__all__ = ["locate"]
