"""The readers under atheris, where it is installed: a file that reaches new lines of the package is spoilt further."""

import hashlib
import random
import tempfile
from pathlib import Path

from fuzz.judge import judged
from fuzz.mutate import spoilt_bytes
from fuzz.readers import READERS

FOUND = Path(__file__).with_name("found")
"""Where files that are finds are kept."""


def guide(name: str, seconds: float) -> None:
    """Give the reader called `name` files for so long, and tell of each; ends the process."""
    import atheris

    reader = READERS[name]
    good = reader.good()
    with atheris.instrument_imports(include=["vit_export"]):
        _case(name, 0, good)  # readers import what they need when they run

    def spoil(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        try:
            return reader.spoil(data, chance)[:most]
        except Exception:  # what is spoilt already may be no JSON and no zip any more
            return spoilt_bytes(data or good, chance)[:most]

    number = 0

    def read(data: bytes) -> None:
        nonlocal number
        number += 1
        _case(name, number, data)

    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        Path(corpus, "good").write_bytes(good)
        options = [
            f"-max_total_time={max(1, int(seconds))}",
            f"-max_len={4 * len(good)}",
            "-timeout=60",
            "-verbosity=0",
        ]
        atheris.Setup([name, *options, corpus], read, custom_mutator=spoil)
        atheris.Fuzz()


def _case(name: str, number: int, data: bytes) -> None:
    print("begin", number, "", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        word, text = judged(READERS[name], READERS[name].place(data, Path(folder)))
    if word == "find":
        FOUND.mkdir(exist_ok=True)
        path = FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        text = f"{path.name}: {text}"
    print(word, number, text, flush=True)
