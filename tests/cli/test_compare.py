"""`vit-export compare`: the formula part against the listing, the measured part on toys, the chart as XML."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import TOY, build, record_of

from vit_export.base.errors import InputError, OutputError
from vit_export.cli import compare as module
from vit_export.cli.compare import compare, compare_command, render_comparison
from vit_export.model.listing import listing
from vit_export.model.parameters import parameter_specs
from vit_export.model.spec import ViTSpec
from vit_export.model.variants import VARIANTS
from vit_export.pipeline import compare as pipeline
from vit_export.report.speeds import _multiples, speeds
from vit_export.report.svg import Picture, by_matplotlib
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import RunnerError
from vit_export.tflite.write import write_tflite
from vit_export.weights.random import RandomWeights

pytestmark = pytest.mark.thorough

SMALL = replace(TOY, name="toy_small", hidden_size=96, mlp_size=192)
# Its patch does not divide the size: it is compared at 36 pixels where the baseline has 32.
ODD = replace(TOY, name="toy_odd", patch_size=12, hidden_size=64, mlp_size=384)
SIZE = 32
SVG = "{http://www.w3.org/2000/svg}"


class Steps:
    """A Reporter that remembers what it was told."""

    def __init__(self):
        self.texts = []

    def step(self, text):
        self.texts.append(text)

    def progress(self, done, total):
        pass

    def note(self, text):
        self.texts.append(text)


def left(folder):
    """What is in the folder, but for a file that TensorFlow's first trace keeps there until the process ends."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("__autograph")]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A temporary folder of the test's own."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="session")
