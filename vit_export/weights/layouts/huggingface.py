"""Hugging Face transformers: `model.safetensors` with `config.json` and `preprocessor_config.json`.

What differs from family to family is in `huggingface_families`. Sizes, epsilon and activation are in the config, and
the shapes must agree; what a config leaves out is the default of its class.
"""

from collections.abc import Mapping
from dataclasses import replace

from vit_export.base.checks import is_number
from vit_export.base.errors import InputError
from vit_export.model.spec import ImageSize
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts import processors, refusals
from vit_export.weights.layouts.huggingface_config import NOT_TOGETHER, Config, size_of
from vit_export.weights.layouts.huggingface_families import (
    CLIP,
    DEIT,
    FAMILIES,
    MAE,
    SIGLIP,
    Family,
    family_of_keys,
    family_of_type,
)
from vit_export.weights.layouts.mapping import Layout
from vit_export.weights.layouts.sizes import Hints, Sizes, layer_count, shape_of, spec_of
from vit_export.weights.layouts.torch_layouts import (
    Distillation,
    Head,
    Parts,
    TorchNames,
    find_head,
    prefix_before,
    refuse,
    torch_layout,
)

UNSUPPORTED = {
    "relative_position": "relative positions (as BEiT and Swin have them)",
    "mlp.gate_proj": "a gated MLP (SwiGLU)",
    "mlp.weights_in": "a gated MLP (SwiGLU)",
    "decoder.": "a decoder (masked image modelling)",
}

IMAGE_SIZE = 224
"""What a config of any family that leaves it out means."""

TOLD_GELU = {
    "erf": "exact GELU",
    "tanh": "tanh GELU",
    "quick": "quick_gelu (as OpenAI's models; LAION's have the exact GELU)",
}


def layout(file: TensorFile, hints: Hints) -> Layout:
    """Where every canonical parameter is.

    Raises:
        InputError: another architecture, a part this package does not build, or a config that contradicts the shapes.
    """
    config = Config.of(file.path, hints.config)
    family = _family(file, config)
    prefix = prefix_before(file, family.anchor)
    # What wraps the backbone (`module.`) wraps the classifier that is beside it.
    wrapper = prefix.removesuffix(family.base) if f".{prefix}".endswith(f".{family.base}") else prefix
    taken = {f"{wrapper}{start}": why for start, why in family.beside.items()}
    taken |= {f"{prefix}{start}": why for start, why in family.excused.items()}
    excused = {key: why for key in file.tensors for start, why in taken.items() if key.startswith(start)}
    refuse(file, prefix, UNSUPPORTED, excused)
    forms = [form for form in family.forms if f"{prefix}{form.query.format(0)}.weight" in file.tensors]
    names = forms[0] if forms else family.forms[0]
    sizes, assumed = _sizes(file, config, family, names, prefix, hints)
    parts, of_head = _classifier(file, family, prefix, wrapper)
    parts = _biases(file, config, names, prefix, parts)
    sizes, parts, left_out, of_pooling = _pooled(file, config, family, names, prefix, wrapper, sizes, parts)
    spec, found = spec_of(file, sizes, hints)
    if names.register_tokens and not spec.num_registers:
        left_out |= {key: "none of them" for key in file.tensors if key == f"{prefix}{names.register_tokens}"}
    config.agree({"image_size": spec.image_size})
    assumed = {**found, **assumed, **of_head, **of_pooling}
    if "resize" not in hints.pixels and (resizing := processors.assumed_resizing(hints.preprocessor)) is not None:
        assumed["resizing"] = resizing
    made = torch_layout(file, spec, names, prefix, parts, excused | left_out, assumed, family.positions)
    return replace(made, notes=_notes(family, excused), pixels=family.pixels)


