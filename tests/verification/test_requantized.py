"""A float file of ours that another tool quantized is judged as what it has become, and the report says so."""

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.faults_bench import LABELS, toy_bench
from helpers.faults_edits import claiming
from helpers.faults_table import SPEC

from vit_export.artifacts.read import REQUANTIZED, artifact_of
from vit_export.verification import verifier

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return toy_bench(tmp_path_factory.mktemp("bench"), SPEC.with_(num_layers=2), labels=LABELS)


def verified(bench, file):
    options = verifier.VerifyOptions(trained=False, latency=False)
    return verifier.verify(bench.reference, [file], bench.pictures, options)


def test_onnx_runtimes_quantize_dynamic(bench, tmp_path, in_process):
    from onnxruntime.quantization import quantize_dynamic

    path = tmp_path / "quantized.onnx"
    # At opset 23 it would take ONNX's Attention for its own, and make a file that it refuses itself.
    quantize_dynamic(bench.good("onnx float32", opset=20).path, path)
    file = artifact_of(path)
    assert (file.precision, file.scheme) == ("int8", "dynamic")
    assert file.notes == (
        f"{REQUANTIZED}: its record says float32, its weights are int8, and int8 is what it is judged as.",
    )
    result = verified(bench, file)
    assert result.failures == ()
    assert any(warning == f"onnx int8 dynamic: {file.notes[0]}" for warning in result.warnings)


def test_a_tflite_file_whose_record_is_that_of_the_float_file(bench, in_process):
    good = bench.good("tflite int8 dynamic")
    path = bench.folder / "requantized.tflite"
    path.write_bytes(Path(good.path).read_bytes())
    claiming(bench, replace(good, path=str(path)), {"precision": "float32", "scheme": None})
    file = artifact_of(path)
    assert (file.precision, file.scheme) == ("int8", "dynamic")
    assert verified(bench, file).failures == ()


def test_what_the_caller_says_of_it_counts(bench, tmp_path):
    from onnxruntime.quantization import quantize_dynamic

    path = tmp_path / "quantized.onnx"
    quantize_dynamic(bench.good("onnx float32").path, path)
    file = artifact_of(path, precision="float32")
    assert (file.precision, file.scheme, file.notes) == ("float32", None, ())
