"""The arm64 runtimes under emulation: how they are started and set up, and (slow) what they compute."""

import json
import os
import platform
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from conftest import RandomParameters, build, record_of, toy_spec, write_pictures
from helpers import verifier_toys as toys

from vit_export.base.errors import InputError, OutputError
from vit_export.base.versions import versions
from vit_export.cli import emulation as command
from vit_export.model.saved_model import write_saved_model
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.runtimes.emulation import available, install, launch
from vit_export.runtimes.places import ARM64
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError, open_runner

INSTALLED = versions(*launch.RUNTIMES)
WHY_NOT = available("arm64")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="qemu's user mode is Linux's")


def program(folder: Path, name: str, text: str) -> None:
    """A shell script that stands for the program `name`."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """An x86 machine with a qemu that runs nothing, its tools in the folder `bin`, and nothing set up."""
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(launch.VARIABLE, str(tmp_path / "pieces"))
    program(tmp_path / "bin", "qemu-aarch64-static", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path


def pieces(folder: Path, **changes) -> None:
    (folder / "root").mkdir(parents=True)
    (folder / launch.PIECES).write_text(json.dumps({"layout": launch.LAYOUT, **INSTALLED, **changes}))


# Whether it can be used


def test_what_is_set_up_for_these_runtimes_is_available(machine):
    pieces(machine / "pieces")
    assert available("arm64") is None


def test_nothing_set_up_names_the_command(machine):
    assert f"run '{launch.SET_UP}'." in available("arm64")
    pieces(machine / "pieces")
    (machine / "pieces" / launch.PIECES).write_text("{")
    assert f"run '{launch.SET_UP}'." in available("arm64")


@pytest.mark.parametrize("name", launch.RUNTIMES)
def test_another_release_of_a_runtime_is_stale(machine, name):
    pieces(machine / "pieces", **{name: "0.1"})
    reason = f"The arm64 {name} is 0.1, the one installed here {INSTALLED[name]}: run '{launch.SET_UP}' again."
    assert available("arm64") == reason


def test_another_layout_is_stale(machine):
    pieces(machine / "pieces", layout=launch.LAYOUT + 1)
    assert available("arm64").endswith("again.")


@pytest.mark.parametrize("name", ["aarch64", "arm64"])
def test_an_arm64_machine_needs_no_emulation(machine, monkeypatch, name):
    pieces(machine / "pieces")
    monkeypatch.setattr(platform, "machine", lambda: name)
    assert available("arm64").startswith("This machine is arm64 itself")


def test_other_systems_and_architectures_are_refused(machine, monkeypatch):
    assert available("riscv64") == "'riscv64' cannot be emulated: expected arm64."
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "needs Linux, not darwin" in available("arm64")


def test_without_qemu_its_package_is_named(machine):
    (machine / "bin" / "qemu-aarch64-static").rename(machine / "bin" / "qemu-aarch64")  # its name in newer packages
    assert launch.emulator() == str(machine / "bin" / "qemu-aarch64")
    (machine / "bin" / "qemu-aarch64").unlink()
    assert "apt-get install qemu-user-static" in available("arm64")


def test_the_folder_is_the_users_cache_unless_named(monkeypatch):
    for name in (launch.VARIABLE, "VIT_EXPORT_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert launch.folder() == Path("/cache/vit-export/arm64")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert launch.folder() == Path.home() / ".cache/vit-export/arm64"
    monkeypatch.setenv("VIT_EXPORT_CACHE", "/mine")
    assert launch.folder() == Path("/mine/arm64")
    monkeypatch.setenv(launch.VARIABLE, "~/elsewhere")
    assert launch.folder() == Path.home() / "elsewhere"


# How it is started


def test_the_command_line(machine):
    where = machine / "pieces"
    qemu, *settings, python, isolated, siteless, minus_c, code = launch.command(where, "answer = 6 * 7")
    assert qemu == str(machine / "bin" / "qemu-aarch64-static")
    assert settings == ["-cpu", "cortex-a76", "-L", str(where / "root")]
    assert (python, isolated, siteless, minus_c) == (str(where / "root/usr/bin/python3"), "-I", "-S", "-c")
    assert str(where / "site") in code
    assert code.strip().endswith("answer = 6 * 7")


def test_libraries_of_the_host_are_not_preloaded(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/lib/x86.so")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/lib/x86")
    monkeypatch.setenv("KEPT", "1")
    environment = launch.environment()
    assert not [name for name in environment if name.startswith("LD_")]
    assert environment["KEPT"] == "1"


def test_cpuinfo_is_a_core_with_what_the_runtimes_ask_for():
    cores = [dict(line.split("\t: ") for line in core.replace("e: ", "e\t: ").splitlines()) for core in rows()]
    assert [core["processor"] for core in cores] == ["0", "1", "2", "3"]
    for core in cores:
        assert (core["CPU implementer"], core["CPU part"]) == ("0x41", "0xd0b")  # Arm, Cortex-A76
        assert {"asimd", "fphp", "asimdhp", "asimddp"} <= set(core["Features"].split())


def rows() -> list[str]:
    return [row for row in launch.cpuinfo().split("\n\n") if row]


@pytest.fixture
def stand_in(machine):
    """A "qemu" that runs this Python instead of the arm64 one, with the wheels installed here."""
    pieces(machine / "pieces")
    (machine / "pieces" / "site").symlink_to(Path(np.__file__).parents[1])
    program(machine / "bin", "qemu-aarch64-static", f'shift 5; exec {sys.executable} "$@"')
    return machine


@linux
def test_the_child_serves_from_the_wheels_and_this_package_alone(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise ImportError('not this one')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model, images = toys.write_onnx(tmp_path / "toy.onnx", toys.weights()), toys.images(3)
    with RunnerProcess(model, "onnx", place=ARM64) as process:
        outputs = process.run(images)
        loaded = Path(f"/proc/{process.pid}/cmdline").read_text()
    np.testing.assert_allclose(outputs, open_runner(model, "onnx").run(images), rtol=1e-5, atol=1e-6)
    assert "-I\0-S\0" in loaded


@linux
def test_the_child_imports_numpy_the_standard_library_and_little_of_this_package(stand_in):
    code = "import vit_export.runtimes.process; print(sorted(m.partition('.')[0] for m in sys.modules))"
    done = subprocess.run(
        launch.command(launch.folder(), code), capture_output=True, text=True, check=True, env=launch.environment()
    )
    assert {name for name in eval(done.stdout) if name not in sys.stdlib_module_names and name[0] != "_"} <= {
        "numpy",
        "vit_export",
    }


def test_a_process_says_what_is_missing_before_it_starts(machine):
    with (
        pytest.raises(RunnerError, match=f"run '{launch.SET_UP}'"),
        RunnerProcess(machine / "toy.onnx", "onnx", place=ARM64),
    ):
        pass


def test_a_saved_model_is_not_emulated(machine):
    pieces(machine / "pieces")
    with (
        pytest.raises(RunnerError, match="is SavedModel, arm64, emulated runs TFLite and ONNX files"),
        RunnerProcess(machine / "saved_model", "saved_model", place=ARM64),
    ):
        pass


@linux
def test_a_crash_under_emulation_is_told_with_qemus_last_words(stand_in):
    program(stand_in / "bin", "qemu-aarch64-static", "echo 'qemu: no such core' >&2; exit 3")
    with (
        pytest.raises(RunnerError, match=r"ended with exit code 3, saying: qemu: no such core\."),
        RunnerProcess(stand_in / "toy.onnx", "onnx", place=ARM64),
    ):
        pass


def test_emulation_is_given_more_time(tmp_path):
    native, emulated = RunnerProcess(tmp_path, "onnx"), RunnerProcess(tmp_path, "onnx", place=ARM64)
    assert emulated.timeout > 10 * native.timeout
    assert RunnerProcess(tmp_path, "onnx", timeout=7, place=ARM64).timeout == 7


# Setting it up


def set_up(machine) -> list[str]:
    """Set up in `machine`'s folder; the steps that were told."""
    steps: list[str] = []
    assert install.set_up(launch.folder(), steps.append) == bool(steps)
    return steps


