"""The table of weight sources, and the one way to open any of them: `open_checkpoint`.

A source is told by the names of its tensors, never by the name of a file; adding one is a row and a module with the
function `layout`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.model.labels import check_labels, labels_from_id2label, read_labels
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, Rule
from vit_export.model.saved_model import SavedModelParameters
from vit_export.model.spec import ImageSize, ViTSpec, checked_size
from vit_export.model.variants import Variant, get_variant
from vit_export.weights.checkpoint import OTHER_LABELS, Checkpoint, checkpoint_of
from vit_export.weights.configs import Configs, find_configs
from vit_export.weights.containers.contents import Contents, identify
from vit_export.weights.containers.npz import open_npz
from vit_export.weights.containers.safetensors_file import SafetensorsFile, open_safetensors, open_sharded
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts import (
    google,
    huggingface,
    huggingface_config,
    huggingface_families,
    keras_file,
    processors,
    refusals,
    timm,
    timm_config,
    torchvision,
)
from vit_export.weights.layouts.mapping import Layout, MappedParameters
from vit_export.weights.layouts.sizes import Hints, name_of_sizes, require_variant
from vit_export.weights.naming import own_name, says_something
from vit_export.weights.provenance import digests_of
from vit_export.weights.remote.fetch import fetch, is_remote

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SQUASH = {"resize": "squash", "crop_fraction": 1.0, "interpolation": "bilinear"}
IMAGENET_21K_CLASSES = 21_843

_IMAGENET_1K = re.compile(r"(?:^|[^a-z0-9])(imagenet2012|ilsvrc_?2012|in1k|imagenet_?1k)(?:$|[^a-z0-9])")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SUFFIXES = (".npz", ".safetensors", ".keras", ".h5", ".json")


@dataclass(frozen=True)
class Source:
    """One layout: `holds` tells it by its keys, `layout` maps it; the rest is what its package does by default.

    `positions` is the package's rule for another image size. `scaling` and `resizing` read fields of `Preprocessing`
    from the config files beside a checkpoint, None where those do not say; then `usual_scaling` and `usual_resizing`
    are assumed.
    """

    name: str
    title: str
    holds: Callable[[TensorFile], bool]
    layout: Callable[[TensorFile, Hints], Layout]
    positions: Rule
    usual_scaling: Mapping[str, Any]
    usual_resizing: Callable[[Hints, ViTSpec], Mapping[str, Any]]
    scaling: Callable[[Hints], Mapping[str, Any] | None] = lambda hints: None
    resizing: Callable[[Hints], Mapping[str, Any] | None] = lambda hints: None


def _ends_with(*anchors: str) -> Callable[[TensorFile], bool]:
    return lambda file: any(f".{key}".endswith(tuple(f".{name}" for name in anchors)) for key in file.tensors)


SOURCES = (
    Source(
        "google",
        "Google's vision_transformer and big_vision",
        lambda file: google.prefix_of(file) is not None,
        google.layout,
        "bilinear_aligned",
        HALVES,
        lambda hints, spec: SQUASH,
    ),
    Source(
        "huggingface",
        "Hugging Face transformers",
        _ends_with(*huggingface_families.ANCHORS),
        huggingface.layout,
        "bicubic",
        HALVES,
        lambda hints, spec: SQUASH,
        lambda hints: processors.scaling(hints.preprocessor),
        lambda hints: processors.resizing(hints.preprocessor),
    ),
    Source(
        "timm",
        "timm",
        _ends_with(timm.ANCHOR),
        timm.layout,
        "bicubic_antialiased",
        HALVES,
        lambda hints, spec: {"resize": "shortest", "crop_fraction": 0.9, "interpolation": "bicubic"},
        timm_config.scaling,
        timm_config.resizing,
    ),
    Source(
        "torchvision",
        "torchvision",
        _ends_with(torchvision.ANCHOR),
        torchvision.layout,
        "bicubic_aligned",
        {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
        lambda hints, spec: torchvision.resizing(hints, spec.image_size, spec.num_layers, spec.patch_size),
    ),
)


def open_checkpoint(
    location: str | Path,
    *,
    variant: Variant | str | None = None,
    num_heads: int | None = None,
    image_size: ImageSize | None = None,
    pixels: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Checkpoint:
    """The checkpoint at `location`: a file or folder of any row of `SOURCES`, of Keras or this package, or their home.

    Headers are read and every key is accounted for; values are read when they are asked for. `hf:owner/name[@revision]`
    and `https://…[#sha256=…]` are downloaded first (`progress` is told bytes). `variant` (a row of the table, or its
    name) is what the checkpoint has to be. `num_heads`, `image_size` (pixels along one side, or height and width) and
    `pixels` (fields of `Preprocessing`) are what the caller says of it, and win over files that cannot be read; what
    nobody says is asked for, or assumed and said so (`ModelRecord.assumed`).

    Raises:
        InputError: there is no checkpoint, it is damaged, a pickle, of an unknown layout, or of a model that this
            package does not build.
    """
    row = get_variant(variant) if isinstance(variant, str) else variant
    is_here = not is_remote(str(location))
    if is_here:
        path, origin = _local(location), {"location": str(location)}
    else:
        fetched = fetch(str(location), progress=progress, note=note)
        path, origin = fetched.path, fetched.origin
    contents = identify(path)
    given = {name: value for name, value in (pixels or {}).items() if value is not None}
    configs = Configs()
    # A file that was downloaded alone lies among others that have nothing to do with it.
    if contents.kind in ("npz", "safetensors", "safetensors_index") and (is_here or path.is_dir()):
        configs = find_configs(contents.path, path.is_dir(), heads_given=num_heads is not None, pixels_given=given)
    hints = Hints(
        row,
        num_heads,
        None if image_size is None else checked_size(image_size),
        given,
        configs.config,
        configs.preprocessor,
        configs.config_path,
        contents.path.name if is_here else origin["location"],
    )
    if contents.kind == "saved_model":
        checkpoint = _with_pixels(_own(contents.path, hints), given)
        return replace(checkpoint, called=_called(str(location), contents, checkpoint.spec))
    origin = {"file": contents.path.name, **origin}
    if contents.kind in ("keras", "weights_h5"):
        checkpoint = _with_pixels(keras_file.open_keras(contents.path, contents.kind, hints, origin), given)
        read: tuple[Path, ...] = ()
    else:
        file = _tensors(contents)
        checkpoint = _foreign(file, hints, origin, configs.notes)
        shards = file.files if isinstance(file, SafetensorsFile) else ()
        beside = (*shards, configs.config_path, configs.preprocessor_path)
        read = tuple(other for other in beside if other is not None and other != contents.path)
    # A commit or the sha256 in its origin says what a file from elsewhere is.
    checkpoint = replace(checkpoint, called=_called(str(location), contents, checkpoint.spec))
    return replace(checkpoint, digests=digests_of(contents.path, read)) if is_here else checkpoint


def _local(location: str | Path) -> Path:
    """The path that `location` is.

    Raises:
        InputError: it is no path but an address of an unknown kind, nothing, or the name of a hub repository.
    """
    if not isinstance(location, str | os.PathLike):
        raise InputError(
            f"Weights are of type {type(location).__name__}, expected the path or address of a checkpoint."
        )
    text = str(location)
    if not text.strip():
        raise InputError("The path of the weights is empty: give a file, a folder, https://… or hf:owner/name.")
    if "://" in text:  # not repeated: an address may hold a password
        raise InputError(
            "The weights have an address of a kind that is not supported: expected https://… or "
            "hf:owner/name, or a file."
        )
    looks_like_hub = _HUB_ID.fullmatch(text) and not text.endswith(_SUFFIXES)
    if looks_like_hub and not os.path.exists(text) and not os.path.exists(f"{text}.index"):
        raise InputError(
            f"There is no {text}: check the path, or give hf:{text} for the repository of that name on the hub."
        )
    return Path(location)


def _tensors(contents: Contents) -> TensorFile:
    openers: dict[str, Callable[[Path], TensorFile]] = {
        "npz": open_npz,
        "safetensors": open_safetensors,
        "safetensors_index": open_sharded,
    }
    return openers[contents.kind](contents.path)


def _own(path: Path, hints: Hints) -> Checkpoint:
    from vit_export.base.quiet import import_tensorflow

    import_tensorflow()
    parameters = SavedModelParameters(path)
    require_variant(parameters.spec, hints, path)
    return checkpoint_of(parameters, parameters.record, str(path), saved_model=path)


def _called(location: str, contents: Contents, spec: ViTSpec) -> str | None:
    """What the place of a checkpoint calls it; None for one of ours that remembers its name and has no other now."""
    is_saved_model, says_nothing = contents.kind == "saved_model", not says_something(contents.path.name)
    if (is_saved_model or says_nothing) and spec.name != name_of_sizes(spec):
        return None
    return None if is_saved_model and says_nothing else own_name(location)


def _with_pixels(checkpoint: Checkpoint, pixels: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint that knows how its pixels are made, with the fields of that which the user gave in their place."""
    if not pixels:
        return checkpoint
    described = checkpoint.described(replace(checkpoint.preprocessing, **_whole(pixels)))
    assumed = checkpoint.stated.assumed
    left = checkpoint.stated.without_assumed([topic for topic in assumed if _said(topic, pixels)]).assumed
    return replace(described, stated=described.stated.assuming(left))


