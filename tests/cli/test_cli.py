import errno
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import RandomParameters, record_of, toy_spec, write_pictures
from rich.console import Console

from vit_export.base.errors import InputError
from vit_export.cli.closing import closing
from vit_export.cli.export import _returned
from vit_export.cli.finish import finish
from vit_export.cli.main import main
from vit_export.cli.progress import ConsoleReporter
from vit_export.cli.vocabulary import _COMMANDS, _MEANT, GROUPS, NOT_THERE
from vit_export.model.listing import listing
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.model.variants import VARIANTS
from vit_export.pipeline.request import ExportRequest
from vit_export.weights.checkpoint import Checkpoint

LONG = "x" * 300
ORIGINALS = Path(__file__).parents[1] / "fixtures" / "originals"

HEAVY = ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert", "ai_edge_quantizer", "skimage", "PIL", "numpy")


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def fails(*arguments):
    """The one line of a call that has to be refused."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    return result.output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["vit_s32", "--help"], ["list"], ["vit_s31"], ["vit_s32", "--image-size", "225"]]
)
def test_light(arguments):
    code = (
        "import sys\nfrom vit_export.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_names_every_variant_and_option():
    text = invoke("--help").output
    assert all(name in text for name in VARIANTS)
    options = invoke("vit_b16", "--help").output
    assert all(
        f"--{o}" in options for o in ("tflite", "onnx", "int8-scheme", "calibration", "opset", "no-verify", "json")
    )


def test_every_export_has_the_same_options_in_the_same_order():
    variant, export = (invoke(name, "--help").output.partition("What is made:")[2] for name in ("vit_b16", "export"))
    assert variant == export
    assert variant.index("--saved-model") < variant.index("--int8") < variant.index("--quiet")


@pytest.mark.parametrize("name", main.commands)
def test_options_are_in_groups_and_these_in_one_order(name):
    told = re.findall(r"^  (--(?!help)[\w-]+)", invoke(name, "--help").output, re.MULTILINE)
    assert sorted(told) == sorted(max(p.opts, key=len) for p in main.commands[name].params if p.opts[0].startswith("-"))
    assert told == [option for group in GROUPS.values() for option in group if option in told]


def test_groups_and_hints_name_options_that_there_are():
    known = {option for command in main.commands.values() for p in command.params for option in p.opts}
    assert {option for group in GROUPS.values() for option in group} <= known
    words = " ".join((*_MEANT, *NOT_THERE)).split()
    assert len(words) == len(set(words))
    assert not {f"--{word}" for word in words} & known - {"--precision", "--no-latency"}  # of other commands
    targets = {word for row in _MEANT.values() for word in row.split() if word.startswith("--")}
    assert targets <= known
    assert {*_COMMANDS.values()} <= {*main.commands, "--help"}
    assert not {word for row in _COMMANDS for word in row.split()} & {*main.commands}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_s32", "--half"], "No such option '--half'. Did you mean '--float16'?"),
        (["--fp16"], "Did you mean '--float16'?"),
        (["vit_s32", "--FP32"], "Did you mean '--float32'?"),
        (["hf:o/n", "--quant"], "Did you mean '--int8'?"),
        (["--quantize"], "Did you mean '--int8'?"),
        (["vit_s32", "--size", "384"], "Did you mean '--image-size'?"),
        (["vit_s32", "--size=384"], "Did you mean '--image-size'?"),
        (["vit_s32", "--classes", "3"], "Did you mean '--num-classes'?"),
        (["--model", "x.npz"], "Did you mean '--weights'?"),
        (["verify", "x.onnx", "--model", "x.npz"], "Did you mean '--reference'?"),
        (["vit_s32", "--out", "x"], "Did you mean '--output'?"),
        (["vit_s32", "--calib_data", "x"], "'--calibration'"),
        (["vit_s32", "--format", "tflite"], "'--tflite'"),
        (["vit_s32", "--nchw"], "Did you mean '--layout NCHW'?"),
        (["predict", "x.onnx", "--top-k", "3"], "Did you mean '--top'?"),
        (
            ["vit_s32", "--device", "cuda"],
            "No such option '--device'. Exports and checks run on the CPU: leave it out.",
        ),
        (["vit_s32", "--no-latency"], "Exports time their files for some seconds: leave it out"),
        (["vit_s32", "-v"], "No such option '-v'. Every step is told anyway"),
        (["list", "--half"], "No such option '--half'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_option_is_answered_by_what_it_means(arguments, message):
    line = fails(*arguments)
    assert message in line
    assert "--features" not in line


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_a_command_ends_with_its_result_its_failures_and_its_exit_code(as_json, quiet, shown, capsys):
    show = None if quiet else lambda: print("a table")
    with pytest.raises(SystemExit) as ended:
        finish({"é": 1}, show, as_json=as_json, failures=("a: b",), shown=shown, passed=False)
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert out == ('{\n  "é": 1\n}\n' if as_json else "" if quiet else "a table\n")
    assert err == ("" if shown and not as_json and not quiet else "FAIL  a: b\n")


def test_list():
    rows = json.loads(invoke("list", "--json").output)
    assert [row["name"] for row in rows] == list(VARIANTS)
    s32 = rows[1]
    assert (s32["parameters"], s32["macs"], s32["tokens"]) == (22_878_952, 1_142_909_952, 50)
    assert s32["megabytes"]["float32"] == pytest.approx(91.5)
    table = invoke("list").output
    assert all(name in table and row["use"] in table for name, row in zip(VARIANTS, rows, strict=True))
    assert max(map(len, table.splitlines()[: len(VARIANTS) + 1])) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vit_s31"], "Did you mean 'vit_s32'?"),
        (["vit_base_patch16_224"], "Did you mean 'vit_b16'? It has random weights; trained ones are given as a file"),
        (["vit_base_patch16_224.augreg_in21k"], "Did you mean 'vit_b16'?"),
        (["ViT-Ti/16"], "Did you mean 'vit_ti16'?"),
        (["google/vit-base-patch16-224"], "give hf:google/vit-base-patch16-224"),
        (["ViT-B_16.npz"], "no such file"),
        (["weights/vit.safetensors"], "'weights/vit.safetensors' is no variant, and there is no such file."),
        (["help"], "Did you mean '--help'?"),
        (["lst"], "Did you mean 'list'?"),
        (["convert", "x.npz"], "Did you mean 'export'?"),
        (["classify", "x.onnx"], "Did you mean 'predict'?"),
        (["check"], "Did you mean 'verify'?"),
        (["vit_s32", "-o", "out"], "No such option '-o'. Did you mean '--output'?"),
        (["resnet50"], "'vit-export list' shows them all"),
        (["vit_s32", "--onx"], "'--onnx'?"),
        (["vit_s32", "--image-size", "225"], "use 224 or 256"),
        (["vit_s32", "--image-size", "big"], "'big' is no size: give pixels (224), or height x width (224x384)."),
        (["vit_s32", "--num-classes", "0"], "--num-classes is 0, expected a whole number from 1"),
        (["vit_s32", "--features", "--num-classes", "5"], "give one of the two"),
        (["vit_s32", "--batch", "0"], "--batch is 0, expected a whole number from 1 to 1024"),
        (["vit_s32", "--batch", "many"], "'many' is not a valid integer"),
        (["vit_s32", "--tflite", "--batch", "dynamic"], "A dynamic batch is for ONNX, TFLite files have none"),
        (["vit_s32", "--tflite", "--layout", "nchw"], "The layout NCHW is for ONNX, TFLite files have none"),
        (["vit_s32", "--tflite", "--hf-layout"], "The folder of --hf-layout is for ONNX"),
        (["vit_s32", "--onnx", "--hf-layout", "--input", "uint8"], "--hf-layout is for float32 input"),
        (["vit_s32", "--onnx", "--hf-layout", "--batch", "2"], "--batch is 2, and the files of hf_layout take any"),
        (["vit_s32", "--threads", "-1"], "--threads is -1"),
        (["vit_s32", "--seed", "-1"], "--seed is -1"),
        (["vit_s32", "--opset", "9", "--onnx"], "--opset is 9, expected a whole number from 13 to 23"),
        (["vit_s32", "--int8", "--calibration-images", "0"], "--calibration-images is 0"),
        (["vit_s32", "--held-out-images", "0"], "Error: --held-out-images is 0, expected a whole number from 1"),
        (["vit_s32", "--int8-scheme", "full"], "add --int8"),
        (["vit_s32", "--int8", "--int8-scheme", "best"], "'best' is not one of"),
        (["vit_s32", "--onnx", "--int8", "--int8-scheme", "full"], "does not exist for onnx"),
        (["vit_s32", "--int8", "--min-sqnr", "30"], "--min-sqnr is the budget of the int8 scheme 'auto'"),
        (
            ["vit_s32", "--tflite", "--int8", "--int8-scheme", "auto", "--min-sqnr", "0"],
            "--min-sqnr is 0, expected dB",
        ),
        (
            ["vit_s32", "--features", "--tflite", "--int8", "--int8-scheme", "auto", "--min-agreement", "0.9"],
            "no top class to agree on",
        ),
        (["vit_s32", "--weights", "nowhere"], "There is no nowhere"),
        (["vit_s32", "--weights", ""], "Invalid value for '--weights': it is empty"),
        (["vit_s32", "--output", ""], "Invalid value for '--output': it is empty"),
        (["vit_s32", "--labels", " "], "Invalid value for '--labels': it is empty"),
        (["vit_s32", "--calibration", ""], "Invalid value for '--calibration': it is empty"),
        (["calibration", ""], "it is empty"),
        (["--weights", "--tflite"], "Invalid value for '--weights': '--tflite' is an option, expected a value"),
        (["vit_s32", "--output", "--tflite"], "'--tflite' is an option, expected a value"),
        (["vit_s32", "--output", "caf\udce9"], "is not UTF-8"),
        (["vit_s32", "--output", LONG], "too long"),
        (["vit_s32", "--labels", LONG], "too long"),
        (["--weights", LONG], "too long"),
        (["calibration", LONG], "too long"),
        (
            ["vit_s32", "--saved-model", "--int8"],
            "--int8 is of .tflite and .onnx files, a SavedModel is",
        ),
        (["vit_s32", "--saved-model", "--float32", "--float16"], "--float16 is of .tflite and .onnx files"),
        (["--weights", "nowhere", "--features", "--pooled"], "give one of the two"),
        (["vit_s32", "--features", "--returns", "tokens"], "--features is short for --returns features: name all"),
        (["vit_s32", "--returns", "token"], "Unknown output 'token': did you mean 'tokens'?"),
        (["vit_s32", "--returns", "tokens,tokens"], "--returns has tokens twice: give each once."),
        (
            ["vit_s32", "--returns", "features,tokens", "--num-classes", "3"],
            "--returns makes a model without classifier",
        ),
        (["vit_s32", "--returns", "pooled"], "--returns pooled belongs to a checkpoint: give --weights"),
        (["vit_s32", "--l2-normalize"], "A model that returns logits has no embedding to be divided by its length"),
        (["google/vit-base"], "for a repository of the Hugging Face hub give hf:google/vit-base."),
        (["export", "google/vit-base"], "give hf:google/vit-base."),
        (["./nowhere"], "'./nowhere' is no variant, and there is no such file."),
        (["tuned.keras"], "'tuned.keras' is no variant, and there is no such file."),
        (["export", "tuned.keras"], "'tuned.keras' is no variant, and there is no such file."),
        (["ftp://user:secret@host/file"], "The weights have an address of a kind that is not supported"),
        (["hf:google"], "'hf:google' names no hub repository"),
        (["hf:o/a", "--weights", "hf:o/b"], "A checkpoint is given twice, by itself and to --weights"),
        (["--tflite", "hf:o/a", "--weights", "hf:o/b"], "A checkpoint is given twice"),
        (["vit_s32", "hf:o/a"], "unexpected extra argument"),
        (["export", "vit_s31"], "Unknown variant 'vit_s31': did you mean 'vit_s32'?"),
        (["list", "--image-size", "0"], "--image-size is 0, expected a whole number of pixels from 1 to 4096"),
        (["list", "--image-size", "-5"], "--image-size is -5"),
        (["list", "--image-size", "224x5000"], "--image-size is 5000"),
        (["vit_b16", "--image-size", "224x"], "'224x' is no size: give pixels (224), or height x width (224x384)."),
        (["vit_b16", "--image-size", "224x384x3"], "'224x384x3' is no size: give pixels (224), or height x width"),
        (["vit_b16", "--image-size", "0x224"], "Image size 0x224: its height 0 is out of range for vit_b16"),
        (
            ["vit_b16", "--image-size", "224x385"],
            "its width 385 is not a multiple of vit_b16's patch size 16: use 224x384 or 224x400.",
        ),
        (["compare", "--image-size", "x224", "--no-measure"], "'x224' is no size"),
        (["vit_s32", "--tflite", "--int8", "--calibration", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_calls_get_one_sentence(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in fails(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_in_the_place_of_a_variant(tmp_path, monkeypatch):
    """What is there, or an address, is opened; variants and commands win over files that are called like them."""
    opened = []

    def refused(location, *, variant, **said):
        opened.append((location, variant))
        raise InputError("seen")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_export.weights.open.open_checkpoint", refused)
    for name in ("tuned.keras", "vit_s32", "list"):
        (tmp_path / name).write_text("")
    (tmp_path / "dino").mkdir()
    places = ["tuned.keras", "./tuned.keras", "dino", str(tmp_path), "./vit_s32", "./list", "hf:o/n", "https://h/x.npz"]
    for place in places:
        for words in ([place], [place, "--tflite"], ["--tflite", place], ["export", place], ["--weights", place]):
            opened.clear()
            assert fails(*words) == "Error: seen"
            assert opened == [(place, None)], words
    assert json.loads(invoke("list", "--json").output)
    monkeypatch.setattr("vit_export.pipeline.steps.export", lambda *arguments, **options: refused("x", variant=None))
    note = "vit_s32 is the variant, with random weights: what this folder has by that name is ./vit_s32."
    for words in (["vit_s32"], ["export", "vit_s32"]):
        assert note in invoke(*words).stderr
    assert "./" not in invoke("vit_s16").stderr


def test_help_has_one_example_a_line():
    lines = [line.strip() for line in invoke("--help").output.splitlines()[1:]]
    assert sum(line.startswith("vit-export ") for line in lines) == 4
    assert not any("\\b" in line or "\b" in line or line.endswith("...") for line in lines)


def test_version_with_and_without_installation(monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr("vit_export.base.versions.version", lambda package: "1.2.3")
    assert invoke("--version").output == "vit-export, version 1.2.3\n"
    monkeypatch.setattr("vit_export.base.versions.version", missing)
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.startswith("vit-export, version unknown (")


def test_listing_rounds_up_and_shows_small_figures():
    assert [row["image_size"] for row in listing(225)] == [
        -(-225 // variant.patch_size) * variant.patch_size for variant in VARIANTS.values()
    ]
    for size in (0, -1, 4097, True, 224.0, "224"):
        with pytest.raises(InputError, match="image_size is"):
            listing(size)
    assert " 0.0 " not in invoke("list", "--image-size", "16").output


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted: "),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 999), 2, "Error: A path cannot be used (file name"),
        (PermissionError(errno.EACCES, "Permission denied", "/srv/x"), 2, "(permission denied: /srv/x)"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "Error: The disk takes no more (no space left"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_the_system_refuses_is_one_line(error, code, words, tmp_path, monkeypatch):
    def refused(*arguments, **options):
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_export.pipeline.steps.export", refused)
    result = invoke("vit_s32", "--quiet")
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in line
    assert len(line) < 300


@pytest.mark.parametrize(("option", "names"), [((), ()), (("--features",), ("features",))])
def test_the_request_knows_which_outputs_were_asked_for(option, names, tmp_path, monkeypatch):
    """The usual one that is named is more than the usual one: nothing is put beside it."""

    def kept(request, *arguments, **options):
        assert request.returns == names
        raise InputError("seen")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_export.pipeline.steps.export", kept)
    assert "seen" in invoke("vit_s32", "--onnx", "--hf-layout", *option).stderr


def test_a_bug_is_not_taken_for_a_refusal(tmp_path, monkeypatch):
    def buggy(*arguments, **options):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "what/we/forgot")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_export.pipeline.steps.export", buggy)
    assert isinstance(invoke("vit_s32", "--quiet").exception, FileNotFoundError)


def reported(*, terminal=False):
    """A reporter and what it writes."""
    text = StringIO()
    return ConsoleReporter(Console(file=text, force_terminal=terminal, width=200, color_system=None)), text


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_paths_as_they_are(terminal):
    reporter, text = reported(terminal=terminal)
    names = ["a[red]b", "x[/]y", "[/x]", "[bold", "back\\", ":smile:", "{task.id}"]
    with reporter:
        for name in names:
            reporter.step(f"Opening {name}")
            reporter.progress(1, 2)
            reporter.note(f"seen {name}")
    for name in names:
        assert f"done  Opening {name}  " in text.getvalue()
        assert f"note  seen {name}\n" in text.getvalue()


def test_a_step_that_is_done_does_not_fail_afterwards():
    for finished, error, mark in (
        (True, InputError("another thing"), "done"),
        (False, InputError("it"), "failed"),
        (False, KeyboardInterrupt(), "stopped"),
    ):
        reporter, text = reported()
        reporter.step("Opening")
        if finished:
            reporter.done()
        reporter.__exit__(type(error), error, None)
        assert [line.split()[0] for line in text.getvalue().splitlines()] == [mark]


def test_opening_is_done_when_something_else_is_wrong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("--weights", str(ORIGINALS / "hf"), "--pooled")
    assert result.exit_code == 2
    first, last = result.stderr.splitlines()
    assert first.startswith("done  Opening ")
    assert last.startswith("Error: There are no --pooled features")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:secret@host.invalid/f.npz?token=secret#sha256=" + "0" * 64, "https://host.invalid/f.npz"),
        ("ftp://user:secret@host.invalid/f.npz", "the checkpoint"),
    ],
)
def test_secrets_of_an_address_are_not_shown(address, shown, monkeypatch):
    def refused(*arguments, **options):
        raise InputError("No.")

    monkeypatch.setattr("vit_export.weights.open.open_checkpoint", refused)
    (step, _) = invoke("--weights", address).stderr.splitlines()
    assert step == f"failed  Opening {shown}  0.0 s"


def checkpoint(source, **more):
    known = toy_spec(pre_logits_size=24, **more)
    return Checkpoint(
        RandomParameters(known),
        ModelRecord(known, Preprocessing(32), {"source": "huggingface"}, positions="bicubic"),
        own=source == "ours",
    )


@pytest.mark.parametrize(
    ("source", "classes", "asked", "pre_logits", "wanted"),
    [
        ("ours", None, {}, 24, None),
        ("ours", None, {"image_size": 48}, 24, None),
        ("ours", None, {"features": True}, None, None),
        ("ours", None, {"num_classes": 5}, 24, 5),
        ("ours", 10, {}, 24, 10),
        ("ours", 10, {"pooled": True}, 24, None),
        ("others", None, {}, None, None),
        ("others", None, {"pooled": True}, 24, None),
        ("others", None, {"num_classes": 5}, None, 5),
        ("others", 10, {}, 24, 10),
        ("others", 10, {"num_classes": 10}, 24, 10),
        ("others", 10, {"num_classes": 5}, None, 5),
        ("others", 10, {"features": True}, None, None),
        ("others", 10, {"pooled": True}, 24, None),
        ("others", 10, {"returns": ("logits", "pooled", "tokens")}, 24, 10),
        ("others", 10, {"returns": ("features", "tokens")}, None, None),
        ("others", 10, {"returns": ("logits", "tokens"), "num_classes": 5}, None, 5),
        ("others", None, {"returns": ("pooled", "features")}, 24, None),
    ],
)
def test_what_is_exported_of_a_checkpoint_with_a_pooler(source, classes, asked, pre_logits, wanted):
    opened, size = checkpoint(source, num_classes=classes), asked.get("image_size", 32)
    short = {"features": False, "pooled": False, **{k: asked[k] for k in ("features", "pooled") if k in asked}}
    names = asked.get("returns") or _returned(None, **short)
    found = opened.returning(names, num_classes=asked.get("num_classes")).with_(image_size=size)
    assert found == replace(
        opened.spec, image_size=size, num_classes=wanted, pre_logits_size=pre_logits, returns=asked.get("returns", ())
    )


def test_a_projection_is_what_images_are_compared_by():
    """CLIP: of a model without classifier the usual output is behind the projection, and it is said."""
    known = toy_spec(pre_logits_size=24, pre_logits_activation="linear", num_classes=None)
    clip = replace(checkpoint("others"), parameters=RandomParameters(known), stated=record_of(known))
    assert clip.projects
    assert clip.returning().outputs == {"pooled": (24,)}
    assert clip.returning(["features"]).outputs == {"features": (48,)}
    assert clip.returning(l2_normalize=True).l2_normalize
    tanh = checkpoint("others", num_classes=None)
    assert not tanh.projects
    assert tanh.returning().outputs == {"features": (48,)}


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "my photos", 8, (40, 40))


@pytest.mark.thorough
def test_the_next_command_works_as_it_is_printed(photos, tmp_path, monkeypatch):
    """From a pooler's features on: what is suggested says all that the files need, and replaces nothing."""
    monkeypatch.chdir(tmp_path)
    options = ("--input", "uint8", "--calibration", "my photos", "--calibration-images", "4", "--no-verify")
    first = invoke("--weights", str(ORIGINALS / "hf_model"), "--pooled", "--tflite", *options, "--output", "my out")
    assert first.exit_code == 0, first.output
    names, lines = [], first.stdout.splitlines()[1:]
    while " --weights " in lines[-1]:
        words = shlex.split(lines[-1].removeprefix("Next:"))[1:]
        assert " ".join(words[-8:]) == " ".join(("--output", "my out", *options)[-8:])
        result = invoke(*words)
        assert result.exit_code == 0, (words, result.output)
        names.append(words[2:4])
        lines = result.stdout.splitlines()[1:]
    assert names == [["--tflite", "--int8"], ["--onnx", "--int8"]]
    report = json.loads((tmp_path / "my out" / "report.json").read_text(encoding="utf-8"))
    assert report["spec"]["pre_logits_size"] == 32
    assert {artifact["inputs"][0]["dtype"] for artifact in report["artifacts"][1:]} == {"uint8"}
    assert sorted(p.suffix for p in (tmp_path / "my out").iterdir()) == [
        "",
        ".html",
        ".json",
        ".onnx",
        ".tflite",
        ".tflite",
    ]
    # Both small files are there: what is left is to ask one of them, on an image that was looked at, and to pack it.
    predict, bundle = (shlex.split(line.removeprefix("Next:"))[1:] for line in lines)
    answer = invoke(*predict)
    assert (answer.exit_code, predict[0]) == (0, "predict"), answer.output
    assert answer.stdout.startswith("my photos/")
    assert bundle[:2] == ["bundle", predict[1]]
    assert invoke(*bundle).exit_code == 0