def refused(machine, error=InputError) -> str:
    """The sentence with which the set-up is refused, having left nothing behind."""
    before = sorted(machine.iterdir())
    with pytest.raises(error) as refusal:
        install.set_up(launch.folder(), lambda step: None)
    assert sorted(machine.iterdir()) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_set_up_without_apt_pip_or_qemu(machine, monkeypatch):
    assert refused(machine).startswith("apt-get is not on the PATH")
    program(machine / "bin", "apt-get", "exit 1")
    assert refused(machine).startswith("dpkg-deb is not on the PATH")
    program(machine / "bin", "dpkg-deb", "exit 1")
    with monkeypatch.context() as without:
        without.setattr(install.importlib.util, "find_spec", lambda name: None)
        assert "has no pip" in refused(machine)
    (machine / "bin" / "qemu-aarch64-static").unlink()
    assert "qemu-user-static" in refused(machine)


def test_a_folder_of_something_else_is_left_alone(machine):
    (machine / "pieces").mkdir()
    (machine / "pieces" / "letter.txt").touch()
    assert "holds something else: choose another folder with output" in refused(machine, OutputError)
    assert (machine / "pieces" / "letter.txt").is_file()


@linux
def test_without_network_apts_own_words_are_passed_on(machine):
    program(machine / "bin", "dpkg-deb", "exit 1")
    failed = "W: Failed to fetch somewhere  Could not resolve it\nW: Some index files failed to download."
    program(machine / "bin", "apt-get", f'case "$*" in *update*) echo "{failed}" >&2;; *) exit 100;; esac')
    assert "(Failed to fetch somewhere  Could not resolve it): check the network" in refused(machine)
    program(machine / "bin", "apt-get", 'echo "E: Unable to locate package python3" >&2; exit 100')
    assert "(Unable to locate package python3)" in refused(machine)


