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


def jobs():
    """Every switch in every format and scheme; what CI has time for is thorough, the rest slow."""
    for name in SWITCHES:
        for format, schemes in INT8_SCHEMES.items():
            for scheme in (None, *schemes):
                usual = scheme in (None, schemes[0]) and "," not in name
                mark = pytest.mark.thorough if usual else pytest.mark.slow
                yield pytest.param(name, format, scheme, marks=mark)


@pytest.mark.parametrize(("name", "format", "scheme"), jobs())
def test_files_pass(name, format, scheme, photographs, tmp_path):
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
