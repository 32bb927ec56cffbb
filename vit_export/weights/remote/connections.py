"""Connections to the servers of files: which addresses and redirects are followed, and which answers are refused."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vit_export.base.errors import InputError
from vit_export.weights.remote.transfer import AGENT, Unreachable, reason

if TYPE_CHECKING:
    import httpx2

_REDIRECTS, _CONNECT_SECONDS, _READ_SECONDS = 5, 15.0, 60.0


@dataclass(frozen=True)
class Address:
    """A URL, the part of it that may be shown, its file's name, that in the cache, and the sha256 required, if any."""

    url: "httpx2.URL"
    shown: str
    file: str
    name: str
    sha256: str | None


def _shown(url: str) -> str:
    """A URL without user, password, query and fragment: what they hold may be secret."""
    return re.split("[?#]", re.sub("//[^/]*@", "//", url, count=1), maxsplit=1)[0]


def address_of(location: str) -> Address:
    """Take an https:// location apart; raises InputError for what is no such address."""
    import httpx2

    text, mark, fragment = location.partition("#")
    try:
        url = httpx2.URL(text)
    except httpx2.InvalidURL:
        url = httpx2.URL()
    if not url.host:
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
    plain = re.sub(r"[^\w.-]", "_", url.path.rpartition("/")[2], flags=re.ASCII)[-100:].lstrip(".")
    file = plain or "file"
    name = f"{hashlib.sha256(text.encode()).hexdigest()[:24]}-{file}"
    return Address(url, _shown(text), file, name, digest[1].lower() if digest else None)


def _is_loopback(url: "httpx2.URL") -> bool:
    return url.host in ("127.0.0.1", "localhost", "::1")


def open_client() -> "httpx2.Client":
    """A client that follows no redirect by itself; raises InputError where the environment's settings do not work."""
    import httpx2

    # Compressed on the way, a file has neither the length announced nor bytes to resume at.
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    timeout = httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    try:
        return httpx2.Client(follow_redirects=False, headers=headers, timeout=timeout)
    except (OSError, ValueError, ImportError, httpx2.InvalidURL) as error:
        raise InputError(
            "This environment's proxy or certificate settings do not work: check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, "
            "SSL_CERT_FILE and SSL_CERT_DIR."
        ) from error


@contextmanager
def opened(client: "httpx2.Client", address: Address, headers: dict[str, str]) -> Iterator["httpx2.Response"]:
    """The answer to a GET, at the end of the redirects that are allowed; its body is still to be read."""
    import httpx2

    url = address.url
    for _ in range(_REDIRECTS + 1):
        try:
            response = client.send(client.build_request("GET", url, headers=headers), stream=True)
        except httpx2.HTTPError as error:
            raise Unreachable(reason(error)) from error
        try:
            if not response.has_redirect_location:
                yield response
                return
            url = _redirected(url, response.headers["Location"], address)
        finally:
            response.close()
    raise InputError(f"{address.shown} redirects more than {_REDIRECTS} times: give the address that it ends at.")


def _redirected(url: "httpx2.URL", location: str, address: Address) -> "httpx2.URL":
    import httpx2

    try:
        target = url.join(location)
    except httpx2.InvalidURL:
        target = httpx2.URL()
    if target.scheme == "https" or (target.scheme == url.scheme == "http" and _is_loopback(target)):
        return target
    raise InputError(
        f"{address.shown} redirects to {_shown(location)}, which is refused: expected an https:// "
        "address; give the address of the file itself."
    )


def refuse(response: "httpx2.Response", address: Address, *, resuming: bool) -> None:
    """Raise for every answer that is not the bytes of the file."""
    status, kind = response.status_code, response.headers.get("Content-Type", "").lower()
    if status >= 500:
        raise Unreachable(f"its server failed with status {status}")
    if status in (404, 410):
        raise InputError(f"There is no file at {address.shown} (status {status}): check the address.")
    if status in (401, 403):
        raise InputError(
            f"{address.shown} refuses access (status {status}): check that the address is complete and not expired."
        )
    if status != 200 and not (status == 206 and resuming):
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
