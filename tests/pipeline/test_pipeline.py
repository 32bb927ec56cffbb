"""The whole way on a toy variant: build, save, convert, verify, report; and every way it has to fail."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec, write_pictures
from helpers.programs import write_program

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import digest_of_file, digest_of_folder
from vit_export.model.names import INT8_SCHEMES
from vit_export.model.record import read_record
from vit_export.model.saved_model import SavedModelParameters, write_saved_model
from vit_export.pipeline import steps as pipeline
from vit_export.pipeline.plan import plan_files
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.saved_model_graph import require_numeric


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 24 small pictures that differ from each other."""
    return write_pictures(tmp_path_factory.mktemp("photos"), 24, (64, 64))


@pytest.fixture(scope="module")
def random_saved_model(tmp_path_factory):
    """A SavedModel whose every parameter matters."""
    source = RandomParameters(toy_spec(), seed=5)
    path = tmp_path_factory.mktemp("weights") / "saved_model"
    write_saved_model(build(source), path, record_of(source.spec))
    return path


# TensorFlow's time goes by the number of layers: one is enough where a test is about files and not about figures.
SMALL = toy_spec().with_(num_layers=1)


@pytest.fixture(scope="module")
def small_saved_model(tmp_path_factory):
    """A SavedModel to convert from, which saves building and writing one."""
    source = RandomParameters(SMALL)
    path = tmp_path_factory.mktemp("small") / "saved_model"
    write_saved_model(build(source), path, record_of(source.spec))
    return path


def ask(output, photos, **changes):
    """A request, of a small model built anew where there are no `weights`."""
    spec = None if "weights" in changes else SMALL
    return ExportRequest(output=output, **{"spec": spec, "calibration": photos, **changes})


@pytest.fixture(scope="module")
def everything(random_saved_model, photos, tmp_path_factory):
    output = tmp_path_factory.mktemp("everything") / "out"
    request = ask(output, photos, weights=random_saved_model, precisions=("float32", "float16", "int8"))
    return export(request)


def test_everything_is_made_and_passes(everything):
    folder = everything.report_path.parent
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["report.html", "report.json", "saved_model"]
        + [f"vit_toy_{precision}.{kind}" for precision in ("float32", "float16", "int8") for kind in ("tflite", "onnx")]
    )
    assert everything.passed, everything.verification.failures
    assert [f.verdict for f in everything.verification.files] == ["pass"] * 6
    for file in everything.verification.files:
        assert file.comparison is not None
        assert file.latency.median_ms > 0
        assert file.memory.peak > 1e6


def test_report_says_what_was_done(everything, photos):
    report = json.loads(everything.report_path.read_text())
    assert report["verdict"] == "pass"
    assert report["spec"] == toy_spec().to_dict()
    assert report["preprocessing"]["mean"] == [0.5] * 3
    representative, held_out = (set(report["datasets"][side]["files"]) for side in ("representative", "held_out"))
    assert representative | held_out == {p.name for p in photos.iterdir()}
    assert not representative & held_out
    assert len(report["datasets"]["representative"]["digest"]) == 64
    assert report["settings"]["seed"] == 0
    assert len(report["artifacts"]) == 7
    assert "untrained" in report["verification"]["warnings"][0]


@pytest.mark.slow
def test_features_and_batch(photos, tmp_path):
    request = ask(tmp_path / "out", photos, spec=toy_spec(num_classes=None), formats=("tflite", "onnx"), batch=4)
    result = export(request)
    assert result.passed, result.verification.failures
    for artifact in result.artifacts:
        assert artifact.outputs[0].name == "features"
        assert artifact.outputs[0].shape == (4, 48)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["dynamic", "full"])
def test_other_tflite_schemes(scheme, random_saved_model, photos, tmp_path):
    request = ask(
        tmp_path / "out",
        photos,
        weights=random_saved_model,
        formats=("tflite",),
        precisions=("int8",),
        int8_scheme=scheme,
    )
    result = export(request)
    assert result.passed, result.verification.failures
    assert [a.path for a in result.artifacts] == [str(tmp_path / "out" / f"vit_toy_int8_{scheme}.tflite")]


def test_saved_model_alone_stops_there(photos, tmp_path):
    result = export(ask(tmp_path / "out", photos, formats=("saved_model",)))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "saved_model"]
    assert result.verification is None
    assert result.report["verdict"] == "not verified"


def test_weights_are_copied_bit_for_bit(random_saved_model, photos, tmp_path):
    result = export(ask(tmp_path / "out", photos, weights=random_saved_model, formats=("saved_model",)))
    source = RandomParameters(toy_spec(), seed=5)
    copied = SavedModelParameters(tmp_path / "out" / "saved_model")
    np.testing.assert_array_equal(copied.read("head/kernel"), source.read("head/kernel"))
    assert result.report["weights"] == {"source": "test", "trained": False}


