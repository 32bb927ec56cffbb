"""Runners against a numpy computation of the same network, and the processes that host them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flatbuffers
import numpy as np
import psutil
import pytest
from helpers import foreign
from helpers import verifier_toys as toys
from onnx import helper, numpy_helper

from vit_export.artifacts.flatbuffer import IDENTIFIER, unpack
from vit_export.model.artifact import TensorSpec
from vit_export.runtimes import process as process_module
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled, Runner, RunnerError, SavedModelRunner, open_runner

ROOT = Path(__file__).resolve().parents[2]


def by_numpy(images):
    """The toy network in float64."""
    w = {name: value.astype(np.float64) for name, value in toys.weights().items()}
    n, p = len(images), toys.PATCH
    grid = toys.SIZE // p
    patches = images.reshape(n, grid, p, grid, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, grid * grid, -1)
    active = np.maximum(patches @ w["kernel"].reshape(-1, toys.WIDTH), 0)
    return active.mean(axis=1) @ w["head"] + w["bias"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder, w = tmp_path_factory.mktemp("runners"), toys.weights()
    return {
        "saved_model": toys.write_saved_model(folder / "reference", w),
        "tflite": toys.write_tflite(folder / "float32.tflite", w),
        "tflite_4": toys.write_tflite(folder / "batch4.tflite", w, batch=4),
        "tflite_int8": toys.write_tflite(folder / "int8.tflite", w, precision="int8"),
        "tflite_int8_4": toys.write_tflite(folder / "int8_batch4.tflite", w, batch=4, precision="int8"),
        "onnx": toys.write_onnx(folder / "float32.onnx", w),
        "onnx_4": toys.write_onnx(folder / "batch4.onnx", w, batch=4),
        "onnx_open": toys.write_onnx(folder / "open.onnx", w, batch="n"),
        "onnx_16": toys.write_onnx(folder / "float16.onnx", w, precision="float16"),
    }


def opened(files, name) -> Runner:
    return open_runner(files[name], name.split("_")[0] if name != "saved_model" else name)


@pytest.mark.parametrize("name", ["saved_model", "tflite", "tflite_4", "onnx", "onnx_4", "onnx_open"])
def test_float_outputs_are_right_and_in_order(files, name):
    images = toys.images(6)  # batch 4: one full call and one of two images
    outputs = opened(files, name).run(images)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, by_numpy(images), atol=1e-5)


def test_float16_input_and_output(files):
    runner = opened(files, "onnx_16")
    assert runner.inputs[0].dtype == "float16"
    outputs = runner.run(toys.images())
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, by_numpy(toys.images()), atol=1e-2)


@pytest.mark.parametrize("name", ["tflite_int8", "tflite_int8_4"])
def test_int8_input_and_output_are_quantized_with_the_files_own_scale(files, name):
    runner = opened(files, name)
    assert runner.inputs[0].dtype == runner.outputs[0].dtype == "int8"
    images = toys.images(6)
    expected = by_numpy(images)
    outputs = runner.run(images)
    assert np.abs(outputs - expected).max() < 0.05 * np.ptp(expected)
    steps = outputs / runner.outputs[0].scale
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_pixels_beyond_the_range_of_int8_are_clipped_not_wrapped(files):
    runner = opened(files, "tflite_int8")
    bright = np.ones((1, toys.SIZE, toys.SIZE, 3), np.float32)
    np.testing.assert_array_equal(runner.run(10 * bright), runner.run(1000 * bright))


def test_specs_say_what_the_file_says(files):
    image = ("images", (1, toys.SIZE, toys.SIZE, 3), "float32", "NHWC")
    for name in ("tflite", "onnx"):
        runner = opened(files, name)
        assert runner.inputs == (TensorSpec(*image),)
        assert runner.outputs == (TensorSpec("logits", (1, toys.CLASSES), "float32"),)
        assert runner.batch == 1
    int8 = opened(files, "tflite_int8").inputs[0]
    assert int8.scale > 0
    assert -128 <= int8.zero_point <= 127
    assert opened(files, "tflite_4").batch == 4
    assert opened(files, "onnx_open").batch is opened(files, "saved_model").batch is None
    assert opened(files, "saved_model").outputs[0].shape == (None, toys.CLASSES)


@pytest.mark.parametrize("name", ["tflite", "onnx", "saved_model"])
def test_images_of_another_size_are_refused(files, name):
    with pytest.raises(RunnerError, match=r"takes images of \[.*16, 16, 3\], given \[1, 8, 8, 3\]"):
        opened(files, name).run(np.zeros((1, 8, 8, 3), np.float32))


@pytest.mark.parametrize("name", ["tflite", "onnx"])
@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.95])
def test_truncated_files_are_runner_errors(files, tmp_path, name, keep):
    data = files[name].read_bytes()
    path = tmp_path / f"cut{files[name].suffix}"
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(RunnerError, match=r"^cut.\w+ cannot be (loaded|run) by [\w-]+: \S"), RunnerProcess(path, name):
        pass


def test_missing_and_empty_saved_models_are_runner_errors(tmp_path):
    with pytest.raises(RunnerError, match=r"nothing\.tflite does not exist"):
        open_runner(tmp_path / "nothing.tflite", "tflite")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunnerError, match="empty cannot be loaded by tensorflow"):
        open_runner(tmp_path / "empty", "saved_model")


def test_integers_without_scale_are_refused(files):
    runner = opened(files, "tflite_int8")
    runner.inputs = (TensorSpec("images", runner.inputs[0].shape, "int8"),)
    with pytest.raises(RunnerError, match="without one scale and zero point"):
        runner.run(toys.images(1))


def test_tensorflow_that_runs_already_cannot_change_its_threads(files):
    import tensorflow as tf

    tf.constant(1.0).numpy()  # starts TensorFlow in this process
    threads = tf.config.threading.get_intra_op_parallelism_threads() + 3
    with pytest.raises(RunnerError, match="cannot change"):
        SavedModelRunner(files["saved_model"], threads).load()


# Files of other tools.


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return foreign.two_signatures(tmp_path_factory.mktemp("foreign"))


OPEN = ("batch", "num_channels", "height", "width")


@pytest.mark.parametrize("dimensions", [(1, 3, 16, 16), (4, 3, 16, 16), (-1, 3, 16, 16), ("n", 3, "h", "w"), OPEN])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nchw_files_are_fed_nhwc_images(tmp_path, dimensions, dtype):
    runner = open_runner(foreign.write_onnx(tmp_path / "x.onnx", dimensions, dtype=dtype), "onnx", 1)
    assert runner.inputs[0].layout == "NCHW"
    assert runner.inputs[0].dtype == dtype
    assert runner.batch == (dimensions[0] if dimensions[0] in (1, 4) else None)
    images = toys.images(6)
    outputs = runner.run(images)
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs, by_numpy(images), atol=1e-2 if dtype == "float16" else 1e-5)
    assert len(runner.time(images[: runner.batch or 2], 3)) == 3


def test_uint8_pixels_are_transposed_too(tmp_path):
    runner = open_runner(foreign.write_onnx(tmp_path / "x.onnx", dtype="uint8"), "onnx")
    pixels = np.random.default_rng(3).integers(0, 256, (3, 16, 16, 3), np.uint8)
    np.testing.assert_allclose(runner.run(pixels), by_numpy(pixels.astype(np.float64)), rtol=1e-4, atol=1e-3)
    with pytest.raises(RunnerError, match="takes uint8 pixels"):
        runner.run(toys.images(1))


def test_images_of_another_size_are_told_in_one_layout(tmp_path):
    runner = open_runner(foreign.write_onnx(tmp_path / "x.onnx"), "onnx")
    with pytest.raises(RunnerError, match=r"takes images of \[1, 16, 16, 3\], given \[1, 8, 8, 3\]"):
        runner.run(np.zeros((1, 8, 8, 3), np.float32))


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_inputs_that_are_no_images_are_refused(tmp_path, dtype):
    runner = open_runner(foreign.write_onnx(tmp_path / "x.onnx", dtype=dtype), "onnx")
    with pytest.raises(RunnerError, match=r"takes bool, expected|int32 without one scale"):
        runner.run(toys.images(1))


def test_an_output_is_read_by_its_name(tmp_path):
    path = foreign.write_onnx(tmp_path / "x.onnx", ("n", 3, 16, 16), outputs=("features", "logits", "pooled", "answer"))
    images = toys.images(3)
    first, logits, pooled = (open_runner(path, "onnx", 1, name).run(images) for name in (None, "logits", "pooled"))
    assert first.shape == (3, toys.WIDTH)
    np.testing.assert_allclose(logits, by_numpy(images), atol=1e-5)
    assert pooled.shape == (3, toys.WIDTH, 1, 1)
    np.testing.assert_array_equal(pooled[:, :, 0, 0], first)
    with pytest.raises(RunnerError, match="no output 'logit': choose one of features, logits, pooled, answer"):
        open_runner(path, "onnx", 1, "logit")
    with pytest.raises(RunnerError, match="answer is int64 without one scale"):
        open_runner(path, "onnx", 1, "answer").run(images)


def test_one_answer_without_batch_dimension_is_given_one(tmp_path):
    images = toys.images(3)
    runner = open_runner(foreign.write_onnx(tmp_path / "x.onnx", outputs=("mean",)), "onnx")
    np.testing.assert_allclose(runner.run(images), by_numpy(images), atol=1e-5)
    runner = open_runner(foreign.write_onnx(tmp_path / "y.onnx", ("n", 3, 16, 16), outputs=("mean",)), "onnx")
    with pytest.raises(RunnerError, match=r"gives mean of \[10\] for 3 images, expected one row for each"):
        runner.run(images)


@pytest.mark.parametrize("numbers", [1000, 1001])
def test_an_answer_of_millions_of_numbers_does_not_reach_the_caller(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr("vit_export.runtimes.runner.MAX_OUTPUT", 1000)
    nodes = [
        # Known when it runs, not before: as many as the brightest pixel says.
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Cast", ["brightest"], ["count"], to=7),
        helper.make_node("Reshape", ["count", "one"], ["row"]),
        helper.make_node("Concat", ["one", "row"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["logits"]),
    ]
    constants = [numpy_helper.from_array(np.int64([1]), "one")]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("images", [1, 3, 4, 4]), ("logits", [1, None]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    path = tmp_path / "x.onnx"
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()
    )
    runner = open_runner(path, "onnx", 1)
    images = np.full((1, 4, 4, 3), numbers, np.float32)
    if numbers == 1000:
        assert runner.run(images).shape == (1, numbers)
    else:
        with pytest.raises(RunnerError, match=r"answers 1 images with 1,001 numbers, expected at most 1,000 for each"):
            runner.run(images)


def test_a_tflite_file_whose_images_no_memory_holds_is_not_allocated(files, tmp_path):
    model = unpack(Path(files["tflite"]).read_bytes())
    graph = model.subgraphs[0]
    image = graph.tensors[graph.inputs[0]]
    image.shape = image.shapeSignature = np.int32([1, 60_000, 60_000, 3])
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), IDENTIFIER)
    path = tmp_path / "x.tflite"
    path.write_bytes(builder.Output())
    with pytest.raises(RunnerError, match=r"x.tflite cannot be run: .* has 10,800,000,000 numbers, at most"):
        open_runner(path, "tflite", 1)


def test_answers_that_no_memory_holds_end_after_the_first(process, monkeypatch):
    monkeypatch.setattr("vit_export.runtimes.process.MAX_ANSWERS", 120)
    assert process.run(toys.images(9)).shape == (9, 10)
    with pytest.raises(RunnerError, match="for 13 images more than 120: give fewer images"):
        process.run(toys.images(13))


def test_onnx_runtime_writes_nothing_into_the_home_folder(files, tmp_path):
    code = "from vit_export.runtimes.runner import open_runner; import pathlib, sys; "
    code += "open_runner(pathlib.Path(sys.argv[1]), 'onnx', 1)"
    home = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    plain = {k: v for k, v in environment().items() if k not in ("CI", "ORT_DISABLE_TELEMETRY")}
    subprocess.run([sys.executable, "-c", code, str(files["onnx"])], env=plain | home, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("options", "said"), [({"ir": 99}, "Unsupported model IR version: 99"), ({"opset": 99}, "Opset 99")]
)
def test_a_version_that_is_not_known_yet_is_said_in_one_line(tmp_path, options, said):
    folder = tmp_path / ("a" * 200) / ("b" * 200)
    folder.mkdir(parents=True)
    with pytest.raises(RunnerError) as error:
        open_runner(foreign.write_onnx(folder / "x.onnx", **options), "onnx")
    assert str(error.value).startswith("x.onnx cannot be loaded by onnxruntime: ")
    assert said in str(error.value)
    assert "/" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["open", "bare"])
def test_tflite_files_of_open_size_take_what_comes(others, name):
    runner = open_runner(others[name], "tflite", 1)
    assert runner.inputs[0].shape == (None, None, None, 3)
    read = {spec.shape[-1]: spec.name for spec in runner.outputs}
    runner = open_runner(others[name], "tflite", 1, read[toys.CLASSES])
    for count in (1, 5, 2):
        images = toys.images(count)
        np.testing.assert_allclose(runner.run(images), by_numpy(images), atol=1e-5)
    wide = np.concatenate([toys.images(2)] * 2, axis=2)
    np.testing.assert_allclose(runner.run(wide), by_numpy(toys.images(2)), atol=1e-5)


def test_the_signature_that_serves_is_run_in_its_own_subgraph(others):
    images = toys.images(3)
    runner = open_runner(others["both"], "tflite", 1)
    assert [spec.name for spec in runner.outputs] == ["features", "logits"]
    assert runner.run(images).shape == (3, toys.WIDTH)
    np.testing.assert_allclose(
        open_runner(others["both"], "tflite", 1, "logits").run(images), by_numpy(images), atol=1e-5
    )
    assert len(runner.time(images, 3)) == 3


def test_a_tflite_file_may_take_nchw(others):
    runner = open_runner(others["nchw"], "tflite", 1)
    assert runner.inputs == (TensorSpec("pixels", (1, 3, 16, 16), "float32", "NCHW"),)
    np.testing.assert_allclose(runner.run(toys.images(3)), by_numpy(toys.images(3)), atol=1e-5)


def test_a_batch_that_fails_does_not_spoil_the_next_call(tmp_path):
    runner = open_runner(foreign.stubborn_tflite(tmp_path / "x.tflite"), "tflite", 1)
    images = toys.images(3)
    alone = runner.run(images[:1])
    with pytest.raises(RunnerError, match="cannot be run by ai-edge-litert"):
        runner.run(images)
    np.testing.assert_array_equal(runner.run(images[:1]), alone)


# A process of its own.


@pytest.fixture
def process(files):
    with RunnerProcess(files["tflite_4"], "tflite") as process:
        yield process


def test_a_process_answers_like_its_runner(files, process):
    images = toys.images(6)
    np.testing.assert_array_equal(process.run(images), opened(files, "tflite_4").run(images))
    assert process.batch == 4
    assert process.outputs == opened(files, "tflite_4").outputs
    assert process.load_seconds > 0
    assert process.first_run_seconds > 0
    seconds = process.time(5, images[0])
    assert len(seconds) == 5
    assert all(s > 0 for s in seconds)


def test_memory_is_the_childs_own(process):
    ballast = np.ones(400 << 17)  # 400 MB here, not there
    process.run(toys.images(1))
    memory = process.memory()
    assert 10e6 < memory.baseline <= memory.peak < ballast.nbytes
    if sys.platform == "linux":
        assert 1e6 < memory.anonymous < memory.peak


def test_an_error_of_the_runtime_leaves_the_process_alive(process):
    with pytest.raises(RunnerError, match="takes images of"):
        process.run(np.zeros((1, 8, 8, 3), np.float32))
    assert process.run(toys.images(1)).shape == (1, toys.CLASSES)


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_killed_process_is_reported_with_the_signals_name(process, name):
    os.kill(process.pid, getattr(signal, name))
    with pytest.raises(RunnerError, match=rf"running batch4\.tflite was killed by {name}"):
        process.run(toys.images())
    with pytest.raises(RunnerError, match="No process is running"):
        process.run(toys.images())


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("name", "outside"), [("SIGKILL", True), ("SIGTERM", True), ("SIGSEGV", False), ("SIGABRT", False)]
)
def test_what_comes_from_outside_is_no_fault_of_the_file(process, name, outside):
    os.kill(process.pid, getattr(signal, name))
    with pytest.raises(RunnerError) as caught:
        process.run(toys.images())
    assert isinstance(caught.value, ProcessKilled) == outside
    assert caught.value.exit_code == (2 if outside else 1)
    assert ("says nothing of the file" in str(caught.value)) == outside


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit")
def test_a_process_without_memory_is_no_fault_of_the_file(process):
    import resource

    reserved = psutil.Process(process.pid).memory_info().vms
    resource.prlimit(process.pid, resource.RLIMIT_AS, (reserved + 2**20, reserved + 2**20))
    with pytest.raises(ProcessKilled, match=r"running batch4\.tflite ran out of memory \(MemoryError") as caught:
        process.run(np.zeros((1, 2048, 2048, 3), np.float32))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "said",
    [
        "bad_alloc",
        "x.onnx cannot be run by onnxruntime: Failed to allocate memory for requested buffer of size 4294967296",
        "run failed with MemoryError: Unable to allocate 4.00 GiB",
        "x cannot be run by tensorflow: OOM when allocating tensor with shape[1,2]",
    ],
)
def test_a_runtime_that_finds_no_memory_is_no_fault_of_the_file(process, monkeypatch, said):
    monkeypatch.setattr(process_module, "_receive", lambda stream: (False, said))
    with pytest.raises(ProcessKilled, match="ran out of memory"):
        process.run(toys.images())


def test_a_process_that_takes_too_long_is_stopped(process):
    process.timeout = 0.5
    with pytest.raises(ProcessKilled, match=r"gave no answer within 0\.5 s"):
        process.time(1 << 40, toys.images()[0])
    assert process.pid is None


def test_close_ends_the_child_and_may_be_repeated(files):
    process = RunnerProcess(files["onnx"], "onnx")
    process.start()
    pid = process.pid
    process.close()
    process.close()
    assert not psutil.pid_exists(pid)


USER_SCRIPT = """
from pathlib import Path
import numpy as np
from vit_export.runtimes.process import RunnerProcess

print("started", flush=True)  # once: the child must not run this script again
with RunnerProcess(Path({path!r}), "tflite") as process:
    print(process.run(np.zeros((1, 16, 16, 3), np.float32)).shape, process.pid, flush=True)
    {then}
"""


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_script_without_main_guard_works(files, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(USER_SCRIPT.format(path=str(files["tflite"]), then="pass"))
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.count("started") == 1
    assert "(1, 10)" in done.stdout


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_the_child_dies_with_its_parent_even_in_the_middle_of_a_run(files, tmp_path):
    then = "process.time(1 << 40, np.zeros((16, 16, 3), np.float32))"
    code = USER_SCRIPT.format(path=str(files["tflite"]), then=then)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment()) as parent:
        assert parent.stdout.readline() == "started\n"
        child = psutil.Process(int(parent.stdout.readline().split()[-1]))
        time.sleep(0.3)  # let the endless run begin
        parent.kill()
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