@pytest.mark.parametrize(
    ("there", "asked", "made", "suggested"),
    [
        ([], {}, [("tflite", "float32")], "--tflite --int8"),
        ([], {}, [("tflite", "int8")], "--onnx --int8"),
        ([], {}, [("tflite", "int8"), ("onnx", "float32")], None),
        (["vit_toy_int8.tflite"], {}, [("tflite", "float32")], "--onnx --int8"),
        (["vit_toy_int8.tflite", "vit_toy_int8.onnx"], {}, [("tflite", "float32")], None),
        (["vit_toy_int8.tflite"], {"opset": 17, "batch": 2}, [], "--onnx --int8 --batch 2 --opset 17"),
        ([], {"opset": 17, "overwrite": True, "seed": 3}, [], "--tflite --int8 --seed 3"),
        ([], {"layout": "NCHW", "batch": "dynamic"}, [], "--tflite --int8"),
        ([], {"hf_layout": True, "formats": ("onnx",)}, [("onnx", "float32")], "--tflite --int8"),
        (
            ["vit_toy_int8.tflite"],
            {"layout": "NCHW", "batch": "dynamic"},
            [],
            "--onnx --int8 --batch dynamic --layout NCHW",
        ),
        ([], {"verify": False, "held_out_images": 5}, [], "--tflite --int8 --held-out-images 5 --no-verify"),
        ([], {"labels": ("a",), "precisions": ("int8",), "int8_scheme": "full"}, [], "--tflite --int8"),
    ],
)
@pytest.mark.parametrize("output", [None, "it's mine"])
def test_the_next_command_repeats_what_it_needs(there, asked, made, suggested, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(output or "exports/vit_toy-32")
    folder.mkdir(parents=True)
    for name in there:
        (folder / name).write_text("")
    artifacts = tuple(SimpleNamespace(format=f, precision=p, path=str(folder / "x y"), bytes=1) for f, p in made)
    result = SimpleNamespace(passed=True, artifacts=artifacts, report={}, report_path=folder / "report.json")
    lines = closing(ExportRequest(toy_spec(), folder, **asked), result).splitlines()
    assert lines[0] == f"Files, report.html and report.json: {folder}/"
    if made:
        assert lines.pop(1) == f"Next: {shlex.join(['vit-export', 'predict', str(folder / 'x y'), 'IMAGE'])}"
    if suggested is None:
        assert lines[1:] == []
        return
    assert lines[1].startswith(" " * 6 if made else "Next: ")
    words = ["Next:", *shlex.split(lines[1].removeprefix("Next:"))]
    if output:
        at = words.index("--output")
        assert words[at : at + 2] == ["--output", output]
        del words[at : at + 2]
    assert words == ["Next:", "vit-export", "--weights", str(folder / "saved_model"), *suggested.split()]


def test_the_next_commands_are_of_the_file_to_ship(tmp_path):
    made = [("small.onnx", "onnx", 1), ("fast.tflite", "tflite", 2)]
    artifacts = [SimpleNamespace(path=name, format=kind, precision="int8", bytes=size) for name, kind, size in made]
    report = {"recommendation": {"file": "fast.tflite"}}
    result = SimpleNamespace(passed=True, artifacts=artifacts, report=report, report_path=tmp_path / "report.json")
    assert "Next: vit-export predict fast.tflite IMAGE" in closing(ExportRequest(toy_spec(), tmp_path), result)
    report["recommendation"]["file"] = None
    assert "Next: vit-export predict small.onnx IMAGE" in closing(ExportRequest(toy_spec(), tmp_path), result)


def test_no_command_is_suggested_after_a_failure(tmp_path):
    result = SimpleNamespace(passed=False, artifacts=(), report_path=tmp_path / "report.json")
    text = closing(ExportRequest(toy_spec(), tmp_path), result)
    assert "is not the same model" in text
    assert "Next" not in text


def test_nothing_is_left_of_an_interrupted_export(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        assert [p.name.startswith(".partial-") for p in (tmp_path / "out").iterdir()] == [True]
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vit_export.pipeline.steps._save", interrupted)
    result = invoke("vit_s32", "--tflite", "--no-verify", "--output", "out")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("Interrupted: ")
    assert list(tmp_path.iterdir()) == []


def test_failures_are_told_beside_the_json(tmp_path, monkeypatch):
    verification = SimpleNamespace(failures=("a.tflite: image 3 differs",))
    advice = [{"kind": "scheme", "files": ["a.tflite"], "text": "dynamic keeps more", "command": "vit-export x --int8"}]
    report = {
        "verdict": "fail",
        "advice": [*advice, {**advice[0], "text": "float16 passed: ship that", "command": None}],
    }
    result = SimpleNamespace(report=report, verification=verification, passed=False)
    monkeypatch.setattr("vit_export.pipeline.steps.export", lambda *arguments, **options: result)
    monkeypatch.chdir(tmp_path)
    found, silent = invoke("vit_s32", "--json"), invoke("vit_s32", "--quiet")
    assert (found.exit_code, json.loads(found.stdout)) == (1, report)
    assert found.stderr.splitlines() == [
        "FAIL  a.tflite: image 3 differs",
        "Next, for a.tflite: dynamic keeps more:",
        "  vit-export x --int8",
        "Next, for a.tflite: float16 passed: ship that.",
    ]
    assert (silent.stdout, silent.stderr) == ("", found.stderr)


def test_bad_calibration_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    empty, texts, file = tmp_path / "empty", tmp_path / "texts", tmp_path / "file"
    empty.mkdir()
    texts.mkdir()
    (texts / "a.txt").write_text("a")
    file.write_text("a")
    for folder in (empty, texts, file):
        line = fails("vit_s32", "--tflite", "--int8", "--calibration", str(folder))
        assert line.startswith("Error: ")
        assert folder.name in line
    assert not (tmp_path / "exports").exists()


def test_own_images_in_the_default_folder_are_not_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calibration").mkdir()
    (tmp_path / "calibration" / "mine.png").write_text("mine")
    assert "mine.png" in (line := fails("vit_s32", "--tflite", "--int8"))
    assert line.endswith("pass --calibration calibration.")
    assert [p.name for p in tmp_path.rglob("*")] == ["calibration", "mine.png"]


def test_outputs_that_exist_or_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    (out / "vit_s32_float32.tflite").write_text("mine")
    assert "exists already: pass --overwrite" in fails("vit_s32", "--tflite", "--output", "out")
    assert (out / "vit_s32_float32.tflite").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert "is a file, expected a folder" in fails("vit_s32", "--tflite", "--output", "file/below")
    assert "cannot be written" in fails("vit_s32", "--tflite", "--output", "/proc/exports")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "out"]
