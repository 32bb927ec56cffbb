"""The command that is advised after a FAIL is typed as it stands, and what it makes passes."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import RandomParameters, build, toy_spec
from PIL import Image

from vit_export.cli.main import main
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import write_saved_model

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a model, and images of which those that calibrate are unlike those that verify."""
    monkeypatch.chdir(tmp_path)
    spec = toy_spec(num_classes=None)
    record = ModelRecord(spec, Preprocessing(spec.image_size), {"source": "test", "trained": True})
    write_saved_model(build(RandomParameters(spec)), tmp_path / "toy" / "saved_model", record)
    random = np.random.default_rng(0)
    for index in range(8):
        for side, low, high in (("representative", 120, 123), ("held_out", 0, 256)):
            folder = tmp_path / "my photos" / side
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(low, high, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(folder / f"{index}.png")
    return tmp_path


def run(command):
    words = shlex.split(command)
    assert words[0] == "vit-export"
    return CliRunner().invoke(main, words[1:])


def test_int8_that_lost_the_answers(here):
    typed = "vit-export --weights toy/saved_model --tflite --int8 --calibration 'my photos' --output out --quiet"
    result = run(typed)
    assert result.exit_code == 1, result.output
    (row,) = json.loads(Path("out/report.json").read_text(encoding="utf-8"))["advice"]
    told = result.stderr.splitlines()
    assert told[-2].startswith("Next, for vit_toy_int8.tflite: ")
    assert told[-1] == f"  {row['command']}"
    assert row["command"] in Path("out/report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    again = run(row["command"])
    assert again.exit_code == 0, again.output
    report = json.loads(Path("out/report.json").read_text(encoding="utf-8"))
    assert report["recommendation"]["file"] == "vit_toy_int8_dynamic.tflite"
    assert report["advice"] == []

    # The first file is still there. One that was damaged since is made anew, where it lies and with the same images.
    path = Path("out/vit_toy_int8_dynamic.tflite")
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    result = run(f"vit-export verify {path} --data 'my photos' --no-latency --quiet")
    assert result.exit_code == 1, result.output
    command = result.stderr.splitlines()[-1].strip()
    assert run(command).exit_code == 0
    assert run(f"vit-export verify {path} --data 'my photos' --no-latency").exit_code == 0
