"""Files that must pass, and files that must fail: each for the right reason, in words that name it."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from conftest import RandomParameters, toy_spec
from helpers import verifier_toys as toys
from helpers.shown import Shown, pictures_of
from helpers.verifier_toys import CLASSES, NAMES, artifact_of

from vit_export.base import machine
from vit_export.base.errors import InputError
from vit_export.base.reporting import Silent
from vit_export.images.pictures import Pictures
from vit_export.model.artifact import Artifact, Format, Precision, TensorSpec
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.onnx import write_onnx
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, RunnerError, open_runner
from vit_export.runtimes.timing import latency
from vit_export.runtimes.timing import rounds as timing
from vit_export.runtimes.timing.latency import Latency, Subject, plan_of
from vit_export.runtimes.timing.noise import Noise
from vit_export.verification import checks, processes, verifier
from vit_export.verification.metrics import compare, may_be_beyond


class Heard(Silent):
    """A Reporter that keeps the steps it is told."""

    def __init__(self):
        self.steps = []

    def step(self, text):
        self.steps.append(text)


def verify(reference, files, images=None, names=NAMES, *, reporter=None, **options):
    """Verify `files` on the toys' images."""
    shown = Shown(toys.images() if images is None else images, names)
    return verifier.verify(reference, files, shown, verifier.VerifyOptions(**options), reporter)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def reference(folder):
    return toys.write_saved_model(folder / "reference", toys.weights())


@pytest.fixture(scope="module")
def good_files(folder, reference):
    w = toys.weights()
    return {
        "tflite": artifact_of(toys.write_tflite(folder / "float32.tflite", w)),
        "tflite batch 4": artifact_of(toys.write_tflite(folder / "batch4.tflite", w, batch=4)),
        "tflite float16": artifact_of(toys.write_tflite(folder / "float16.tflite", w, precision="float16"), "float16"),
        "tflite int8": artifact_of(toys.write_tflite(folder / "int8.tflite", w, precision="int8"), "int8", "full"),
        "onnx": artifact_of(toys.write_onnx(folder / "float32.onnx", w)),
        "onnx open batch": artifact_of(toys.write_onnx(folder / "open.onnx", w, batch="n")),
        "onnx batch 4": artifact_of(toys.write_onnx(folder / "batch4.onnx", w, batch=4)),
        "onnx float16": artifact_of(toys.write_onnx(folder / "float16.onnx", w, precision="float16"), "float16"),
    }


@pytest.fixture(scope="module")
def good(reference, good_files):
    heard = Heard()
    result = verify(reference, list(good_files.values()), trained=True, reporter=heard)
    assert len(heard.steps) == 2 + len(good_files)
    assert all(text.startswith("Verifying: ") for text in heard.steps)
    return dict(zip(good_files, result.files, strict=True)), result


