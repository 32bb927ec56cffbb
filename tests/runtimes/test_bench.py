"""`vit-export bench`: toy files of every origin through the command, the table and the rows on made-up figures."""

import io
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import foreign
from helpers import verifier_toys as toys
from helpers.programs import write_program
from rich.console import Console

from vit_export.artifacts.identify import files_of
from vit_export.base.errors import InputError
from vit_export.cli.main import main
from vit_export.model.artifact import TensorSpec
from vit_export.report.bench import render_benchmark
from vit_export.runtimes import benchmark as module
from vit_export.runtimes.benchmark import BenchedFile, Benchmark, bench
from vit_export.runtimes.process import Memory, RunnerProcess
from vit_export.runtimes.timing import rounds as timing
from vit_export.runtimes.timing.latency import Latency
from vit_export.runtimes.timing.ranking import Rank

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module", autouse=True)
def _few_calls():
    """What is measured is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_RUNS", 20)
        patch.setattr(timing, "WARM_UP_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ONNX files: one of ours by layout, one of another tool, one of batch 4, one that is cut off."""
    folder = tmp_path_factory.mktemp("models")
    toys.write_onnx(folder / "a_batch4.onnx", toys.weights(), batch=4)
    foreign.write_onnx(folder / "b_nchw.onnx")
    (folder / "notes.txt").write_text("no model")
    return folder