@linux
def test_packages_are_unpacked_without_touching_the_systems_apt(machine):
    """A stand-in for apt stores a package where the configuration it is given says; one for dpkg-deb unpacks it."""
    configuration = machine / "configuration"
    program(
        machine / "bin",
        "apt-get",
        f"""/bin/cat "$2" > {configuration}
        cache=$(/bin/sed -n 's/^Dir::Cache "\\(.*\\)";/\\1/p' "$2")
        case "$*" in *install*) echo > "$cache/archives/python3.deb";; esac""",
    )
    unpack = """/bin/mkdir -p "$3/usr/bin" "$3/usr/lib/python3.11" "$3/usr/share/doc" "$3/etc" "$3/bin"
        echo > "$3/usr/bin/python3"; echo > "$3/usr/bin/pdb3"; /bin/ln -s nowhere "$3/etc/link"; echo > "$3/bin/tar" """
    program(machine / "bin", "dpkg-deb", unpack)
    root = machine / "root"
    install._unpack_python(root, lambda step: None)
    text = configuration.read_text()
    assert 'APT::Architecture "arm64";' in text
    assert "#clear APT::Update;" in text
    for setting in ("Dir::State", "Dir::State::status", "Dir::Cache"):
        (line,) = (line for line in text.splitlines() if line.startswith(f'{setting} "'))
        assert not line.split('"')[1].startswith(("/var", "/etc"))
    files = {path.relative_to(root).as_posix() for path in root.rglob("*")}
    assert files == {
        "usr",
        "usr/bin",
        "usr/bin/python3",
        "usr/lib",
        "usr/lib/python3.11",
        "lib",
        "proc",
        "proc/cpuinfo",
    }
    assert (root / "lib").resolve() == root / "usr/lib"  # the loader's path, where packages have /usr/lib alone
    assert (root / "proc/cpuinfo").read_text() == launch.cpuinfo()


