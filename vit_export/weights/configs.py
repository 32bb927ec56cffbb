"""The config files of a checkpoint: beside its weights, under the usual names or any other."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError
from vit_export.base.json_file import read_json, read_object
from vit_export.weights.layouts.huggingface_config import is_config

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
_WEIGHTS = (".safetensors", ".npz")
_MOST_BYTES = 1 << 20
"""Of a file of another name that is opened to see what it is: configs are small, lists of labels may not be."""
_MOST_FILES = 100

_SHARD = re.compile(r"-\d{5}-of-\d{5}")

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Configs:
    """What was found, each with the file it was read from, and what is to be said of it."""

    config: Values | None = None
    preprocessor: Values | None = None
    config_path: Path | None = None
    preprocessor_path: Path | None = None
    notes: tuple[str, ...] = ()


def find_configs(weights: Path, is_folder: bool, *, heads_given: bool, pixels_given: Iterable[str]) -> Configs:
    """The configs that belong to the file `weights`, which was given itself, or as a folder with this one in it.

    In a folder that was given, and beside a file that is called model….safetensors, they have the usual names. Others
    belong to weights that are alone in their folder, or whose name they begin with.

    Raises:
        InputError: one cannot be read, and what it would say (heads; scaling and resizing) was not given.
    """
    folder, stem = weights.parent, weights.name.split(".")[0]
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return Configs()
    sets = {_SHARD.sub("", name) for name in names if name.endswith(_WEIGHTS)}
    alone = len(sets) <= 1
    belongs = is_folder or alone or stem == "model" or stem.startswith("model-")
    notes: list[str] = []
    config_path = _usual(folder, CONFIG, names) if belongs else None
    preprocessor_path = _usual(folder, PREPROCESSOR, names) if belongs else None
    config, preprocessor = (
        _read(config_path, heads_given, "--num-heads", notes),
        _read(preprocessor_path, {"mean", "std", "resize"} <= {*pixels_given}, "--mean, --std and --resize", notes),
    )
    others = [
        name
        for name in names
        if name.endswith(".json") and name not in (CONFIG, PREPROCESSOR) and (belongs or name.startswith(stem))
    ]
    if not _describes(config):
        config, config_path = _other(folder, others, _describes, notes) or (config, config_path)
    if preprocessor is None:
        preprocessor, preprocessor_path = _other(folder, others, _prepares, notes) or (None, None)
    if preprocessor is not None and isinstance(preprocessor.get("image_processor"), Mapping):
        preprocessor = preprocessor["image_processor"]
    return Configs(config, preprocessor, config_path, preprocessor_path, tuple(notes))


def _usual(folder: Path, name: str, names: list[str]) -> Path | None:
    return folder / name if name in names else None


def _describes(values: Values | None) -> bool:
    """Whether they describe a model: transformers' or timm's config."""
    return values is not None and (is_config(values) or not {"architecture", "pretrained_cfg"}.isdisjoint(values))


def _prepares(values: Values | None) -> bool:
    """Whether they describe a processor of images."""
    if values is None or _describes(values):
        return False
    kinds = {"image_mean", "image_std", "do_rescale", "do_normalize", "image_processor_type", "feature_extractor_type"}
    return not kinds.isdisjoint(values) or isinstance(values.get("image_processor"), Mapping)


def _other(folder: Path, names: list[str], wanted: Any, notes: list[str]) -> tuple[Values, Path] | None:
    """The one file of `names` whose content is `wanted`.

    Raises:
        InputError: there are several.
    """
    found = []
    for name in names[:_MOST_FILES]:
        path = folder / name
        try:
            if not path.is_file() or path.stat().st_size > _MOST_BYTES:
                continue
            values = read_json(path)
        except (OSError, InputError):
            continue
        if isinstance(values, dict) and wanted(values):
            found.append((values, path))
    if len(found) > 1:
        listed = ", ".join(path.name for _, path in found[:4])
        raise InputError(
            f"{folder} holds several files that could describe the weights ({listed}): leave the one that does, or "
            f"call it {CONFIG}."
        )
    if found:
        notes.append(f"{found[0][1].name} is taken for what describes the weights: it lies beside them.")
    return found[0] if found else None


def _read(path: Path | None, needless: bool, options: str, notes: list[str]) -> Values | None:
    """The content of `path`; None without one, or where it cannot be read and is `needless`: `options` were given."""
    if path is None:
        return None
    try:
        return read_object(path)
    except InputError as error:
        if not needless:
            raise InputError(f"{error} With {options} it is not needed.") from error
        notes.append(f"{error} It is not used, as {options} are given.")
        return None
