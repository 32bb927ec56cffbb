"""`bench --adb` with a command called adb that records its calls and answers as Android's does.

How adb answers is as in the sources of packages/modules/adb of Android (`adb devices`: serial, tab, state; messages of
push), the tool's result as in benchmark_result.proto of google-ai-edge/LiteRT, serialized here by protobuf itself.
"""

import json
import os
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from helpers import reports

from vit_export.base.files import digest_of_file
from vit_export.cli.main import main
from vit_export.runtimes import adb
from vit_export.runtimes.on_device import PLACES, ROUNDS, Turn, read_result

ADB = """#!{python}
import json, os, pathlib, sys

root = pathlib.Path(os.environ["FAKE_ADB"])
told = json.loads((root / "told.json").read_text())
with open(root / "calls.txt", "a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
words = sys.argv[1:]
if words == ["devices"]:
    print("* daemon started successfully\\nList of devices attached\\n" + told["devices"])
    sys.exit()
assert words[:2] == ["-s", told["serial"]], words
kind, *rest = words[2:]
if kind == "push":
    if told.get("full"):
        print(f"adb: error: failed to copy '{{rest[0]}}' to '{{rest[1]}}': couldn't write: No space left on device")
        sys.exit(1)
    assert pathlib.Path(rest[0]).is_file()
elif kind == "exec-out":
    place = (root / "place.txt").read_text()
    if place not in told.get("fails", []):
        sys.stdout.buffer.write((root / f"{{place}}.pb").read_bytes())
    else:
        print(f"cat: {{rest[1]}}: No such file or directory", file=sys.stderr)
        sys.exit(1)
elif "benchmark_model " in rest[0] and "--graph" in rest[0]:
    place = "GPU" if "--use_gpu=true" in rest[0] else "CPU"
    (root / "place.txt").write_text(place)
    if place in told.get("fails", []):
        print("INFO: Log parameter values verbosely: [0]\\nERROR: Model is not fully accelerated.")
        sys.exit(1)
elif "getprop" in rest[0]:
    known = {{"ro.product.model": "Pixel 9", "ro.build.version.release": "16", "ro.soc.model": "Tensor G4"}}
    print(known[rest[0].split()[-1]])
"""


