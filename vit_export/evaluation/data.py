"""Data sets as shards of encoded images: a tree of folders, WebDataset's tars, or Parquet as Hugging Face's hub has it.

A shard is a few hundred images that are evaluated together and whose rows are complete or not there. Which shards there
are, and what is in each, follows from the data alone, so that an evaluation can go on where another one ended. Nothing
but the shard that is being read is in memory: a tar is read from its beginning to its end, of a Parquet file one batch
of rows.
"""

import hashlib
import itertools
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError, first_line
from vit_export.base.files import input_errors, shortened
from vit_export.images.split import EXTENSIONS, list_images

IMAGES = 128
"""Images of a shard, of folders and (at least, as row groups have it) of Parquet; a tar is a shard.

Few, so that a data set of some hundred images has work for several workers, and little is lost with one of them.
"""
ROWS = 64
"""Rows of a Parquet file that are in memory at once."""

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LABELS = (".cls", ".json")


@dataclass(frozen=True)
class Item:
    """One image: what it is called in its data set, the bytes of its file, and its class as a number or a name."""

    name: str
    data: bytes
    label: int | str | None = None


@dataclass(frozen=True)
class Shard:
    """Images that are evaluated together, of `kind` folder, tar or parquet; `part` says which of those at `source`."""

    kind: str
    source: str
    part: tuple[str, ...] | tuple[int, ...] = ()
    columns: dict[str, str] = field(default_factory=dict, hash=False)

    def items(self) -> Iterator[Item]:
        """Its images, in the order that the data set has.

        Raises:
            InputError: it can no longer be read, or is damaged.
        """
        return {"folder": _folder, "tar": _tar, "parquet": _parquet}[self.kind](self)


@dataclass(frozen=True)
class DataSet:
    """All shards of a location, and a digest of what they are: names and sizes, not the images' bytes."""

    location: str
    shards: tuple[Shard, ...]
    digest: str


def open_data(location: str) -> DataSet:
    """The data set at `location`: a folder of images, of `.tar` or of `.parquet` files, such a file, or an address.

    An address is fsspec's (s3://, gs://, https://), `{0000..0063}` stands for all numbers between, `*` for any part of
    a name.

    Raises:
        InputError: nothing is there, or nothing that is known.
    """
    files = _files(location)
    if not files:
        return _folders(location)
    kinds = {_kind(name) for name, _ in files}
    if len(kinds) != 1 or None in kinds:
        raise InputError(
            f"{shortened(location)} holds files of several kinds, expected .tar files or .parquet files alone: name "
            "one kind."
        )
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    if kinds == {"tar"}:
        shards: list[Shard] = [Shard("tar", name) for name, _ in files]
    else:
        shards = [shard for name, _ in files for shard in _row_groups(name)]
    return DataSet(location, tuple(shards), digest)


def _kind(name: str) -> str | None:
    lowered = name.lower()
    return "tar" if lowered.endswith(".tar") else "parquet" if lowered.endswith(".parquet") else None


def _files(location: str) -> list[tuple[str, int]]:
    """The .tar and .parquet files that `location` names, with their bytes; none where it is a folder of images."""
    import fsspec

    path = Path(location)
    if "://" not in location and path.is_dir():
        with input_errors(path):
            return [(str(file), file.stat().st_size) for file in sorted(path.rglob("*")) if _kind(file.name)]
    names = _expanded(location)
    for name in names:
        if "://" not in name and not any(c in name for c in "*?[") and not Path(name).exists():
            raise InputError(
                f"There is no {shortened(name)}: check the path, expected a folder of images, .tar or .parquet files."
            )
    found: list[tuple[str, int]] = []
    for name in names:
        try:
            system, inner = fsspec.core.url_to_fs(name)
            matches = sorted(system.glob(inner)) if any(c in inner for c in "*?[") else [inner]
            for match in matches:
                found.append((system.unstrip_protocol(match) if "://" in name else match, int(system.size(match) or 0)))
        except (OSError, ValueError, ImportError) as error:
            raise InputError(
                f"{shortened(name)} cannot be read ({first_line(error)}): check the address, and the rights to it."
            ) from error
    if not found or any(_kind(name) is None for name, _ in found):
        raise InputError(
            f"{shortened(location)} is no data set, expected a folder of images, .tar files (WebDataset) or .parquet "
            "files."
        )
    return found


def _expanded(location: str) -> list[str]:
    """`location` with each {first..last} replaced by every number between, as wide as the first."""
    pieces = _BRACES.split(location)
    ranges = []
    for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
        if not int(first) <= int(last) < int(first) + 1_000_000:
            raise InputError(f"{{{first}..{last}}} is no range of numbers, expected the smaller one first.")
        ranges.append([f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)])
    texts = pieces[::3]
    return [
        "".join(itertools.chain(*zip(texts, (*numbers, ""), strict=True))) for numbers in itertools.product(*ranges)
    ]