@pytest.mark.thorough
def test_of_a_saved_model_from_elsewhere_only_the_variables_are_taken(small_saved_model, photos, tmp_path, in_process):
    program = write_program(small_saved_model, tmp_path / "program", tmp_path / "mark")
    result = export(ask(tmp_path / "out", photos, weights=program, formats=("tflite",)))
    assert result.passed, result.verification.failures
    require_numeric(tmp_path / "out" / "saved_model")
    assert read_record(tmp_path / "out" / "saved_model").fingerprint == read_record(small_saved_model).fingerprint
    assert not (tmp_path / "mark").exists()


@pytest.mark.thorough
def test_files_added_beside_a_saved_model_are_not_verified_by_its_graph(
    small_saved_model, photos, tmp_path, in_process
):
    output = tmp_path / "out"
    program = write_program(small_saved_model, output / "saved_model", tmp_path / "mark")
    before = digest_of_folder(program)
    result = export(ask(output, photos, weights=program, formats=("tflite",)))
    assert result.passed, result.verification.failures
    assert result.report["verification"]["reference"]["path"] == str(program)
    assert digest_of_folder(program) == before
    assert not (tmp_path / "mark").exists()


def test_files_are_added_beside_the_saved_model_they_come_from(photos, tmp_path):
    output = tmp_path / "out"
    export(ask(output, photos, formats=("saved_model",), seed=9))
    before = (output / "saved_model" / "saved_model.pb").stat().st_mtime_ns
    result = export(ask(output, photos, weights=output / "saved_model", formats=("tflite",), verify=False))
    assert (output / "saved_model" / "saved_model.pb").stat().st_mtime_ns == before
    assert (output / "vit_toy_float32.tflite").is_file()
    assert "earlier_files" not in result.report  # it lists whatever there is
    for again in range(3):  # however often
        result = export(
            ask(output, photos, weights=output / "saved_model", formats=("onnx",), verify=False, overwrite=again > 0)
        )
        (left,) = result.report["earlier_files"]
        assert left["files"] == ["vit_toy_float32.tflite"]
        assert left["artifact"]["sha256"] == digest_of_file(output / "vit_toy_float32.tflite")


@pytest.mark.thorough
def test_classifier_can_be_dropped_from_weights(small_saved_model, photos, tmp_path):
    spec = SMALL.with_(num_classes=None)
    export(ask(tmp_path / "out", photos, spec=spec, weights=small_saved_model, formats=("saved_model",)))
    assert read_record(tmp_path / "out" / "saved_model").spec.num_classes is None
    source = RandomParameters(SMALL)
    kept = SavedModelParameters(tmp_path / "out" / "saved_model")
    np.testing.assert_array_equal(kept.read("class_token"), source.read("class_token"))


def test_weights_of_another_model_are_refused(random_saved_model, photos, tmp_path):
    with pytest.raises(InputError, match="gelu 'erf' where 'tanh' was asked for"):
        export(ask(tmp_path / "out", photos, spec=toy_spec(gelu="tanh"), weights=random_saved_model))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_one_image_calibrates_and_others_verify(random_saved_model, tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "only.png").write_bytes((photos / "00.png").read_bytes())
    result = export(
        ask(tmp_path / "out", folder, weights=random_saved_model, formats=("tflite",), precisions=("int8",))
    )
    data = result.report["datasets"]
    assert data["representative"]["files"] == ["only.png"]
    assert len(data["held_out"]["files"]) == 32
    assert "held_out/" in data["held_out"]["files"][0]


@pytest.mark.thorough
def test_same_seed_same_files(photos, tmp_path):
    digests = []
    for name in ("a", "b"):
        request = ask(tmp_path / name, photos, formats=("tflite",), precisions=("int8",), verify=False, seed=3)
        digests.append(export(request).artifacts[0].sha256)
    assert digests[0] == digests[1]
    export(ask(tmp_path / "c", photos, formats=("saved_model",), seed=4))
    kernels = [SavedModelParameters(tmp_path / name / "saved_model").read("head/kernel") for name in "ac"]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


class Broken(Exception):
    pass