def spoilt_files(folder: Path, good_files: dict[str, Artifact]) -> dict[str, Artifact]:
    """Files that each have one fault; the keys are in FAULTS."""
    from onnx import helper

    w = toys.weights()
    rng = np.random.default_rng(5)

    def onnx(name, w=w, *, record=None, **options):
        path = toys.write_onnx(folder / f"{name.replace(' ', '_')}.onnx", w, **options)
        return artifact_of(path) if record is None else replace(artifact_of(path), outputs=record.outputs)

    def tail(operator, *inputs, **attributes):
        return (helper.make_node(operator, ["raw", *inputs], ["logits"], **attributes),)

    noisy = {**w, "head": w["head"] * (1 + 0.01 * rng.normal(size=w["head"].shape)).astype(np.float32)}
    hole = {**w, "bias": np.where(np.arange(CLASSES) == 3, np.nan, w["bias"]).astype(np.float32)}
    swap = np.arange(CLASSES)
    swap[[2, 7]] = swap[[7, 2]]
    int8, tflite = good_files["tflite int8"], good_files["tflite"]
    bad_scale = toys.replace_scale(Path(int8.path), folder / "bad_scale.tflite", int8.outputs[0].scale, 0.3)
    cut = folder / "cut.tflite"
    cut.write_bytes(Path(tflite.path).read_bytes()[:-2500])
    cut_onnx = folder / "cut.onnx"
    cut_onnx.write_bytes(Path(good_files["onnx"].path).read_bytes()[:-500])
    random = (
        helper.make_node("RandomNormalLike", ["raw"], ["noise"], scale=1e-6),
        helper.make_node("Add", ["raw", "noise"], ["logits"]),
    )
    wide = {"pad": np.zeros((1, 2), np.float32)}
    wide_outputs = (("logits", [None, CLASSES + 2]),)
    return {
        "weights perturbed": onnx("weights perturbed", noisy),
        "weights perturbed, tflite": artifact_of(toys.write_tflite(folder / "noisy.tflite", noisy)),
        "nan": onnx("nan", hole),
        "constant": onnx("constant", {**w, "kernel": 0 * w["kernel"]}),
        "swapped classes": onnx("swapped classes", tail=tail("Gather", "swap", axis=1), extra={"swap": swap}),
        "wrong scaling": onnx("wrong scaling", tail=tail("Mul", "half"), extra={"half": np.float32([0.5])}),
        "random": onnx("random", tail=random),
        "batch turned round": onnx(
            "batch turned round", batch=4, tail=tail("Gather", "turn", axis=0), extra={"turn": np.array([3, 2, 1, 0])}
        ),
        "wrong shape": onnx(
            "wrong shape", tail=tail("Concat", "pad", axis=1),
            extra=wide, outputs=wide_outputs, record=good_files["onnx"],
        ),
        "wrong name": onnx("wrong name", tail=(helper.make_node("Identity", ["raw"], ["scores"]),),
                           outputs=(("scores", [None, CLASSES]),), record=good_files["onnx"]),
        "two outputs": onnx("two outputs", tail=tail("Identity"),
                            outputs=(("logits", [None, CLASSES]), ("raw", [None, CLASSES]))),
        "cut": artifact_of(cut),
        "cut onnx": artifact_of(cut_onnx),
        "bad scale": artifact_of(bad_scale, "int8", "full"),
        "scale not as recorded": artifact_of(
            toys.replace_scale(Path(int8.path), folder / "other_scale.tflite", int8.outputs[0].scale, 1.001),
            "int8", "full", outputs=int8.outputs,
        ),
        "sha256": replace(good_files["onnx"], sha256="0" * 64),
        "bytes": replace(tflite, bytes=tflite.bytes + 1),
        "extra file missing": replace(good_files["onnx batch 4"], extra_files=("weights.bin",)),
        "missing": replace(tflite, path=str(folder / "nothing.tflite")),
        "no limits": replace(good_files["onnx open batch"], precision="int8", scheme="secret"),
    }  # fmt: skip


# Every check that must fail (no other may), and what its sentence must say.
NUMBERS = {"worst_difference", "cosine", "sqnr"}
FAULTS = {
    "weights perturbed": (NUMBERS, r"worst difference 0\.0\d+ of the range on held_out/\w+\.jpg, limit 2e-05"),
    "weights perturbed, tflite": (NUMBERS, r"SQNR \d\d\.\d\d dB on held_out/\w+\.jpg, limit 85 dB"),
    "nan": ({"finite"}, r"1 of 10 outputs are NaN or infinite on held_out/coffee_1\.jpg \(6 of 6 images"),
    "constant": (NUMBERS | {"varies", "agreement"}, "every image gives the same output"),
    "swapped classes": (NUMBERS | {"class_order"}, "2 is the reference's 7, 7 is the reference's 2"),
    "wrong scaling": (NUMBERS - {"cosine"}, r"SQNR 6\.02 dB"),
    "random": ({"deterministic", "order"}, "coffee_1.jpg gives different outputs when it is run again"),
    "batch turned round": (NUMBERS | {"order", "batch", "agreement"}, r"differs by \d\S* when fed in reverse order"),
    "wrong shape": ({"outputs", "output_shape"}, r"shape \[6, 12\], the reference's \[6, 10\]"),
    "wrong name": ({"outputs"}, "output logits has name scores, recorded logits"),
    "two outputs": ({"outputs"}, "2 outputs \\(logits, raw\\), expected the reference's one"),
    "cut": ({"runs"}, r"cut\.tflite cannot be loaded by ai-edge-litert"),
    "cut onnx": ({"runs"}, r"cut\.onnx cannot be loaded by onnxruntime"),
    "bad scale": (
        NUMBERS | {"agreement"},
        r"^tflite int8 full: worst difference 0\.\d+ of the range on .*, limit 0\.1 ",
    ),
    "scale not as recorded": ({"outputs"}, r"output logits has scale 0\.\d+, recorded 0\.\d+"),
    "sha256": ({"sha256"}, r"recorded 0{12}\.\.\.: the file has changed"),
    "bytes": ({"bytes"}, r"\d+ bytes on disk, \d+ recorded"),
    "extra file missing": ({"exists"}, "weights.bin does not exist"),
    "missing": ({"exists"}, "nothing.tflite does not exist"),
    "no limits": ({"limits", "precision"}, "no limits for such a file"),
}


