"""How many image files one command decodes, how often, and what it writes: seconds and counts.

    python benchmarks/decodes.py vit_s32 --tflite --int8
    python benchmarks/decodes.py vit_s32 --tflite --int8 --int8-scheme auto --min-sqnr 28

The command runs in this process, in a new folder with the default photographs written before the clock starts. Counted
are decodings by Pillow, int8 .tflite files that are quantized, and images that ranges are taken from.
"""

import os
import runpy
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import ImageFile

from vit_export.tflite import int8, quantize


def main() -> None:
    """Run the command of the command line's arguments, and print one line."""
    arguments = sys.argv[1:]
    folder = tempfile.mkdtemp(prefix="vit-export-decodes-")
    os.chdir(folder)
    _run(["calibration"])
    decoded: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    load = ImageFile.ImageFile.load

    def counted_load(image: Any) -> Any:
        if image.tile:  # what is still to be decoded
            decoded[Path(image.filename).name] += 1
        return load(image)

    def counted(name: str, function: Any) -> Any:
        def call(*given: Any, **options: Any) -> Any:
            calls[name] += 1
            return function(*given, **options)

        return call

    ImageFile.ImageFile.load = counted_load  # type: ignore[method-assign]
    int8.write_int8 = counted("quantized", int8.write_int8)
    quantize.invoke_for_ranges = counted("calibrated", quantize.invoke_for_ranges)
    began = time.monotonic()
    code = _run([*arguments, "--quiet"])
    seconds = time.monotonic() - began
    print(
        f"{' '.join(arguments)}: exit {code}, {seconds:.1f} s, {sum(decoded.values())} decodings of {len(decoded)} "
        f"images, {calls['quantized']} int8 files quantized, {calls['calibrated']} images calibrated on"
    )


def _run(arguments: list[str]) -> Any:
    sys.argv = ["vit-export", *arguments]
    try:
        runpy.run_module("vit_export", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        return ended.code or 0
    return 0


if __name__ == "__main__":
    main()
