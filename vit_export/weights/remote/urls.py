"""Files by URL: downloaded once, by pooch, into a cache folder; one process at a time."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_export.base.errors import InputError
from vit_export.base.files import cache_folder, digest_of_file, sync
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.weights.remote.connections import Address, address_of
from vit_export.weights.remote.download import Unchanged, download
from vit_export.weights.remote.transfer import Count, Fetched, Tell, Unreachable, disk_error


def from_url(location: str, cache: Path | None, count: Count, tell: Tell) -> Fetched:
    """The file in the cache that holds the weights at `location`, as `fetch` describes it."""
    address, folder = address_of(location), cache or cache_folder()
    target = folder / address.name
    with _prepared(folder), _locked(target, address, tell):
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
                digest = _download(address, target, cached, count)
            except Unchanged:
                pass
            except Unreachable as error:
                if not cached:
                    raise InputError(
                        f"{address.shown} cannot be fetched ({error}): check the address and the connection, or try "
                        "again later."
                    ) from error
                tell(f"{address.shown} cannot be asked for changes ({error}): the cached copy is used.")
    return Fetched(target, {"location": address.shown, "file": address.file, "sha256": str(digest)})


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
    """One process at a time per file: the next one waits, then finds it complete."""
    from filelock import FileLock, Timeout

    # The empty lock file stays: another process may be waiting for it, and one that is deleted keeps nobody out.
    lock = FileLock(f"{target}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell(f"Another process is downloading {address.shown}: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _read_facts(target: Path) -> dict[str, str]:
    """What is written beside a file: its sha256, and the ETag and Last-Modified that it came with."""
    try:
        facts = parse_json(json_bytes(Path(f"{target}.json")))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in facts.items() if isinstance(value, str)} if isinstance(facts, dict) else {}


def _download(address: Address, target: Path, cached: dict[str, str], count: Count) -> str:
    """Download to `target`, which appears complete or not at all; its sha256."""
    part = Path(f"{target}.part")
    try:
        with open(part, "wb") as file:
            facts = download(address, file, cached, count)
        digest = digest_of_file(part)
        if address.sha256 not in (None, digest):
            raise InputError(
                f"{address.shown} has sha256 {digest}, expected {address.sha256}: the download was removed; check "
                "the address and the digest, and use the file only if its owner confirms the new one."
            )
        sync(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    Path(f"{target}.json").write_text(json.dumps(facts | {"sha256": digest}), encoding="utf-8")
    return digest