def toys():
    """Two toys measured once for all tests that only read them; nothing may be left of their files."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        steps = Steps()
        comparison = compare([SMALL, ODD], image_size=SIZE, baseline=SMALL, reporter=steps)
        assert left(Path(folder)) == []
    return comparison, steps.texts


def invoke(*arguments):
    """The command as cli.py registers it: in a group that turns errors into one line and an exit code."""
    from vit_export.cli.main import Commands

    group = Commands("vit-export", commands={"compare": compare_command})
    return CliRunner().invoke(group, ["compare", *map(str, arguments)])


def fails(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


def numbers(svg, tag):
    return list(ElementTree.fromstring(svg).iter(f"{SVG}{tag}"))


def labels(svg):
    return [text.text for text in numbers(svg, "text") if text.get("class") == "label"]


@pytest.mark.parametrize("image_size", [224, 384])
def test_formulas_are_those_of_the_listing(image_size):
    comparison = compare(image_size=image_size, measure=False)
    for row, listed in zip(comparison["variants"], listing(image_size), strict=True):
        assert row["measured"] is row["error"] is None
        wanted = {key: value for key, value in listed.items() if key not in ("megabytes", "published")}
        assert {key: row[key] for key in wanted} == wanted
        width, tokens = listed["hidden_size"], listed["tokens"]
        assert row["outputs"] == {"logits": [1, 1000], "features": [1, width], "tokens": [1, tokens, width]}


def test_shapes_are_those_the_model_and_the_files_return(tmp_path):
    (row,) = compare([TOY], image_size=SIZE, measure=False, baseline=TOY)["variants"]
    source = RandomWeights(ViTSpec.of(TOY, image_size=SIZE))
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    model = build(source)
    assert list(model.tokens(images).shape) == row["outputs"]["tokens"]
    assert list(model.predict_output(images).shape) == row["outputs"]["logits"]
    features = RandomWeights(source.spec.with_(num_classes=None))
    write_tflite(features, record_of(features.spec), tmp_path / "features.tflite")
    with RunnerProcess(tmp_path / "features.tflite", "tflite") as process:
        assert list(process.run(images).shape) == row["outputs"]["features"]


def test_random_weights_are_repeatable_and_keep_activations_in_size():
    spec = ViTSpec.of("vit_ti16")
    source, again, other = RandomWeights(spec), RandomWeights(spec), RandomWeights(spec, seed=1)
    for parameter in parameter_specs(spec):
        values = source.read(parameter.name)
        assert values.shape == parameter.shape
        assert values.dtype == np.float32
    name = "encoder/layer_3/mlp/dense_2/kernel"
    kernel = source.read(name)
    assert np.array_equal(kernel, again.read(name))
    assert not np.array_equal(kernel, other.read(name))
    assert not np.array_equal(kernel, source.read(name.replace("3", "4")))
    assert kernel.std() == pytest.approx(spec.mlp_size**-0.5, rel=0.01)
    assert source.read("encoder/norm/scale").mean() == pytest.approx(1, abs=0.02)


def test_what_is_measured_fits_together(toys):
    comparison, steps = toys
    assert comparison["baseline"] == comparison["variants"][0]
    assert comparison["baseline"]["measured"]["latency"]["speedup"] == 1.0
    assert [row["image_size"] for row in comparison["variants"]] == [32, 36]
    for row in comparison["variants"]:
        measured = row["measured"]
        assert row["error"] is None
        assert measured["output_shape"] == row["outputs"]["logits"]
        sizes = [measured["file_bytes"][precision] for precision in ("float32", "float16", "int8")]
        # The structure of a file, some 30 kB, is the same in every precision and no small part of a toy.
        assert sizes[0] == pytest.approx(4 * row["parameters"], rel=0.2)
        assert 1.5 < sizes[0] / sizes[1] < 2.1
        assert 2.2 < sizes[0] / sizes[2] < 4.1
        assert measured["memory_bytes"]["peak"] > measured["memory_bytes"]["baseline"] > 0
        assert measured["memory_bytes"]["peak"] > sizes[0]
        latency = measured["latency"]
        assert latency["p90_ms"] >= latency["median_ms"] > 0
        assert latency["rounds"] >= 6
        assert latency["speedup"] == measured["relative_speed"] > 0
        low, high = latency["speedup_low"], latency["speedup_high"]
        assert low is high is None or low <= latency["speedup"] <= high
        assert (latency["batch"], latency["threads"]) == (1, 1)
    # The baseline is not measured a second time: its figures are those it had beside the other.
    own, beside = (row["measured"]["latency"] for row in comparison["variants"])
    assert own["median_ms"] == beside["reference_median_ms"]
    assert any("toy_odd (1 of 1): timing it in turns with toy_small" in text for text in steps)


def test_dict_is_json_and_complete(toys):
    comparison, _ = toys
    found = json.loads(json.dumps(comparison, allow_nan=False))
    assert found["schema_version"] == 1
    assert found["machine"]["cpu"]["cores"] >= 1
    assert found["settings"]["precisions"] == ["float32", "float16", "int8"]
    assert [row["name"] for row in found["variants"]] == ["toy_small", "toy_odd"]
    measured = found["variants"][1]["measured"]
    assert set(measured["file_bytes"]) == {"float32", "float16", "int8"}
    assert {"median_ms", "p90_ms", "runs", "reference_median_ms"} <= set(measured["latency"])
    assert {"peak", "baseline"} <= set(measured["memory_bytes"])


def test_a_baseline_that_was_not_chosen_is_measured_all_the_same(scratch):
    comparison = compare([ODD], image_size=SIZE, baseline=SMALL, precisions=["int8"])
    assert [row["name"] for row in comparison["variants"]] == ["toy_odd"]
    assert comparison["baseline"]["measured"]["latency"]["speedup"] == 1.0
    assert comparison["baseline"]["measured"]["file_bytes"] == {}
    assert set(comparison["variants"][0]["measured"]["file_bytes"]) == {"int8"}
    assert left(scratch) == []


def test_a_variant_that_cannot_run_does_not_cost_the_others(scratch, monkeypatch):
    start = RunnerProcess.start

    def refuse(process):
        if "odd" in process.path.name:
            raise RunnerError("The process was killed by SIGKILL.")
        start(process)

    monkeypatch.setattr(RunnerProcess, "start", refuse)
    comparison = compare([ODD, SMALL], image_size=SIZE, baseline=SMALL, precisions=["float32"])
    odd, small = comparison["variants"]
    assert (odd["measured"], odd["error"]) == (None, "The process was killed by SIGKILL.")
    assert small["measured"]["latency"]["speedup"] == 1.0
    assert "failed" in rendered(comparison)
    assert labels(speeds(comparison)) == ["toy_odd @36", "toy_small"]
    assert left(scratch) == []

    monkeypatch.setattr(module, "compare", lambda *a, **k: comparison)
    result = invoke("vit_ti16", "--quiet")
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "FAIL  toy_odd was not measured: The process was killed by SIGKILL."


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, RunnerError])
def test_nothing_is_left_when_the_work_is_interrupted(scratch, monkeypatch, error):
    seen = []

    def interrupted(process, images):
        seen.extend(scratch.rglob("*.tflite"))
        seen.append(process.pid)
        raise error("stop")

    monkeypatch.setattr(RunnerProcess, "run", interrupted)
    with pytest.raises(error):
        compare([SMALL], image_size=SIZE, baseline=SMALL)
    path, pid = seen
    assert path.name == "toy_small_float32.tflite"
    assert left(scratch) == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_signals_clean_up(scratch, number):
    """A command that is stopped from outside while files exist removes them."""
    script = (
        "import vit_export.pipeline.compare as c\nfrom conftest import TOY\n"
        f"c.VARIANTS['vit_toy'] = TOY\nc.compare.__kwdefaults__['baseline'] = TOY\n"
        f"from vit_export.cli.main import main\nmain(['compare', 'vit_toy', '--image-size', '{SIZE}'])"
    )
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(scratch.glob("vit-export-compare-*/**/*.tflite")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in told
    assert ("Interrupted: " in told) == (number == signal.SIGINT)
    assert list(scratch.glob("vit-export-compare-*")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_s31"], "Unknown variant 'vit_s31': did you mean 'vit_s32'?"),
        (["vit_s32", "xyz"], "choose one of vit_ti16, "),
        (["--image-size", "0"], "--image-size is 0, expected a whole number of pixels from 1 to 4096"),
        (["--image-size", "-5"], "--image-size is -5"),
        (["--image-size", "4096", "vit_h14"], "Image size 4102 is out of range for vit_h14"),
        (["--image-size", "big"], "'big' is no size: give pixels (224)"),
        (["--threads", "0"], "--threads is 0, expected a whole number from 1 to 256"),
        (["--seed", "-1"], "--seed is -1, expected a whole number from 0"),
        (["--precisions", "flaot32"], "Unknown precision 'flaot32': did you mean 'float32'?"),
        (["--precisions", "float32,int4x"], "Unknown precision 'int4x'"),
        (["--precisions", ","], "No precision is given: choose from float32,float16,int8"),
        (["--no-measure", "--precisions", "int8"], "--precisions says what is measured"),
        (["--no-measure", "--plot", "a.svg"], "--plot draws what is measured"),
        (["--plot", "a.png"], "has the extension '.png', expected '.svg'"),
        (["--plot", "plot"], "has the extension '', expected '.svg'"),
        (["--plot", "folder.svg"], "is a folder, expected the name of a file"),
        (["--plot", "file/a.svg"], "cannot be written to"),
        (["--plot", "/proc/none/a.svg"], "cannot be written"),
        (["--plot", "x" * 300 + ".svg"], "cannot be written (File name too long): give a file in another folder to"),
        (["--plot", "x" * 248 + ".svg"], "cannot be written (File name too long)"),  # its temporary name is longer
        (["--plot", f"none/{'x' * 300}/a.svg"], "cannot be written (File name too long)"),
        (["--plot", ""], "Invalid value for '--plot': it is empty"),
        (["--plot", "--json"], "'--json' is an option, expected a value"),
        (["--plot", "file.svg"], "exists already: pass --overwrite to replace it, or give another file to --plot."),
        (["--plto", "a.svg"], "'--plot'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_calls_get_one_sentence_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    for name in ("file", "file.svg"):
        (tmp_path / name).write_text("mine")
    monkeypatch.setattr(pipeline, "_measure", lambda *a, **k: pytest.fail("work was begun"))
    if arguments[0] == "--plot" and os.geteuid() == 0 and "/proc" in arguments[1]:
        monkeypatch.setattr(os, "access", lambda *a: False)  # root may write anywhere, says access
    assert message in fails(*arguments)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "file.svg", "folder.svg"]
    assert (tmp_path / "file.svg").read_text() == "mine"


def test_bad_values_in_python():
    for size in (True, 224.0, "224"):
        with pytest.raises(InputError, match="image_size is"):
            compare(image_size=size, measure=False)
    with pytest.raises(InputError, match="Two different variants are called 'vit_toy'"):
        compare([TOY, replace(TOY, num_layers=1)], measure=False)
    with pytest.raises(InputError, match="Two different variants are called 'vit_s32'"):
        compare([replace(TOY, name="vit_s32")], measure=False)
    assert [row["name"] for row in compare(["vit_b16", "vit_b16"], measure=False)["variants"]] == ["vit_b16"]
    assert [row["name"] for row in compare("vit_b16", measure=False)["variants"]] == ["vit_b16"]


def test_too_little_disk(scratch, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(5, 4, 10**9))
    line = fails("vit_ti16", "vit_h14")
    assert line.startswith("Error: Measuring vit_h14 takes 4.1 GB of disk in ")
    assert line.endswith("which has 1.0 GB free: make room, set TMPDIR to a folder on another disk, "
                         "or pass --no-measure.")  # fmt: skip
    assert " 2.8 GB " in fails("vit_h14", "--precisions", "float32")
    assert left(scratch) == []


def test_disk_that_fills_up(scratch, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vit_export.tflite.stream._write", full)
    with pytest.raises(OutputError, match=r"temporary folder cannot take .* set TMPDIR to another folder\.$"):
        compare([TOY], image_size=SIZE, baseline=TOY)
    assert left(scratch) == []


def rendered(comparison):
    from io import StringIO

    from rich.console import Console

    text = StringIO()
    render_comparison(comparison, Console(file=text, width=80))
    return text.getvalue()


def test_tables(toys):
    text = rendered(toys[0])
    assert text.count("toy_odd") == 3
    assert "36    12     10" in text  # tokens: 3x3 patches of 12 pixels and the class token
    assert "the logits are 1000 numbers" in text
    assert "1.00" in text
    assert "1 thread of" in text
    assert "toy_small, whose median was" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_tables_of_all_variants_fit():
    result = invoke("--no-measure", "--image-size", "1024")
    assert result.exit_code == 0
    assert all(result.output.count(name) == 2 for name in VARIANTS)
    assert max(map(len, result.output.splitlines())) <= 80
    assert "Measured" not in result.output
    assert [row["name"] for row in json.loads(invoke("--no-measure", "--json").stdout)["variants"]] == list(VARIANTS)


def test_chart_is_xml_with_one_label_per_variant(toys):
    svg = speeds(toys[0])
    assert labels(svg) == ["toy_small", "toy_odd @36"]
    dots = [mark for mark in numbers(svg, "use") if mark.get("class") == "mark time"]
    assert len(dots) == 2
    assert "prefers-color-scheme: dark" in svg
    (unit,) = [line for line in numbers(svg, "path") if line.get("class") == "unit"]
    assert dots[0].get("x") == unit.get("d").split()[1]  # the baseline takes one time of its own
    assert "style=" not in svg
    assert svg == speeds(toys[0])


def test_chart_escapes_hostile_texts(toys):
    texts = ["<script>&\"'", "]]><![CDATA[", "a\x00b\ud800c", "x" * 500, "[bold]"]
    row = {**toys[0]["variants"][0], "name": "x" * 100}
    cpu = {**toys[0]["machine"]["cpu"], "model": texts[0]}
    rows = [{**row, "use": text} for text in texts]
    svg = speeds({**toys[0], "variants": rows, "machine": {**toys[0]["machine"], "cpu": cpu}})
    assert labels(svg) == ["x" * 10 + "…" + "x" * 9] * len(texts)
    titles = [title.text.partition(": ")[2] for title in numbers(svg, "title")[1:]]
    assert titles == 2 * [*texts[:2], "a\\u0000b\\ud800c", *texts[3:]]  # of the dots and of the diamonds
    assert "<script" not in svg
    assert "[bold]" in rendered({**toys[0], "variants": rows[-1:]})


def test_hostile_names_do_not_leave_the_temporary_folder(scratch):
    for name in ("../../<a>/x", "x" * 300):
        hostile = replace(TOY, name=name)
        with pytest.raises(InputError, match="A model's name is"):
            compare([hostile], image_size=SIZE, baseline=hostile, precisions=["float32"])
    assert left(scratch) == []
    assert [p.name for p in scratch.parent.iterdir()] == ["scratch"]


@by_matplotlib
def drawn(values):
    """The ends and the ticks of an axis of multiples."""
    picture = Picture(100, (10, 10, 10, 10))
    _multiples(picture, values)
    low, high = picture.axes.get_xlim()
    return low, high, [tick for tick in picture.axes.get_xticks() if low <= tick <= high]


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0, 30.0, 499.0, 501.0, 1e-4, 1e5])
def test_chart_has_ticks_around_all_values(factor):
    low, high, ticks = drawn([factor])
    assert ticks[0] < min(1, factor)
    assert ticks[-1] > max(1, factor)
    assert 2 <= len(ticks) <= 12
    assert 1 in ticks
    assert low < factor < high


def test_command_prints_json_and_writes_the_plot(toys, tmp_path, monkeypatch):
    asked = {}

    def measured(variants, **options):
        asked.update(options, variants=variants)
        return toys[0]

    monkeypatch.setattr(module, "compare", measured)
    path = tmp_path / "new" / "compare.svg"
    options = ("--json", "--quiet", "--plot", path, "--threads", 2, "--precisions", "int8, float32")
    result = invoke("vit_s32", "vit_b16", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads(json.dumps(toys[0]))
    assert (asked["variants"], asked["threads"], asked["precisions"]) == (
        ("vit_s32", "vit_b16"),
        2,
        ["int8", "float32"],
    )
    assert labels(path.read_text(encoding="utf-8")) == ["toy_small", "toy_odd @36"]
    path.write_text("old")
    assert "exists already" in fails("--plot", path)
    assert path.read_text() == "old"
    assert invoke("--quiet", "--plot", path, "--overwrite").exit_code == 0
    assert path.read_text(encoding="utf-8") == speeds(toys[0])
    assert [p.name for p in path.parent.iterdir()] == ["compare.svg"]


def test_help_is_light():
    heavy = ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "PIL", "numpy", "rich.table", "matplotlib")
    code = (
        "import sys\nfrom vit_export.cli.compare import compare_command\n"
        "try:\n    compare_command(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--no-measure" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_runs_as_a_module():
    command = [sys.executable, "-m", "vit_export", "compare"]
    good = subprocess.run([*command, "vit_ti16", "--no-measure"], capture_output=True, text=True, check=True)
    assert "vit_ti16" in good.stdout
    bad = subprocess.run([*command, "vit_s31"], capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr == "Error: Unknown variant 'vit_s31': did you mean 'vit_s32'?\n"


@pytest.mark.slow
def test_real_variants():
    comparison = compare(["vit_ti16"], precisions=["float32", "int8"])
    ti16, s32 = comparison["variants"][0]["measured"], comparison["baseline"]["measured"]
    assert ti16["output_shape"] == [1, 1000]
    assert ti16["file_bytes"]["float32"] == pytest.approx(4 * ViTSpec.of("vit_ti16").num_parameters, rel=0.01)
    assert ti16["file_bytes"]["int8"] < 0.3 * ti16["file_bytes"]["float32"]
    assert s32["memory_bytes"]["peak"] > ti16["memory_bytes"]["peak"] > ti16["file_bytes"]["float32"]
