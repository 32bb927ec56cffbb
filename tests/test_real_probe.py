"""benchmarks/real_probe.py and sweep.py with a small model: the probe as a Dense layer, the digits as folders."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import toy_spec
from PIL import Image

from vit_export import Preprocessing
from vit_export.model.keras_model import build_model
from vit_export.model.preprocessing import normalize

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import real_probe
import sweep
from real_quality import fitted


@pytest.fixture
def digits(monkeypatch):
    """60 of the digits at 32 pixels, the first 40 for fitting."""
    pixels, labels = (values[:60] for values in real_probe.digits(32))
    monkeypatch.setattr(real_probe, "digits", lambda size: (pixels, labels))
    monkeypatch.setattr(real_probe, "FITTED", 40)
    return pixels, labels


@pytest.mark.thorough
def test_the_probe_is_one_dense_layer(digits):
    pixels, labels = digits
    model = build_model(toy_spec(image_size=32, num_classes=None), seed=0)
    kernel, bias = real_probe.probe(model)
    features = np.asarray(model.extract_features(normalize(pixels, Preprocessing(32))))
    wanted = fitted(features[:40], labels[:40])
    np.testing.assert_allclose(features @ kernel + bias, wanted.decision_function(features), atol=1e-3)


def test_digits_are_pictures_in_the_folder_of_their_class(digits, tmp_path):
    pixels, labels = digits
    train, held_out = real_probe.data(tmp_path)
    found = {int(path.stem): path for folder in (train, held_out) for path in folder.rglob("*.png")}
    assert sorted(found) == list(range(60))
    for number, path in found.items():
        assert path.parent == (train if number < 40 else held_out) / str(labels[number])
        assert np.array_equal(np.asarray(Image.open(path)), pixels[number])


def test_a_sweep_is_asked_for_models_and_data(monkeypatch):
    monkeypatch.setattr(sweep, "data", lambda: (Path("train"), Path("held_out")))
    monkeypatch.setattr(sweep, "models", lambda: [Path("a"), Path("b.keras")])
    line = sweep.command(["--max-ms", "20"])
    assert line[line.index("sweep") :][:7] == ["sweep", "a", "b.keras", "--calibration", "train", "--data", "held_out"]
    assert line[-2:] == ["--max-ms", "20"]
