"""Private interfaces of ai-edge-quantizer 0.10.0."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_edge_quantizer.quantizer import Quantizer


def open_quantizer(path: Path) -> "Quantizer":
    """A Quantizer of the float32 .tflite file at `path`, without its check that every tensor has a range.

    `Quantizer.quantize` calls `_ensure_model_qsv_sufficient`, which copies the model and opens it once more, 5 GB at
    ViT-H; no option leaves that out. A range that is missing is an error a moment later anyway, when the tensor's scale
    is computed.
    """
    from ai_edge_quantizer.quantizer import Quantizer

    made = Quantizer(str(path))
    made._ensure_model_qsv_sufficient = lambda ranges: None
    return made