class FakeReference(RunnerProcess):
    """Stands for the reference where a test is about the files beside it: a second TensorFlow takes seconds."""

    source: Path
    drift = 0.0
    calls = 0

    def start(self):
        if self.format != "saved_model":
            return super().start()
        self.inputs = (TensorSpec("images", (None, toys.SIZE, toys.SIZE, 3), "float32"),)
        self.outputs = (TensorSpec("logits", (None, CLASSES), "float32"),)
        return None

    def run(self, images, **options):
        if self.format != "saved_model":
            return super().run(images, **options)
        self.calls += 1
        return open_runner(self.source, "onnx").run(images) + np.float32(self.drift * self.calls)

    def memory(self):
        return super().memory() if self.format != "saved_model" else None


@pytest.fixture
def fake_reference(monkeypatch, good_files):
    monkeypatch.setattr(FakeReference, "source", Path(good_files["onnx"].path), raising=False)
    monkeypatch.setattr(processes, "RunnerProcess", FakeReference)


@pytest.fixture(scope="module")
def spoilt(folder, reference, good_files):
    files = spoilt_files(folder, good_files)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(FakeReference, "source", Path(good_files["onnx"].path), raising=False)
        monkeypatch.setattr(processes, "RunnerProcess", FakeReference)
        result = verify(reference, list(files.values()), trained=True, latency=False)
    return dict(zip(files, result.files, strict=True)), result


def test_good_files_pass(good):
    files, result = good
    assert result.failures == ()
    assert result.passed
    assert result.verdict == "pass"
    assert {name: file.passed for name, file in files.items()} == dict.fromkeys(files, True)


def test_good_files_were_asked_everything(good):
    files, _ = good
    always = {"exists", "bytes", "sha256", "inputs", "outputs", "runs", "finite", "varies", "class_order"}
    always |= {"precision"}
    always |= NUMBERS | {"agreement", "deterministic", "order"}
    for name, file in files.items():
        asked = {check.name for check in file.checks}
        assert asked - {"batch"} == always, name
        assert ("batch" in asked) == (name in ("tflite batch 4", "onnx open batch", "onnx batch 4"))


def test_latency_and_memory_come_with_their_circumstances(good):
    files, result = good
    assert result.latency_plan == "together"
    for name, file in files.items():
        assert file.latency.runs >= timing.RUNS
        assert file.latency.rounds >= timing.MIN_ROUNDS
        assert file.latency.low_ms is None or file.latency.low_ms <= file.latency.median_ms <= file.latency.high_ms
        assert 0 < file.latency.median_ms <= file.latency.p90_ms
        assert file.latency.threads == 1
        assert file.latency.interleaved
        assert file.latency.batch == (4 if "batch 4" in name else 1)
        assert file.memory.peak > 1e7
    assert result.reference.latency.speedup == 1


@pytest.mark.slow  # a TensorFlow for the reference and one for the file
def test_the_reference_itself_passes_and_is_timed_once(reference, good_files):
    files = [artifact_of(reference), good_files["onnx"]]
    result = verify(reference, files)
    assert result.failures == ()
    assert "batch" in {check.name for check in result.files[0].checks}
    assert result.files[0].latency == result.reference.latency
    assert max(result.files[0].comparison.worst_difference) == 0


