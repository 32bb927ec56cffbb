"""What report.json tells of the files in its folder: of those its own export made, and of those older exports left.

An entry is what one report said of one file: `files` (its name, then those of the files it needs beside it), the
`artifact`, when the report was `created`, and, where it verified these very bytes, `machine`, `limits` and
`verification` as in that report, but of this file alone, so that `view.read_files` reads an entry like a report.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from vit_export.base.errors import InputError
from vit_export.base.files import digest_of_file, input_errors, shortened
from vit_export.base.json_file import json_bytes, parse_json
from vit_export.model.artifact import Artifact, Format, Precision, TensorSpec
from vit_export.model.names import LABELS_NAME, REPORT_NAME
from vit_export.report.view import CPU, EMPTY, File, Record, listed, read_files, record, records, text

_PAGES_POLICY = b'content="default-src &#39;none&#39;; style-src &#39;sha256-'
"""How the policy of every report.html begins (see `page`)."""
_PAGES_HEAD = 1000


def files_told(folder: Path) -> list[Record]:
    """The entries of report.json in `folder`, newest first; none where nothing can be understood.

    Raises:
        InputError: it is a folder, a pipe or a device, or longer than any report.
    """
    report = _report(folder / REPORT_NAME)
    # Until schema_version 2 a report held the older ones whole.
    entries = [entry for each in (report, *records(report.get("earlier_reports"))) for entry in _entries(each)]
    for entry in records(report.get("earlier_files")):
        if names := _names(listed(entry.get("files"))):
            entries.append({**entry, "files": names})
    return entries


def is_ours(path: Path) -> bool:
    """Whether the report.json or report.html at `path` is one of this package, of any version, and nobody else's."""
    if path.name == REPORT_NAME:
        report = _report(path)
        return isinstance(report.get("schema_version"), int) and {"created", "verdict", "artifacts"} <= report.keys()
    try:
        with open(path, "rb") as file:
            return _PAGES_POLICY in file.read(_PAGES_HEAD)
    except OSError:
        return False


def as_told(folder: Path, names: Iterable[str]) -> set[str]:
    """Those of `names`, files in `folder`, that are still what the report there says an export wrote."""
    wanted, found = set(names), set()
    for entry in files_told(folder):
        files, artifact = [folder / name for name in entry["files"]], record(entry.get("artifact"))
        if wanted.intersection(entry["files"]) and all(map(os.path.isfile, files)):
            # The digest of a model with a data file beside it is that of the model's own file.
            size = artifact.get("bytes") if files[1:] else files[0].stat().st_size
            if size == sum(file.stat().st_size for file in files) and digest_of_file(files[0]) == _digest(entry):
                found.update(entry["files"])
    labels = "\n".join(map(text, listed(_report(folder / REPORT_NAME).get("labels")))) + "\n"
    if LABELS_NAME in wanted and (folder / LABELS_NAME).read_bytes() == labels.encode(errors="replace"):
        found.add(LABELS_NAME)
    return wanted & found


def earlier_files(told: Iterable[Record], report: Record, folder: Path, gone: Collection[str] = ()) -> list[Record]:
    """What `report` has to keep of the entries `told` by the one that it replaces: one for each file still in `folder`.

    Files called as in `gone` are about to go. A file that `report` lists itself needs none, unless only the older
    report verified its very bytes.
    """
    own = list(_entries(report))
    newest: dict[str, Record] = {}
    for entry in (*own, *told):
        known = newest.setdefault(entry["files"][0], entry)
        if "verification" in entry and "verification" not in known and _digest(entry) == _digest(known):
            newest[entry["files"][0]] = entry
    return [
        entry
        for entry in newest.values()
        if entry not in own and any(os.path.exists(folder / name) for name in entry["files"] if name not in gone)
    ]


def recorded(path: Path) -> Artifact | None:
    """What the newest report beside the file `path` that lists it says of it; None where none does."""
    for entry in files_told(path.parent):
        if entry["files"][0] == path.name:
            return _artifact(record(entry.get("artifact")), path)
    return None


def verified(path: Path, digest: str) -> tuple[Record, File | None]:
    """The newest verification beside `path` of the file with the sha256 `digest`; nothing where there is none."""
    with input_errors(path):
        told = files_told(path.parent)
    for entry in told:
        for file in read_files(entry)[1]:
            if file.entry and file.artifact.get("sha256") == digest:
                return entry, file
    return {}, None


def settings_told(path: Path) -> Record:
    """The settings of the export whose report lies beside the file `path`; empty where that does not tell of it.

    Of a file that an earlier export left there they are those of the newest one.
    """
    settings = record(_report(path.parent / REPORT_NAME).get("settings"))
    told = "calibration" in settings and any(path.name in entry["files"] for entry in files_told(path.parent))
    return settings if told else EMPTY


def _report(path: Path) -> Record:
    """What is in the file `path`; nothing where it is not there, or no report."""
    try:
        content = json_bytes(path)
    except OSError:
        return EMPTY
    except ValueError as error:
        raise InputError(f"{shortened(path)} is no report that can be read ({error}): move it away.") from error
    try:
        # NaN and the infinities, which JSON lacks, become the text that a report holds for them.
        return record(parse_json(content, constant=str))
    except ValueError:  # somebody else's
        return EMPTY


def _entries(report: Record) -> Iterator[Record]:
    """An entry for each file that `report`, of any schema_version, lists."""
    created = {"created": text(report.get("created"))}
    for artifact in records(report.get("artifacts")):
        if names := _names((artifact.get("path"), *listed(artifact.get("extra_files")))):
            yield {"files": names, **created, "artifact": artifact, **_verified(report, artifact)}
    if report.get("labels"):
        yield {"files": [LABELS_NAME], **created}


def _names(paths: Iterable[Any]) -> list[str]:
    """The last part of each of `paths`: a report is no reason to look into other folders."""
    return [name for name in (Path(text(path)).name for path in paths) if name]


def _verified(report: Record, artifact: Record) -> Record:
    """What `report` found out about the bytes of `artifact`; empty where it did not verify them."""
    verification = record(report.get("verification"))
    for file in read_files(report)[1]:
        told = (file.artifact.get("path"), file.artifact.get("sha256"))
        if file.entry and file.place == CPU and told == (artifact.get("path"), artifact.get("sha256")):
            return {
                "machine": record(report.get("machine")),
                "limits": [file.limits_row] if file.limits_row else [],
                "verification": {
                    **{key: verification[key] for key in ("threads", "cpu", "images") if key in verification},
                    "files": [file.entry],
                },
            }
    return EMPTY


def _digest(entry: Record) -> Any:
    return record(entry.get("artifact")).get("sha256")


def _artifact(entry: Mapping[str, Any], path: Path) -> Artifact | None:
    known = {f.name for f in fields(Artifact)}
    values = {key: value for key, value in entry.items() if key in known}
    try:
        values["inputs"], values["outputs"] = (tuple(map(_tensor, values[key])) for key in ("inputs", "outputs"))
        for key in ("extra_files", "notes"):
            values[key] = tuple(str(item) for item in values.get(key, ()))
        artifact = Artifact(**{**values, "path": str(path)})
    except (KeyError, TypeError, ValueError):  # somebody else's report.json
        return None
    good = artifact.format in get_args(Format) and artifact.precision in get_args(Precision)
    return artifact if good and isinstance(artifact.bytes, int) and isinstance(artifact.sha256, str) else None


def _tensor(entry: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(**{**entry, "shape": tuple(entry["shape"])})