def _foreign(file: TensorFile, hints: Hints, origin: dict[str, str], notes: tuple[str, ...]) -> Checkpoint:
    source = next((row for row in SOURCES if row.holds(file)), None)
    if source is None:
        timm_config.refuse_others(file.path, hints.config)
        raise InputError(_unknown(file, hints))
    layout = source.layout(file, hints)
    parameters = MappedParameters(file, layout, source.title)
    spec, said = parameters.spec, [*notes, *layout.notes]
    preprocessing, assumed, overridden = _pixels(source, layout, hints)
    assumed = {**layout.assumed, **assumed}
    if layout.grey:
        said.append("The checkpoint takes grey images: the files take colours and make the grey of them themselves.")
    labels, problem, guess = _labels(hints, spec.num_classes)
    if guess is not None:
        assumed["labels"] = guess
    if labels is None and problem is None and spec.num_classes == 1000:
        said.append("The checkpoint has no labels: if its 1000 classes are ImageNet's, add --labels imagenet.")
    if spec.num_classes is not None and not parameters.read("head/kernel").any():
        kind = " (ImageNet-21k)" if spec.num_classes == IMAGENET_21K_CLASSES else ""
        said.append(
            f"The classifier of {spec.num_classes} classes{kind} is all zeros, so every image gets the same answer: "
            "use --features, or --num-classes and fine-tune."
        )
    weights: dict[str, Any] = {"source": source.name, "trained": True, **origin}
    if source.name == "huggingface" and isinstance(family := (hints.config or {}).get("model_type"), str):
        weights["model_type"] = family
    if overridden:
        weights["overridden"] = ["preprocessing"]
    answers = huggingface_config.problem_type(hints.config) if spec.num_classes is not None else None
    if spec.num_classes == 1 and not huggingface_config.is_config(hints.config):
        assumed["answer"] = "a number as it is for the one output (no sigmoid)"
    record = ModelRecord(
        spec, preprocessing, weights, labels, layout.positions or source.positions, problem_type=answers
    ).assuming(assumed)
    pooler = huggingface_config.pooler_problem(hints.config) if layout.spec.pre_logits_size is None else None
    return Checkpoint(parameters, record, tuple(said), labels_problem=problem, pooler_problem=pooler)


