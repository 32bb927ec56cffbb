"""A .tflite file of another tool is judged by its TFLite Metadata, where it has some, and by what comes first."""

from dataclasses import replace

import pytest
from helpers.faults_bench import LABELS, toy_bench
from helpers.faults_edits import TFLiteFile, associated_files
from helpers.faults_table import LAYER, SPEC

from vit_export.artifacts.read import artifact_of, read_facts
from vit_export.verification import verifier

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return toy_bench(tmp_path_factory.mktemp("foreign"), SPEC.with_(num_layers=2), labels=LABELS)


@pytest.fixture
def failed(bench, tmp_path, in_process):
    """The names of the checks that our file fails as another tool's, edited and with the metadata of another record."""

    def run(edit=lambda file: None, **changes):
        from vit_export.tflite.metadata import set_tflite_metadata
        from vit_export.tflite.stream import write_model

        good, path = bench.good("tflite float32"), tmp_path / "foreign.tflite"
        file = TFLiteFile(good.path)
        files = associated_files(good.path)
        if changes:
            record = replace(bench.record, **changes)
            files = set_tflite_metadata(file.model, file.mapped.buffers, record, "x", "normalized")
        file.model.metadata = [entry for entry in file.model.metadata if entry.name != b"vit_export"]
        edit(file)
        write_model(file.model, file.mapped.buffers, path, files=files, overwrite=True)
        assert read_facts(path).record is None
        options = verifier.VerifyOptions(trained=False, latency=False)
        (result,) = verifier.verify(bench.reference, [artifact_of(path)], bench.pictures, options).files
        return {check.name for check in result.checks if not check.passed}, {cause.name for cause in result.causes}

    return run


def test_right_metadata_passes_and_so_does_none(failed):
    def without(file):
        file.model.metadata = []

    assert failed() == (set(), set())
    assert failed(without) == (set(), set())
    assert failed(labels=None) == (set(), set())


def test_wrong_metadata_fails(failed, bench):
    pixels = bench.record.preprocessing
    reversed_order = replace(pixels, mean=pixels.mean[::-1], std=pixels.std[::-1])
    assert failed(preprocessing=reversed_order) == ({"metadata_pixels"}, {"told_bgr"})
    assert failed(labels=(LABELS[1], LABELS[0], *LABELS[2:])) == ({"metadata_labels"}, {"told_exchanged_labels"})
    assert failed(labels=("background", *LABELS)) == ({"metadata_labels"}, {"told_background"})


def test_another_tensor_first_fails(failed):
    def edit(file):
        names = [tensor.name.decode() for tensor in file.graph.tensors]
        file.graph.outputs = [names.index(f"{LAYER}1/mlp/dense_2"), names.index("logits")]

    assert failed(edit) == ({"first_tensors"}, {"told_another_tensor"})
