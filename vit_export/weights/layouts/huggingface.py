"""Hugging Face's ViT: `model.safetensors` with `config.json` and `preprocessor_config.json`.

The names on disk are those of transformers 4 (`encoder.layer.N.attention.attention.query`); transformers 5 also has
shorter ones (`layers.N.attention.q_proj`). Sizes, epsilon and activation are in the config, and the shapes must agree.
"""

from collections.abc import Mapping
from typing import Any

from vit_export.base.checks import is_number, is_whole
from vit_export.base.errors import InputError
from vit_export.model.preprocessing import Interpolation, Preprocessing, Resize
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts.mapping import Layout
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of
from vit_export.weights.layouts.torch_layouts import Parts, TorchNames, prefix_before, refuse, torch_layout

ANCHOR = "embeddings.patch_embeddings.projection.weight"
EPSILON = 1e-12
"""`layer_norm_eps` of transformers' ViTConfig where a config does not say."""

GELU = {"gelu": "erf", "gelu_python": "erf", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_fast": "tanh"}
"""`hidden_act` by transformers' name; gelu_python and gelu_fast are the same functions written out."""


def _names(
    layer: str, attention: tuple[str, str, str, str], norms: tuple[str, str], mlp: tuple[str, str], layers: str
) -> TorchNames:
    query, key, value, output = attention
    return TorchNames(
        patch_embedding="embeddings.patch_embeddings.projection",
        class_token="embeddings.cls_token",
        position_embedding="embeddings.position_embeddings",
        attention_norm=f"{layer}.{norms[0]}",
        query=f"{layer}.{query}",
        key=f"{layer}.{key}",
        value=f"{layer}.{value}",
        output=f"{layer}.{output}",
        mlp_norm=f"{layer}.{norms[1]}",
        dense_1=f"{layer}.{mlp[0]}",
        dense_2=f"{layer}.{mlp[1]}",
        norm="layernorm",
        head="classifier",
        layers=layers,
        pre_logits="pooler.dense",
    )


LONG = _names(
    "encoder.layer.{}",
    ("attention.attention.query", "attention.attention.key", "attention.attention.value", "attention.output.dense"),
    ("layernorm_before", "layernorm_after"),
    ("intermediate.dense", "output.dense"),
    "encoder.layer.",
)
SHORT = _names(
    "layers.{}",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    ("layernorm_before", "layernorm_after"),
    ("mlp.fc1", "mlp.fc2"),
    "layers.",
)

UNSUPPORTED = {
    "distillation_token": "DeiT's distillation token",
    "register_tokens": "register tokens",
    "layer_scale": "DINOv2's own layer names and layer scale",
    "relative_position": "relative positions",
    "decoder": "a decoder (masked image modelling)",
}


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: another architecture, a part this package does not build, or a config that contradicts the shapes.
    """
    prefix = prefix_before(file, ANCHOR) or ""
    config = hints.config or {}
    kind = config.get("model_type", "vit")
    if kind != "vit":
        raise InputError(
            f"The config.json beside {file.path} says model_type {kind!r}, expected 'vit': "
            "that is another architecture, which vit-export does not build."
        )
    refuse(file, prefix, UNSUPPORTED)
    tensors = file.tensors
    names = SHORT if any(key.startswith(f"{prefix}{SHORT.layers}") for key in tensors) else LONG
    width, _, patch, _ = shape_of(file, f"{prefix}{ANCHOR}", 4)
    _, tokens, _ = shape_of(file, f"{prefix}{names.position_embedding}", 3)
    mlp, _ = shape_of(file, f"{prefix}{names.dense_1.format(0)}.weight", 2)
    # The classifier is beside the backbone, not in it.
    head, pre = "classifier.weight", f"{prefix}{names.pre_logits}.weight"
    layers = layer_count(tensors, f"{prefix}{names.layers}")
    _agree(
        file, config, {"hidden_size": width, "patch_size": patch, "intermediate_size": mlp, "num_hidden_layers": layers}
    )
    sizes = Sizes(
        patch_size=patch,
        num_layers=layers,
        hidden_size=width,
        mlp_size=mlp,
        num_patches=tokens - 1,
        num_classes=shape_of(file, head, 2)[0] if head in tensors else None,
        num_heads=_whole(file, config, "num_attention_heads"),
        pre_logits_size=shape_of(file, pre, 2)[0] if pre in tensors and head not in tensors else None,
        arithmetic={"layer_norm_epsilon": _epsilon(file, config), "gelu": _gelu(file, config)},
    )
    parts = Parts(qkv_bias=bool(config.get("qkv_bias", True)))
    mask = f"{prefix}embeddings.mask_token"
    excused = {mask: "used in pre-training alone"} if mask in tensors else {}
    if head in tensors:
        excused |= {key: "the classifier does not read it" for key in tensors if key.startswith(f"{prefix}pooler.")}
    spec = spec_of(file, sizes, hints)
    _agree(file, config, {"image_size": spec.image_size})
    found = torch_layout(spec.with_(num_classes=None), names, prefix, parts, excused)
    if spec.num_classes is None:
        return found
    whole = torch_layout(spec, names, "", parts, excused)
    heads = {name: whole.pieces[name] for name in ("head/kernel", "head/bias")}
    return Layout(spec, {**found.pieces, **heads}, excused)


def preprocessing(known: Mapping[str, Any] | None, image_size: int) -> Preprocessing | None:
    """What `preprocessor_config.json` says, or None without one.

    Raises:
        InputError: it says something that `Preprocessing` cannot express.
    """
    if known is None:
        return None

    def unclear(what: str, value: Any, expected: str) -> InputError:
        return InputError(
            f"preprocessor_config.json says {what} {value!r}, expected {expected}: "
            "correct the file, or take it away and give --mean, --std, --resize, --crop-fraction and --interpolation."
        )

    factor = known.get("rescale_factor", 1 / 255)
    if known.get("do_rescale", True) and (not is_number(factor) or not abs(factor * 255 - 1) <= 1e-4):
        raise unclear("rescale_factor", factor, "1/255")
    normal = known.get("do_normalize", True)
    values = {
        "mean": known.get("image_mean", (0.5, 0.5, 0.5)) if normal else (0.0, 0.0, 0.0),
        "std": known.get("image_std", (0.5, 0.5, 0.5)) if normal else (1.0, 1.0, 1.0),
    }
    interpolations: dict[int, Interpolation] = {2: "bilinear", 3: "bicubic"}
    resample = known.get("resample", 2)
    if not isinstance(resample, int) or resample not in interpolations:
        raise unclear("resample", resample, "2 (bilinear) or 3 (bicubic)")
    if not known.get("do_resize", True):
        raise unclear("do_resize", False, "true")
    size, crop = known.get("size", image_size), known.get("crop_size")
    resize: Resize = "squash"
    fraction = 1.0
    if isinstance(size, Mapping) and isinstance(size.get("shortest_edge"), int):
        resize = "shortest"
        if known.get("do_center_crop", False):
            side = crop.get("height") if isinstance(crop, Mapping) else crop
            if not isinstance(side, int) or not 0 < side <= size["shortest_edge"]:
                raise unclear("crop_size", crop, f"at most the shortest_edge {size['shortest_edge']}")
            fraction = side / size["shortest_edge"]
    elif known.get("do_center_crop", False) and crop not in (None, size):
        raise unclear("do_center_crop with size", size, "a size with shortest_edge")
    elif isinstance(size, Mapping) and not isinstance(size.get("height"), int):
        raise unclear("size", dict(size), "height and width, or shortest_edge")
    elif isinstance(size, Mapping) and size["height"] != size.get("width"):
        raise unclear("size", dict(size), "a square")
    return Preprocessing(
        image_size, resize=resize, crop_fraction=fraction, interpolation=interpolations[resample], **values
    )


def _whole(file: TensorFile, config: Mapping[str, Any], field: str) -> int | None:
    value = config.get(field)
    if value is not None and not is_whole(value, 1):
        raise InputError(
            f"The config.json beside {file.path} says {field} {value!r}, expected a whole number from 1: correct it."
        )
    return value


def _agree(file: TensorFile, config: Mapping[str, Any], found: Mapping[str, int]) -> None:
    for field, size in found.items():
        value = config.get(field, size)
        if value not in (size, [size, size]):
            raise InputError(
                f"The config.json beside {file.path} says {field} {value!r}, but the tensors have {size}: "
                "the two files do not belong together."
            )


def _epsilon(file: TensorFile, config: Mapping[str, Any]) -> float:
    value = config.get("layer_norm_eps", EPSILON)
    if not is_number(value) or not 0 < value < 1:
        raise InputError(
            f"The config.json beside {file.path} says layer_norm_eps {value!r}, expected a small positive number."
        )
    return float(value)


def _gelu(file: TensorFile, config: Mapping[str, Any]) -> str:
    name = config.get("hidden_act", "gelu")
    if not isinstance(name, str) or name not in GELU:
        raise InputError(
            f"The config.json beside {file.path} says hidden_act {name!r}, expected one of {', '.join(GELU)}: "
            "vit-export builds Vision Transformers with GELU alone."
        )
    return GELU[name]
