"""Vision Transformers from weights to verified SavedModel, TFLite and ONNX files.

    from vit_export import create_vit, create_vit_s16, list_variants, export, verify

There is a factory for every variant. Nothing heavy is imported until one of these names is used.
"""

from importlib import import_module
from typing import Any

from vit_export.variants import VARIANTS

_HOMES = {
    "create_vit": "vit_export.model",
    "VisionTransformer": "vit_export.model",
    "ViTSpec": "vit_export.spec",
    "VARIANTS": "vit_export.variants",
    "list_variants": "vit_export.variants",
    "ExportRequest": "vit_export.plan",
    "ExportResult": "vit_export.pipeline",
    "export": "vit_export.library",
    "Preprocessing": "vit_export.preprocess",
    "open_checkpoint": "vit_export.weights.sources",
    "verify": "vit_export.verification.verifier",
    "verify_files": "vit_export.verify_files",
    "VerifyRequest": "vit_export.verify_files",
    "write_saved_model": "vit_export.saved_model",
    "InputError": "vit_export.errors",
    "OutputError": "vit_export.errors",
    "VitExportError": "vit_export.errors",
    **{f"create_{variant}": "vit_export.model" for variant in VARIANTS},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_export' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