def _family(file: TensorFile, config: Config) -> Family:
    """The family that the config names, or that the keys tell.

    Raises:
        InputError: another architecture, or a config of other tensors.
    """
    seen, kind = family_of_keys(file), config.model_type
    family = seen if kind is None else family_of_type(kind)
    if family is None:
        known = ", ".join(name for row in FAMILIES for name in row.model_types)
        raise config.problem("model_type", f"one of {known}", kind, refusals.of_type(kind))
    if family.anchor != seen.anchor:
        raise InputError(
            f"The config.json beside {file.path} says model_type {kind!r:.60}, but the tensors are those of "
            f"{seen.title}: {NOT_TOGETHER}."
        )
    for name, (value, other) in family.expected.items():
        if config.get(name, value) != value:
            raise config.problem(name, repr(value), why=f"{family.title} with {other} is not built")
    return family


def _sizes(
    file: TensorFile, config: Config, family: Family, names: TorchNames, prefix: str, hints: Hints
) -> tuple[Sizes, dict[str, str]]:
    """What shapes and config say of the backbone, and what is assumed of it without a config.

    Raises:
        InputError: they contradict each other, or are of another kind of model.
    """
    anchor, said = f"{prefix}{family.anchor}", bool(config.values)
    if family is SIGLIP and len(file.tensors[anchor].shape) == 2:
        raise InputError(f"{file.path} holds {refusals.NAFLEX}, which vit-export does not build.")
    width, channels, patch, _ = shape_of(file, anchor, 4)
    mlp, _ = shape_of(file, f"{prefix}{names.dense_1.format(0)}.weight", 2)
    layers = layer_count(file.tensors, f"{prefix}{names.layers}")
    arithmetic = {
        **family.arithmetic,
        "layer_norm_epsilon": config.epsilon(family.epsilon),
        "gelu": config.gelu(family.gelu),
    }
    found: dict[str, ImageSize] = {"hidden_size": width, "patch_size": patch, "num_hidden_layers": layers}
    found |= {"num_channels": channels, "intermediate_size": mlp}
    ratio = config.get("mlp_ratio")
    if ratio is not None and not (is_number(ratio) and 0 < ratio <= mlp and int(width * ratio) == mlp):
        raise config.problem("mlp_ratio", f"{mlp / width:g}, as the tensors have it", why=NOT_TOGETHER)
    registers = file.tensors.get(f"{prefix}{names.register_tokens}") if names.register_tokens else None
    if registers is not None and len(registers.shape) == 3:
        found["num_register_tokens"] = arithmetic["num_registers"] = registers.shape[1]
    config.agree(found)
    patches = None
    if names.position_embedding:
        rank = 2 if names.position_embedding.endswith(".weight") else 3
        rows = shape_of(file, f"{prefix}{names.position_embedding}", rank)[-2]
        patches = rows - arithmetic.get("class_token", True) - (family is DEIT)
    heads, assumed = config.whole("num_attention_heads") or (family.num_heads if said else None), dict[str, str]()
    config.agree({} if heads is None else {"head_dim": width // heads})
    if not said:
        gelu, epsilon = arithmetic["gelu"], arithmetic["layer_norm_epsilon"]
        assumed["arithmetic"] = f"transformers' {TOLD_GELU[gelu]} and epsilon {epsilon:g}"
        if family.head_size and hints.num_heads is None and width % family.head_size == 0:
            heads = width // family.head_size
            assumed["heads"] = f"{heads} attention heads of {family.head_size}, as every {family.title} has"
    stated = {
        "config.json": size_of(config.get("image_size", IMAGE_SIZE if said else None)),
        "preprocessor_config.json": processors.size(hints.preprocessor),
    }
    sizes = Sizes(
        patch_size=patch,
        num_layers=layers,
        hidden_size=width,
        mlp_size=mlp,
        num_patches=patches,
        num_heads=heads,
        image_sizes={name: size for name, size in stated.items() if size is not None},
        arithmetic=arithmetic,
    )
    return sizes, assumed


def _classifier(file: TensorFile, family: Family, prefix: str, wrapper: str) -> tuple[Parts, dict[str, str]]:
    """The parts of `family` with the classifier or the two of them, and what is assumed of it.

    Raises:
        InputError: a classifier that is not built.
    """
    head, assumed = find_head(file, f"{wrapper}classifier")
    if head is None and prefix:
        head, assumed = find_head(file, "classifier")
    if family is CLIP and head is not None:
        raise InputError(
            f"{file.path} has the classifier of transformers' CLIPForImageClassification, which reads the mean of the "
            "patches before the last LayerNorm, which is not built: save the tensors but those of "
            f"{head.key}, export that, and classify its embeddings."
        )
    if family is not DEIT:
        return replace(family.parts, head=head), assumed
    second: Head | None = None
    if head is None:
        head, assumed = find_head(file, f"{wrapper}cls_classifier")
        second, also = find_head(file, f"{wrapper}distillation_classifier")
        assumed = assumed | also
        if (head and head.num_classes) != (second and second.num_classes):
            raise InputError(
                f"{file.path} does not hold two classifiers of as many classes (cls_classifier and "
                "distillation_classifier), whose mean is the answer: it is incomplete."
            )
    distillation = Distillation("embeddings.distillation_token", second)
    return replace(family.parts, head=head, distillation=distillation), assumed


def _biases(file: TensorFile, config: Config, names: TorchNames, prefix: str, parts: Parts) -> Parts:
    """`parts` with the biases of queries, keys and values that the config says, or the tensors without one."""
    if not config.values:
        query, key = (f"{prefix}{name.format(0)}.bias" in file.tensors for name in (names.query, names.key))
        return replace(parts, qkv_bias=query, key_bias=key)
    return replace(
        parts, qkv_bias=bool(config.get("qkv_bias", True)), key_bias=bool(config.get("key_bias", parts.key_bias))
    )


def _pooled(
    file: TensorFile,
    config: Config,
    family: Family,
    names: TorchNames,
    prefix: str,
    wrapper: str,
    sizes: Sizes,
    parts: Parts,
) -> tuple[Sizes, Parts, dict[str, str], dict[str, str]]:
    """`sizes` and `parts` with what lies between tokens and answer; keys left out for it; what is assumed of it."""
    changed, assumed, unread = dict(sizes.arithmetic), {}, dict[str, str]()
    pre_logits = ""

    def below(start: str, why: str) -> dict[str, str]:
        return {key: why for key in file.tensors if key.startswith(f"{prefix}{start}")}

    if parts.distillation is not None and parts.distillation.head is not None:
        changed["pooling"] = "class_and_distillation"
    if family is SIGLIP:
        pools = f"{prefix}head.probe" in file.tensors
        config.agree({"vision_use_head": pools})
        if parts.head is not None or not pools:
            changed["pooling"] = "mean"
            unread = below("head.", "the classifier reads the mean of the patches")
        if parts.head is None and not pools:
            assumed["pooling"] = "the mean of the patches as features, which transformers' classifier of SigLIP reads"
    elif family is CLIP:
        pre_logits, changed["pre_logits_activation"] = f"{wrapper}visual_projection", "linear"
        parts = replace(parts, pre_logits=pre_logits, pre_logits_bias=False)
    elif names.pre_logits:
        unread = below("pooler.", "nothing that is built reads it")
        if config.pools and parts.head is None:
            pre_logits, unread = f"{prefix}{names.pre_logits}", {}
        if unread and parts.head is not None:
            assumed["classifier"] = "the classifier reads the class token, not the pooler that is stored beside it"
    size = shape_of(file, f"{pre_logits}.weight", 2)[0] if f"{pre_logits}.weight" in file.tensors else None
    if family is CLIP and size is not None:
        config.agree({"projection_dim": size})
    sizes = replace(
        sizes,
        arithmetic=changed,
        pre_logits_size=size,
        num_classes=parts.head.num_classes if parts.head else None,
    )
    return sizes, parts, unread, assumed


def _notes(family: Family, excused: Mapping[str, str]) -> tuple[str, ...]:
    """What of the file is left out that somebody may look for."""
    counts = {why: list(excused.values()).count(why) for why in family.beside.values()}
    notes = [f"Left out: {why} ({count} tensors)." for why, count in counts.items() if count]
    if family is MAE:
        notes.append("No patches are masked, where transformers' ViTMAEModel masks those that mask_ratio says.")
    return tuple(notes)