def test_the_table_of_faults_is_complete(spoilt):
    assert set(spoilt[0]) == set(FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_file_fails_for_the_right_reason(spoilt, fault):
    file = spoilt[0][fault]
    failed, sentence = FAULTS[fault]
    assert not file.passed
    assert file.verdict == "fail"
    assert {check.name for check in file.checks if not check.passed} == failed
    assert any(re.search(sentence, failure) for failure in file.failures), file.failures


def test_a_spoilt_file_fails_the_whole(spoilt):
    files, result = spoilt
    assert not result.passed
    assert len(result.failures) == sum(len(failed) for failed, _ in FAULTS.values())
    assert len(files) == len(FAULTS)


def test_limits_cover_the_formats_and_precisions():
    kinds = {(format, precision) for format, precision, _ in checks.LIMITS}
    expected = {(f, p) for f in get_args(Format) for p in get_args(Precision)}
    assert kinds == expected - {("saved_model", "float16"), ("saved_model", "int8")}
    for limits in checks.LIMITS.values():
        assert 0 < limits.worst_difference < 1
        assert 0.9 < limits.cosine < 1
        assert 0.9 < limits.agreement <= 1


def compared(reference, candidate):
    return compare(np.asarray(reference, np.float32), np.asarray(candidate, np.float32))


def test_agreement_is_judged_for_trained_weights_only():
    comparison = compared([[1.0, 1.001], [0, 5], [7, 1]], [[1.001, 1.0], [0, 5], [7, 1]])
    limits = checks.Limits(worst_difference=0.1, cosine=0.9, sqnr_db=10, agreement=0.99)
    assert all(check.passed for check in checks.figures(comparison, limits, NAMES[:3], trained=False))
    (failed,) = [c for c in checks.figures(comparison, limits, NAMES[:3], trained=True) if not c.passed]
    assert failed.name == "agreement"
    assert failed.detail == (
        "top class agrees on 0.6667 of the images (at most 0.939 with 95 % confidence), limit 0.99: "
        "differs on held_out/coffee_1.jpg (margin 0.00014 of the range)"
    )


def failing(count, total, key):
    """The figures that fail where `count` of `total` images are far off."""
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(total, 50))
    candidate = reference.copy()
    candidate[total - count :] += 0.3 * rng.normal(size=(count, 50))
    candidate[-1] += 0.1
    names = [f"image_{i}" for i in range(total)]
    found = checks.figures(compared(reference, candidate), checks.LIMITS[key], names, trained=False)
    return {check.name: check for check in found if not check.passed}


def test_of_a_float_file_every_image_is_judged():
    failed = failing(1, 100, ("tflite", "float32", None))
    assert failed.keys() == {"worst_difference", "sqnr", "cosine"}
    assert all("image_99," in check.detail for check in failed.values())
    assert "(1 of 100 images beyond it; median " in failed["sqnr"].detail


@pytest.mark.parametrize(("total", "most"), [(1, 0), (3, 0), (4, 1), (16, 3), (32, 6), (64, 11), (256, 35)])
def test_of_an_int8_file_more_images_than_a_tenth_have_to_be_off_for_certain(total, most):
    assert may_be_beyond(total, checks.BEYOND) == most
    key = "tflite", "int8", "static"
    assert not failing(most, total, key) or not most
    failed = failing(most + 1, total, key)
    assert failed.keys() >= {"sqnr", "cosine"}
    if total > 1:
        assert f"({most + 1} of {total} images beyond it" in failed["sqnr"].detail