@pytest.fixture(scope="module")
def damaged(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "cut.onnx"
    path.write_bytes((folder / "b_nchw.onnx").read_bytes()[:-100])
    return path


@pytest.fixture(scope="module")
def measured(folder):
    """The folder measured once for all tests that only read it."""
    return bench([folder])


def invoke(*arguments):
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def fails(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


def rendered(benchmark, width=100):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render_benchmark(benchmark, console)
    return console.file.getvalue()


def test_a_folder_of_files_of_any_tool(measured, folder):
    batch4, nchw = measured.files
    assert [row.name for row in measured.files] == ["a_batch4.onnx", "b_nchw.onnx"]
    assert measured.baseline == batch4.path == str(folder / "a_batch4.onnx")
    assert (nchw.input.layout, nchw.input.shape) == ("NCHW", (1, 3, 16, 16))
    for row in measured.files:
        assert row.error is None
        assert (row.format, row.precision, row.image) == ("onnx", "float32", (16, 16))
        assert row.bytes == (folder / row.name).stat().st_size
        assert row.load_seconds > 0
        assert row.first_run_seconds > 0
        assert row.memory.peak > 1e6
        assert row.latency.runs >= 20
        assert 1 <= row.rank.best <= row.rank.worst <= 2
    assert (batch4.latency.batch, nchw.latency.batch) == (4, 1)
    assert batch4.latency.speedup == 1


def test_the_dict_is_json_and_complete(measured):
    told = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert set(told) == {
        "schema_version", "machine", "settings", "baseline", "plan", "noise", "warnings", "failures", "files",
    }  # fmt: skip
    assert told["settings"] == {"threads": 1, "time_limit": 20.0, "seed": 0}
    assert told["machine"]["cpu"]["cores"] >= 1
    row = told["files"][1]
    assert row["input"]["shape"] == [1, 3, 16, 16]
    assert row["latency"]["median_ms"] > 0
    assert set(row["rank"]) == {"best", "worst"}
    assert {"load_seconds", "first_run_seconds", "memory", "error", "precision", "bytes"} <= set(row)


def test_every_format_in_one_run(folder, tmp_path):
    shutil.copy(folder / "b_nchw.onnx", tmp_path)
    toys.write_saved_model(tmp_path / "a_model", toys.weights())
    toys.write_tflite(tmp_path / "c.tflite", toys.weights(), precision="int8")
    result = invoke(tmp_path, "--json", "--quiet", "--time-limit", 5, "--seed", 3)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert [(row["name"], row["format"], row["precision"]) for row in told["files"]] == [
        ("a_model", "saved_model", None),
        ("b_nchw.onnx", "onnx", "float32"),
        ("c.tflite", "tflite", "int8"),
    ]
    assert told["baseline"] == str(tmp_path / "a_model")
    assert told["plan"] == "together"
    assert told["settings"] == {"threads": 1, "time_limit": 5.0, "seed": 3}
    assert all(row["latency"]["runs"] >= 20 for row in told["files"])


def figures(text, name):
    """The words of the file `name` in a table: beside it, or on the lines below where there is no room."""
    lines = text.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith(name))
    below = itertools.takewhile(lambda line: line.startswith(" "), lines[at + 1 :])
    return " ".join((lines[at].removeprefix(name), *below)).split()


def test_a_file_that_cannot_be_run_is_a_row_and_exit_code_1(folder, damaged):
    shutil.copy(damaged, folder / "c_cut.onnx")
    try:
        result = invoke(folder, "--quiet", "--baseline", folder / "b_nchw.onnx")
    finally:
        (folder / "c_cut.onnx").unlink()
    assert result.exit_code == 1, result.output
    assert figures(result.stdout, "c_cut.onnx")[-1] == "failed"
    assert "base" in figures(result.stdout, "b_nchw.onnx")
    (failure,) = result.stderr.splitlines()
    assert failure.startswith("FAIL  ")
    assert "c_cut.onnx is damaged" in failure


def test_a_saved_model_that_does_more_than_compute_is_not_run(folder, saved_model, tmp_path):
    path = tmp_path / "models" / "program"
    path.parent.mkdir()
    write_program(saved_model, path, tmp_path / "mark")
    shutil.copy(folder / "b_nchw.onnx", path.parent)
    assert "program holds the operator " in fails(path)
    assert "program holds the operator " in fails(folder / "b_nchw.onnx", "--baseline", path)
    result = invoke(path.parent, "--json")  # what only lies there is a row
    assert result.exit_code == 1
    rows = {row["name"]: row["error"] for row in json.loads(result.stdout)["files"]}
    assert "expected a SavedModel of pure arithmetic" in rows["program"]
    assert rows["b_nchw.onnx"] is None
    assert not (tmp_path / "mark").exists()


def test_a_baseline_that_cannot_run_is_replaced(folder, monkeypatch):
    class Refusing(RunnerProcess):
        def run(self, images, **options):
            if self.path.name == "a_batch4.onnx":
                raise module.RunnerError("a_batch4.onnx cannot be run by onnxruntime: no.")
            return super().run(images, **options)

    monkeypatch.setattr(module, "RunnerProcess", Refusing)
    found = bench([folder], baseline=folder / "a_batch4.onnx")
    assert found.baseline == str(folder / "b_nchw.onnx")
    assert found.failures == ("a_batch4.onnx cannot be run by onnxruntime: no.",)
    assert found.warnings[0].endswith("a_batch4.onnx cannot be run, so b_nchw.onnx is the baseline instead.")
    alone = bench([folder / "a_batch4.onnx"])
    assert (alone.baseline, alone.plan, len(alone.failures)) == (None, None, 1)
    assert "failed" in rendered(alone)


def test_a_baseline_that_dies_while_it_is_timed_is_replaced(folder, monkeypatch):
    class Dying(RunnerProcess):
        def time(self, count, image):
            if self.path.name == "a_batch4.onnx":
                raise module.RunnerError("The process running a_batch4.onnx was killed by SIGILL.")
            return super().time(count, image)

    monkeypatch.setattr(module, "RunnerProcess", Dying)
    found = bench([folder])
    assert found.failures == ("The process running a_batch4.onnx was killed by SIGILL.",)
    assert found.baseline == str(folder / "b_nchw.onnx")
    assert found.files[1].rank == Rank(1, 1)


def test_files_too_big_to_be_resident_together_are_measured_too(folder, monkeypatch):
    for library in (module, sys.modules["vit_export.runtimes.timing.latency"]):
        monkeypatch.setattr(library, "plan_of", lambda *subjects: "blocks")
    found = bench([folder])
    assert found.plan == "blocks"
    assert all(row.latency.runs >= 20 and not row.latency.interleaved for row in found.files)


def test_a_file_that_takes_no_image_fails(tmp_path, folder):
    from onnx import TensorProto, helper

    words = helper.make_tensor_value_info("words", TensorProto.FLOAT, [1, 128])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 128])
    graph = helper.make_graph([helper.make_node("Relu", ["words"], ["out"])], "text", [words], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "text.onnx").write_bytes(model.SerializeToString())
    found = bench([folder / "b_nchw.onnx", tmp_path / "text.onnx"])
    assert found.failures == ("text.onnx takes words [1, 128], expected one batch of RGB images.",)
    assert found.files[0].rank == Rank(1, 1)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
