"""LiteRT's GPU: how it is set up and started, and (slow, where `make gpu` was run) what it computes and refuses."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import InProcess, RandomParameters, toy_spec
from helpers.faults_bench import toy_bench
from helpers.faults_half import RANGES, half_bench, large_channel, large_values, scaled
from helpers.faults_table import SPEC

from vit_export.artifacts.read import read_facts
from vit_export.base.errors import InputError, OutputError
from vit_export.deployment.fit import fit_of
from vit_export.deployment.half_range import Fit, FittedParameters
from vit_export.inspection.half_range import findings_in
from vit_export.inspection.runtimes import ask_gpu
from vit_export.inspection.tflite_graph import read_tflite_graphs
from vit_export.runtimes.gpu import available, install, launch
from vit_export.runtimes.gpu.runner import Device, GpuRunner
from vit_export.runtimes.interior import KeptTensors
from vit_export.runtimes.places import ARM64, CPU, GPU, GPU_FLOAT32, places_of
from vit_export.runtimes.runner import RunnerError
from vit_export.verification import processes, verifier
from vit_export.verification.checks import HALF_ARITHMETIC, accelerated

WHY_NOT = available()
runs = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A Linux machine on x86 without a GPU, where nothing is set up."""
    monkeypatch.setenv(launch.VARIABLE, str(tmp_path / "pieces"))
    monkeypatch.setattr(launch, "own_device", lambda: None)
    monkeypatch.setattr(launch.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(launch.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path


def pieces(folder, **changes):
    (folder / "root" / launch.LOADER).parent.mkdir(parents=True)
    (folder / "root" / launch.LOADER).touch()
    (folder / launch.PIECES).write_text(json.dumps({"layout": launch.LAYOUT, **changes}))


def test_what_is_missing_is_said_with_the_command(machine):
    assert available().endswith(f"run '{launch.SET_UP}'.")
    pieces(machine / "pieces", layout=0)
    assert available().endswith("again.")
    (machine / "pieces" / launch.PIECES).write_text(json.dumps({"layout": launch.LAYOUT}))
    assert available() is None


def test_a_machine_with_a_gpu_needs_nothing(machine, monkeypatch):
    monkeypatch.setattr(launch, "own_device", lambda: launch.Device("Some GPU", "discrete"))
    assert available() is None
    assert "VK_DRIVER_FILES" not in launch.command("pass")[1]


def test_other_machines_are_refused(machine, monkeypatch):
    monkeypatch.setattr(launch.platform, "libc_ver", lambda: ("glibc", "2.42"))
    assert "is newer than that of the driver" in available()
    monkeypatch.setattr(launch.platform, "libc_ver", lambda: ("", ""))
    assert "linked with glibc" in available()
    monkeypatch.setattr(launch.platform, "machine", lambda: "riscv64")
    assert "on x86 processors" in available()


def test_the_command_line_is_this_python_by_the_folders_loader(machine, monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/lib/other.so")
    where = machine / "pieces"
    (loader, _, named, _, libraries, python, *rest), environment = launch.in_software(where, "answer = 42")
    assert loader == str(where / "root" / launch.LOADER)
    assert (named, libraries) == (sys.executable, str(where / "root" / launch.LIBRARIES))
    assert python.startswith("/")
    assert rest[-1] == "answer = 42"
    assert environment["VK_DRIVER_FILES"] == str(where / "root" / launch.DRIVER)
    assert "LD_PRELOAD" not in environment


def test_a_folder_of_something_else_is_left_alone(machine):
    (machine / "pieces").mkdir()
    (machine / "pieces" / "letter.txt").touch()
    with pytest.raises(OutputError, match="holds something else"):
        install.set_up(machine / "pieces", lambda step: None)
    assert (machine / "pieces" / "letter.txt").is_file()


def test_the_archive_is_that_of_the_systems_own_sources(monkeypatch):
    told = "Ubuntu Ubuntu http://a.example/ubuntu/\nDebian Debian-Security http://b.example/security/\n"
    monkeypatch.delenv("VIT_EXPORT_DEBIAN", raising=False)
    monkeypatch.setattr(install, "run", lambda command: SimpleNamespace(stdout=told))
    with pytest.raises(InputError, match="give the address of one in"):
        install._archive()
    told += "Debian Debian http://c.example/debian/\n"
    assert install._archive() == "http://c.example/debian/"
    monkeypatch.setenv("VIT_EXPORT_DEBIAN", "http://d.example/debian")
    assert install._archive() == "http://d.example/debian"


def test_operators_that_stay_behind_are_read_off_the_messages():
    messages = (
        "INFO: something\nERROR: Following operations are not supported by GPU delegate:\n"
        "ARG_MAX: Tensor type(INT64) is not supported. ArgMax\nCAST: Tensor type(INT64) is not supported. ArgMax\n"
        "2 operations will run on the GPU, and the remaining 3 operations will run on the CPU.\nINFO: more\n"
    )
    device = Device("llvmpipe", real=False).after(messages)
    assert device.counts == (2, 3)
    found = accelerated(device)
    assert not found.passed
    assert found.detail.startswith("3 of 5 operators stay on the CPU (ARG_MAX: Tensor type(INT64) is not supported; ")
    assert accelerated(Device("llvmpipe", real=False).after("INFO: all well\n")).passed


def test_a_timeout_is_told_in_words():
    error = RuntimeError("TensorBufferWrapper error: code=7, message=ERROR: [./litert/cc/litert_tensor_buffer.h:699]")
    assert GpuRunner(Path("a.tflite"))._reason(error).startswith("LiteRT waited no longer")
    assert GpuRunner(Path("a.tflite"))._reason(RuntimeError("code=70, other")) == "code=70, other"


def test_places_are_told_by_their_names(machine):
    pieces(machine / "pieces")
    assert places_of(()) == (CPU,)
    assert places_of(("cpu", "gpu", "cpu")) == (CPU, GPU)
    assert places_of(("gpu",), "float32") == (GPU_FLOAT32,)
    with pytest.raises(InputError, match="add on='gpu'"):
        places_of(("cpu",), "float32")
    with pytest.raises(InputError, match="is no place"):
        places_of(("tpu",))
    assert GPU.on(Device("llvmpipe", real=False)) == "GPU, 16-bit, in software"
    assert GPU.on(Device("Some GPU", real=True)) == "GPU, 16-bit, Some GPU"
    assert not GPU.takes("onnx")
    assert ARM64.takes("onnx")


# Ranges, without a GPU


def _verified(bench, *places, artifact=None, kind="tflite float32"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "RunnerProcess", InProcess)
        files = [artifact or bench.good(kind)]
        options = verifier.VerifyOptions(latency=False, places=places)
        return verifier.verify(bench.reference, files, bench.pictures, options)


@pytest.mark.thorough
def test_inspect_tells_values_that_leave_16_bits(tmp_path):
    spoilt = half_bench(tmp_path, lambda source: large_channel(source, 1e5)).good("tflite float32")
    (tmp_path / "good").mkdir()
    good = half_bench(tmp_path / "good").good("tflite float32")
    found, none = (findings_in(facts, facts.record) for facts in map(read_facts, (spoilt.path, good.path)))
    assert [finding.where[0].partition(" reaches")[0] for finding in found] == ["encoder layer 1's MLP"]
    assert not none


@pytest.mark.thorough
def test_weights_that_are_dequantized_while_a_file_runs_are_no_values(tmp_path):
    """Where XNNPACK keeps them to itself, anything may lie: only what follows from the images is looked at."""
    path = Path(half_bench(tmp_path).good("tflite float16").path)
    kept = KeptTensors(path, threads=1)
    kept.run(np.zeros((1, *SPEC.image_sides, 3), np.float32))
    assert kept.details
    assert not [name for name in kept.details if name.endswith("/kernel")]


@pytest.mark.thorough
@pytest.mark.parametrize("factor", [1, 2000, 1e-3])
def test_values_that_fit_are_not_warned_of(tmp_path, factor):
    found = _verified(half_bench(tmp_path, lambda source: scaled(source, factor)), CPU)
    assert not [text for text in found.warnings if "16-bit" in text]


@pytest.mark.thorough
def test_fitted_parameters_are_the_same_function(tmp_path):
    source = large_values(scaled(RandomParameters(toy_spec()), 2.0**18), 2.0**20)
    images = np.random.default_rng(0).normal(size=(2, *source.spec.image_sides, 3)).astype(np.float32)
    fit = fit_of(source, images)
    assert fit.stream > 0
    assert set(fit.values) == {1}
    assert Fit.from_dict(fit.to_dict()) == fit
    fitted = FittedParameters(source, fit)
    assert fitted.spec.layer_norm_epsilon == source.spec.layer_norm_epsilon / 4**fit.stream
    assert not fit_of(fitted, images)  # nothing is left to do
    assert not fit_of(RandomParameters(toy_spec()), images)


@pytest.mark.parametrize("told", [None, [], {}, {"stream": "1"}, {"stream": 99}, {"values": [1]}, {"stream": 1.5}])
def test_a_fit_that_is_none_does_nothing(told):
    assert not Fit.from_dict(told)


def _fitted(bench, folder, kind="tflite float32"):
    fit = fit_of(bench.source, bench.pictures.normalized(2))
    record = bench.record.saying(half_range=fit.to_dict())
    return bench.export(kind, folder / f"fitted.{kind.split()[0]}", FittedParameters(bench.source, fit), record)


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in RANGES if "branch" not in name])
def test_float16_onnx_files_are_fitted(tmp_path, name):
    bench = half_bench(tmp_path, RANGES[name][0])
    found = _verified(bench, CPU, artifact=_fitted(bench, tmp_path, "onnx float16"))
    assert found.passed, found.failures
    assert not [text for text in found.warnings if "16-bit" in text]


# Times


class OnSomeGpu(InProcess):
    """Runs on the CPU whatever is to run on a GPU, which is called hardware or not."""

    real = True

    def __init__(self, path, format, threads=1, *, place=CPU, **how):
        super().__init__(path, format, threads, **how)
        self.asked_for = place

    def start(self):
        super().start()
        self.device = Device("Some GPU", self.real) if self.asked_for.precision else None

    @property
    def where(self):
        return self.asked_for.on(self.device)

    @property
    def timed(self):
        self.place = self.asked_for
        try:
            return super().timed
        finally:
            self.place = CPU


@pytest.mark.thorough
@pytest.mark.parametrize("real", [True, False])
def test_a_gpu_is_timed_beside_the_reference_where_it_is_hardware(tmp_path, monkeypatch, real):
    monkeypatch.setattr(processes, "RunnerProcess", OnSomeGpu)
    monkeypatch.setattr(OnSomeGpu, "real", real)
    bench = toy_bench(tmp_path, SPEC, count=2)
    files = [bench.good("tflite float32"), bench.good("onnx float32")]
    found = verifier.verify(bench.reference, files, bench.pictures, verifier.VerifyOptions(places=(CPU, GPU)))
    gpu = "GPU, 16-bit, Some GPU" if real else "GPU, 16-bit, in software"
    assert [file.place for file in found.files] == ["CPU", gpu, "CPU"]
    assert [file.latency is not None for file in found.files] == [True, real, True]
    if real:
        times = [file.latency.samples_ms for file in found.files[:2]]
        assert times[0] != times[1]
        assert found.files[1].latency.speedup > 0


# On the GPU


class TestOnTheGpu:
    """What was run; in software the first run of a file's operators compiles them, which takes seconds."""

    pytestmark = runs

    @pytest.mark.parametrize("kind", ["float32", "float16", "int8 dynamic", "int8 static", "int8 full"])
    def test_files_are_taken_whole_and_right(self, tmp_path, kind):
        bench = toy_bench(tmp_path, SPEC, count=2)
        found = _verified(bench, CPU, GPU, GPU_FLOAT32, artifact=bench.good(f"tflite {kind}"))
        assert found.passed, found.failures
        assert [file.place.partition(", in ")[0] for file in found.files] == ["CPU", "GPU, 16-bit", "GPU, 32-bit"]
        assert not any(file.latency for file in found.files)

    @pytest.mark.parametrize("name", [name for name in RANGES if "branch" not in name])
    def test_fitted_files_pass_where_others_fail(self, tmp_path, name):
        bench = half_bench(tmp_path, RANGES[name][0])
        found = _verified(bench, CPU, GPU, artifact=_fitted(bench, tmp_path))
        assert found.passed, found.failures

    @pytest.mark.parametrize("factor", [50, 400, 2000, 1e-4])
    def test_layer_norm_survives_squares_and_variances_beyond_16_bits(self, tmp_path, factor):
        """A residual stream of 2000 has squares of 1e8, one of 1e-4 a variance of 1e-8: both are beyond float16."""
        found = _verified(half_bench(tmp_path, lambda source: scaled(source, factor)), GPU)
        assert found.passed, found.failures
        assert min(found.files[0].comparison.sqnr_db) > HALF_ARITHMETIC.sqnr_db + 10

    @pytest.mark.parametrize("pooling", ["attention", "mean", "mean_norm"])
    def test_tokens_without_a_class_token(self, tmp_path, pooling):
        bench = toy_bench(tmp_path, SPEC.with_(class_token=False, pooling=pooling), count=2)
        assert _verified(bench, CPU, GPU).passed

    def test_inspect_tells_operators_that_stay_on_the_cpu(self, tmp_path):
        path = Path(toy_bench(tmp_path, SPEC, count=2).good("tflite int8 w8a16").path)
        verdict = ask_gpu(path, read_tflite_graphs(path)[0])
        assert verdict.basis == "runtime"
        assert verdict.supported < verdict.total

    def test_a_file_of_another_format_is_refused(self, tmp_path):
        with pytest.raises(RunnerError, match="GPU, 16-bit runs TFLite files"):
            processes.RunnerProcess(tmp_path / "a.onnx", "saved_model", place=GPU).start()