def test_a_verdict_does_not_depend_on_how_many_images_are_looked_at():
    """A file with one weak image in twenty; one that loses a third of them."""
    for total in (20, 80, 400):
        assert not failing(total // 20, total, ("onnx", "int8", "qdq"))
        assert failing(total // 3, total, ("onnx", "int8", "qdq")).keys() >= {"sqnr"}


def test_a_figure_just_below_its_limit_is_shown_below_it():
    comparison = compared([[1.0, 0.0]], [[1.0, 1.42e-3]])
    limits = checks.Limits(worst_difference=1, cosine=0.999999, sqnr_db=0, agreement=0)
    (failed,) = [check for check in checks.figures(comparison, limits, NAMES[:1], trained=False) if not check.passed]
    assert failed.detail == "cosine 0.99999899 on held_out/coffee_1.jpg, limit 0.999999"


def test_untrained_weights_are_named_and_agreement_is_not_judged(reference, good_files, fake_reference):
    result = verify(reference, [good_files["onnx"]], latency=False)
    assert result.passed
    assert any("untrained" in w and "agreement of classes means little" in w for w in result.warnings)
    assert "agreement" not in {check.name for check in result.files[0].checks}
    assert result.files[0].comparison.agreement == 1


def test_one_image_is_warned_about(reference, good_files, fake_reference):
    result = verify(reference, [good_files["onnx batch 4"]], toys.images(1), NAMES[:1], latency=False)
    assert result.passed
    assert any(w.startswith("One image only") for w in result.warnings)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGKILL", "SIGTERM"])
def test_a_child_that_crashes_is_a_failed_check_and_one_that_is_killed_none(
    reference, good_files, fake_reference, monkeypatch, name
):
    run = FakeReference.run

    def killed(self, images, **options):
        if self.path.name == "float32.tflite":
            os.kill(self.pid, signal.Signals[name])
        return run(self, images, **options)

    monkeypatch.setattr(FakeReference, "run", killed)
    files = [good_files["tflite"], good_files["onnx"]]
    if name != "SIGSEGV":
        with pytest.raises(ProcessKilled, match=rf"running float32\.tflite was killed by {name}") as caught:
            verify(reference, files, latency=False)
        assert caught.value.exit_code == 2
        return
    result = verify(reference, files, latency=False)
    dead, alive = result.files
    assert not result.passed
    assert [check.name for check in dead.checks if not check.passed] == ["runs"]
    assert "tflite float32: The process running float32.tflite was killed by SIGSEGV" in dead.failures[0]
    assert alive.passed


def test_a_child_that_starves_while_it_is_timed_fails_no_file(reference, good_files, fake_reference, monkeypatch):
    timing = Latency(median_ms=1.0, p90_ms=1.0, runs=5, reference_median_ms=1.0, speedup=1.0)
    starved = {good_files["onnx"].path: ProcessKilled("The process was killed.")}
    found = latency.Measurement("together", timing, starved)
    monkeypatch.setattr(verifier, "measure", lambda *args, **options: found)
    with pytest.raises(ProcessKilled):
        verify(reference, [good_files["onnx"]])


def test_a_file_that_cannot_be_timed_fails(reference, good_files, fake_reference, monkeypatch):
    timing = Latency(median_ms=1.0, p90_ms=1.0, runs=5, reference_median_ms=1.0, speedup=1.0)
    path = good_files["onnx"].path
    found = latency.Measurement("together", timing, {path: RunnerError("The process was killed by SIGILL.")})
    monkeypatch.setattr(verifier, "measure", lambda *args, **options: found)
    result = verify(reference, [good_files["onnx"]])
    assert result.failures == ("onnx float32: The process was killed by SIGILL",)


def test_a_busy_machine_and_a_slow_file_are_warned_about(reference, good_files, fake_reference, monkeypatch):
    slow = Latency(median_ms=20.0, p90_ms=70.0, runs=30, reference_median_ms=10.0, speedup=0.5, speedup_high=0.6)
    path = good_files["onnx float16"].path
    noise = Noise(unrest=3.5, drift=1.0, others=0.0, steal=0.0, load=0.0, governor=None)
    steady = replace(slow, speedup=1.0, p90_ms=21.0)
    found = latency.Measurement("blocks", steady, {path: slow}, noise=noise)
    monkeypatch.setattr(verifier, "measure", lambda *args, **options: found)
    result = verify(reference, [good_files["onnx float16"]], trained=True)
    assert result.passed
    said = "\n".join(result.warnings)
    assert "onnx float16 is slower than the reference on this CPU: float16 is for GPUs and NPUs" in said
    assert "did other work while latency was measured: p90 is up to 3.5 times the median" in said
    assert "alternating blocks" in said
    assert result.to_dict()["noise"]["unrest"] == 3.5


def test_a_missing_reference_fails_everything(folder, good_files):
    result = verify(folder / "nowhere", [good_files["onnx"]])
    assert not result.passed
    assert result.failures == (
        "reference: nowhere does not exist",
        "onnx float32: not compared, because the reference failed",
    )


@pytest.mark.parametrize(("drift", "name"), [(np.nan, "finite"), (1e-3, "deterministic")])
def test_a_reference_that_proves_nothing_fails(reference, good_files, fake_reference, monkeypatch, drift, name):
    monkeypatch.setattr(FakeReference, "drift", drift)
    result = verify(reference, [good_files["onnx"]], latency=False)
    assert not result.passed
    assert [check.name for check in result.reference.checks if not check.passed] == [name]
    assert result.files[0].failures == ("onnx float32: not compared, because the reference failed",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"artifacts": []}, "no file to verify"),
        ({"images": np.zeros((1, 8, 8, 3))}, "takes float32 images"),
        ({"images": np.zeros((0, 8, 8, 3), np.float32), "names": []}, "takes float32 images"),
        ({"images": np.full((1, 8, 8, 3), np.nan, np.float32)}, "not finite"),
        ({"names": ["a", "b"]}, "1 images to verify on but 2 names"),
        ({"threads": 0}, "number of threads"),
        ({"artifacts": "twice"}, "listed twice"),
    ],
)
def test_wrong_calls_are_input_errors(good_files, changes, message):
    artifact = good_files["onnx"]
    artifacts = [artifact, artifact] if changes.get("artifacts") == "twice" else changes.get("artifacts", [artifact])
    images = changes.get("images", np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(InputError, match=message):
        verify(Path("reference"), artifacts, images, changes.get("names", ["a"]), threads=changes.get("threads", 1))


def test_images_that_are_no_pictures_are_input_errors(good_files):
    def message(given):
        with pytest.raises(InputError) as caught:
            verifier.verify(Path("reference"), [good_files["onnx"]], given)
        return str(caught.value)

    wanted = "expected Pictures: the first of what find_images(folder, preprocessing) returns."
    assert message(toys.images()) == f"The images to verify on are of type ndarray, {wanted}"
    assert message((Shown(toys.images(), NAMES), ())) == f"The images to verify on are of type tuple, {wanted}"
    empty = pictures_of(np.zeros((0, 8, 8, 3), np.uint8), (), PREPROCESSING)
    assert message(empty).startswith("Verification takes float32 images [n, height, width, 3], given none")


@pytest.mark.parametrize("threads", [0, 1.0, True, None])
def test_threads_are_judged_when_the_options_are_made(threads):
    with pytest.raises(InputError, match=f"The number of threads is {threads}, expected a whole number, at least 1"):
        verifier.VerifyOptions(threads=threads)


# Files that take other numbers than the reference.

PREPROCESSING = Preprocessing(32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.3, 0.225))