@pytest.mark.parametrize("step", ["convert_structure", "calibrate_each", "move_into"])
def test_failure_leaves_nothing(step, small_saved_model, photos, tmp_path, monkeypatch):
    from vit_export.tflite import auto
    from vit_export.tflite import write as convert

    def fail(*args, **kwargs):
        raise Broken

    home = {"convert_structure": convert, "calibrate_each": auto, "move_into": pipeline}[step]
    monkeypatch.setattr(home, step, fail)
    options = {"weights": small_saved_model, "formats": ("tflite",), "precisions": ("float32", "int8")}
    with pytest.raises(Broken):
        export(ask(tmp_path / "exports" / "out", photos, **options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_overwrite_replaces_and_nothing_is_lost_before(small_saved_model, photos, tmp_path, monkeypatch):
    output = tmp_path / "out"

    def again(**changes):
        return export(ask(output, photos, weights=small_saved_model, formats=("tflite",), verify=False, **changes))

    again()
    first = (output / "vit_toy_float32.tflite").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        again(batch=2)
    assert (output / "vit_toy_float32.tflite").read_bytes() == first
    real = os.rename

    def rename(source, target):
        if str(target).endswith("vit_toy_float32.tflite") and ".partial" in str(source):
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(OutputError, match="No space left"):
            again(batch=2, overwrite=True)
    assert (output / "vit_toy_float32.tflite").read_bytes() == first
    assert sorted(p.name for p in output.iterdir()) == [
        "report.html",
        "report.json",
        "saved_model",
        "vit_toy_float32.tflite",
    ]
    again(batch=2, overwrite=True)
    assert (output / "vit_toy_float32.tflite").read_bytes() != first


def test_a_broken_conversion_fails_verification(in_process, small_saved_model, photos, tmp_path, monkeypatch):
    """The pipeline is told: a converter that loses one bias does not pass."""
    from vit_export.deployment import rewrites

    real = rewrites.fold_bias

    def fold_bias(source, dense, norm, factor=1.0):
        bias = real(source, dense, norm, factor)
        return bias * 0 if dense == "encoder/layer_0/attention/value" else bias

    monkeypatch.setattr(rewrites, "fold_bias", fold_bias)
    result = export(ask(tmp_path / "out", photos, weights=small_saved_model, formats=("tflite",)))
    assert not result.passed
    assert result.report["verdict"] == "fail"
    assert "worst difference" in result.verification.failures[0]


def test_a_saved_model_that_is_not_the_model_fails(in_process, photos, tmp_path, monkeypatch):
    from vit_export.model.keras_model import VisionTransformer

    real = VisionTransformer.predict_output
    monkeypatch.setattr(VisionTransformer, "predict_output", lambda self, images: real(self, images) + 0.5)
    result = export(ask(tmp_path / "out", photos, formats=("tflite",)))
    assert not result.passed
    assert "differs from the model it was saved from" in result.verification.failures[0]


def test_every_format_and_scheme_has_limits():
    from vit_export.model.names import PRECISIONS
    from vit_export.verification.verifier import LIMITS

    reference = {("saved_model", "float32", None)}
    ours = {(kind, p, s) for kind, schemes in INT8_SCHEMES.items() for p in PRECISIONS
            for s in (schemes if p == "int8" else (None,))}  # fmt: skip
    foreign = {(kind, "int8", None) for kind in INT8_SCHEMES}
    assert set(LIMITS) == reference | ours | foreign


def test_the_plan_knows_what_the_converters_know():
    """The plan is light, so it states again what the converters' tables say: here they are held together."""
    from vit_export.model.names import OPSETS, SEARCHED
    from vit_export.onnx.write import _FORMS, MAX_OPSET, MIN_OPSET
    from vit_export.tflite import quantize as tflite_quantize

    assert set(INT8_SCHEMES["tflite"]) == {*tflite_quantize.SCHEMES, *tflite_quantize.EVERYWHERE, SEARCHED}
    assert set(INT8_SCHEMES["onnx"]) == {form.scheme for form in _FORMS if form.precision == "int8"}
    assert (OPSETS[0], OPSETS[-1]) == (MIN_OPSET, MAX_OPSET)


def test_plan_names_files_by_precision_and_unusual_scheme(photos, tmp_path):
    request = ask(tmp_path, photos, formats=("tflite",), precisions=("float32", "int8"), int8_scheme="dynamic")
    assert [f.path.name for f in plan_files(request, toy_spec())] == [
        "vit_toy_float32.tflite",
        "vit_toy_int8_dynamic.tflite",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_from_outside(number, tmp_path):
    """Stopped in the middle of converting: nothing half-written stays."""
    command = [sys.executable, "-m", "vit_export", "vit_s16", "--tflite", "--onnx", "--no-verify"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if "Writing the SavedModel" in line:
            break
    child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert list(tmp_path.rglob("*")) == []


def test_full_disk(tmp_path, monkeypatch):
    """What TensorFlow raises on a full disk: one sentence, exit 2, nothing left (a real one: test_full_real_disk)."""
    import tensorflow as tf
    from click.testing import CliRunner

    from vit_export.cli.main import main

    def save(module, path, **options):
        (Path(path) / "variables").mkdir()
        (Path(path) / "variables" / "part").write_bytes(b"half")
        raise tf.errors.ResourceExhaustedError(None, None, f"{path}/variables/part; No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", save)
    arguments = ["vit_ti16", "--image-size", "32", "--tflite", "--no-verify", "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "No space left on the disk" in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_full_real_disk(tmp_path):
    """A file system of 3 MB in a mount namespace of its own: one sentence, exit 2, nothing left."""
    probe = subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this system does not let a process make a mount namespace")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = (
        f"mount -t tmpfs -o size=3m none {disk} && cd {tmp_path} && "
        f"{sys.executable} -m vit_export vit_ti16 --image-size 32 --tflite --output {disk}/out --no-verify; "
        f"echo exit $?; ls -A {disk} | wc -l"
    )
    result = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["exit", "2", "0"], result.stderr
    assert "No space left on the disk" in result.stderr
    assert "Traceback" not in result.stderr
