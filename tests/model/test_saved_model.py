import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec

from vit_export.base.errors import InputError, OutputError
from vit_export.model.parameters import fingerprint_of, parameter_specs
from vit_export.model.record import RECORD_FILE, read_record
from vit_export.model.saved_model import SavedModelParameters, describe_saved_model, write_saved_model


def _plain_load(path):
    import tensorflow as tf

    return tf.saved_model.load(str(path)).signatures["serving_default"]


def test_plain_tensorflow_loads_it(saved_model, expected, images):
    serve = _plain_load(saved_model)
    for count in (1, 6):  # the batch is dynamic
        found = serve(images=images[:count])
        assert list(found) == ["logits"]
        np.testing.assert_allclose(found["logits"], expected[:count], atol=1e-5)


@pytest.mark.thorough
def test_features(images, tmp_path):
    source = RandomParameters(toy_spec(num_classes=None))
    model = build(source)
    write_saved_model(model, tmp_path / "features", record_of(source.spec))
    found = _plain_load(tmp_path / "features")(images=images)
    assert list(found) == ["features"]
    np.testing.assert_allclose(found["features"], model.extract_features(images), atol=1e-5)


def test_parameters_come_back_bit_for_bit(saved_model, source, spec):
    read = SavedModelParameters(saved_model)
    assert read.spec == spec
    for parameter in parameter_specs(spec):
        np.testing.assert_array_equal(read.read(parameter.name), source.read(parameter.name))


def test_record_and_description(saved_model, record):
    found = read_record(saved_model)
    assert replace(found, fingerprint=None) == record
    assert found.fingerprint == fingerprint_of(SavedModelParameters(saved_model))
    artifact = describe_saved_model(saved_model)
    assert artifact.inputs[0].shape == (None, 32, 32, 3)
    assert artifact.outputs[0].name == "logits"
    assert artifact.bytes > 4 * record.spec.num_parameters


@pytest.mark.thorough
def test_a_users_own_model_needs_no_record(model, spec, tmp_path):
    write_saved_model(model, tmp_path / "own")
    record = read_record(tmp_path / "own")
    # Its weights were set after it was built, so that nothing says that they are untrained.
    assert (record.spec, record.trained, record.preprocessing.mean) == (spec, True, (0.5, 0.5, 0.5))


def test_existing_folder_is_refused_then_replaced(model, record, tmp_path):
    path = tmp_path / "saved_model"
    path.mkdir()
    (path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_saved_model(model, path, record)
    assert [p.name for p in path.iterdir()] == ["mine.txt"]
    write_saved_model(model, path, record, overwrite=True)
    assert replace(read_record(path), fingerprint=None) == record
    assert [p.name for p in tmp_path.iterdir()] == ["saved_model"]


def test_weights_of_another_model_are_refused(saved_model, tmp_path):
    import shutil

    path = tmp_path / "saved_model"
    shutil.copytree(saved_model, path)
    file = path / RECORD_FILE
    record = json.loads(file.read_text())
    record["spec"]["num_layers"] = 4
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="missing encoder/layer_3"):
        SavedModelParameters(path)
    record["spec"]["num_layers"], record["spec"]["num_classes"] = 3, 11
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"head/kernel is \(48, 10\), expected \(48, 11\)"):
        SavedModelParameters(path)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: None, "No SavedModel folder"),
        (lambda p: p.mkdir(), "no saved_model.pb"),
        (lambda p: (p.mkdir(), (p / "saved_model.pb").touch()), "was not written by vit-export"),
    ],
)
def test_not_our_saved_model(prepare, message, tmp_path):
    prepare(tmp_path / "model")
    with pytest.raises(InputError, match=message):
        read_record(tmp_path / "model")


def test_truncated_weights_are_refused(saved_model, tmp_path):
    import shutil

    path = tmp_path / "saved_model"
    shutil.copytree(saved_model, path)
    (path / "variables" / "variables.index").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        SavedModelParameters(path)
