"""A folder as on the Hugging Face hub, which transformers.js and optimum load as it is: the same files by other names.

`config.json` and `preprocessor_config.json` are written from the record, in the names that those tools read; the models
in `onnx/` are the ones that were verified.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vit_export.artifacts.description import PRODUCER
from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import output_errors
from vit_export.base.json_file import json_bytes, json_text, parse_json
from vit_export.base.versions import versions
from vit_export.model.artifact import Artifact, InputKind, PlannedFile, Precision
from vit_export.model.input_kinds import kind_of, left_to_do
from vit_export.model.names import PRECISIONS
from vit_export.model.outputs import PROJECTION, transformers_names
from vit_export.model.record import ModelRecord
from vit_export.model.spec import ViTSpec

MODELS: dict[Precision, tuple[str, str]] = {
    "float32": ("model.onnx", "fp32"),
    "float16": ("model_fp16.onnx", "fp16"),
    "int8": ("model_quantized.onnx", "q8"),
}
"""What the file of each precision is called in `onnx/`, and the `dtype` by which transformers.js asks for it."""

LARGEST = 1_900_000_000
"""Bytes of weights that are in the model's own file (`onnx.stream`): by another name it would not find a second one."""

_ACTIVATIONS = {"erf": "gelu", "tanh": "gelu_pytorch_tanh", "quick": "quick_gelu"}
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers

