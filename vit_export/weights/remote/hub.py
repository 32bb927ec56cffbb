"""Repositories of the Hugging Face hub: their safetensors and configuration, through huggingface_hub and its cache."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError, OutputError
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.weights.remote.transfer import (
    AGENT,
    Count,
    Fetched,
    Tell,
    Unreachable,
    disk_error,
    reason,
    within_size,
)

_CONFIG, _PREPROCESSOR = "config.json", "preprocessor_config.json"
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")


def from_hub(location: str, count: Count, tell: Tell) -> Fetched:
    """The folder of the hub's cache that holds the weights at `location`, as `fetch` describes it."""
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import httpx

    repository, revision = _repository(location)
    try:
        try:
            sizes = _listing(repository, revision)
        except Unreachable as error:
            snapshot = _cached_snapshot(location, repository, revision, str(error), tell)
        else:
            snapshot = _snapshot(location, repository, revision, sizes, count)
    except (httpx.HTTPError, EntryNotFoundError, OSError) as error:
        raise _hub_error(error, location, repository, revision) from error
    return Fetched(snapshot, {"location": location, "revision": snapshot.name})


def _repository(location: str) -> tuple[str, str]:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    repository, at, revision = location[3:].partition("@")
    try:
        validate_repo_id(repository)
        if "/" not in repository or (at and (not re.fullmatch(r"\w[\w./-]*", revision, re.ASCII) or ".." in revision)):
            raise HFValidationError
    except HFValidationError as error:
        raise InputError(
            f"'{location}' names no hub repository: expected hf:owner/name or hf:owner/name@revision (a branch, tag "
            "or commit), as in hf:google/vit-base-patch16-224."
        ) from error
    return repository, revision or "main"


def _listing(repository: str, revision: str) -> dict[str, int]:
    """The repository's files and their sizes in bytes (0 where the hub does not say)."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    try:
        info = HfApi(library_name=AGENT).model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except OfflineModeIsEnabled as error:
        raise Unreachable("HF_HUB_OFFLINE is set") from error
    except httpx.TransportError as error:
        raise Unreachable(reason(error)) from error
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise Unreachable(f"its server failed with status {error.response.status_code}") from error
        raise
    except (httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{repository} could not be looked up, no hub answered: check the network, its proxy settings, and "
            "HF_ENDPOINT if it is set."
        ) from error
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _snapshot(location: str, repository: str, revision: str, sizes: dict[str, int], count: Count) -> Path:
    from huggingface_hub import hf_hub_download

    if _SINGLE not in sizes and _INDEX not in sizes:
        raise _no_safetensors(location, repository, sizes)
    folder, at, before, total = Path(), revision, 0, 0

    def get(name: str) -> Path:
        # The first file settles the commit, and records which one the revision means for offline use; every other
        # file is asked for by that commit, so that a push in between cannot mix two versions.
        nonlocal folder, at
        bar = _bar(lambda done: count(before + done, total) if total else None)
        path = Path(hf_hub_download(repository, name, revision=at, tqdm_class=bar, library_name=AGENT))
        folder, at = path.parent, path.parent.name
        return path

    for name in (_CONFIG, _PREPROCESSOR):
        if name in sizes:
            get(name)
    weights = [_SINGLE] if _SINGLE in sizes else _shards(location, get(_INDEX))
    for name in weights:
        if name not in sizes:
            raise InputError(
                f"{location} lacks {name}, which its {_INDEX} names: expected every shard; tell its owner."
            )
    total = sum(sizes[name] for name in weights) if all(sizes[name] for name in weights) else 0
    within_size(total, location)
    for name in weights:
        get(name)
        before += sizes[name]
        if total:
            count(before, total)
    return folder


def _bar(heard: Callable[[int], None]) -> type:
    """A progress bar for huggingface_hub that draws nothing and tells `heard` the bytes of this file so far."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # Xet storage opens a second bar, for bytes on the wire; the file's own bytes are the other one's.
            self._counts = not str(options.get("name")).endswith(".transfer")
            self._done = 0
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self._done += int(n or 0)
            if self._counts:
                heard(self._done)

    return Bar


def _shards(location: str, index: Path) -> list[str]:
    """The files an index names, each checked to be a plain name in the same repository."""
    try:
        names = sorted(set(parse_json(json_bytes(index))["weight_map"].values()))
        plain = [bool(re.fullmatch(r"\w[\w.-]*\.safetensors", name, re.ASCII)) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"The {_INDEX} of {location} is not readable: expected JSON with a weight_map from tensors to shards; use "
            "another repository or revision."
        ) from error
    if not names or not all(plain):
        given = repr(names[plain.index(False)]) if names else "none"
        raise InputError(
            f"The {_INDEX} of {location} names {given} as a shard: expected plain .safetensors file names of the same "
            "repository; do not use this repository."
        )
    return names


def _no_safetensors(location: str, repository: str, sizes: dict[str, int]) -> InputError:
    pickles = sorted(name for name in sizes if name.lower().endswith(_PICKLES))
    if not pickles:
        return InputError(f"{location} holds no {_SINGLE} and no {_INDEX}: give a repository or revision that has one.")
    return InputError(
        f"{location} holds no safetensors, only {pickles[0]}, and such files can run code when opened, so this package "
        f"does not open them: give a converted revision if the hub has one (its pull requests, as in hf:{repository}"
        "@refs/pr/1), or convert it on your machine with save_pretrained(…, safe_serialization=True) of transformers."
    )


def _cached_snapshot(location: str, repository: str, revision: str, why: str, tell: Tell) -> Path:
    """The snapshot as huggingface_hub's cache has it, when the hub cannot be asked."""
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> Path | None:
        path = try_to_load_from_cache(repository, name, revision=revision)
        return Path(path) if isinstance(path, str) else None

    first = cached(_SINGLE) or cached(_INDEX)
    if not first or (first.name == _INDEX and not all(map(cached, _shards(location, first)))):
        raise InputError(
            f"{location} is not in the cache, or not all of it, and the hub cannot be asked ({why}): fetch it once "
            "with a connection, and without HF_HUB_OFFLINE."
        )
    folder = first.parent
    tell(f"The hub cannot be asked ({why}): the cached copy of {location} is used, commit {folder.name}.")
    # None means unknown; huggingface_hub has another value for a file it knows the repository lacks.
    if try_to_load_from_cache(repository, _PREPROCESSOR, revision=revision) is None:
        tell(f"The cached copy of {location} has no {_PREPROCESSOR}; whether the repository has one is not known.")
    return folder


def _hub_error(error: Exception, location: str, repository: str, revision: str) -> InputError | OutputError:
    """One sentence for what huggingface_hub raised."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # a refusal met while looking for a file is reported as a file missing from the cache
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{location} is gated: accept its terms on its page at the hub, then set HF_TOKEN to your access token."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"The hub has no repository {repository}, or it is private: check the owner and the name, or set HF_TOKEN "
            "to an access token that may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{repository} has no revision '{revision}': expected one of its branches, tags or commits.")
    if isinstance(error, errors.HfHubHTTPError):
        todo = {
            401: "set HF_TOKEN to an access token that may read it, or unset one that has expired",
            403: "set HF_TOKEN to an access token that may read it",
            429: "wait a while, or set HF_TOKEN",
        }
        status = error.response.status_code
        return InputError(f"The hub refused {location} (status {status}): {todo.get(status, 'try again later')}.")
    if isinstance(error, OSError) and error.errno is not None:
        return disk_error(Path(constants.HF_HUB_CACHE), error, "set HF_HOME to a folder that can be")
    return InputError(f"{location} could not be fetched completely: check the connection, and call again.")
