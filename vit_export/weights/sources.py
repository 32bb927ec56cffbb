"""The table of weight sources, and the one way to open any of them: `open_checkpoint`.

A source is told by the names of its tensors, never by the name of a file; adding one is a row and a module with the
function `layout`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vit_export.errors import InputError
from vit_export.labels import check_labels, labels_from_id2label, read_labels
from vit_export.preprocess import Preprocessing
from vit_export.saved_model import ModelRecord, SavedModelParameters
from vit_export.variants import Variant
from vit_export.weights import google, huggingface, keras_file, timm, torchvision
from vit_export.weights.checkpoint import Checkpoint
from vit_export.weights.contents import Contents, identify
from vit_export.weights.fetch import fetch, is_remote
from vit_export.weights.mapping import Layout, MappedParameters
from vit_export.weights.npz import open_npz
from vit_export.weights.positions import Rule
from vit_export.weights.safetensors_file import open_safetensors, open_sharded
from vit_export.weights.sizes import Hints, require_variant
from vit_export.weights.tensors import TensorFile

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_21K_CLASSES = 21_843


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
    variant: Variant | None = None,
    num_heads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Checkpoint:
    """The checkpoint at `location`: a file or folder of any row of `SOURCES`, of Keras or this package, or their home.

    Headers are read and every key is accounted for; values are read when they are asked for. `hf:owner/name[@revision]`
    and `https://…[#sha256=…]` are downloaded first (`progress` is told bytes). `variant` is what the checkpoint has to
    be, `num_heads` the number of attention heads where neither the checkpoint nor the table of variants tells.

    Raises:
        InputError: there is no checkpoint, it is damaged, a pickle, of an unknown layout, or of a model that this
            package does not build.
    """
    origin: dict[str, str] = {"location": str(location)}
    if is_remote(str(location)):
        fetched = fetch(str(location), progress=progress, note=note)
        path, origin = fetched.path, fetched.origin
    elif "://" in str(location):
        raise InputError(
            f"{location} is an address of a kind that is not supported: expected https://… or hf:owner/name, or a file."
        )
    else:
        path = Path(location)
    contents = _with_neighbours(identify(path))
    hints = Hints(
        variant,
        num_heads,
        _json(contents.config),
        _json(contents.preprocessor),
        f"{origin['location']} {contents.path.name}",
    )
    if contents.kind == "saved_model":
        return _own(path, hints)
    if contents.kind in ("keras", "weights_h5"):
        return keras_file.open_keras(contents.path, contents.kind, hints, origin)
    return _foreign(_tensors(contents), hints, origin)


def _with_neighbours(contents: Contents) -> Contents:
    """Add the config files beside a `model.safetensors` that was given alone: by that name they belong to it."""
    if contents.config is not None or contents.preprocessor is not None or contents.path.stem.split(".")[0] != "model":
        return contents
    config, preprocessor = (contents.path.with_name(name) for name in ("config.json", "preprocessor_config.json"))
    return replace(
        contents,
        config=config if config.is_file() else None,
        preprocessor=preprocessor if preprocessor.is_file() else None,
    )


def _tensors(contents: Contents) -> TensorFile:
    openers: dict[str, Callable[[Path], TensorFile]] = {
        "npz": open_npz,
        "safetensors": open_safetensors,
        "safetensors_index": open_sharded,
    }
    return openers[contents.kind](contents.path)


def _own(path: Path, hints: Hints) -> Checkpoint:
    from vit_export.quiet import import_tensorflow

    import_tensorflow()
    parameters = SavedModelParameters(path)
    record = parameters.record
    require_variant(record.spec, hints, path)
    return checkpoint_of(parameters, record, saved_model=path)


def checkpoint_of(parameters: Any, record: ModelRecord, **more: Any) -> Checkpoint:
    """The checkpoint of parameters that this package's `record` describes."""
    return Checkpoint(parameters, record.preprocessing, record.positions, record.labels, record.weights, **more)


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
    labels = _labels(hints, spec.num_classes)
    if labels is None and spec.num_classes == 1000:
        notes.append("The checkpoint has no labels: if its 1000 classes are ImageNet's, add --labels imagenet.")
    if spec.num_classes is not None and not parameters.read("head/kernel").any():
        kind = " (ImageNet-21k)" if spec.num_classes == IMAGENET_21K_CLASSES else ""
        notes.append(
            f"The classifier of {spec.num_classes} classes{kind} is all zeros, so every image gets the same answer: "
            "use --features, or --num-classes and fine-tune."
        )
    weights = {"source": source.name, "trained": True, **origin, "file": file.path.name}
    return Checkpoint(parameters, preprocessing, source.positions, labels, weights, tuple(notes))


def _labels(hints: Hints, num_classes: int | None) -> tuple[str, ...] | None:
    """Labels where the checkpoint says them, or says that its classes are ImageNet-1k's."""
    config = hints.config or {}
    labels = None
    if num_classes is None:
        return None
    if isinstance(config.get("id2label"), Mapping):
        labels = labels_from_id2label(config["id2label"])
    elif names := timm.label_names(config):
        labels = tuple(names)
    elif num_classes == 1000 and (timm.says_imagenet_1k(config) or _named_imagenet_1k(hints.described_as)):
        labels = read_labels("imagenet")
    if labels is not None:
        check_labels(labels, num_classes)
    return labels


def _named_imagenet_1k(name: str) -> bool:
    """Whether a file's name says what it was trained on last, as Google's and timm's do (`…--imagenet2012-…`)."""
    return re.search(r"imagenet2012|ilsvrc.?2012|in1k|imagenet1k", name.lower()) is not None


def _json(path: Path | None) -> Mapping[str, Any] | None:
    if path is None:
        return None
    try:
        if path.stat().st_size > 64 << 20:
            raise ValueError("it is larger than 64 MB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}): correct it or take it away.") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} holds a JSON {type(values).__name__}, expected an object.")
    return values
