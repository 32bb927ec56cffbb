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
from vit_export.base.json_file import read_object
from vit_export.model.labels import check_labels, labels_from_id2label, read_labels
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord, Rule
from vit_export.model.saved_model import SavedModelParameters
from vit_export.model.variants import Variant, get_variant
from vit_export.weights.checkpoint import OTHER_LABELS, Checkpoint, checkpoint_of
from vit_export.weights.containers.contents import Contents, identify
from vit_export.weights.containers.npz import open_npz
from vit_export.weights.containers.safetensors_file import SafetensorsFile, open_safetensors, open_sharded
from vit_export.weights.containers.tensors import TensorFile
from vit_export.weights.layouts import google, huggingface, keras_file, timm, torchvision
from vit_export.weights.layouts.mapping import Layout, MappedParameters
from vit_export.weights.layouts.sizes import Hints, require_variant
from vit_export.weights.provenance import digests_of
from vit_export.weights.remote.fetch import fetch, is_remote

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_21K_CLASSES = 21_843

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SUFFIXES = (".npz", ".safetensors", ".keras", ".h5", ".json")


@dataclass(frozen=True)
class Source:
    """One layout: `holds` tells it by its keys, `layout` maps it; the rest is what its package does by default.

    `stated` reads the preprocessing from the config files beside a checkpoint, `preprocessing` are the fields of
    `Preprocessing` where those do not say; `positions` is the package's rule for another image size.
    """

    name: str
    title: str
    holds: Callable[[TensorFile], bool]
    layout: Callable[[TensorFile, Hints], Layout]
    positions: Rule
    preprocessing: Mapping[str, Any]
    stated: Callable[[Hints, int], Preprocessing | None] = lambda hints, size: None


def _ends_with(anchor: str) -> Callable[[TensorFile], bool]:
    return lambda file: any(key == anchor or key.endswith(f".{anchor}") for key in file.tensors)


SOURCES = (
    Source(
        "google",
        "Google's vision_transformer and big_vision",
        lambda file: google.prefix_of(file) is not None,
        google.layout,
        "bilinear_aligned",
        {},
    ),
    Source(
        "huggingface",
        "Hugging Face transformers",
        _ends_with(huggingface.ANCHOR),
        huggingface.layout,
        "bicubic",
        {},
        lambda hints, size: huggingface.preprocessing(hints.preprocessor, size),
    ),
    Source(
        "timm",
        "timm",
        _ends_with(timm.ANCHOR),
        timm.layout,
        "bicubic_antialiased",
        {"resize": "shortest", "crop_fraction": 0.9, "interpolation": "bicubic"},
        lambda hints, size: timm.preprocessing(hints.config, size),
    ),
    Source(
        "torchvision",
        "torchvision",
        _ends_with(torchvision.ANCHOR),
        torchvision.layout,
        "bicubic_aligned",
        {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "resize": "shortest", "crop_fraction": 0.875},
    ),
)