@pytest.fixture(scope="module")
def pixel_files(folder):
    """A Vision Transformer of one layer as ONNX files of three input kinds, by kind."""
    source = RandomParameters(toy_spec().with_(num_layers=1))
    record = ModelRecord(source.spec, PREPROCESSING, {"source": "test", "trained": False})
    return {
        kind: write_onnx(source, record, folder / f"pixels_{kind.replace('..', '_')}.onnx", input=kind)
        for kind in ("normalized", "0..255", "uint8")
    }


@pytest.fixture
def verify_pixels(pixel_files, fake_reference, monkeypatch, tmp_path):
    monkeypatch.setattr(FakeReference, "source", Path(pixel_files["normalized"].path))
    pixels = np.random.default_rng(3).integers(0, 256, (4, 32, 32, 3), np.uint8)

    def run(kinds, as_what, **options):
        """Verify the files of `kinds`, feeding each what `as_what` says of its kind."""

        class Fed(Pictures):
            def fed(self, kind, count=None):
                return super().fed(as_what(kind), count)

        pictures = Fed(**vars(pictures_of(pixels, NAMES[:4], PREPROCESSING)))
        options = verifier.VerifyOptions(**{"latency": False, **options})
        return verifier.verify(tmp_path, [pixel_files[kind] for kind in kinds], pictures, options)

    return run


def test_each_file_is_fed_its_own_numbers(verify_pixels, pixel_files, monkeypatch):
    given = {}

    def measured(basis, subjects, image, *, own_images, **options):
        given.update(own_images, reference=image)
        timing = Latency(median_ms=1.0, p90_ms=1.0, runs=5, reference_median_ms=1.0, speedup=1.0)
        return latency.Measurement("together", timing, {subject.path: timing for subject in subjects})

    monkeypatch.setattr(verifier, "measure", measured)
    result = verify_pixels(pixel_files, lambda kind: kind, latency=True)
    assert result.passed, result.failures
    for file in result.files:
        assert {"deterministic", "order"} <= {check.name for check in file.checks}
    assert given["reference"].min() < 0
    assert {given[file.path].dtype.name for file in pixel_files.values()} == {"float32", "uint8"}
    assert given[pixel_files["0..255"].path].max() > 200


