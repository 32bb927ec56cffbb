"""Channels without weights, as pruning, dying units and heads that start from 0 leave them, are no fault."""

import numpy as np
import pytest
from conftest import RandomParameters
from helpers.faults_bench import toy_bench
from helpers.faults_table import SPEC

from vit_export.artifacts.constants import read_constants
from vit_export.artifacts.read import read_facts
from vit_export.model.saved_model import SavedModelParameters
from vit_export.verification import verifier
from vit_export.verification.audit import audited

pytestmark = pytest.mark.thorough

KINDS = (
    ("tflite int8 static", {}),
    ("tflite int8 full", {}),
    ("tflite int8 w8a16", {}),
    ("tflite int8 static", {"tuned": True}),
    ("onnx int8 w8a16", {"tuned": True}),
    ("onnx int8 qdq", {}),
    ("onnx int8 dynamic", {}),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    spec = SPEC.with_(num_layers=2)
    source = RandomParameters(spec, 3)

    def changed(name, edit):
        values = source.read(name).copy()
        edit(values)
        return source.replaced(name, values)

    def without(values):
        values[..., [3, 4]] = 0

    def alike(values):
        values[..., 10] = values[..., 11]

    for index in range(spec.num_layers):
        prefix = f"encoder/layer_{index}"
        source = changed(f"{prefix}/attention_norm/scale", without)
        for dense in ("attention/value", "attention/query", "mlp/dense_1"):
            source = changed(f"{prefix}/{dense}/kernel", without)
        for part in ("kernel", "bias"):
            source = changed(f"{prefix}/mlp/dense_1/{part}", alike)
    source = changed("head/kernel", lambda values: values[:, 2:4].fill(0))
    return toy_bench(tmp_path_factory.mktemp("dead"), spec, source=source)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_channels_without_weights_are_no_fault(bench, kind, options):
    file = bench.good(kind, **options)
    parameters = SavedModelParameters(bench.reference)
    assert [check.detail for check in audited(file, read_facts(file.path), bench.record, parameters)] == ["", ""]


def test_files_keep_the_biases_of_channels_without_weights(bench, in_process):
    """AI Edge Quantizer counts them in steps of 1e-13, of which 32 bits hold nothing."""
    files = [bench.good(kind, **options) for kind, options in KINDS[:4]]
    options = verifier.VerifyOptions(trained=False, latency=False)
    assert verifier.verify(bench.reference, files, bench.pictures, options).failures == ()
    for file in files:
        name = "encoder/layer_0/mlp/dense_1"
        held = read_constants(file.path, "tflite")
        wanted = bench.source.read(f"{name}/bias") + bench.source.read("encoder/layer_0/mlp_norm/bias") @ (
            bench.source.read(f"{name}/kernel")
        )
        np.testing.assert_allclose(held[f"{name}/bias"].values()[[3, 4]], wanted[[3, 4]], rtol=1e-3)
