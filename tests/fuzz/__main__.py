"""`python -m fuzz --seconds 60 [READER...]`: spoilt files for every reader, each of which it reads or refuses.

A find is any exception but this package's own, more than 5 s or 1 GB for one file, a message that drives a terminal or
is longer than a sentence, and the end of the process. Each is told by its reader and its number, from which
`python -m fuzz --case READER NUMBER` makes the file again and reads it; those of
atheris, where it is installed, are kept in found/. Exit code 1 where there are finds.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from fuzz.guided import guide
from fuzz.judge import judged
from fuzz.readers import READERS

GUIDED = -1 if find_spec("atheris") else 0
"""In place of a number: atheris makes the cases, for half of the time; 0 where it is not installed."""

_PATIENCE = 60.0  # seconds of the clock until a case counts as endless; the first one imports packages

Find = tuple[str, int, str]
"""Reader, number of the case, and what happened."""


def fuzz(names: Sequence[str], seconds: float, first: int = 0) -> tuple[Counter[str], list[Find]]:
    """Give each reader of `names` its share of `seconds`, from case `first` on: what became of the files, and finds."""
    counts, finds = Counter[str](), list[Find]()
    for name in names:
        share, number = seconds / len(names), first
        if GUIDED:
            _in_a_process(name, GUIDED, share := share / 2, counts, finds)
        end = time.monotonic() + share
        while (left := end - time.monotonic()) > 0:
            number = _in_a_process(name, number, left, counts, finds)
    return counts, finds


def _in_a_process(name: str, number: int, seconds: float, counts: Counter[str], finds: list[Find]) -> int:
    """Run cases from `number` on until their process ends, or has to be ended; the number of the next case."""
    command = [sys.executable, "-m", "fuzz", "--serve", name, str(number), str(seconds)]
    where = Path(__file__).resolve().parents[1]
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, cwd=where) as child,
    ):
        assert child.stdout is not None
        at, word, text = number, "", ""
        patience = threading.Timer(_PATIENCE, child.kill)
        patience.start()
        for line in child.stdout:
            patience.cancel()
            word, case, text = line.rstrip("\n").split(" ", 2)
            at = int(case)
            if word == "find":
                finds.append((name, at, text))
            if word != "begin":
                counts[word] += 1
            patience = threading.Timer(_PATIENCE, child.kill)
            patience.start()
        patience.cancel()
        if code := child.wait():
            if word != "begin":
                said.seek(0)
                raise RuntimeError(f"{name} {at}: {said.read()[-2000:]}")
            finds.append((name, at, f"its process ended with status {code}, or was ended after {_PATIENCE:.0f} s"))
            counts["find"] += 1
    return at + 1


def serve(name: str, number: int, seconds: float) -> None:
    """Run cases for so long, or until one took so much memory that the next could not be judged; tell of each."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        print("begin", number, "", flush=True)
        word, text = case(name, number)
        print(word, number, text, flush=True)
        if "memory" in text:
            return
        number += 1


def case(name: str, number: int) -> tuple[str, str]:
    """What becomes of one case, as `judged` says, or "unmade"."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            path = READERS[name].make(number, name, Path(folder))
        except Exception:  # not every change can be written down
            return "unmade", ""
        return judged(READERS[name], path)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("readers", nargs="*", choices=[[], *READERS], metavar="READER", help=", ".join(READERS))
    parser.add_argument("--seconds", type=float, default=60.0, help="for all readers together")
    parser.add_argument("--first", type=int, default=int(time.time()), help="number of the first case [the clock's]")
    parser.add_argument("--case", nargs=2, metavar=("READER", "NUMBER"), help="make one case again and read it")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        name, number, seconds = options.serve
        guide(name, float(seconds)) if int(number) < 0 else serve(name, int(number), float(seconds))
        return 0
    if options.case:
        name, number = options.case
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        path = READERS[name].make(int(number), name, folder)
        print(f"{path} is read.")
        READERS[name].read(path)
        return 0
    counts, finds = fuzz(options.readers or list(READERS), options.seconds, options.first)
    print(", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
    for name, number, text in finds:
        print(f"FIND {name} {number}: {text}")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
