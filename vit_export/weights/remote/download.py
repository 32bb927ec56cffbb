"""One download by pooch: each answer is judged before its body is read, and a cut one is taken up where it ended."""

import errno
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vit_export.base.errors import InputError
from vit_export.weights.remote.connections import Address, authorities, redirected, refuse
from vit_export.weights.remote.transfer import AGENT, Count, Unreachable, reason, within_size

if TYPE_CHECKING:
    from requests import Response

_REDIRECTS, _CONNECT_SECONDS, _READ_SECONDS = 5, 15.0, 60.0
_TELLS = {"etag": ("ETag", "If-None-Match"), "modified": ("Last-Modified", "If-Modified-Since")}
_PAUSES = (0, 0, 2, 5, 10)
"""Seconds before each try: what is cut is asked for again at once, then ever more patiently."""

_CHUNK = 1 << 16
"""Bytes, and the most that a cut loses: pooch writes whole chunks."""


class Unchanged(Exception):
    """The server still has the bytes that the cache has."""


def download(address: Address, file: IO[bytes], cached: dict[str, str], count: Count) -> dict[str, str]:
    """Write the bytes at `address` to `file`; their ETag as 'etag' and Last-Modified as 'modified', where given.

    Raises:
        Unchanged: they are those that `cached` tells of.
        Unreachable: nobody answered.
        InputError: the answer is not the file, or was cut once too often.
        OSError: the disk is full.
    """
    from pooch import HTTPDownloader
    from requests.exceptions import InvalidSchema, InvalidURL, RequestException

    answer = _Answer(address, file, cached, count)
    # Compressed on the way, a file has neither the length announced nor bytes to resume at.
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    headers |= {ask: cached[key] for key, (_, ask) in _TELLS.items() if key in cached}
    certificates = authorities()
    hooks, times = {"response": answer.judge}, (_CONNECT_SECONDS, _READ_SECONDS)
    for pause in _PAUSES:
        time.sleep(pause)
        answer.redirects = 0
        rest = {"Range": f"bytes={file.tell()}-", "If-Range": answer.validator} if file.tell() else {}
        get = HTTPDownloader(answer, _CHUNK, headers=headers | rest, hooks=hooks, timeout=times, verify=certificates)
        try:
            get(address.url, file, None)
            if answer.length in (None, file.tell()):
                return answer.facts
        except (InvalidSchema, InvalidURL) as error:  # the proxy's: the address was taken apart before
            raise InputError(
                "This environment's proxy settings do not work: check HTTPS_PROXY, HTTP_PROXY and ALL_PROXY."
            ) from error
        except (RequestException, ValueError) as error:
            if not answer.begun:
                raise Unreachable(reason(error)) from error
        if not answer.validator:  # nothing would tell whether the rest is of the same file
            break
    done = f"{file.tell() / 1e6:.1f}" + (f" of {answer.length / 1e6:.1f}" if answer.length else "")
    raise InputError(f"The connection to {address.shown} was cut after {done} MB: call again to start over.")


@dataclass
class _Answer:
    """What the server answers: requests calls `judge` with it, and to pooch this is the progress bar."""

    address: Address
    file: IO[bytes]
    cached: dict[str, str]
    count: Count
    facts: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    begun: bool = False
    redirects: int = 0
    total: int = 0

    @property
    def validator(self) -> str | None:
        """What tells whether the rest is of the same bytes; a weak ETag does not promise it."""
        return self.facts["etag"] if self.facts.get("etag", "").startswith('"') else self.facts.get("modified")

    def judge(self, response: "Response", **_: Any) -> None:
        """Raise for an answer that is neither a redirect to follow nor the bytes of the file that are missing."""
        if response.is_redirect:
            self.redirects += 1
            if self.redirects > _REDIRECTS:
                raise InputError(
                    f"{self.address.shown} redirects more than {_REDIRECTS} times: give the address that it ends at."
                )
            redirected(response.url, response.headers["Location"], self.address)
            return
        status, headers, start = response.status_code, response.headers, self.file.tell()
        etag = headers.get("ETag")
        if self.cached and (status == 304 or (status == 200 and etag and etag == self.cached.get("etag"))):
            raise Unchanged
        span = re.fullmatch(rf"bytes {start}-\d+/(\d+)", headers.get("Content-Range", "")) if start else None
        if status == 206 and span and etag in (None, self.facts.get("etag")) and self.length in (None, int(span[1])):
            return
        self.file.seek(0)
        self.file.truncate()
        if start and status in (206, 416):
            raise ValueError("not the rest of these bytes")  # which `download` takes for one more cut
        refuse(response, self.address)
        self.facts = {key: headers[name] for key, (name, _) in _TELLS.items() if name in headers}
        self.length = int(headers["Content-Length"]) if headers.get("Content-Length") else None
        within_size(self.length or 0, self.address.shown)
        if shutil.disk_usage(Path(self.file.name).parent).free < (self.length or 0):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.begun = True

    def update(self, _: int) -> None:
        """Count what is written: pooch tells the size of its chunks, not of what it received."""
        done = self.file.tell()
        within_size(done, self.address.shown)
        if self.length and done > self.length:
            raise InputError(
                f"{self.address.shown} sent more than the {self.length} bytes it announced: the download was removed; "
                "check the address."
            )
        if self.length:
            self.count(done, self.length)

    def reset(self) -> None:
        """Nothing: the file's own length counts."""

    close = reset
