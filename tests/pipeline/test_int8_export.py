"""The int8 schemes from request to report: what they say of themselves, and budgets."""

from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec, write_pictures

from vit_export.artifacts.read import read_facts
from vit_export.base.errors import InputError
from vit_export.base.reporting import Silent
from vit_export.model.saved_model import write_saved_model
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.runner import open_runner

pytestmark = pytest.mark.thorough

SPEC = toy_spec().with_(num_layers=2)


class Heard(Silent):
    """A reporter that remembers."""

    def __init__(self):
        self.notes, self.steps = [], []

    def note(self, text):
        self.notes.append(text)

    def step(self, text):
        self.steps.append(text)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), 32, (32, 32))


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "saved_model"
    write_saved_model(build(RandomParameters(SPEC)), path, record_of(SPEC))
    return path


def ask(saved_model, photos, output, file_format, **changes):
    return ExportRequest(
        None, output, (file_format,), ("int8",), weights=saved_model, calibration=photos, **{"verify": False, **changes}
    )


def test_static_says_how_it_came_about(saved_model, photos, tmp_path):
    (file,) = export(ask(saved_model, photos, tmp_path / "out", "tflite")).report["artifacts"][1:]
    told = file["quantization"]
    assert told["modes"]["encoder_layers"] == [
        {"layers": [0, 1], "attention": "static", "products": "int8", "mlp": "static"}
    ]
    assert told["modes"]["patch_embedding"] == told["modes"]["head"] == "dynamic"
    assert len(told["tuning"]["layers"]) == 2
    for layer in told["tuning"]["layers"]:
        assert 0 < layer["attention_error"][1] <= layer["attention_error"][0] < 0.01
    assert 0 < told["agreement_of_halves"]["smallest"] <= told["agreement_of_halves"]["median"] <= 1


def decibels(path):
    """Of a file, on images that had no part in it."""
    images = np.random.default_rng(9).uniform(-1, 1, (64, 32, 32, 3)).astype(np.float32)
    wanted, found = build(RandomParameters(SPEC)).predict_output(images), open_runner(Path(path), "tflite").run(images)
    return 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())


@pytest.mark.slow
def test_auto_keeps_a_budget_that_static_does_not(saved_model, photos, tmp_path, in_process):
    (static,) = export(ask(saved_model, photos, tmp_path / "a", "tflite")).artifacts
    assert static.scheme == "static"
    budget, heard = static.quantization["search"]["measured"]["sqnr_db"] + 2, Heard()
    request = ask(saved_model, photos, tmp_path / "b", "tflite", int8_scheme="auto", min_sqnr=budget, verify=True)
    result = export(request, heard)
    assert result.passed, result.verification.failures
    (artifact,) = result.artifacts
    assert decibels(artifact.path) > decibels(static.path) + 1
    search = artifact.quantization["search"]
    assert search["met"]
    assert search["measured"]["sqnr_db"] >= budget > search["measured_static"]["sqnr_db"]
    assert search["steps"]
    assert artifact.quantization["modes"] == search["modes"]
    (told,) = (note for note in heard.notes if "everything static" in note)
    assert f"{len(search['steps'])} parts of the model" in told
    assert (tmp_path / "b" / "vit_toy_int8.tflite").is_file()
    assert not [p for p in (tmp_path / "b").iterdir() if p.name.startswith(".")]


def test_a_budget_that_auto_cannot_keep_still_makes_an_int8_file(photos, tmp_path, in_process):
    """The file is what verification takes for int8, and is judged by its limits; the note says what it keeps."""
    spec, heard = SPEC.with_(num_layers=4), Heard()
    write_saved_model(build(RandomParameters(spec)), tmp_path / "weights", record_of(spec))
    request = ask(
        tmp_path / "weights", photos, tmp_path / "out", "tflite", int8_scheme="auto", min_sqnr=100, verify=True
    )
    result = export(request, heard)
    assert result.passed, result.verification.failures
    (artifact,) = result.artifacts
    search, matrices = artifact.quantization["search"], read_facts(artifact.path).matrices
    assert not search["met"]
    assert search["measured"]["sqnr_db"] > search["measured_static"]["sqnr_db"] + 1
    assert 0.5 * matrices["int8"] < matrices["float32"] < matrices["int8"]
    (told,) = (note for note in heard.notes if "everything static" in note)
    assert f"{search['measured']['sqnr_db']:.1f} dB" in told
    assert "no int8 mix that was found keeps 100 dB, and this is the best of them" in told


def test_auto_leaves_static_alone_where_that_is_enough(saved_model, photos, tmp_path, monkeypatch):
    from vit_export.tflite import int8

    written, write = [], int8.write_for_now
    monkeypatch.setattr(int8, "write_for_now", lambda *a, **k: written.append(a[2]) or write(*a, **k))
    result = export(ask(saved_model, photos, tmp_path / "out", "tflite", int8_scheme="auto", min_agreement=0.5))
    search = result.artifacts[0].quantization["search"]
    assert search["met"]
    assert not search["steps"]
    assert search["files_measured"] == 1
    assert len(written) == 1  # the float file, as large as the model, serves calibration and both int8 files


def test_qdq_is_made_and_verified(saved_model, photos, tmp_path, in_process):
    result = export(ask(saved_model, photos, tmp_path / "out", "onnx", int8_scheme="qdq", verify=True, input="uint8"))
    assert result.passed, result.verification.failures
    assert (tmp_path / "out" / "vit_toy_int8_qdq.onnx").is_file()
    assert result.verification.files[0].comparison.overall_sqnr_db > 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_sqnr": 40}, "min_sqnr is the budget of the int8 scheme 'auto'"),
        (
            {"int8_scheme": "auto", "min_sqnr": "40"},
            "min_sqnr is '40', expected dB above 0 and up to 150",
        ),
        (
            {"int8_scheme": "auto", "min_agreement": 99},
            "min_agreement is 99, expected a share above 0 and up to 1",
        ),
        ({"int8_scheme": "auto", "min_sqnr": 0}, "min_sqnr is 0, expected dB above 0"),
        ({"int8_scheme": "auto", "min_sqnr": float("nan")}, "min_sqnr is nan"),
        ({"int8_scheme": "qdq"}, "'qdq' does not exist for tflite"),
    ],
)
def test_bad_budgets_are_refused_before_any_work(changes, message, saved_model, photos, tmp_path):
    with pytest.raises(InputError, match=message):
        export(ask(saved_model, photos, tmp_path / "out", "tflite", **changes))
    assert list(tmp_path.iterdir()) == []


def test_agreement_of_a_model_without_classes_is_refused(photos, tmp_path):
    with pytest.raises(InputError, match="no top class to agree on"):
        ExportRequest(
            SPEC.with_(num_classes=None), tmp_path / "out", ("tflite",), ("int8",), "auto",
            min_agreement=0.9, calibration=photos, verify=False,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
