"""What counts as a find when a reader is given a file."""

import time
import traceback
from contextlib import suppress
from pathlib import Path

from fuzz.readers import Reader
from vit_export.base.errors import VitExportError
from vit_export.base.text import visible

SECONDS = 5.0
"""Of the processor, for one file."""
MEMORY = 1 << 30
"""Bytes more than before, for one file."""
LONGEST = 1000
"""Characters of a message."""


def judged(reader: Reader, path: Path) -> tuple[str, str]:
    """What becomes of the file at `path`: "read", "refused", or "find" and what happened, in one line."""
    before, began, word, text = _peak(reset=True), time.process_time(), "read", ""
    try:
        reader.read(path)
    except VitExportError as error:
        word, text = "refused", str(error)
        if len(text) > LONGEST or visible(text) != text:
            word = "find"
    except Exception:
        word, text = "find", " | ".join(traceback.format_exc(limit=-3).splitlines())
    took, grown = time.process_time() - began, _peak() - before
    if took > SECONDS:
        word, text = "find", f"took {took:.1f} s"
    if grown > MEMORY:
        word, text = "find", f"took {grown / 1e6:.0f} MB of memory"
    return word, ascii(text)[1:-1][:900]


def _peak(*, reset: bool = False) -> int:
    """The most memory that this process had (Linux; elsewhere 0), since the last reset."""
    with suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        rows = Path("/proc/self/status").read_text().splitlines()
        return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmHWM"))
    return 0
