"""Files of every format, precision and int8 scheme of every switch of the architecture, verified."""

import pytest
from helpers.switches import SWITCHES, model_of

import vit_export
from vit_export.images.photographs import write_photographs
from vit_export.model.names import INT8_SCHEMES


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder)
    return folder


FLOATS = ("float32", "float16")
JOBS = [(format, None) for format in ("tflite", "onnx")]
JOBS += [(format, scheme) for format in ("tflite", "onnx") for scheme in INT8_SCHEMES[format]]


@pytest.mark.thorough
@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(("format", "scheme"), JOBS)
def test_files_pass(name, format, scheme, photographs, tmp_path):
    if scheme not in (None, INT8_SCHEMES[format][0]) and "," in name:
        pytest.skip("the classifier or features of the same layers have every scheme")
    result = vit_export.export(
        model_of(name),
        output=tmp_path / "out",
        formats=(format,),
        precisions=FLOATS if scheme is None else ("int8",),
        int8_scheme=scheme,
        calibration=photographs,
    )
    files = [file for file in result.report["verification"]["files"] if file["artifact"]["format"] == format]
    assert len(files) == (2 if scheme is None else 1)
    assert result.passed, [
        (check["name"], check["detail"]) for file in files for check in file["checks"] if not check["passed"]
    ]
