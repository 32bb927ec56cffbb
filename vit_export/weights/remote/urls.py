"""Files by URL: downloaded once into a cache folder, resumed after a cut, one process at a time."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file, sync
from vit_export.weights.remote.connections import Address, address_of, open_client, opened, refuse
from vit_export.weights.remote.transfer import Count, Fetched, Tell, Unreachable, disk_error, within_size

if TYPE_CHECKING:
    import httpx2


def from_url(location: str, cache: Path | None, count: Count, tell: Tell) -> Fetched:
    """The file in the cache that holds the weights at `location`, as `fetch` describes it."""
    address, folder = address_of(location), cache or _cache_folder()
    target = folder / address.name
    with open_client() as client, _prepared(folder), _locked(target, address, tell):
        digest = digest_of_file(target) if target.is_file() else None
        known = _read_facts(target)
        if digest is not None and digest not in (address.sha256, known.get("sha256")):
            tell(f"The cached copy of {address.shown} is damaged: it is downloaded again.")
            target.unlink()
            digest = None
        if digest is None or digest != address.sha256:
            # A good copy that has not the sha256 asked for must not be kept because the server calls it unchanged.
            cached = known if digest is not None and address.sha256 is None else {}
            try:
                digest = _download(client, address, target, cached, count) or digest
            except Unreachable as error:
                if not cached:
                    raise InputError(
                        f"{address.shown} cannot be fetched ({error}): check the address and the connection, or try "
                        "again later."
                    ) from error
                tell(f"{address.shown} cannot be asked for changes ({error}): the cached copy is used.")
    return Fetched(target, {"location": address.shown, "file": address.file, "sha256": str(digest)})


def _cache_folder() -> Path:
    if chosen := os.environ.get("VIT_EXPORT_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vit-export"


@contextmanager
def _prepared(folder: Path) -> Iterator[None]:
    """The cache folder exists; what the operating system refuses there becomes one OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise disk_error(folder, error, "set VIT_EXPORT_CACHE to a folder that can be") from error


@contextmanager
def _locked(target: Path, address: Address, tell: Tell) -> Iterator[None]:
    """One process at a time per file: the next one waits, then finds it complete or resumes it."""
    from filelock import FileLock, Timeout

    # The empty lock file stays: another process may be waiting for it, and one that is deleted keeps nobody out.
    lock = FileLock(_beside(target, ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"Another process is downloading {address.shown}: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read_facts(path: Path) -> dict[str, str]:
    """What is written beside a file or part: ETag and Last-Modified of its bytes, and their sha256 once complete."""
    try:
        facts = json.loads(_beside(path, ".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in facts.items() if isinstance(value, str)} if isinstance(facts, dict) else {}


def _write_facts(path: Path, facts: dict[str, str]) -> None:
    _beside(path, ".json").write_text(json.dumps(facts), encoding="utf-8")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _beside(part, ".json").unlink(missing_ok=True)


def _validator(facts: dict[str, str]) -> str | None:
    """What If-Range may carry: a weak ETag does not promise the same bytes."""
    return facts["etag"] if facts.get("etag", "").startswith('"') else facts.get("modified")


def _download(
    client: "httpx2.Client", address: Address, target: Path, cached: dict[str, str], count: Count
) -> str | None:
    """Download to `target`, resuming its `.part`; its sha256, or None when the `cached` copy is still the server's."""
    part = _beside(target, ".part")
    known = _read_facts(part)
    validator = _validator(known)
    start = part.stat().st_size if validator and part.is_file() else 0
    asked = {"If-None-Match": cached.get("etag"), "If-Modified-Since": cached.get("modified")}
    asked |= {"Range": f"bytes={start}-", "If-Range": validator} if start else {}
    with opened(client, address, {name: value for name, value in asked.items() if value}) as response:
        status, headers = response.status_code, response.headers
        facts = {
            key: headers[name] for key, name in (("etag", "ETag"), ("modified", "Last-Modified")) if name in headers
        }
        if cached and (status == 304 or (status == 200 and "etag" in facts and facts["etag"] == cached.get("etag"))):
            return None
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
        continued = status == 206 and span and int(span[1]) == start and facts.get("etag") in (None, known.get("etag"))
        if continued or not start or status not in (206, 416):
            refuse(response, address, resuming=bool(start))
            length = span[2] if continued and span else headers.get("Content-Length", "")
            facts = known | facts if continued else facts
            digest = _receive(
                response, address, part, facts, start if continued else 0, int(length) if length else None, count
            )
            if address.sha256 not in (None, digest):
                _discard(part)
                raise InputError(
                    f"{address.shown} has sha256 {digest}, expected {address.sha256}: the download was removed; check "
                    "the address and the digest, and use the file only if its owner confirms the new one."
                )
            sync(part)
            os.replace(part, target)
            _write_facts(target, facts | {"sha256": digest})
            _discard(part)
            return digest
    _discard(part)  # the server cannot continue these bytes: once more from the start
    return _download(client, address, target, cached, count)


def _receive(
    response: "httpx2.Response",
    address: Address,
    part: Path,
    facts: dict[str, str],
    start: int,
    total: int | None,
    count: Count,
) -> str:
    """Write the body to `part`, after the `start` bytes that it has; the sha256 of all of it."""
    import httpx2

    within_size(total or 0, address.shown)
    if shutil.disk_usage(part.parent).free < (total or 0) - start:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    resumable = _validator(facts) is not None and response.headers.get("Accept-Ranges", "bytes") != "none"
    digest, done, cut = hashlib.sha256(), start, False
    with open(part, "r+b" if start else "wb") as file:
        while piece := file.read(1 << 20) if start else b"":
            digest.update(piece)
        _write_facts(part, facts if resumable else {})
        try:
            for chunk in response.iter_raw():
                done += len(chunk)
                if total is not None and done > total:
                    break
                within_size(done, address.shown)
                digest.update(chunk)
                file.write(chunk)
                if total:
                    count(done, total)
        except httpx2.HTTPError:
            cut = True
        except (InputError, OSError):
            _discard(part)
            raise
    if total is not None and done > total:
        _discard(part)
        raise InputError(
            f"{address.shown} sent more than the {total} bytes it announced: the download was removed; check "
            "the address."
        )
    if cut or (total is not None and done < total):
        if not resumable:
            _discard(part)
        size = f"{done / 1e6:.1f} MB" if total is None else f"{done / 1e6:.1f} of {total / 1e6:.1f} MB"
        raise InputError(
            f"The connection to {address.shown} was cut after {size}: call again to "
            f"{'resume there' if resumable else 'start over, as its server cannot resume'}."
        )
    return digest.hexdigest()
