"""Vision Transformers from weights to verified SavedModel, TFLite and ONNX files.

    from vit_export import create_vit, create_vit_s16, list_variants, export, verify

There is a factory for every variant. Nothing heavy is imported until one of these names is used.
"""

import os
from importlib import import_module
from typing import Any

from vit_export.model.variants import VARIANTS

# Read when ONNX Runtime is loaded, here and in every process that is started from here: without it each use writes an
# identifier of this machine and a queue of events for Microsoft into the home folder, and sends them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "create_vit": "vit_export.api",
    "VisionTransformer": "vit_export.model.keras_model",
    "ViTSpec": "vit_export.model.spec",
    "VARIANTS": "vit_export.model.variants",
    "list_variants": "vit_export.model.variants",
    "ExportRequest": "vit_export.pipeline.request",
    "ExportResult": "vit_export.pipeline.steps",
    "export": "vit_export.api",
    "Preprocessing": "vit_export.model.preprocessing",
    "Pictures": "vit_export.images.pictures",
    "find_images": "vit_export.images.split",
    "open_checkpoint": "vit_export.weights.open",
    "verify": "vit_export.verification.verifier",
    "VerifyOptions": "vit_export.verification.options",
    "verify_files": "vit_export.pipeline.verify_files",
    "VerifyRequest": "vit_export.pipeline.verify_files",
    "write_saved_model": "vit_export.model.saved_model",
    "InputError": "vit_export.base.errors",
    "OutputError": "vit_export.base.errors",
    "VitExportError": "vit_export.base.errors",
    **{f"create_{variant}": "vit_export.api" for variant in VARIANTS},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_export' has no attribute '{name}'")
    if name.startswith("create_") or _HOMES[name] == "vit_export.model.keras_model":
        from vit_export.base.quiet import import_tensorflow

        import_tensorflow()
        import_module("vit_export.model.keras_model")  # registers the classes that `keras.models.load_model` looks up
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