_ENCODERS = {
    "vit": "ViTModel",
    "vit_msn": "ViTMSNModel",
    "deit": "DeiTModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""transformers' class of a model without classifier, by `model_type`."""

_CONFIG, _PREPROCESSOR, _ONNX = "config.json", "preprocessor_config.json", "onnx"
_EXPORTED_BY = "exported_by"


def require_possible(record: ModelRecord, input: InputKind, files: Sequence[PlannedFile]) -> None:
    """Raise InputError where such a folder cannot say, or those tools cannot do, what the model wants."""
    spec, pixels = record.spec, record.preprocessing
    if kind_of(input).dtype != "float32":
        raise InputError(
            f"--hf-layout is for float32 input, which is all that optimum and transformers.js feed, not {input}: "
            "choose another --input."
        )
    if pixels.resize == "shortest" and not isinstance(pixels.image_size, int):
        raise InputError(
            "--hf-layout is for square images where they are cut out of larger ones: optimum and transformers.js know "
            "only one shortest side; choose --resize squash."
        )
    for file in files:
        if file.format == "onnx" and PRECISIONS[file.precision].bytes * spec.num_parameters > LARGEST:
            raise InputError(
                f"--hf-layout is for models in one file, and {spec.name} in {file.precision} is too large for one: "
                "choose --float16 or --int8."
            )


def write_hub_folder(folder: Path, record: ModelRecord, input: InputKind, artifacts: Sequence[Artifact]) -> None:
    """Write `folder`, which is not there yet, from the .onnx files among `artifacts`: links to them where possible."""
    models = {artifact.precision: artifact for artifact in artifacts if artifact.format == "onnx"}
    with output_errors(folder):
        (folder / _ONNX).mkdir(parents=True)
        for precision, artifact in models.items():
            _link(Path(artifact.path), folder / _ONNX / MODELS[precision][0])
        contents = {_CONFIG: config_of(record, tuple(models)), _PREPROCESSOR: preprocessor_of(record, input)}
        for name, content in contents.items():
            (folder / name).write_text(json_text(content) + "\n", encoding="utf-8")


def is_ours(folder: Path) -> bool:
    """Whether `folder` is one that `write_hub_folder` wrote, as its config says."""
    try:
        config = parse_json(json_bytes(folder / _CONFIG))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and str(config.get(_EXPORTED_BY, "")).startswith(PRODUCER)


def is_untouched(folder: Path) -> bool:
    """Whether `folder` is one of ours with nothing else in it."""
    known = {_CONFIG, _PREPROCESSOR, _ONNX, *(f"{_ONNX}/{name}" for name, _ in MODELS.values())}
    return is_ours(folder) and all(path.relative_to(folder).as_posix() in known for path in folder.rglob("*"))


def require_untouched(folder: Path) -> None:
    """Raise OutputError where something that no export has made is in the place of such a folder."""
    with output_errors(folder):
        if folder.is_dir() and any(folder.iterdir()) and not is_untouched(folder):
            raise OutputError(
                f"{folder} holds what no export wrote, so --overwrite does not replace it: move it away, or choose "
                "another folder with --output."
            )


def returning_tokens(spec: ViTSpec) -> ViTSpec:
    """`spec`, of which nobody said what it returns, with the tokens beside an embedding.

    optimum's feature extraction, and that of transformers.js before all else, reads `last_hidden_state`.
    """
    if spec.num_classes is not None or spec.returns:
        return spec
    return spec.with_(returns=(*spec.outputs, "tokens"))


def notes_on(spec: ViTSpec, *, asked: bool) -> list[str]:
    """What the user is to know of the outputs of `spec`, which were `asked` for or are those of `returning_tokens`."""
    if spec.num_classes is not None:
        return []
    names = transformers_names(spec)
    called = " and ".join(names.values())
    if "tokens" not in names:
        return [f"The .onnx files return {called} alone, and optimum reads last_hidden_state: add tokens to --returns."]
    why = "" if asked else " (tokens, because optimum and transformers.js look for them)"
    return [f"The files return {' and '.join(names)}{why}; the .onnx files call them {called}."]


def family_of(record: ModelRecord) -> tuple[str, str]:
    """`model_type` and class in transformers of a model without classifier: as its source told, else by its parts.

    What neither tells apart from a plain ViT is called one: to these tools a family is a name.
    """
    spec, told = record.spec, str(record.weights.get("model_type"))
    if told in _ENCODERS:
        kind = told
    elif spec.pooling == "attention":
        kind = "siglip_vision_model"
    elif spec.embedding_norm:
        kind = "clip_vision_model"
    elif spec.positions == "rotary":
        kind = "dinov3_vit"
    elif spec.pooling == "class_and_distillation":
        kind = "deit"
    elif spec.num_registers:
        kind = "dinov2_with_registers"
    else:
        kind = "vit"
    projects = kind == "clip_vision_model" and PROJECTION in transformers_names(spec).values()
    return kind, "CLIPVisionModelWithProjection" if projects else _ENCODERS[kind]


def config_of(record: ModelRecord, precisions: Sequence[Precision]) -> dict[str, Any]:
    """config.json: what transformers calls the sizes of a ViT, and its classes or, without a classifier, its family.

    Where there is no float32 file, it says which one transformers.js is to take.
    """
    spec = record.spec
    classified = ("vit", "ViTForImageClassification")
    kind, architecture = family_of(record) if spec.num_classes is None else classified
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": kind,
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "intermediate_size": spec.mlp_size,
        "hidden_act": _ACTIVATIONS[spec.gelu],
        "layer_norm_eps": spec.layer_norm_epsilon,
        "image_size": spec.image_size if isinstance(spec.image_size, int) else list(spec.image_size),
        "patch_size": spec.patch_size,
        "num_channels": 3,
        _EXPORTED_BY: f"{PRODUCER} {versions(PRODUCER)[PRODUCER]}",
    }
    if spec.num_classes is not None:
        labels = record.labels or tuple(f"LABEL_{index}" for index in range(spec.num_classes))
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    if spec.num_registers:
        config["num_register_tokens"] = spec.num_registers
    if PROJECTION in transformers_names(spec).values():
        config["projection_dim"] = spec.pre_logits_size
    if record.answers is not None:
        config["problem_type"] = record.answers
    if "float32" not in precisions:
        config["transformers.js_config"] = {"dtype": MODELS[precisions[0]][1]}
    return config


def preprocessor_of(record: ModelRecord, input: InputKind) -> dict[str, Any]:
    """preprocessor_config.json: resize, crop, rescale and normalize, as both tools do in this order.

    Those of float32 input kinds that are no normalized images are the same steps with another mean and std.
    """
    pixels = record.preprocessing
    mean, std = left_to_do(input, pixels)
    height, width = pixels.image_sides
    crops = pixels.resize == "shortest"
    return {
        # The image processor of transformers' own ViT cuts nothing out.
        "image_processor_type": "CLIPImageProcessor" if crops else "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": pixels.resized_side} if crops else {"height": height, "width": width},
        "resample": _RESAMPLE[pixels.interpolation],
        "do_center_crop": crops,
        **({"crop_size": {"height": height, "width": width}} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _link(source: Path, target: Path) -> None:
    """A second name for the file `source`; a copy where the disk has no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
