"""Good int8 files are good on however many images: 16, 64 or 256, whichever they are, whatever the weights."""

from pathlib import Path

import numpy as np
import pytest
from helpers.faults_bench import LABELS, pictures, toy_bench
from helpers.faults_table import SPEC

from vit_export.model.input_kinds import feed
from vit_export.runtimes.runner import open_runner
from vit_export.verification import checks, metrics

pytestmark = pytest.mark.slow

KINDS = (
    "onnx int8 dynamic",
    "onnx int8 qdq",
    "onnx int8 symmetric",
    "onnx int8 w8a16",
    "tflite int8 dynamic",
    "tflite int8 static",
    "tflite int8 full",
    "tflite int8 w8a16",
)
COUNTS, DRAWS, MOST = (16, 64, 256), 3, 256


def outputs_of(path, file_format, images):
    return open_runner(Path(path), file_format).run(images).reshape(len(images), -1)


@pytest.mark.parametrize("seed", range(20))
def test_good_files_pass_on_any_images(seed, tmp_path):
    spec = SPEC.with_(num_layers=2)
    bench = toy_bench(tmp_path, spec, seed=seed, labels=LABELS)
    images = feed(pictures(MOST, spec.image_size, seed=100 + seed), "normalized", bench.record.preprocessing)
    expected = outputs_of(bench.reference, "saved_model", images)
    random = np.random.default_rng(seed)
    alarms = []
    for kind in KINDS:
        artifact = bench.good(kind)
        found = outputs_of(artifact.path, artifact.format, images)
        limits = checks.limits_of(artifact, trained=False)
        for count in COUNTS:
            for _ in range(DRAWS):
                chosen = random.choice(MOST, count, replace=False)
                comparison = metrics.compare(expected[chosen], found[chosen])
                judged = checks.figures(comparison, limits, [str(i) for i in chosen], trained=False)
                alarms += [(kind, count, check.detail) for check in judged if not check.passed]
    assert alarms == []
