"""A sweep of S/32, S/16 and DINOv2-S/14 on handwritten digits: formats and precisions, accuracy, size and latency.

    python benchmarks/sweep.py [--max-ms 60] [--ray auto] [...]        any option of `vit-export sweep`

Makes the models and the digits (real_probe.py, which says which weights are random), and hands them to `vit-export
sweep`: the files are calibrated and verified on digits/train, and judged on digits/held_out. All of it goes to
benchmarks/.cache/sweep, sweep.html among it; what is there already is not done again.
"""

import subprocess
import sys

from real_probe import data, models
from real_weights import CACHE

from vit_export.base.errors import InputError
from vit_export.base.python import python_command, python_environment


def command(more: list[str]) -> list[str]:
    """The command line of the sweep, its models and data made; `more` are options in place of those here.

    Raises:
        InputError: the trained weights cannot be downloaded.
    """
    train, held_out = map(str, data())
    options = ["--calibration", train, "--data", held_out, "--max-drop", "1", "--output", str(CACHE / "sweep")]
    return python_command("-m", "vit_export", "sweep", *map(str, models()), *options, *more)


if __name__ == "__main__":
    try:
        line = command(sys.argv[1:])
    except InputError as error:
        raise SystemExit(f"{error}") from error
    raise SystemExit(subprocess.run(line, env=python_environment(), check=False).returncode)