@pytest.mark.parametrize(("takes", "fed"), [("0..255", "normalized"), ("normalized", "0..255")])
def test_a_file_fed_other_numbers_than_it_takes_fails(verify_pixels, takes, fed):
    result = verify_pixels([takes], lambda kind: fed)
    assert not result.passed
    assert {check.name for check in result.files[0].checks if not check.passed} >= NUMBERS


def test_numbers_of_another_type_or_of_no_kind_are_input_errors(verify_pixels):
    with pytest.raises(InputError, match=r"pixels_uint8\.onnx is fed float32 images \[4, 32, 32, 3\], expected uint8"):
        verify_pixels(["uint8"], lambda kind: "0..255")
    with pytest.raises(InputError, match=r"pixels_0_255\.onnx is fed uint8 images .*, expected float32"):
        verify_pixels(["0..255"], lambda kind: "uint8")
    with pytest.raises(InputError, match=r"Unknown input '0\.\.2': choose one of"):
        verify_pixels(["0..255"], lambda kind: "0..2")


def test_latency_takes_each_files_own_image(pixel_files):
    normalized, uint8 = (pixel_files[kind].path for kind in ("normalized", "uint8"))
    pixels = np.zeros((32, 32, 3), np.uint8)
    base, other = Subject(normalized, "onnx", 1), Subject(uint8, "onnx", 1)
    found = latency.measure(base, [other], pixels.astype(np.float32), runs=5, own_images={uint8: pixels})
    assert found.files[uint8].runs >= 5
    found = latency.measure(base, [other], pixels.astype(np.float32), runs=5)
    assert "takes uint8 pixels" in str(found.files[uint8])


# Who may be resident with whom.


@pytest.mark.parametrize(
    ("reference_gb", "candidates_gb", "plan"),
    [(0.1, [0.1, 0.05], "together"), (0.35, [0.35, 0.35, 0.35, 1.2], "pairs"), (2.5, [0.6], "blocks")],
)
def test_plan(reference_gb, candidates_gb, plan):
    candidates = [Subject(str(i), "onnx", int(gb * 1e9)) for i, gb in enumerate(candidates_gb)]
    assert plan_of(Subject("reference", "saved_model", int(reference_gb * 1e9)), candidates) == plan


@pytest.mark.thorough
@pytest.mark.parametrize("plan", ["together", "pairs", "blocks"])
def test_every_plan_measures_every_file_and_keeps_to_its_memory(good_files, folder, monkeypatch, plan):
    monkeypatch.setattr(latency, "plan_of", lambda *subjects: plan)
    resident, most = [], []

    class Watched(RunnerProcess):
        def start(self):
            resident.append(self.path)
            most.append(len(resident))
            super().start()

        def close(self):
            if self.path in resident:
                resident.remove(self.path)
            super().close()

    monkeypatch.setattr(timing, "RunnerProcess", Watched)
    (folder / "broken.tflite").write_bytes(b"broken")
    paths = [good_files["tflite"].path, good_files["tflite batch 4"].path, str(folder / "broken.tflite")]
    base = Subject(good_files["onnx"].path, "onnx", 1)
    found = latency.measure(base, [Subject(p, "tflite", 1) for p in paths], toys.images()[0], runs=6)
    assert most[-1] <= max(most) == {"together": 4, "pairs": 2, "blocks": 1}[plan]
    assert resident == []
    assert isinstance(found.files[paths[2]], RunnerError)
    for path in paths[:2]:
        assert found.files[path].runs >= 6
        assert found.files[path].interleaved == (plan != "blocks")
    assert found.files[paths[1]].batch == 4


def test_the_processor_is_described():
    cpu = machine.cpu()
    assert cpu.model
    assert cpu.cores >= 1
    assert set(cpu.features) <= set(machine.FEATURES)
