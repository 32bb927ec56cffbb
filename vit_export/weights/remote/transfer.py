"""What fetching from the hub and fetching by URL share: the result, the size limit, and words for what went wrong."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vit_export.base.errors import InputError, OutputError

LARGEST = 20 * 10**9
"""Bytes; no Vision Transformer comes near, so more than this is the wrong address."""

AGENT = "vit-export"
"""The name that servers are told."""

Count = Callable[[int, int], None]
"""Hears the bytes done and the bytes in all."""

Tell = Callable[[str], None]
"""Hears what the user should know."""


@dataclass(frozen=True)
class Fetched:
    """What was fetched: a local file (URL) or folder (hub), and where it came from, ready for JSON.

    `origin` holds 'location' (no credentials, no query) with the commit as 'revision' (hub) or the 'file' and
    its 'sha256' (URL).
    """

    path: Path
    origin: dict[str, str]


class Unreachable(Exception):
    """Nobody answered; the text says why. A cached copy may still do."""


def reason(error: Exception) -> str:
    """Why a connection failed, without the library's own words: those may quote an address and its credentials."""
    # By name: requests (files) and httpx (the hub) have classes of their own, and call them the same.
    kind = type(error).__name__
    if "Timeout" in kind:
        return "no answer in time"
    if kind == "ProxyError":
        return "the proxy refused"
    return "its certificate is not trusted" if "CERTIFICATE" in str(error).upper() else "no connection"


def within_size(size: int, shown: str) -> None:
    """Raise InputError for more bytes than any Vision Transformer has."""
    if size > LARGEST:
        raise InputError(
            f"{shown} is {size / 1e9:.1f} GB, expected at most {LARGEST / 1e9:g} GB: give the address of one Vision "
            "Transformer."
        )


def disk_error(folder: Path, error: OSError, remedy: str) -> OutputError:
    """The error for a cache folder that the operating system refuses; `remedy` says what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    why = "no space left on its disk" if full else error.strerror or type(error).__name__
    return OutputError(f"The cache folder {folder} cannot be written ({why}): {remedy}.")
