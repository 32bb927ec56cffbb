"""The light installation: what works where TensorFlow is hidden from this Python, and what says that it is missing."""

import os
import subprocess
import zipfile
from pathlib import Path

import pytest
from conftest import write_pictures

from vit_export.base.errors import InputError
from vit_export.base.packages import installed
from vit_export.base.python import python_command, python_environment

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "earlier.zip"
HIDDEN = ("tensorflow", "keras", "tf2onnx", "ai_edge_quantizer")
FLOAT, INT8, TFLITE = (f"exported/vit_toy_{name}" for name in ("float32.onnx", "int8.onnx", "int8.tflite"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of an export, photographs, and a sitecustomize.py that hides packages from every Python that finds it."""
    folder = tmp_path_factory.mktemp("light")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    write_pictures(folder / "photos", 4, (24, 20))
    (folder / "hiding").mkdir()
    (folder / "hiding" / "sitecustomize.py").write_text(f"import sys; sys.modules.update(dict.fromkeys({HIDDEN}))")
    return folder


def hiding(folder):
    environment = python_environment()
    return {**environment, "PYTHONPATH": os.pathsep.join([str(folder / "hiding"), environment["PYTHONPATH"]])}


def run(folder, *words):
    command = python_command("-m", "vit_export", *words)
    return subprocess.run(command, cwd=folder, env=hiding(folder), capture_output=True, text=True, check=False)


def refused(done):
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    return done.returncode, line


@pytest.mark.parametrize(
    "words",
    [("vit_ti16", "--onnx"), pytest.param(("verify", INT8), marks=pytest.mark.thorough)],
    ids=lambda words: words[0],
)
def test_what_needs_tensorflow_says_so_and_writes_nothing(folder, words):
    before = sorted(folder.iterdir())
    code, line = refused(run(folder, *words))
    assert code == 2
    assert "TensorFlow is not installed here" in line
    assert "`pip install vit-export`" in line
    assert ("float32 .tflite or .onnx" in line) == (words[0] == "verify")
    assert sorted(folder.iterdir()) == before


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("list", "--families"),
        ("compare", "--no-measure"),
        ("inspect", INT8, TFLITE, "--delegates"),
        ("inspect", "exported/saved_model"),
        ("bench", INT8, TFLITE, "--time-limit", "0.1"),
        ("predict", TFLITE, "photos"),
        ("bundle", INT8, "--target", "linux", "--target", "web", "--output", "zips"),
        ("verify", INT8, TFLITE, "--reference", FLOAT, "--data", "photos", "--report", "checked"),
    ],
    ids=lambda words: words[0],
)
def test_the_rest_works(folder, words):
    done = run(folder, *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.thorough
@pytest.mark.parametrize(
    "words", [("compare", "vit_ti16"), ("bench", "exported/saved_model")], ids=lambda words: words[0]
)
def test_it_is_told_wherever_it_is_missed(folder, words):
    code, line = refused(run(folder, *words))
    assert (code, "TensorFlow is not installed here" in line) == (2, True)


@pytest.mark.thorough
def test_a_saved_model_among_other_files_is_a_row_that_could_not_be_measured(folder):
    done = run(folder, "bench", "exported", "--time-limit", "0.1")
    assert done.returncode == 1
    assert "FAIL  TensorFlow is not installed here" in done.stderr
    assert "vit_toy_int8.onnx" in done.stdout


@pytest.mark.thorough
@pytest.mark.parametrize(
    "statement", ["from vit_export import create_vit_b16", "v.create_vit('vit_b16')", "v.VisionTransformer"]
)
def test_python_hears_it_in_the_same_sentence(folder, statement):
    code = f"import vit_export as v\ntry:\n    {statement}\nexcept v.InputError as error:\n    print(error)"
    done = subprocess.run(
        python_command("-c", code), cwd=folder, env=hiding(folder), capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("TensorFlow is not installed here, which exporting, training")


def test_any_package_of_others_is_named():
    with (
        pytest.raises(InputError, match=r"^ai-edge-litert is not installed here: `pip install vit-export`"),
        installed(),
    ):
        raise ModuleNotFoundError("No module named 'ai_edge_litert'", name="ai_edge_litert.interpreter")


def test_a_module_of_this_package_that_is_missing_is_a_fault():
    with pytest.raises(ModuleNotFoundError), installed():
        raise ModuleNotFoundError("No module named 'vit_export.nowhere'", name="vit_export.nowhere")