@pytest.fixture
def fetched(machine, monkeypatch):
    """The set-up with a made-up arm64 Python 3.12 and glibc 2.30; pip's command lines are kept, its end given."""
    for tool in ("apt-get", "dpkg-deb"):
        program(machine / "bin", tool, "exit 1")
    monkeypatch.setattr(install, "_unpack_python", lambda root, step: (step("Python"), root.mkdir()))
    calls: list[list[str]] = []
    ends = {"pip": (0, ""), "asked": '[[3, 12, 4], "2.30", "aarch64"]'}

    def run(command, environment=None):
        if "pip" in command:
            calls.append(command)
            return subprocess.CompletedProcess(command, ends["pip"][0], "", ends["pip"][1])
        return subprocess.CompletedProcess(command, 0, ends["asked"] if "platform" in command[-1] else "2.9.1\n", "")

    monkeypatch.setattr(install, "run", run)
    return calls, ends


def test_set_up_once_then_up_to_date_then_stale(machine, fetched, monkeypatch):
    calls, _ = fetched
    assert set_up(machine)
    assert available("arm64") is None
    found = json.loads((machine / "pieces" / launch.PIECES).read_text())
    assert found == {"layout": launch.LAYOUT, "python": "3.12.4", "numpy": "2.9.1", **INSTALLED}
    (pip,) = calls
    assert {f"{name}=={version}" for name, version in INSTALLED.items()} <= set(pip)
    assert "--python-version=3.12" in pip
    platforms = [argument.partition("=")[2] for argument in pip if argument.startswith("--platform")]
    assert platforms[0] == "manylinux_2_30_aarch64"  # a newer one would need a newer C library
    assert platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]

    assert set_up(machine) == []
    newer = {**INSTALLED, "onnxruntime": "99.0"}
    monkeypatch.setattr(launch, "versions", lambda *names: newer)
    monkeypatch.setattr(install, "versions", lambda *names: newer)
    assert available("arm64").startswith("The arm64 onnxruntime is")
    assert set_up(machine)
    assert available("arm64") is None
    assert "onnxruntime==99.0" in calls[-1]


def test_wheels_that_cannot_be_had(machine, fetched):
    fetched[1]["pip"] = (1, "ERROR: Could not find a version\nERROR: No matching distribution found for numpy\n")
    assert "pip cannot get the arm64 wheels (No matching distribution found for numpy)" in refused(machine)


def test_a_python_that_is_too_old_or_not_arm64s(machine, fetched):
    fetched[1]["asked"] = '[[3, 9, 2], "2.31", "aarch64"]'
    assert "arm64 Python is 3.9, expected 3.11 or newer" in refused(machine)
    fetched[1]["asked"] = '[[3, 11, 2], "2.31", "x86_64"]'
    assert "is of x86_64, expected aarch64" in refused(machine)


def test_an_arm64_python_that_does_not_start(machine, monkeypatch):
    for tool in ("apt-get", "dpkg-deb"):
        program(machine / "bin", tool, "exit 1")
    program(machine / "bin", "qemu-aarch64-static", "echo \"unable to find CPU model 'cortex-a76'\" >&2; exit 1")
    monkeypatch.setattr(install, "_unpack_python", lambda root, step: root.mkdir())
    assert "(unable to find CPU model 'cortex-a76'): qemu 7.2 and newer" in refused(machine)


def test_the_command_says_where_and_what_next(machine, fetched):
    done = CliRunner().invoke(command.main, [])
    assert done.exit_code == 0
    assert f"set up in {machine / 'pieces'}" in done.output
    assert "vit-export verify" in done.output
    assert "up to date" in CliRunner().invoke(command.main, []).output
    elsewhere = CliRunner().invoke(command.main, ["--output", str(machine / "other")])
    assert f"export {launch.VARIABLE}={machine / 'other'}" in elsewhere.output