def _unknown(file: TensorFile, hints: Hints) -> str:
    """The message for tensors of no known layout."""
    if any(".lora_A." in key or ".lora_B." in key for key in file.tensors):
        return (
            f"{file.path} is a LoRA adapter without its model, expected a whole model: in Python, merge the two "
            "(PeftModel.from_pretrained(model, folder).merge_and_unload()), save_pretrained what comes out, and give "
            "that."
        )
    kind = (hints.config or {}).get("model_type")
    if isinstance(kind, str) and kind in refusals.TYPES:
        return f"{file.path} is of model_type {kind!r}, as {hints.config_path} says: {refusals.of_type(kind)}."
    if what := refusals.of_keys(file.tensors):
        return f"{file.path} holds {what}."
    some = ", ".join(f"{key:.80}" for key in list(file.tensors)[:4]) or "nothing"
    known = ", ".join(row.title for row in SOURCES)
    return f"{file.path} holds tensors of no layout that vit-export knows (it has {some}): expected that of {known}."


def _pixels(source: Source, layout: Layout, hints: Hints) -> tuple[Preprocessing, dict[str, str], bool]:
    """How pixels are made; what of that is assumed; whether the user replaced what files say."""
    given, overridden = _whole(hints.pixels), False
    spec, own = layout.spec, layout.pixels
    usual_scaling, usual_resizing = source.usual_scaling, source.usual_resizing(hints, spec)
    fields: dict[str, Any] = {}
    assumed: dict[str, str] = {}
    for topic, read, usual in (
        ("scaling", source.scaling, {name: own.get(name, value) for name, value in usual_scaling.items()}),
        ("resizing", source.resizing, {name: own.get(name, value) for name, value in usual_resizing.items()}),
    ):
        stated = None if _said(topic, given) else read(hints)
        known = usual if stated is None else stated
        fields |= known
        overridden |= any(name in given and given[name] != value for name, value in known.items())
        if stated is None and not _said(topic, given):
            assumed[topic] = f"{topic} as {source.title} does it ({_told(topic, known)})"
    made = Preprocessing(spec.image_size, **{**fields, **given})
    if layout.grey and (len({*made.mean}) > 1 or len({*made.std}) > 1):
        raise InputError(
            "The checkpoint takes grey images, and its pixels are scaled by another mean or deviation for each colour: "
            "give those of grey three times (--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5)."
        )
    return made, assumed, overridden


