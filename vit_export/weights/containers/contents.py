"""What a file or folder of weights is, told by its content (its name may say anything), and what it is not."""

import codecs
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vit_export.base.errors import InputError
from vit_export.weights.containers.hdf5 import CONFIG, OWN_MODELS, TENSORFLOW_TRANSFORMERS, WEIGHTS
from vit_export.weights.containers.npz import open_zip
from vit_export.weights.containers.safetensors_file import damage_refused, listed, size_of_file

Kind = Literal["saved_model", "npz", "safetensors", "safetensors_index", "keras", "weights_h5"]

_HEAD = 4096  # bytes of a file that are looked at
_SINGLE, _INDEX = ".safetensors", ".safetensors.index.json"
_EXPORT = "saved_model"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_CONVERT_PICKLE = (
    "a pickle, which can run any code when it is opened: convert it to safetensors where you trust it "
    "(`safetensors.torch.save_file(torch.load(path, weights_only=True), 'model.safetensors')`), then give that file."
)
_CONVERT_TENSORFLOW = f"a TensorFlow checkpoint, {OWN_MODELS}"
_CONVERT_FLAX = (
    "flax msgpack, expected safetensors, .npz, .keras or a SavedModel: load it in flax and save its arrays with "
    "np.savez, their names joined by '/', as Google's are; or look for the same model in safetensors."
)
_CONVERT_FLAX_TRANSFORMERS = (
    "flax msgpack, expected safetensors: with transformers 4, "
    "ViTForImageClassification.from_pretrained('its folder', from_flax=True).save_pretrained('new') writes them; give "
    "that folder."
)
_EXPORTED = "an exported model, not a checkpoint: give the weights that it was exported from."


@dataclass(frozen=True)
class Contents:
    """What was found: `path` is what to open as `kind` says, for 'saved_model' the folder with saved_model.pb."""

    kind: Kind
    path: Path


