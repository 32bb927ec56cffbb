"""Write seeds.zip, a small good file for every reader, to be spoilt: `python -m fuzz.make_seeds` in tests/."""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

from conftest import RandomParameters, build, toy_spec
from helpers import layouts
from helpers.faults_bench import Bench, pictures
from helpers.reports import report_of, verification

from vit_export.base.json_file import json_text

SEEDS = Path(__file__).with_name("seeds.zip")
LABELS = ("cat", "dog", "a bird, or two")
KINDS = ("tflite float32", "tflite int8 full", "onnx float32", "onnx int8 qdq")


def write(folder: Path) -> None:
    """Fill `folder` with the seeds."""
    spec = toy_spec(image_size=16, num_classes=3).with_(num_layers=1, hidden_size=16, mlp_size=16, num_heads=2)
    source = RandomParameters(spec)
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(source, Path(scratch), pictures(2, 16), pictures(2, 16, seed=8), labels=LABELS)
        for kind in KINDS:
            path = Path(bench.good(kind).path)
            (folder / f"{kind.replace(' ', '_')}{path.suffix}").write_bytes(path.read_bytes())
        shutil.copytree(bench.reference, folder / "saved_model")
    (folder / "saved_model" / "saved_model.pb").write_bytes(b"")  # whose graph is not read
    (folder / "report.json").write_text(json_text(report_of(verification(2))))
    model = build(source)
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    for name in ("huggingface", "timm", "torchvision", "google"):
        (folder / name).mkdir()
        getattr(layouts, f"write_{name}")(folder / name, source)
    numbers = dict(enumerate(LABELS))
    for name, content in {"list": LABELS, "numbered": numbers, "named": {v: k for k, v in numbers.items()}}.items():
        (folder / f"labels_{name}.json").write_text(json.dumps(content))
    (folder / "labels_lines.txt").write_text("\n".join(LABELS) + "\n")
    (folder / "sharded").mkdir()
    layouts.write_huggingface(folder / "sharded", source, shard_bytes=4000)


def main() -> None:
    """Write the zip, the same bytes each time for the same files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder)
        with zipfile.ZipFile(SEEDS, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.writestr(
                    zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes(), zipfile.ZIP_DEFLATED
                )
    print(f"{SEEDS}: {SEEDS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