def result_message():
    """The class BenchmarkResult, from the fields of benchmark_result.proto."""
    file = descriptor_pb2.FileDescriptorProto(
        name="benchmark_result.proto", package="tflite.tools.benchmark", syntax="proto2"
    )
    latency = ["avg", "min", "max", "stddev", "median", "p5", "p95", "init", "first_inference", "average_warm_up"]
    fields = {
        "LatencyMetrics": [(f"{name}_ms", "FLOAT") for name in latency],
        "MemoryMetrics": [("init_footprint_kb", "INT64"), ("overall_footprint_kb", "INT64"), ("peak_mem_mb", "FLOAT")],
        "MiscMetrics": [
            ("model_size_mb", "FLOAT"),
            ("num_runs", "INT32"),
            ("num_warmup_runs", "INT32"),
            ("model_throughput_in_mb_per_sec", "FLOAT"),
        ],
    }
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(members, 1):
            message.field.add(name=field, number=number, type=f"TYPE_{kind}", label="LABEL_OPTIONAL")
    whole = file.message_type.add(name="BenchmarkResult")
    whole.field.add(name="name", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
    for number, (field, kind) in enumerate(
        [("latency_metrics", "LatencyMetrics"), ("memory_metrics", "MemoryMetrics"), ("misc_metrics", "MiscMetrics")], 2
    ):
        named = f".tflite.tools.benchmark.{kind}"
        whole.field.add(name=field, number=number, type="TYPE_MESSAGE", type_name=named, label="LABEL_OPTIONAL")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tflite.tools.benchmark.BenchmarkResult"))


def result(median, runs=150):
    message = result_message()(name="vit")
    message.latency_metrics.median_ms = median
    message.latency_metrics.p5_ms, message.latency_metrics.p95_ms = median - 1, median + 3
    message.latency_metrics.init_ms, message.latency_metrics.avg_ms = 40, median + 0.5
    message.memory_metrics.peak_mem_mb = 77
    message.misc_metrics.num_runs, message.misc_metrics.model_size_mb = runs, 24
    return message.SerializeToString()


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A folder for what the fake adb is told and records; `told(**changes)` tells it."""
    root = tmp_path / "adb"
    root.mkdir()
    command = root / "adb"
    command.write_text(ADB.format(python=sys.executable))
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{root}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB", str(root))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    (root / "CPU.pb").write_bytes(result(30.0))
    (root / "GPU.pb").write_bytes(result(12.5, 300))

    def told(**changes):
        known = {"devices": "0A1B2C\tdevice\n", "serial": "0A1B2C", **changes}
        (root / "told.json").write_text(json.dumps(known))

    told()
    return root, told


@pytest.fixture
def model(tmp_path):
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool" / "benchmark_model").write_bytes(b"\x7fELF")
    (tmp_path / "tool" / "libLiteRtClGlAccelerator.so").write_bytes(b"\x7fELF")
    (tmp_path / "files").mkdir()
    path = tmp_path / "files" / "vit.tflite"
    path.write_bytes(b"a model, which nobody reads here")
    return path


def call(model, *options):
    tool = model.parents[1] / "tool" / "benchmark_model"
    words = ["bench", str(model), "--adb", "--benchmark-model", str(tool), "--quiet", *options]
    return CliRunner().invoke(main, words)


def calls(root):
    return [json.loads(line) for line in (root / "calls.txt").read_text().splitlines()]


def test_the_tools_result_is_read_as_protobuf_writes_it():
    assert read_result(result(12.5, 300)) == Turn(12.5, 11.5, 15.5, 40.0, 300)
    for spoilt in (b"", b"nothing of the kind", result(1.0)[:-5]):
        with pytest.raises((ValueError, IndexError)):
            read_result(spoilt)


def test_files_run_on_the_cpu_and_the_gpu_in_turns_and_are_deleted(device, model):
    root, _ = device
    done = call(model, "--json", "--threads", "4")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [(row["place"], row["median_ms"], row["runs"]) for row in told["rows"]] == [
        ("CPU", 30.0, ROUNDS * 150),
        ("GPU", 12.5, ROUNDS * 300),
    ]
    assert told["device"] == {"serial": "0A1B2C", "model": "Pixel 9", "android": "16", "soc": "Tensor G4"}
    made = calls(root)
    pushed = [words[4].rpartition("/")[2] for words in made if words[2:3] == ["push"]]
    assert pushed == ["benchmark_model", "libLiteRtClGlAccelerator.so", "0.tflite"]
    runs = [words[3] for words in made if "--graph" in words[-1]]
    assert ["--use_gpu=true" in line for line in runs] == [False, True] * ROUNDS
    assert all("--num_threads=4" in line and "LD_LIBRARY_PATH=." in line for line in runs)
    assert all("--require_full_delegation=true" in line for line in runs if "--use_gpu=true" in line)
    (folder,) = {words[4].rpartition("/")[0] for words in made if words[2:3] == ["push"]}
    assert ["-s", "0A1B2C", "shell", f"rm -rf {folder}"] in made[len(pushed) :]


def test_the_reports_median_stands_beside_the_devices(device, model):
    verification = reports.verification()
    file = next(file for file in verification.files if file.passed and file.latency)
    file = replace(file, artifact=replace(file.artifact, sha256=digest_of_file(model)))
    report = reports.report_of(replace(verification, files=(file,)))
    model.with_name("report.json").write_text(json.dumps(report), encoding="utf-8")
    done = call(model)
    assert done.exit_code == 0, done.output
    assert f"{file.latency.median_ms:.3g}"[:3] in done.stdout
    assert all(place in done.stdout for place in PLACES)
    assert "On Pixel 9 Tensor G4, Android 16" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_file_that_the_gpu_does_not_take_whole_has_no_time_there(device, model):
    _, told = device
    told(fails=["GPU"])
    done = call(model, "--json")
    assert done.exit_code == 1
    cpu, gpu = json.loads(done.stdout)["rows"]
    assert cpu["median_ms"] == 30.0
    assert (gpu["median_ms"], gpu["error"]) == (None, "ERROR: Model is not fully accelerated.")


@pytest.mark.parametrize(
    ("told", "options", "sentence"),
    [
        ({"devices": ""}, (), "adb sees no device"),
        ({"devices": "A\tdevice\nB\tdevice\n"}, (), "adb sees several devices (A, B): say which by --serial."),
        ({"devices": "A\tdevice\nB\tdevice\n"}, ("--serial", "C"), "adb sees no device C, expected one of A, B"),
        ({"devices": "A\tunauthorized\n"}, (), "A does not trust this computer"),
        ({"devices": "A\toffline\n"}, (), "A is offline, expected a device that is ready"),
        ({"full": True}, (), "0A1B2C has no room for benchmark_model (0 MB)"),
    ],
)
def test_what_is_wrong_with_a_device_is_one_sentence(told, options, sentence, device, model):
    device[1](**told)
    done = call(model, *options)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {sentence}")
    assert done.stderr.count("\n") == 1


def test_one_of_several_devices_is_chosen(device, monkeypatch):
    device[1](devices="A\tdevice\n0A1B2C\tdevice\n")
    assert adb.device("0A1B2C").serial == "0A1B2C"
    monkeypatch.setenv("ANDROID_SERIAL", "0A1B2C")
    assert adb.device().serial == "0A1B2C"
    assert adb.device("A").serial == "A"


def test_what_is_missing_here_is_one_sentence(device, model, monkeypatch):
    for words, sentence in (
        (["--adb"], "--adb needs LiteRT's benchmark_model"),
        (["--serial", "A"], "--serial and --benchmark-model are for an Android device"),
        (["--adb", "--benchmark-model", "nothing"], "nothing is no file"),
    ):
        done = CliRunner().invoke(main, ["bench", str(model), "--quiet", *words])
        assert (done.exit_code, done.stderr.startswith(f"Error: {sentence}")) == (2, True), done.stderr
    other = model.with_suffix(".onnx")
    other.write_bytes(b"x")
    assert "is no .tflite file" in call(other).stderr
    monkeypatch.setenv("PATH", "/nowhere")
    assert call(model).stderr.startswith("Error: There is no adb on the path")
