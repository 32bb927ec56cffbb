"""Where weights come from, as a record says it: the digests of local files, and what a file of ours was made from."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vit_export.base.files import digest_of_file
from vit_export.weights.containers.safetensors_file import damage_refused

Digests = Callable[[], dict[str, Any]]
"""Fields that take time to compute; later calls of the same one cost nothing."""

_ORIGIN = ("source", "location", "revision", "file", "sha256", "other_files")


def digests_of(path: Path, others: Sequence[Path]) -> Digests:
    """The `sha256` of the file `path`, and as `other_files` those of the files read with it, by name.

    About a second for each GB, so it waits until a record is made. Calling raises InputError when a file is gone.
    """

    @cache
    def digests() -> dict[str, Any]:
        by_file = {}
        for file in (path, *others):
            with damage_refused(file):
                by_file[file] = digest_of_file(file)
        fields: dict[str, Any] = {"sha256": by_file.pop(path)}
        if by_file:
            fields["other_files"] = {file.name: digest for file, digest in by_file.items()}
        return fields

    return digests


def saved_again(known: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """`now`, of a file that a model was saved to, with what was `known` of the model: its first origin is `made_from`.

    Without this the commit of a repository would stand beside the path of a local file.
    """
    kept = {key: value for key, value in known.items() if key not in _ORIGIN}
    if known.get("location") and "made_from" not in kept:
        kept["made_from"] = {key: known[key] for key in _ORIGIN if key in known}
    return {**kept, **now}
