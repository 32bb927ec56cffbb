"""Time and memory of one ONNX export: tf2onnx's own route against `write_onnx`, each in a process of its own.

Both start from the same SavedModel on disk (float32, random weights) and end with an .onnx file; the clock includes
starting Python and importing TensorFlow, and memory is the peak of the whole process.

    python benchmarks/onnx_export.py                        # vit_b16, both routes
    python benchmarks/onnx_export.py --variant vit_s32
    python benchmarks/onnx_export.py --ours-only vit_h14    # tf2onnx's route needs more than 24 GB from vit_l16 on

The model has the tanh form of GELU: tf2onnx cannot convert the Erfc of the exact one at all.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from vit_export.base.python import python_command

GB = 1e9

_WRITE_SAVED_MODEL = """
import sys
from pathlib import Path
from vit_export.model.keras_model import create_vit
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.saved_model import ModelRecord, write_saved_model

model = create_vit(sys.argv[1], gelu="tanh", seed=0)
write_saved_model(model, Path(sys.argv[2]), ModelRecord(model.spec, Preprocessing(model.spec.image_size)))
"""

_OURS = """
import sys
from pathlib import Path
from vit_export.onnx.write import write_onnx
from vit_export.model.saved_model import SavedModelParameters

source = SavedModelParameters(Path(sys.argv[1]))
write_onnx(source, source.record, Path(sys.argv[2]), precision=sys.argv[3])
"""


@dataclass(frozen=True)
class Run:
    """What one process cost."""

    name: str
    seconds: float
    peak_bytes: int
    file_bytes: int


def main() -> None:
    """Run the routes one after the other and print one table."""
    parser = argparse.ArgumentParser(description="Time and memory of an ONNX export, stock route against ours.")
    parser.add_argument("--variant", default="vit_b16", help="model to export both ways [vit_b16]")
    parser.add_argument("--ours-only", metavar="VARIANT", help="export this model with write_onnx alone")
    parser.add_argument("--saved-model", type=Path, help="a SavedModel of vit-export to use instead of random weights")
    parser.add_argument("--precision", default="float32", choices=("float32", "float16", "int8"), help="of ours")
    options = parser.parse_args()
    variant = options.ours_only or options.variant
    runs = []
    with tempfile.TemporaryDirectory(prefix="onnx_export_") as folder:
        saved, output = options.saved_model, Path(folder) / "out"
        if saved is None:
            saved = Path(folder) / variant
            measure("writing the SavedModel", ["-c", _WRITE_SAVED_MODEL, variant, str(saved)], output)
        if options.ours_only is None:
            stock = ["-m", "tf2onnx.convert", "--saved-model", str(saved), "--opset", "18"]
            runs.append(measure("tf2onnx, weights as constants", [*stock, "--output", str(output / "a.onnx")], output))
        ours = ["-c", _OURS, str(saved), str(output / "a.onnx"), options.precision]
        runs.append(measure(f"write_onnx, {options.precision}", ours, output))
    print_table(variant, runs)


def measure(name: str, arguments: list[str], output: Path) -> Run:
    """Run Python with `arguments`, which write into the folder `output`; its files are measured and removed."""
    output.mkdir(exist_ok=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(python_command(*arguments), env=environment, stdout=log, stderr=log)
        # wait4 gives the usage of this one child; its ru_maxrss is VmHWM, in KiB on Linux.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(
                f"{name} failed with exit code {process.returncode}:\n{log.read().decode(errors='replace')[-4000:]}"
            )
    files = list(output.iterdir())
    size = sum(file.stat().st_size for file in files)
    for file in files:
        file.unlink()
    return Run(name, seconds, usage.ru_maxrss * 1024, size)


def print_table(variant: str, runs: list[Run]) -> None:
    """One line per run, and how many times less the last one took than the first."""
    print(f"{variant:<32}{'seconds':>10}{'peak, GB':>10}{'file, MB':>10}")
    for run in runs:
        print(f"{run.name:<32}{run.seconds:>10.1f}{run.peak_bytes / GB:>10.2f}{run.file_bytes / 1e6:>10.1f}")
    if len(runs) > 1:
        first, last = runs[0], runs[-1]
        time_ratio, memory_ratio = first.seconds / last.seconds, first.peak_bytes / last.peak_bytes
        print(f"{'ratio':<32}{time_ratio:>9.1f}x{memory_ratio:>9.1f}x")


if __name__ == "__main__":
    main()
