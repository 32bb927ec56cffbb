"""A float32 file of this package as the reference of others: what a machine without TensorFlow compares with."""

import zipfile
from pathlib import Path

import onnx
import pytest
from conftest import write_pictures
from onnx import numpy_helper

from vit_export.base.errors import InputError
from vit_export.pipeline.verify_files import VerifyRequest, verify_files

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "earlier.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    write_pictures(folder / "photos", 4, (24, 20))
    return folder


@pytest.fixture
def verified(folder, in_process):
    def verify(*names, **options):
        files = tuple(folder / "exported" / f"vit_toy_{name}" for name in names)
        if reference := options.pop("reference", None):
            options["reference"] = folder / "exported" / reference
        return verify_files(VerifyRequest(files, data=folder / "photos", **{"latency": False, **options}))

    return verify


@pytest.mark.thorough
@pytest.mark.parametrize("format", ["onnx", "tflite"])
def test_its_figures_are_those_of_the_saved_model(verified, format):
    found = verified("int8.onnx", "int8.tflite", reference=f"vit_toy_float32.{format}")
    truth = verified("int8.onnx", "int8.tflite", reference="saved_model")
    assert found.passed
    for ours, theirs in zip(found.verification.files, truth.verification.files, strict=True):
        assert ours.comparison.sqnr_db == pytest.approx(theirs.comparison.sqnr_db, abs=0.01)
    assert any("The reference is a file itself" in text for text in found.verification.warnings)
    assert not any("The reference is a file itself" in text for text in truth.verification.warnings)
    assert (
        found.report["verification"]["reference"]["bytes"] == (Path(found.verification.reference.path)).stat().st_size
    )


def test_another_model_fails(verified, folder):
    model = onnx.load(folder / "exported" / "vit_toy_float32.onnx")
    kernel = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    kernel.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(kernel), kernel.name))
    onnx.save(model, folder / "exported" / "vit_toy_other.onnx")
    assert not verified("other.onnx", reference="vit_toy_float32.onnx").passed


def test_layers_are_compared_with_a_saved_model_alone(verified):
    with pytest.raises(InputError, match=r"locate=True .* give one, or leave locate=True out"):
        verified("int8.onnx", reference="vit_toy_float32.onnx", locate=True)


def test_a_file_that_is_less_than_the_truth_is_none(verified, folder):
    with pytest.raises(InputError, match=r"cannot be the reference, expected a float32 file .* given int8"):
        verified("float32.onnx", reference="vit_toy_int8.onnx")
    model = onnx.load(folder / "exported" / "vit_toy_float32.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "exported" / "foreign.onnx")
    with pytest.raises(InputError, match=r"foreign\.onnx holds no record of vit-export"):
        verified("int8.onnx", reference="foreign.onnx")