@pytest.mark.parametrize("shape", [(None, 16, 24, 3), (2, 3, 16, 24)], ids=["NHWC", "NCHW"])
def test_images_are_those_a_file_takes(tmp_path, shape, dtype):
    layout = "NHWC" if shape[3] == 3 else "NCHW"
    process = RunnerProcess(tmp_path, "onnx")
    process.inputs = (TensorSpec("pixels", shape, dtype, layout),)
    image = module._image(process, 1)
    assert (image.shape, image.dtype) == ((16, 24, 3), np.dtype(dtype))
    assert np.array_equal(image, module._image(process, 1))
    assert not np.array_equal(image, module._image(process, 2))
    assert image.min() < image.max()
    process.inputs = (TensorSpec("pixels", (None, None, None, 3), dtype, "NHWC"),)
    assert module._image(process, 1).shape == (module.OPEN_SIDE, module.OPEN_SIDE, 3)
    assert module._image(process, 1, (24, 40)).shape == (24, 40, 3)
    process.inputs = (TensorSpec("pixels", (None, 3, None, 48), dtype, "NCHW"),)
    assert module._image(process, 1, (24, 40)).shape == (24, 48, 3)


def test_a_file_that_leaves_its_size_open(folder, tmp_path):
    """As optimum exports: every axis is open, but only one size fits its position embedding."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["grey"], axes=[1], keepdims=0),
        helper.make_node("Add", ["grey", "positions"], ["placed"]),
        helper.make_node("Flatten", ["placed"], ["answer"]),
    ]
    shape = ["batch", "channels", "height", "width"]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)
    answer = helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", "outputs"])
    positions = numpy_helper.from_array(np.ones((1, 16, 16), np.float32), "positions")
    graph = helper.make_graph(nodes, "open", [pixels], [answer], [positions])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "open.onnx").write_bytes(model.SerializeToString())
    (failure,) = bench([tmp_path / "open.onnx"], time_limit=0.1).failures
    assert "leaves the size of its images open and takes none of 224 x 224 pixels: give image_size" in failure
    found = bench([tmp_path / "open.onnx"], time_limit=0.1, image_size=16)
    assert (found.failures, found.files[0].image) == ((), (16, 16))
    for size in (0, (16, 0)):
        with pytest.raises(InputError, match="image_size is 0"):
            bench([tmp_path / "open.onnx"], image_size=size)
    told = invoke(str(tmp_path / "open.onnx"), "--time-limit", "0.1", "--image-size", "16", "--quiet")
    assert told.exit_code == 0, told.output


def test_files_are_found_once_and_in_order(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "z")
    (tmp_path / "z" / "model").mkdir()
    (tmp_path / "z" / "model" / "saved_model.pb").write_bytes(b"any")
    (tmp_path / "z" / "deeper").mkdir()
    shutil.copy(folder / "b_nchw.onnx", tmp_path / "z" / "deeper")
    paths = [tmp_path / "z" / "b_nchw.onnx", tmp_path / "z", tmp_path / "z" / "model"]
    found = files_of(paths, "measure", saved_models=True, once=True)
    assert [str(path.relative_to(tmp_path / "z")) for path in found] == ["b_nchw.onnx", "model", "a_batch4.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'FILE...'"),
        (["none.onnx"], "none.onnx does not exist"),
        (["empty"], "empty holds no SavedModel, .tflite or .onnx file"),
        (["text.txt"], "text.txt is of no format that vit-export knows"),
        (["."], "holds no SavedModel, .tflite or .onnx file"),
        (["text.txt", "--threads", "0"], "--threads is 0, expected a whole number from 1 to"),
        (["text.txt", "--seed", "-1"], "--seed is -1, expected a whole number from 0 to"),
        (["text.txt", "--time-limit", "0"], "--time-limit is 0, expected seconds, more than 0"),
        (["text.txt", "--time-limit", "nan"], "--time-limit is nan, expected seconds"),
        (["text.txt", "--time-limit", "1e9"], "--time-limit is 1e+09, expected seconds"),
        (["text.txt", "--baseline", "empty"], "empty is a folder without saved_model.pb"),
        (["text.txt", "--baseline", "none.onnx"], "none.onnx does not exist"),
        (["", "text.txt"], "it is empty"),
        (["--baselin", "a.onnx"], "No such option '--baselin'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_calls_get_one_sentence_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no model")
    monkeypatch.setattr(module, "RunnerProcess", lambda *a: pytest.fail("work was begun"))
    assert message in fails(*arguments)


def test_no_file_in_python():
    with pytest.raises(InputError, match="There is no file to measure"):
        bench([])


def test_help_is_light():
    heavy = ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "PIL", "numpy", "rich.table", "psutil")
    code = (
        "import sys\nfrom vit_export.cli.bench import bench_command\n"
        "try:\n    bench_command(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vit-export verify" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


# The table, of made-up figures.


def row(name, median, places, **changes):
    latency = Latency(
        median_ms=median,
        low_ms=0.98 * median,
        high_ms=1.02 * median,
        p90_ms=1.1 * median,
        p99_ms=1.5 * median,
        runs=200,
        rounds=20,
        ended_by="interval",
        reference_median_ms=60.0,
        speedup=60 / median,
        speedup_low=59 / median,
        speedup_high=61 / median,
    )
    full = BenchedFile(
        f"/models/{name}", name, "tflite", "int8", None, 24_000_000, TensorSpec("x", (1, 224, 224, 3), "float32"),
        (224, 224), 0.123, 0.0456, latency, Memory(95_400_000, 1, 1), Rank(*places),
    )  # fmt: skip
    return replace(full, **changes)


@pytest.fixture
def made_up():
    rows = (
        row("slow.onnx", 60.0, (4, 4)),
        row("vit_b16_a_rather_long_name_int8.tflite", 31.0, (2, 3)),
        row("one.tflite", 30.0, (2, 3)),
        row("quick.tflite", 12.0, (1, 1)),
        row("broken.tflite", 1.0, (1, 1), latency=None, rank=None, error="broken.tflite is damaged."),
    )
    machine = {"cpu": {"model": "A processor", "features": ["avx2"], "cores": 2}}
    return Benchmark(rows, rows[0].path, "together", None, ("It was noisy.",), 2, 20.0, 0, machine)


def test_the_table_says_what_matters(made_up):
    text = rendered(made_up)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    names = ["quick.tflite", "one.tflite", "vit_b16", "slow.onnx", "broken.tflite"]
    found = [next(line for line in lines if line.startswith(name)) for name in names]
    assert [lines.index(line) for line in found] == sorted(lines.index(line) for line in found)
    assert figures(text, names[0]) == [
        "TFL", "int8", "24.0", "123", "45.6",
        "12.0", "2.0", "13.2", "18.0", "5.00", "1.7", "95.4", "1",
    ]  # fmt: skip
    ranks = [figures(text, line.split()[0])[-1] for line in found]
    assert ranks == ["1", "2-3", "2-3", "4", "failed"]
    assert [name for name in names if "base" in figures(text, name)] == ["slow.onnx"]
    assert "One call on 2 threads of 2 usable cores, A processor (avx2)." in text
    assert "note  It was noisy." in text
    assert "batch" not in text


def test_the_table_says_that_speed_is_per_image(made_up):
    rows = tuple(
        replace(r, latency=r.latency and replace(r.latency, batch=4)) if r.name == "quick.tflite" else r
        for r in made_up.files
    )
    text = " ".join(rendered(replace(made_up, files=rows)).split())
    assert "ms are of a call, speed and rank of an image" in text
    assert " 95.4 4 1 " in text


def test_images_of_different_sizes_are_told(made_up):
    assert module._differences(made_up.files) == []
    rows = [*made_up.files, replace(made_up.files[0], image=(384, 384))]
    (told,) = module._differences(rows)
    assert "different sizes (224×224, 384×384 pixels)" in told


def test_names_that_are_alike_come_with_their_folders(folder, tmp_path):
    shutil.copy(folder / "b_nchw.onnx", tmp_path / "b_nchw.onnx")
    paths = [folder / "b_nchw.onnx", tmp_path / "b_nchw.onnx", folder / "a_batch4.onnx"]
    rows = [module._described(path, paths) for path in paths]
    assert [r.name for r in rows] == [str(paths[0]), str(paths[1]), "a_batch4.onnx"]
