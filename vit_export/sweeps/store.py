"""The folder of a sweep: a folder for each cell, which is complete or not there, and the record of all of them."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import digest_of_file, output_errors, publish, shortened
from vit_export.base.json_file import json_text, read_object
from vit_export.base.signal import json_ready

CELLS, CELL, EVALUATION = "cells", "cell.json", "evaluation.json"
LATENCY, RECORD, PAGE, ROWS = "latency.json", "sweep.json", "sweep.html", "rows"


class Store:
    """The results in `folder`, by the ids of cells; each is kept with the content key that it was made for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def require_ours(self) -> None:
        """Raise OutputError where the folder holds anything else than a sweep."""
        with output_errors(self.folder):
            names = [name for name in os.listdir(self.folder) if not name.startswith(".")]
        if names and not (self.folder / CELLS).is_dir():
            raise OutputError(
                f"{shortened(self.folder)} is not empty and holds no sweep: give a new folder to --output."
            )

    def cell(self, id: str) -> Path:
        """Where the files of a cell are."""
        return self.folder / CELLS / id

    def known(self, id: str, key: str) -> dict[str, Any] | None:
        """The outcome of a cell that is done, with the digests of its files; None where it is to be made."""
        found = self.read(self.cell(id) / CELL, key)
        if found is None:
            return None
        try:
            same = all(digest_of_file(self.cell(id) / name) == known for name, known in found["sha256"].items())
        except (OSError, TypeError, KeyError, AttributeError):
            return None
        return found if same else None

    def forget(self, id: str) -> None:
        """Let a cell be unfinished before it is made again."""
        with output_errors(self.cell(id)):
            for name in (CELL, EVALUATION):
                (self.cell(id) / name).unlink(missing_ok=True)

    def keep(self, id: str, key: str, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the outcome of a cell whose files are complete; from now on it is done."""
        digests = {name: digest_of_file(self.cell(id) / name) for name in outcome["files"]}
        return self.write(self.cell(id) / CELL, key, {**outcome, "sha256": digests})

    def clear_rows(self) -> None:
        """Remove the rows of evaluations that are over, and of such as nobody goes on with."""
        with output_errors(self.folder):
            shutil.rmtree(self.folder / ROWS, ignore_errors=True)

    def read(self, path: Path, key: str) -> dict[str, Any] | None:
        """What `path` holds, if it was written for `key`."""
        try:
            found = read_object(path)
        except InputError:  # there is none, or it is damaged
            return None
        content = found.get("content")
        return content if found.get("key") == key and isinstance(content, dict) else None

    def write(self, path: Path, key: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write `content` for `key`, complete or not at all; as it will be read."""
        ready: dict[str, Any] = json_ready(content)
        write_text(path, json_text({"key": key, "content": ready}) + "\n")
        return ready


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all; an older one is replaced."""
    with publish(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