def test_the_command_refuses_in_one_line(machine):
    done = CliRunner().invoke(command.main, [])
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: apt-get is not on the PATH")
    assert done.stderr.count("\n") == 1


# What it computes

SPEC = toy_spec().with_(num_heads=3)  # heads of 16: see the last test
FILES = {
    ("tflite", "float32", None): 1e-5,
    ("tflite", "float16", None): 1e-5,
    ("tflite", "int8", "static"): 0.05,
    ("tflite", "int8", "dynamic"): 0.05,
    ("tflite", "int8", "full"): 0.05,
    ("tflite", "int8", "w8a16"): 0.05,
    ("onnx", "float32", None): 1e-5,
    ("onnx", "float16", None): 0.01,  # arm64 adds up in float16, x86 in float32
    ("onnx", "int8", "dynamic"): 0.05,
    ("onnx", "int8", "qdq"): 0.05,
    ("onnx", "int8", "symmetric"): 0.05,
    ("onnx", "int8", "w8a16"): 0.05,
}
"""Largest norm of the difference between the native and the arm64 outputs, over the native ones' norm.

int8 differs by roundings: where two machines add up in another order, a value close to the middle between two levels
falls on either.
"""

emulated = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photographs"), 32, (32, 32))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "saved_model"
    write_saved_model(build(RandomParameters(SPEC)), path, record_of(SPEC))
    return path


def distance(given, wanted) -> float:
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


@pytest.mark.slow
@emulated
@pytest.mark.parametrize(("format", "precision", "scheme"), FILES)
def test_arm64_computes_what_this_machine_does(format, precision, scheme, weights, photographs, images, tmp_path):
    request = ExportRequest(
        None,
        tmp_path / "out",
        (format,),
        (precision,),
        weights=weights,
        calibration=photographs,
        int8_scheme=scheme,
        verify=False,
    )
    path = Path(export(request).report["artifacts"][-1]["path"])
    with RunnerProcess(path, format) as native:
        wanted, described = native.run(images), (native.inputs, native.outputs)
    with RunnerProcess(path, format, place=ARM64) as arm64:
        given = arm64.run(images)
        assert (arm64.inputs, arm64.outputs) == described
        assert os.readlink(f"/proc/{arm64.pid}/exe") == os.path.realpath(launch.emulator())
    print(f"{path.name}: {distance(given, wanted):.1e}")
    assert distance(given, wanted) < FILES[format, precision, scheme]


def attention(path: Path, head: int) -> Path:
    """One Attention over 17 tokens, a single head of `head` numbers: values in, their mean over all tokens out."""
    tensor = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT16, shape=[1, 17, head])
    zero = onnx.numpy_helper.from_array(np.zeros((1, 17, head), np.float16), "zero")
    node = onnx.helper.make_node("Attention", ["zero", "zero", "values"], ["means"], q_num_heads=1, kv_num_heads=1)
    graph = onnx.helper.make_graph([node], "attention", [tensor("values")], [tensor("means")], [zero])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10), path)
    return path


@pytest.mark.slow
@emulated
@pytest.mark.parametrize(("head", "lost"), [(12, 4), (13, 0), (60, 4), (64, 0)])
def test_onnx_runtime_on_arm64_loses_four_numbers_of_some_float16_heads(tmp_path, head, lost):
    """Its copy of the values for the product reads four left-over columns as zeros: heads of 8n + 4 numbers."""
    values = np.broadcast_to(np.arange(1, head + 1, dtype=np.float32), (1, 17, head))
    wanted = values.copy()
    with RunnerProcess(attention(tmp_path / "attention.onnx", head), "onnx") as native:
        np.testing.assert_allclose(native.run(values), wanted, rtol=2e-3)
    wanted[..., head - lost :] = 0
    with RunnerProcess(tmp_path / "attention.onnx", "onnx", place=ARM64) as arm64:
        np.testing.assert_allclose(arm64.run(values), wanted, rtol=5e-3)
