"""Weights by address: a hub repository (`hf:owner/name`) or an `https://` file, fetched once and kept in a cache."""

import re
from pathlib import Path

from vit_export.base.errors import InputError
from vit_export.weights.remote.hub import from_hub
from vit_export.weights.remote.transfer import Count, Fetched, Tell
from vit_export.weights.remote.urls import from_url

__all__ = ["Fetched", "fetch", "is_remote"]


_HUB_PAGE = re.compile(
    r"https://(?:www\.)?(?:huggingface\.co|hf\.co)/(?!datasets/|spaces/|docs/|api/)(\w[\w.-]*/\w[\w.-]*)"
    r"(?:/(tree|blob)/(\w[\w.-]*)(?:/([\w./-]+))?)?/?",
    re.ASCII,
)
"""What a browser shows of a repository: what people copy who mean its weights."""


def shown(location: str) -> str:
    """`location` without what an address may hide: a password, a token."""
    if "://" not in location:
        return location
    if not location.lower().startswith(("https://", "http://")):
        return "the checkpoint"
    from vit_export.weights.remote.connections import address_of

    return address_of(location).shown


def is_remote(location: str) -> bool:
    """Whether `location` is one that `fetch` understands; anything else is a local path."""
    return location.lower().startswith(("hf:", "https://", "http://"))


def fetch(
    location: str, *, cache: Path | None = None, progress: Count | None = None, note: Tell | None = None
) -> Fetched:
    """Bring the weights at `location` to this machine, or find them in the cache.

    `hf:owner/name[@revision]` goes through huggingface_hub, with its cache, tokens and offline mode.
    `https://…[#sha256=…]` is downloaded to `cache` (default $VIT_EXPORT_CACHE, $XDG_CACHE_HOME/vit-export or
    ~/.cache/vit-export), taken up again after a cut, and shared with processes that fetch it at the same time.
    `progress` hears (bytes done, bytes in all) where the size is known, `note` what the user should know.

    Raises:
        InputError: the location is malformed, refused, not there, not weights, or not what its sha256 says.
        OutputError: the cache folder cannot be written, or the disk is full.
    """
    count, tell = progress or (lambda done, total: None), note or (lambda text: None)
    if location.lower().startswith("hf:"):
        return from_hub(location, count, tell)
    if not is_remote(location):
        raise InputError(f"'{location}' is no remote location: expected hf:owner/name, or https:// and a file.")
    if page := _HUB_PAGE.fullmatch(location):
        name, kind, revision, file = page.groups()
        given = f"hf:{name}@{revision}" if revision else f"hf:{name}"
        if kind == "blob" and file:
            given = f"https://huggingface.co/{name}/resolve/{revision}/{file}"
        raise InputError(f"That is a page of the Hugging Face hub, expected a repository or a file: give {given}.")
    return from_url(location, cache, count, tell)
