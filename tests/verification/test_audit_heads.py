"""The operators of a head of one's own: a file of another activation, slope or epsilon is no file of the model."""

import pytest
from helpers.switches import model_of, spec_of

from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.saved_model import ModelParameters
from vit_export.onnx.write import write_onnx
from vit_export.tflite.write import write_tflite
from vit_export.verification.audit import attributes


def changed(spec, old, new):
    """`spec` with the step `old` of its head replaced."""
    assert old in spec.head
    return spec.with_(head=tuple(new if step == old else step for step in spec.head))


OTHERS = {
    "head": [(("relu", None), ("tanh", None))],
    "head of norms": [
        (("norm", 1e-3), ("norm", 1e-2)),
        (("gelu", None), ("gelu_tanh", None)),
    ],
    "head, sharp": [
        (("relu6", None), ("tanh", None)),
        (("leaky_relu", 0.2), ("leaky_relu", 0.4)),
    ],
    "head, smooth": [(("hard_silu", None), ("tanh", None))],
}


@pytest.mark.thorough
@pytest.mark.parametrize("format", ["tflite", "onnx"])
@pytest.mark.parametrize("name", OTHERS)
def test_another_head_is_noticed(name, format, tmp_path):
    spec, path = spec_of(name), tmp_path / f"file.{format}"
    record = ModelRecord(spec, Preprocessing(spec.image_size))
    (write_tflite if format == "tflite" else write_onnx)(ModelParameters(model_of(name)), record, path)
    assert attributes(path, format, spec).passed
    for old, new in OTHERS[name]:
        assert not attributes(path, format, changed(spec, old, new)).passed, (old, new)
