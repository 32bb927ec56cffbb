"""Zips that somebody else wrote: opened without reading a list of members that would fill the memory."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vit_export.base.errors import InputError
from vit_export.base.files import shortened

MAX_MEMBERS = 100_000
_MAX_DIRECTORY = 16 << 20  # bytes: room for 100,000 members with names of 100 characters


class BoundedFile(io.FileIO):
    """A file that refuses to be read in one huge piece, as `zipfile` reads the list of members."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Up to `size` bytes."""
        if size is not None and size > _MAX_DIRECTORY:
            raise InputError(
                f"{shortened(str(self.name))} lists far more than {MAX_MEMBERS} members: expected the files of a model."
            )
        return super().read(-1 if size is None else size)


@contextmanager
def opened_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip that the file `path` is or ends with; only its list of members is read.

    Raises:
        InputError: that list is longer than that of any model's files.
    """
    with BoundedFile(path) as file, zipfile.ZipFile(file) as archive:  # type: ignore[arg-type]
        yield archive