def _said(topic: str, pixels: Mapping[str, Any]) -> bool:
    """Whether the fields of `Preprocessing` that the user gave say all of `topic`, so that no file need be read."""
    if topic == "scaling":
        return {"mean", "std"} <= pixels.keys()
    return topic == "resizing" and "resize" in pixels and "crop_fraction" in _whole(pixels)


def _whole(pixels: Mapping[str, Any]) -> dict[str, Any]:
    """`pixels` with what follows from them: what is squashed is not cropped."""
    return {"crop_fraction": 1.0, **pixels} if pixels.get("resize") == "squash" else dict(pixels)


def _told(topic: str, fields: Mapping[str, Any]) -> str:
    if topic == "scaling":
        mean, std = (",".join(f"{value:g}" for value in fields[name]) for name in ("mean", "std"))
        return f"mean {mean}, std {std}"
    crop = "" if fields["resize"] == "squash" else f", crop {fields['crop_fraction']:.3g}"
    return f"{fields['resize']}{crop}, {fields['interpolation']}"


def _labels(hints: Hints, num_classes: int | None) -> tuple[tuple[str, ...] | None, str | None, str | None]:
    """Labels where the checkpoint says them, or says that its classes are ImageNet-1k's; or why they cannot be used.

    The third says that they rest on a name alone, as Google and timm write it into the names of files and repositories.
    """
    config = hints.config or {}
    if num_classes is None:
        return None, None, None
    try:
        if isinstance(config.get("id2label"), Mapping):
            source = f"The id2label of {hints.config_path}"
            labels = labels_from_id2label(config["id2label"], source)
        elif names := timm_config.label_names(config):
            source = f"The label_names of {hints.config_path}"
            check_labels(names, num_classes, source)
            labels = tuple(names)
        elif num_classes == 1000 and timm_config.says_imagenet_1k(config):
            return read_labels("imagenet"), None, None
        elif num_classes == 1000 and (word := _IMAGENET_1K.search(hints.described_as.lower())):
            return read_labels("imagenet"), None, f"ImageNet's labels, because of {word.group(1)!r} in the name"
        else:
            return None, None, None
        if labels is not None:
            check_labels(labels, num_classes, source)
    except InputError as error:
        return None, f"{error} {OTHER_LABELS}", None
    return labels, None, None
