"""Servers of files: which addresses and redirects are followed, and which answers are refused."""

import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from vit_export.base.errors import InputError
from vit_export.base.text import without_secrets
from vit_export.weights.remote.transfer import Unreachable

if TYPE_CHECKING:
    from requests import Response


@dataclass(frozen=True)
class Address:
    """A URL, the part of it that may be shown, its file's name, that in the cache, and the sha256 required, if any."""

    url: str
    shown: str
    file: str
    name: str
    sha256: str | None


def address_of(location: str) -> Address:
    """Take an https:// location apart; raises InputError for what is no such address."""
    text, mark, fragment = location.partition("#")
    url = _taken_apart(text)
    if url is None:
        # Not shown: in an address that cannot be taken apart, any part may be the password.
        raise InputError("The address given is not a URL: expected https://host/file, special characters as %xx.")
    if url.scheme == "http" and not _is_loopback(url):
        raise InputError(f"{_shown(text)} is plain http, which anyone on the way can change: give an https:// address.")
    digest = re.fullmatch("sha256=([0-9a-fA-F]{64})", fragment)
    if mark and not digest:
        raise InputError(
            f"{_shown(text)} is followed by '#' and {len(fragment)} characters: expected #sha256= and 64 hex digits, "
            "or nothing; write a '#' that belongs to the address as %23."
        )
    plain = re.sub(r"[^\w.-]", "_", unquote(url.path).rpartition("/")[2], flags=re.ASCII)[-100:].lstrip(".")
    file = plain or "file"
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:24]}-{file}"
    return Address(text, _shown(text), file, name, digest[1].lower() if digest else None)


def _shown(url: str) -> str:
    """A URL without user, password, query and fragment: what they hold may be secret."""
    return re.split("[?#]", without_secrets(url), maxsplit=1)[0]


def _taken_apart(text: str) -> SplitResult | None:
    """A URL's parts as requests understands it, which is who connects; None for what is no URL."""
    import requests

    try:
        url = urlsplit(requests.Request("GET", text).prepare().url or "")
    except (requests.RequestException, ValueError):
        return None
    return url if url.hostname and text.isprintable() else None


def _is_loopback(url: SplitResult) -> bool:
    return url.hostname in ("127.0.0.1", "localhost", "::1")


def redirected(url: str, location: str, address: Address) -> str:
    """Where `url` redirects to by its header's `location`; raises InputError where that must not be followed."""
    target = _taken_apart(urljoin(url, location))
    if target and (
        target.scheme == "https" or (target.scheme == urlsplit(url).scheme == "http" and _is_loopback(target))
    ):
        return target.geturl()
    raise InputError(
        f"{address.shown} redirects to {_shown(urljoin(url, location))}, which is refused: expected an https:// "
        "address; give the address of the file itself."
    )


def authorities() -> str | bool:
    """The certificates that requests trusts: a path from the environment, the system's, or its own (True)."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := os.environ.get(name):
            folder = os.path.isdir(path)
            try:
                ssl.create_default_context(cafile=None if folder else path, capath=path if folder else None)
            except OSError as error:
                raise InputError(f"{path}, which {name} names, holds no certificates: correct or unset it.") from error
            return path
    return ssl.get_default_verify_paths().cafile or True


def refuse(response: "Response", address: Address) -> None:
    """Raise for every answer that is not the whole file."""
    status, kind = response.status_code, response.headers.get("Content-Type", "").lower()
    if status >= 500:
        raise Unreachable(f"its server failed with status {status}")
    if status in (404, 410):
        raise InputError(f"There is no file at {address.shown} (status {status}): check the address.")
    if status in (401, 403):
        raise InputError(
            f"{address.shown} refuses access (status {status}): check that the address is complete and not expired."
        )
    if status != 200:
        raise InputError(f"{address.shown} answers with status {status}, expected 200 and a file: check the address.")
    if kind.startswith(("text/html", "application/xhtml")):
        raise InputError(
            f"{address.shown} is a web page ({kind.partition(';')[0]}), expected a file: give its download "
            "link, the one behind 'raw' or 'download'."
        )
    if response.headers.get("Content-Encoding", "identity") not in ("", "identity"):
        raise InputError(
            f"{address.shown} comes compressed ({response.headers['Content-Encoding']}) though that was declined: "
            "download it by other means and give its path."
        )