def identify(path: Path) -> Contents:
    """What `path` is, from the first 4 KB of a file (of a zip, its list of members too) or the names in a folder.

    Raises:
        InputError: there is nothing, or nothing that this package opens; the message names the way out.
    """
    if os.path.isdir(path):
        return _folder(path)
    if not os.path.exists(path) and os.path.exists(f"{path}.index"):
        raise InputError(f"{path} is {_CONVERT_TENSORFLOW}")
    size = size_of_file(path)
    with damage_refused(path), open(path, "rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Contents(_zip(path), path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return Contents("weights_h5", path)
    # Eight bytes of length, of which the highest are zero, then JSON.
    if head[8:9] == b"{" and b"\0" in head[:8]:
        return Contents("safetensors", path)
    if head.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{"):
        return Contents(_json(path, head), path)
    found = next((what for holds, what in _REFUSED if holds(head)), None)
    if found is None and (tail == _TABLE_MAGIC or re.search(r"\.data-\d{5}-of-\d{5}$", path.name)):
        found = _CONVERT_TENSORFLOW
    if found is not None:
        raise InputError(f"{path} is {found}")
    raise InputError(
        f"{path} is no file of weights that vit-export knows: expected safetensors, .npz, .keras, .weights.h5 or the "
        "folder of a SavedModel."
    )


def _zip(path: Path) -> Kind:
    archive = open_zip(path)
    names = archive.namelist()
    archive.close()
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        raise InputError(f"{path} is {_CONVERT_PICKLE}")
    if {CONFIG, WEIGHTS} <= set(names):
        return "keras"
    if any(name.endswith(".npy") for name in names):
        return "npz"
    raise InputError(
        f"{path} is a zip that holds {listed(names) or 'nothing'}, expected the .npy arrays of an .npz, or the "
        f"{CONFIG} and {WEIGHTS} of a .keras file: unpack it and give what is in it."
    )


def _json(path: Path, head: bytes) -> Kind:
    if b'"weight_map"' not in head:
        raise InputError(
            f"{path} is a JSON file without a weight_map, expected weights or a *{_INDEX}: give its folder, or "
            "the weights themselves."
        )
    if b".safetensors" not in head and b'.bin"' in head:
        raise InputError(f"{path} is an index of files each of which is {_CONVERT_PICKLE}")
    if b".safetensors" not in head and b'.weights.h5"' in head:
        raise InputError(
            f"{path} is an index of Keras weights in several files, expected one file: save the model again with "
            "model.save('model.keras') or without max_shard_size."
        )
    return "safetensors_index"


def _folder(path: Path) -> Contents:
    with damage_refused(path):
        names = sorted(os.listdir(path))
    if "saved_model.pb" in names:
        return Contents("saved_model", path)
    # Shards lie beside their index: they count only where there is none.
    candidates = (
        [name for name in (f"model{_SINGLE}", f"model{_INDEX}") if name in names]
        or [name for name in names if name.endswith(_INDEX)]
        or [name for name in names if name.endswith(_SINGLE)]
    )
    # The folder of an export: its files beside the SavedModel that they were made from.
    exported = os.path.isfile(path / _EXPORT / "saved_model.pb")
    if exported and not candidates:
        return Contents("saved_model", path / _EXPORT)
    candidates += [_EXPORT] if exported else []
    if len(candidates) > 1:
        raise InputError(
            f"{path} holds several sets of weights ({listed(candidates)}), expected one: give one of these, as in "
            f"{path / candidates[-1]}, or the *{_INDEX} if they are parts of one."
        )
    if candidates:
        return identify(path / candidates[0])
    if pickle := next((name for name in _PICKLES if name in names), None):
        raise InputError(f"{path / pickle}, all the weights in this folder, is {_CONVERT_PICKLE}")
    if "flax_model.msgpack" in names:
        raise InputError(
            f"{path / 'flax_model.msgpack'}, all the weights in this folder, is {_CONVERT_FLAX_TRANSFORMERS}"
        )
    if "tf_model.h5" in names:
        raise InputError(f"{path / 'tf_model.h5'}, all the weights in this folder, holds {TENSORFLOW_TRANSFORMERS}")
    if WEIGHTS in names and CONFIG in names:
        raise InputError(
            f"{path} is a preset of keras_hub, expected a model: load it in Python (from_preset) and give it to "
            "vit_export.export, or save it there (model.save('model.keras')) and give that file."
        )
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        raise InputError(f"{path} holds {_CONVERT_TENSORFLOW}")
    raise InputError(
        f"{path} is a folder without saved_model.pb, model{_SINGLE}, model{_INDEX} or any other *{_SINGLE} (it holds "
        f"{listed(names) or 'nothing'}): give the folder or the file that holds the weights."
    )


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(signatures)


def _matches(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda head: compiled.match(head) is not None


_TABLE_MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"  # at the end of the table that a TensorFlow checkpoint's .index is

# What people take for a checkpoint. The protobuf formats have no signature, but their first fields are always the same.
_REFUSED: tuple[tuple[Callable[[bytes], bool], str], ...] = (
    (_matches(rb"\x80[\x02-\x05]"), _CONVERT_PICKLE),
    (
        _starts(b"\x93NUMPY"),
        "a single .npy array, expected every weight of a model by its name: save them all with np.savez.",
    ),
    (_matches(rb".{4}TFL3"), f"a .tflite file, {_EXPORTED}"),
    (
        _matches(rb"\x08\x01\x12"),
        "the graph of a SavedModel without its variables: give the folder that it was written in.",
    ),
    (_matches(rb"\x08[\x02-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]"), f"an .onnx file, {_EXPORTED}"),
    (_matches(rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[A-Za-z_]"), _CONVERT_FLAX),
    (_starts(b"model_checkpoint_path:"), _CONVERT_TENSORFLOW),
    (
        _matches(rb"\xff\xd8\xff|\x89PNG|GIF8|BM....\0\0\0\0|RIFF....WEBP"),
        "an image, expected weights: give images to the options that take them.",
    ),
    (_matches(rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd"), "compressed: unpack it and give what is in it."),
    (_matches(rb".{257}ustar"), "a tar archive: unpack it and give what is in it."),
    (
        _starts(b"version https://git-lfs"),
        "a Git LFS pointer, which stands for the file: fetch the file itself with `git lfs pull`.",
    ),
    (
        _matches(rb"\s*<(!doctype|html|!DOCTYPE|HTML)"),
        "a web page: download the file itself, by the link that its site offers for that.",
    ),
)
