"""An export brings what meets 16-bit floats into their range, and nothing else."""

import pytest
from helpers.faults_half import half_bench, scaled

from vit_export.artifacts.read import read_facts
from vit_export.deployment.half_range import KEY
from vit_export.model.artifact import PlannedFile
from vit_export.pipeline.convert import convert
from vit_export.pipeline.request import ExportRequest

KINDS = {
    ("tflite", "float16"): True,
    ("onnx", "float16"): True,
    ("onnx", "float32"): False,
}


class _Notes(list):
    """A reporter that keeps notes."""

    note = list.append

    def step(self, text):
        pass

    def progress(self, done, total):
        pass


@pytest.mark.thorough
def test_files_that_meet_16_bits_are_fitted(tmp_path):
    bench, notes = half_bench(tmp_path, lambda source: scaled(source, 1e5)), _Notes()
    files = tuple(PlannedFile(tmp_path / f"{precision}.{format}", format, precision) for format, precision in KINDS)
    request = ExportRequest(spec=bench.spec, output=tmp_path)
    made = convert(request, bench.record, bench.reference, files, bench.pictures, tmp_path, notes)
    for artifact, fitted in zip(made, KINDS.values(), strict=True):
        assert (KEY in read_facts(artifact.path).record["weights"]) == fitted
    (note,) = (note for note in notes if "to fit 16-bit floats" in note)
    assert note.startswith("tflite float16, onnx float16: to fit 16-bit floats, the residual stream is divided by 2^")
