"""Every reader of files that somebody else wrote, with the seed that is spoilt for it, and how."""

import io
import json
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fuzz.mutate import (
    Spoil,
    spoilt_bytes,
    spoilt_header,
    spoilt_json,
    spoilt_members,
    spoilt_npy,
)
from fuzz.onnx_fields import spoilt_fields

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"

SEEDS = Path(__file__).with_name("seeds.zip")


@dataclass(frozen=True)
class Reader:
    """What is spoilt: `file`, of the folder `seed` of seeds.zip or a single file there; `read` is given the result."""

    seed: str
    file: str
    spoil: Spoil
    read: Callable[[Path], Any] = field(repr=False)

    def good(self) -> bytes:
        """The seed's own file."""
        with zipfile.ZipFile(SEEDS) as archive:
            return archive.read(f"{self.seed}/{self.file}" if self.seed else self.file)

    def make(self, number: int, name: str, folder: Path) -> Path:
        """Write case `number` of the reader called `name` into `folder`; what `read` is given is returned."""
        return self.place(self.spoil(self.good(), random.Random(f"{name}/{number}")), folder)

    def place(self, data: bytes, folder: Path) -> Path:
        """Write the seed with `data` for its file into `folder`; what `read` is given is returned."""
        with zipfile.ZipFile(SEEDS) as archive:
            for entry in archive.namelist():
                if self.seed and entry.startswith(f"{self.seed}/"):
                    path = folder / entry.removeprefix(f"{self.seed}/")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(entry))
        (folder / self.file).write_bytes(data)
        return folder if any((folder / name).exists() for name in (_CONFIG, "saved_model.pb")) else folder / self.file


def checkpoint(path: Path) -> None:
    """Open weights and read every parameter, of a small model."""
    from vit_export.model.parameters import parameter_specs
    from vit_export.weights.open import open_checkpoint

    opened = open_checkpoint(path, num_heads=None if path.is_dir() else 2)
    for parameter in list(parameter_specs(opened.spec))[:40]:
        opened.read(parameter.name)
    opened.record.to_dict()


def model_file(path: Path) -> None:
    """Everything that is told of a model file without running it."""
    from rich.console import Console

    from vit_export.artifacts.read import artifact_of
    from vit_export.base.json_file import json_text
    from vit_export.base.signal import json_ready
    from vit_export.bundles.source import subject_of
    from vit_export.inspection.delegates import assess, targets
    from vit_export.inspection.inspect import inspect_file
    from vit_export.inspection.onnx_graph import read_onnx_graphs
    from vit_export.inspection.table import render
    from vit_export.inspection.tflite_graph import read_tflite_graphs

    found = inspect_file(path, digest=False)
    render(found, Console(file=io.StringIO(), width=80))
    json_text(json_ready(found)).encode()
    graphs = (read_tflite_graphs if found["format"] == "tflite" else read_onnx_graphs)(path)
    for target in targets(found["format"]):
        assess(target, graphs[0])
    artifact_of(path)
    subject_of(path)


def report(path: Path) -> None:
    """What is made of a report that lies in a folder, and the page and the JUnit file of it."""
    from vit_export.base.json_file import parse_json
    from vit_export.report.earlier import earlier_files, files_told, recorded
    from vit_export.report.junit import write_junit
    from vit_export.report.page import images_shown, render_page

    folder, content = path.parent, None
    told = files_told(folder)
    for entry in told:
        recorded(folder / entry["files"][0])
    earlier_files(told, {}, folder)
    with suppress(ValueError):  # no report
        content = parse_json(path.read_bytes(), constant=str)
    if isinstance(content, dict):
        images_shown(content)
        render_page(content, {})
        write_junit(content, folder / "junit.xml")


def labels(path: Path) -> None:
    """Labels in a file that the user named."""
    from vit_export.model.labels import read_labels

    read_labels(str(path))


def _spoilt_labels(data: bytes, chance: random.Random) -> bytes:
    return chance.choice((spoilt_bytes, spoilt_json))(data, chance) if data[:1] in b"[{" else spoilt_bytes(data, chance)


def _spoilt_record(data: bytes, chance: random.Random) -> bytes:
    """A file of ours with another record of the same length in it."""
    start = data.index(b'{"record_version"')
    end = start + json.JSONDecoder().raw_decode(data[start:].decode(errors="replace"))[1]
    record = spoilt_json(data[start:end], chance)
    return data[:start] + (record + b" " * (end - start))[: end - start] + data[end:]


_FLOAT, _FULL = "tflite_float32.tflite", "tflite_int8_full.tflite"
_HEAD = partial(spoilt_bytes, head=4000)

READERS = {
    "safetensors": Reader("huggingface", _WEIGHTS, _HEAD, checkpoint),
    "safetensors_header": Reader("huggingface", _WEIGHTS, spoilt_header, checkpoint),
    "huggingface_config": Reader("huggingface", _CONFIG, spoilt_json, checkpoint),
    "huggingface_preprocessor": Reader("huggingface", "preprocessor_config.json", spoilt_json, checkpoint),
    "sharded_index": Reader("sharded", "model.safetensors.index.json", spoilt_json, checkpoint),
    "timm_config": Reader("timm", _CONFIG, spoilt_json, checkpoint),
    "timm_header": Reader("timm", _WEIGHTS, spoilt_header, checkpoint),
    "torchvision": Reader("torchvision", "weights.safetensors", spoilt_header, checkpoint),
    "npz": Reader("google", "weights.npz", spoilt_bytes, checkpoint),
    "npz_members": Reader("google", "weights.npz", spoilt_members(npy=spoilt_npy), checkpoint),
    "keras": Reader("", "model.keras", spoilt_members(json=spoilt_json, h5=spoilt_bytes), checkpoint),
    "weights_h5": Reader("", "model.weights.h5", partial(spoilt_bytes, head=12_000), checkpoint),
    "saved_model_index": Reader("saved_model", "variables/variables.index", spoilt_bytes, checkpoint),
    "saved_model_record": Reader("saved_model", "assets.extra/vit_export.json", spoilt_json, checkpoint),
    "tflite": Reader("", _FLOAT, partial(spoilt_bytes, head=9000), model_file),
    "tflite_end": Reader("", _FULL, spoilt_bytes, model_file),
    "tflite_record": Reader("", _FLOAT, _spoilt_record, model_file),
    "onnx": Reader("", "onnx_float32.onnx", spoilt_bytes, model_file),
    "onnx_fields": Reader("", "onnx_float32.onnx", spoilt_fields, model_file),
    "onnx_qdq_fields": Reader("", "onnx_int8_qdq.onnx", spoilt_fields, model_file),
    "report": Reader("", "report.json", spoilt_json, report),
    "labels_text": Reader("", "labels_lines.txt", _spoilt_labels, labels),
    "labels_list": Reader("", "labels_list.json", _spoilt_labels, labels),
    "labels_named": Reader("", "labels_named.json", _spoilt_labels, labels),
    "labels_numbered": Reader("", "labels_numbered.json", _spoilt_labels, labels),
}