def _folders(location: str) -> DataSet:
    names = list_images(location)
    sizes = [(name, (Path(location) / name).stat().st_size) for name in names]
    digest = hashlib.sha256(json.dumps(sizes, ensure_ascii=True).encode()).hexdigest()
    parts = [names[at : at + IMAGES] for at in range(0, len(names), IMAGES)]
    return DataSet(str(location), tuple(Shard("folder", str(location), part) for part in parts), digest)


def _folder(shard: Shard) -> Iterator[Item]:
    for name in map(str, shard.part):
        path = Path(shard.source, name)
        try:
            data = path.read_bytes() if path.is_file() else b""
        except OSError:
            data = b""
        yield Item(name, data, Path(name).parent.name or None)


def _tar(shard: Shard) -> Iterator[Item]:
    """Samples of a WebDataset: files of one name up to its first dot belong together, an image and its label."""
    import fsspec

    try:
        with fsspec.open(shard.source, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            key, sample = "", dict[str, bytes]()
            for member in tar:
                if not member.isfile():
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, dot, ending = name.partition(".")
                found = f"{folder}{slash}{stem}"
                if found != key and sample:
                    yield from _sample(key, sample)
                    sample = {}
                key = found
                content = tar.extractfile(member)
                sample[f"{dot}{ending}".lower()] = b"" if content is None else content.read()
            if sample:
                yield from _sample(key, sample)
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f"{shortened(shard.source)} is damaged or cannot be read ({first_line(error)}).") from error


def _sample(key: str, sample: dict[str, bytes]) -> Iterator[Item]:
    for ending, data in sample.items():
        if ending.endswith(EXTENSIONS):
            yield Item(f"{key}{ending}", data, _label(sample))
            return


def _label(sample: dict[str, bytes]) -> int | str | None:
    for ending in _LABELS:
        if ending not in sample:
            continue
        text = sample[ending].decode(errors="replace").strip()
        if ending == ".json":
            try:
                told = json.loads(text)
            except ValueError:
                continue
            value = told.get("label", told.get("cls")) if isinstance(told, dict) else told
            if isinstance(value, int | str) and not isinstance(value, bool):
                return value
        elif text:
            return int(text) if text.isdecimal() else text
    return None


def _row_groups(source: str) -> list[Shard]:
    import fsspec
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with fsspec.open(source, "rb") as file:
            table = parquet.ParquetFile(file)
            columns = _columns(source, table.schema_arrow)
            sizes = [table.metadata.row_group(n).num_rows for n in range(table.num_row_groups)]
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"{shortened(source)} is no Parquet file that can be read ({first_line(error)}).") from error
    shards, group, rows = list[Shard](), list[int](), 0
    for number, size in enumerate(sizes):
        group.append(number)
        rows += size
        if rows >= IMAGES or number == len(sizes) - 1:
            shards.append(Shard("parquet", source, tuple(group), columns))
            group, rows = [], 0
    return shards


def _columns(source: str, schema: Any) -> dict[str, str]:
    """Which column holds the images (`image`, or `image.bytes`) and which the classes, where one does."""
    import pyarrow as arrow

    image = next((field for field in schema if field.name in ("image", "img", "jpg", "png")), None)
    if image is None or not (
        arrow.types.is_binary(image.type)
        or arrow.types.is_large_binary(image.type)
        or (arrow.types.is_struct(image.type) and image.type.get_field_index("bytes") >= 0)
    ):
        raise InputError(
            f"{shortened(source)} has the columns {shortened(', '.join(schema.names))}, expected `image` with the "
            "files' bytes (image.bytes, as Hugging Face's hub has it)."
        )
    label = next((name for name in ("label", "labels", "fine_label", "cls") if name in schema.names), None)
    return {"image": image.name, **({"label": label} if label else {})}


def _parquet(shard: Shard) -> Iterator[Item]:
    import fsspec
    import pyarrow as arrow
    from pyarrow import parquet

    image, label = shard.columns["image"], shard.columns.get("label")
    wanted = [image, *([label] if label else [])]
    try:
        with fsspec.open(shard.source, "rb") as file:
            table = parquet.ParquetFile(file, pre_buffer=False)
            first = sum(table.metadata.row_group(n).num_rows for n in range(int(shard.part[0])))
            batches = table.iter_batches(
                ROWS, row_groups=[int(n) for n in shard.part], columns=wanted, use_threads=False
            )
            rows: Sequence[dict[str, Any]]
            for rows in (batch.to_pylist() for batch in batches):
                for number, row in enumerate(rows, first):
                    held = row[image]
                    data = held["bytes"] if isinstance(held, dict) else held
                    path = held.get("path") if isinstance(held, dict) else None
                    name = f"{Path(shard.source).name}:{number}{f' ({path})' if path else ''}"
                    yield Item(name, data or b"", row.get(label) if label else None)
                first += len(rows)
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"{shortened(shard.source)} is damaged or cannot be read ({first_line(error)}).") from error