def open_checkpoint(
    location: str | Path,
    *,
    variant: Variant | str | None = None,
    num_heads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Checkpoint:
    """The checkpoint at `location`: a file or folder of any row of `SOURCES`, of Keras or this package, or their home.

    Headers are read and every key is accounted for; values are read when they are asked for. `hf:owner/name[@revision]`
    and `https://…[#sha256=…]` are downloaded first (`progress` is told bytes). `variant` (a row of the table, or its
    name) is what the checkpoint has to be, `num_heads` the number of attention heads where neither the checkpoint nor
    the table of variants tells.

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
    contents = _with_neighbours(identify(path))
    hints = Hints(
        row,
        num_heads,
        _json(contents.config),
        _json(contents.preprocessor),
        contents.config,
        f"{origin['location']} {contents.path.name}",
    )
    if contents.kind == "saved_model":
        return _own(contents.path, hints)
    origin = {"file": contents.path.name, **origin}
    if contents.kind in ("keras", "weights_h5"):
        checkpoint = keras_file.open_keras(contents.path, contents.kind, hints, origin)
        read: tuple[Path, ...] = ()
    else:
        file = _tensors(contents)
        checkpoint = _foreign(file, hints, origin)
        shards = file.files if isinstance(file, SafetensorsFile) else ()
        beside = (*shards, contents.config, contents.preprocessor)
        read = tuple(other for other in beside if other is not None and other != contents.path)
    # A commit or the sha256 in its origin says what a file from elsewhere is.
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


def _with_neighbours(contents: Contents) -> Contents:
    """Add the config files beside a `model.safetensors` that was given alone: by that name they belong to it."""
    if contents.config is not None or contents.preprocessor is not None or contents.path.stem.split(".")[0] != "model":
        return contents
    config, preprocessor = (contents.path.with_name(name) for name in ("config.json", "preprocessor_config.json"))
    return replace(
        contents,
        config=config if os.path.lexists(config) else None,  # a folder or a pipe is refused where it is read
        preprocessor=preprocessor if os.path.lexists(preprocessor) else None,
    )


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


def _foreign(file: TensorFile, hints: Hints, origin: dict[str, str]) -> Checkpoint:
    source = next((row for row in SOURCES if row.holds(file)), None)
    if source is None:
        some = ", ".join(list(file.tensors)[:4]) or "nothing"
        known = ", ".join(row.title for row in SOURCES)
        raise InputError(
            f"{file.path} holds tensors of no layout that vit-export knows (it has {some}): expected that of {known}."
        )
    parameters = MappedParameters(file, source.layout(file, hints), source.title)
    spec, notes = parameters.spec, []
    preprocessing = source.stated(hints, spec.image_size)
    if preprocessing is None:
        preprocessing = Preprocessing(spec.image_size, **source.preprocessing)
        notes.append(f"The checkpoint does not say how images are scaled: taken to be as {source.title} does it.")
    labels, problem = _labels(hints, spec.num_classes)
    if labels is None and problem is None and spec.num_classes == 1000:
        notes.append("The checkpoint has no labels: if its 1000 classes are ImageNet's, add --labels imagenet.")
    if spec.num_classes is not None and not parameters.read("head/kernel").any():
        kind = " (ImageNet-21k)" if spec.num_classes == IMAGENET_21K_CLASSES else ""
        notes.append(
            f"The classifier of {spec.num_classes} classes{kind} is all zeros, so every image gets the same answer: "
            "use --features, or --num-classes and fine-tune."
        )
    weights = {"source": source.name, "trained": True, **origin}
    record = ModelRecord(spec, preprocessing, weights, labels, source.positions)
    return Checkpoint(parameters, record, tuple(notes), labels_problem=problem)


def _labels(hints: Hints, num_classes: int | None) -> tuple[tuple[str, ...] | None, str | None]:
    """Labels where the checkpoint says them, or says that its classes are ImageNet-1k's; or why they cannot be used."""
    config = hints.config or {}
    if num_classes is None:
        return None, None
    try:
        if isinstance(config.get("id2label"), Mapping):
            source = f"The id2label of {hints.config_path}"
            labels = labels_from_id2label(config["id2label"], source)
        elif names := timm.label_names(config):
            source = f"The label_names of {hints.config_path}"
            check_labels(names, num_classes, source)
            labels = tuple(names)
        elif num_classes == 1000 and (timm.says_imagenet_1k(config) or _named_imagenet_1k(hints.described_as)):
            return read_labels("imagenet"), None
        else:
            return None, None
        if labels is not None:
            check_labels(labels, num_classes, source)
    except InputError as error:
        return None, f"{error} {OTHER_LABELS}"
    return labels, None


def _named_imagenet_1k(name: str) -> bool:
    """Whether a file's name says what it was trained on last, as Google's and timm's do (`…--imagenet2012-…`)."""
    return re.search(r"imagenet2012|ilsvrc.?2012|in1k|imagenet1k", name.lower()) is not None


def _json(path: Path | None) -> Mapping[str, Any] | None:
    return None if path is None else read_object(path)
