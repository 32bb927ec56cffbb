"""Zips that are the same bytes for the same content, and the digests of what is in them."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path

SUMS_NAME = "SHA256SUMS"

_CHUNK = 1 << 20
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


def write_zip(path: Path, contents: Mapping[str, bytes | Path]) -> dict[str, str]:
    """Write the zip `path` of `contents` (bytes, or the file that holds them) by name; the sha256 of each.

    Names are sorted, times fixed, and nothing is compressed (weights do not get smaller, and releases of zlib differ):
    the same content is the same zip. SHA256SUMS, as sha256sum reads it, is added.
    """
    digests: dict[str, str] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(contents):
            digests[name] = _add(archive, name, contents[name])
        sums = "".join(f"{digest}  {name}\n" for name, digest in digests.items())
        _add(archive, SUMS_NAME, sums.encode())
    return digests


def _add(archive: zipfile.ZipFile, name: str, content: bytes | Path) -> str:
    entry = zipfile.ZipInfo(name, _TIME)
    entry.external_attr = 0o100644 << 16
    entry.create_system = 3  # Unix, wherever it is written
    entry.file_size = len(content) if isinstance(content, bytes) else content.stat().st_size
    digest = hashlib.sha256()
    with archive.open(entry, "w") as file:
        if isinstance(content, bytes):
            digest.update(content)
            file.write(content)
        else:
            with open(content, "rb") as source:
                while chunk := source.read(_CHUNK):
                    digest.update(chunk)
                    file.write(chunk)
    return digest.hexdigest()
