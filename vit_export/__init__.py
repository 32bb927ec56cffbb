"""Vision Transformers from weights to verified SavedModel, TFLite and ONNX files.

    from vit_export import create_vit, create_vit_s16, list_variants, export, verify

    list_variants()                                                 # prints the variants and their sizes
    model = create_vit("vit_s16", num_classes=10)                   # a keras.Model: compile, fit, save
    model = create_vit(weights="hf:google/vit-base-patch16-224")    # or any checkpoint, of any package
    features = model.extract_features(images)                       # [batch, width]
    result = export(model, "out/", formats=["tflite", "onnx"], precisions=["float32", "int8"])
    assert result.passed                                            # every file was compared with the model

There is a factory for every variant. `export` takes a model, the name of a variant or a checkpoint; `verify_files`
compares files of any tool with a reference, `predict`, `evaluate`, `sweep`, `bench` and `bundle` are the commands of
these names; `InputError` says in one sentence what was wrong with a call. Nothing heavy
is imported until one of these names is used. docs/python.md has the rest, `vit-export --help` the command line.
"""

import os
from importlib import import_module
from typing import Any

from vit_export.model.variants import VARIANTS

# Read when ONNX Runtime is loaded, here and in every process that is started from here: without it each use writes an
# identifier of this machine and a queue of events for Microsoft into the home folder, and sends them.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# The names and their types are in __init__.pyi, which type checkers and editors read.
_HOMES = {
    "create_vit": "vit_export.api",
    "VisionTransformer": "vit_export.model.keras_model",
    "ViTSpec": "vit_export.model.spec",
    "VARIANTS": "vit_export.model.variants",
    "list_variants": "vit_export.model.listing",
    "compare_variants": "vit_export.model.listing",
    "ExportRequest": "vit_export.pipeline.request",
    "ExportResult": "vit_export.pipeline.steps",
    "export": "vit_export.api",
    "Preprocessing": "vit_export.model.preprocessing",
    "Pictures": "vit_export.images.pictures",
    "find_images": "vit_export.images.split",
    "open_checkpoint": "vit_export.weights.open",
    "read_labels": "vit_export.model.labels",
    "verify": "vit_export.verification.verifier",
    "VerifyOptions": "vit_export.verification.options",
    "verify_files": "vit_export.pipeline.verify_files",
    "VerifyRequest": "vit_export.pipeline.verify_files",
    "predict": "vit_export.pipeline.predict",
    "evaluate": "vit_export.evaluation.evaluate",
    "sweep": "vit_export.sweeps.run",
    "bench": "vit_export.runtimes.benchmark",
    "bundle": "vit_export.bundles.pack",
    "write_saved_model": "vit_export.model.saved_model",
    "InputError": "vit_export.base.errors",
    "OutputError": "vit_export.base.errors",
    "VitExportError": "vit_export.base.errors",
    **{f"create_{variant}": "vit_export.api" for variant in VARIANTS},
}

# What users of vit_all_variants may look for, and what became of it.
_GONE = {
    "VIT_CONFIGS": "VARIANTS has the sizes of every variant, as in VARIANTS['vit_b16'].hidden_size",
    "PatchEmbedding": "vit_export.model.keras_layers.Embedding cuts and embeds patches",
    "MultiHeadSelfAttention": "vit_export.model.keras_layers.EncoderLayer has the attention in it",
    "MLP": "vit_export.model.keras_layers.EncoderLayer has the MLP in it",
    "TransformerBlock": "vit_export.model.keras_layers.EncoderLayer is the block",
}

__all__ = [*_HOMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from vit_export.base.versions import own_version

        return own_version()
    if name in _GONE:
        from inspect import currentframe

        text, frame = f"vit_export has no {name}: {_GONE[name]}.", currentframe()
        caller = frame.f_back if frame else None
        # `from vit_export import …` drops the text of an AttributeError, `hasattr` expects one.
        statement = caller is not None and caller.f_globals.get("__name__") == "importlib._bootstrap"
        raise ImportError(text) if statement else AttributeError(text)
    if name not in _HOMES:
        raise AttributeError(f"module 'vit_export' has no attribute '{name}'")
    if name.startswith("create_") or _HOMES[name] == "vit_export.model.keras_model":
        from vit_export.base.quiet import import_tensorflow

        import_tensorflow()
        import_module("vit_export.model.keras_model")  # registers the classes that `keras.models.load_model` looks up
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})
