"""What a checkpoint is called: like its repository, its file or its folder, whichever is the first to say something."""

import os
import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vit_export.model.spec import LONGEST_NAME, is_name
from vit_export.weights.remote.fetch import is_remote

_SUFFIX = re.compile(r"(\.weights|\.safetensors)?(\.index)?\.(safetensors|npz|keras|h5|json|bin)$", re.IGNORECASE)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Of these and numbers are names made that tools give to the files of every model, and folders of all of them.
_SAYS_NOTHING = re.compile(
    "model|pytorch|tf|flax|keras|saved|savedmodel|weights|checkpoints?|ckpt|best|last|latest|final|ema|epoch|step|global|"
    "exports?|outputs?|snapshots|resolve|main|blob|raw|download|" + _COMMIT.pattern
)


def own_name(location: str) -> str | None:
    """The name for files that are made of the checkpoint at `location`; None where nothing there says one.

    It is `hf:owner/name`'s name, else that of the file without what its format adds, else, for a file called like
    those of every model ('model.safetensors'), that of the folder it is in. What files cannot be called by everywhere
    is left out of it.
    """
    parts = [*_parts(location), ""]
    for part, folder in pairwise(parts):
        if _says_something(part):
            return _as_file_name(part)
        if re.search(r"\d", part) and not _COMMIT.fullmatch(part) and _says_something(folder):
            return _as_file_name(f"{folder}-{part}")  # one of several of a training: checkpoint-500
    return None


def says_something(name: str) -> bool:
    """Whether the file or folder called `name` is not called like those of every model."""
    return _says_something(_SUFFIX.sub("", name))


def _parts(location: str) -> Iterator[str]:
    """The names in `location`, the nearest one first, without the format of a file."""
    if location.lower().startswith("hf:"):
        yield from reversed(location[3:].partition("@")[0].split("/"))
        return
    if is_remote(location):
        names = unquote(urlsplit(location).path).split("/")
    else:
        names = list(Path(os.path.abspath(location)).parts[1:])
    if names and (is_remote(location) or not os.path.isdir(location)):
        names[-1] = _SUFFIX.sub("", names[-1])
    for name in reversed(names):
        # The hub's cache calls the folder of a repository models--owner--name.
        yield name.rpartition("--")[2] if name.startswith("models--") else name


def _says_something(name: str) -> bool:
    words = [word for word in re.split(r"[\W_]+", name.lower()) if word and not word.isdecimal()]
    said = any(not _SAYS_NOTHING.fullmatch(word) for word in words)
    return said and _as_file_name(name) is not None


def _as_file_name(text: str) -> str | None:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:LONGEST_NAME].rstrip("._-")
    if not is_name(plain):  # 'aux.v2', which is a device under Windows
        plain = plain.replace(".", "_")
    return plain if is_name(plain) else None
