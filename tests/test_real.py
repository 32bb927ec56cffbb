"""benchmarks/real.py without its model: which files there are and are chosen, what they are judged by, what fails."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pytest
from conftest import toy_spec
from PIL import Image

from vit_export.model.names import SCHEMES
from vit_export.model.preprocessing import Preprocessing, normalize
from vit_export.model.record import ModelRecord

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

from real import chosen, table
from real_files import File, Material, ours
from real_peers import peers
from real_quality import FITTED, JUDGED, Judge, digits, sqnr_db
from real_rows import Clock, Row, make


@pytest.fixture
def material(tmp_path):
    return Material(tmp_path, Clock())


def test_every_scheme_of_the_vocabulary_is_a_file(material):
    labels = [file.label for file in ours(material)]
    assert [label for label in labels if "float" in label] == ["tflite float32", "tflite float16", "onnx float32"]
    for row in SCHEMES:
        assert sum(label.startswith(f"{row.format} int8 {row.name}") for label in labels) == 1


def test_names_are_distinct_and_every_time_has_a_float32_beside_it(material):
    labels = [file.label for file in ours(material) + peers(material)]
    assert len(set(labels)) == len(labels)
    assert {file.basis for file in ours(material) + peers(material)} <= set(labels)


def test_a_text_chooses_files_and_the_float32_ones_beside_them(material):
    files = ours(material) + peers(material)
    kept, beside = chosen(files, "int8 qdq, nncf")
    assert [file.label for file in kept] == ["onnx int8 qdq", "NNCF, transformer"]
    assert [file.label for file in beside] == ["onnx float32", "openvino float32"]
    assert chosen(files, "") == (files, [])
    with pytest.raises(click.BadParameter, match="no file's name holds 'statik'"):
        chosen(files, "statik")


def test_what_is_not_installed_is_told_and_not_made(material, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else object())
    row = Row(next(file for file in peers(material) if file.label.startswith("NNCF")))
    make(row, Clock())
    assert row.error == "nncf not installed: pip install '.[peers]'"
    assert row.path is None
    assert "nncf not installed" in table([row])[-1]


def test_a_quantizer_that_fails_is_a_line_and_not_the_end(tmp_path):
    def fails() -> Path:
        raise RuntimeError("no such operator\nand more")

    row = Row(File("theirs", "onnx", "onnx float32", fails, ours=False))
    make(row, Clock())
    assert row.error == "not made: RuntimeError: no such operator"
    assert row.to_dict()["seconds"] is None


def test_decibels_are_those_of_each_image():
    wanted = np.array([[3.0, 4.0], [1.0, 0.0], [1.0, 2.0]])
    found = np.array([[3.0, 3.5], [0.0, 0.0], [1.0, 2.0]])
    assert np.allclose(sqnr_db(wanted, found), [20.0, 0.0, np.inf])


def test_the_images_of_a_folder_judge_instead(tmp_path, monkeypatch):
    for name, grey in (("a.png", 40), ("b.png", 200)):
        Image.fromarray(np.full((20, 30, 3), grey, np.uint8)).save(tmp_path / name)
    record = ModelRecord(toy_spec(), Preprocessing(16))
    judge = Judge(SimpleNamespace(record=record), print, tmp_path, probe=False)
    monkeypatch.setattr(Judge, "_reference", lambda self, pixels, what: self._features(exact, pixels))
    exact = SimpleNamespace(run=lambda x: x.mean((1, 2)))
    off = SimpleNamespace(run=lambda x: x.mean((1, 2)) + np.float32(0.1))
    assert judge.judge(exact).sqnr_worst == np.inf
    greys = normalize(np.full((2, 3), [[40], [200]], np.uint8), record.preprocessing)
    wanted = sqnr_db(greys, greys + 0.1)
    found = judge.judge(off)
    assert np.allclose((found.sqnr_worst, found.sqnr_median), (wanted.min(), np.median(wanted)), atol=1e-3)


def test_digits_are_pictures_that_show_them():
    pixels, labels = digits(16)
    assert pixels.shape == (FITTED + JUDGED, 16, 16, 3)
    assert pixels.dtype == np.uint8
    assert set(labels) == set(range(10))
    zeros = pixels[labels == 0].mean(0)[:, :, 0]
    assert zeros[7:9, 7:9].mean() < 40 < zeros[7:9, 4:6].mean()  # a hole in the middle, ink beside it
