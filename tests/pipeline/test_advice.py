"""What is advised where a file failed: for each kind of fault one command, which the command line takes."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import record_of, toy_spec
from helpers.reports import artifact, verification

from vit_export.cli.main import main
from vit_export.model.names import SCHEMES
from vit_export.pipeline import advice
from vit_export.pipeline.advice import advice_on_export, advice_on_files
from vit_export.pipeline.commands import changed, export_command, for_file, value_of
from vit_export.pipeline.request import ExportRequest, VerifyRequest
from vit_export.verification.checks import Check
from vit_export.verification.evidence import Cause
from vit_export.verification.metrics import compare
from vit_export.verification.verdict import FileResult

PLAIN = verification(4)
OUTPUTS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
FEATURES = record_of(toy_spec(num_classes=None), trained=True)
OWN = replace(record_of(toy_spec(), trained=True), labels=tuple(f"flower {n}" for n in range(10)))


def failed(check="sqnr", scheme="static", precision="int8", format="tflite", cause=None, folder="/somewhere", **more):
    name = f"vit_toy_{precision}_{scheme}.{format}"
    scheme = scheme if precision == "int8" else None
    made = replace(artifact(name, format, precision, scheme), path=f"{folder}/{name}")
    limit, value = (22.0, 17.5) if check == "sqnr" else (None, more.pop("value", None))
    checks = (Check("exists", True), Check(check, False, limit, value, "it is not"))
    causes = (Cause(cause, "it fits"),) if cause else ()
    return FileResult(made, checks, compare(OUTPUTS, OUTPUTS * np.float32(1.1)), causes=causes, **more)


def passed(scheme="dynamic", precision="int8", format="tflite"):
    return replace(failed("runs", scheme, precision, format), checks=(Check("runs", True),))


def options_of(command):
    """The options of `command` as the command line takes them; it has to take all of it."""
    words = shlex.split(command)
    assert words[0] == "vit-export"
    with main.make_context("vit-export", words[1:]) as context:
        rest = [*context._protected_args, *context.args]
        name, found, arguments = main.resolve_command(context, rest)
        with found.make_context(name, arguments, parent=context) as own:
            return {"command": name, **{key: value for key, value in own.params.items() if value not in (None, False)}}


def exported(*files, typed="vit-export vit_s32 --tflite --int8 --output out", record=FEATURES, **changes):
    request = ExportRequest(record.spec, Path("out"), precisions=("int8",), **changes)
    found = replace(PLAIN, files=files)
    return advice_on_export(request, record, Path("out/saved_model"), found, [typed] if typed else ())


def verified(file, typed="vit-export verify a.tflite --reference ref/saved_model", record=FEATURES, **asked):
    request = VerifyRequest((file.artifact.path,), **{"reference": "ref/saved_model", **asked})
    return advice_on_files(request, record, str(request.reference), replace(PLAIN, files=(file,)), [typed])


def only(found):
    (row,) = found
    return row["kind"], options_of(row["command"])


def test_photographs_of_another_domain_are_replaced_first():
    kind, options = only(
        exported(failed(), typed="vit-export vit_s32 --tflite --int8 --labels l --int8-scheme static", record=OWN)
    )
    assert kind == "calibration"
    assert (str(options["calibration"]), options["int8_scheme"], options["labels"]) == ("DIR", "static", "l")
    assert options["overwrite"]
    assert options["tflite"]
    assert options["int8"]


@pytest.mark.parametrize("record", [OWN, FEATURES, replace(OWN, labels=None)])
def test_what_was_given_is_not_advised_again(record):
    typed = "vit-export --weights w --tflite --int8 --calibration=photos --int8-scheme static"
    kind, options = only(exported(failed(), typed=typed, record=record))
    assert (kind, options["int8_scheme"], str(options["calibration"])) == ("scheme", "auto", "photos")


def test_imagenet_models_are_content_with_photographs():
    spec = toy_spec(num_classes=1000)
    assert only(exported(failed(), record=record_of(spec, trained=True)))[0] == "scheme"
    named = replace(record_of(spec, trained=True), labels=tuple(f"part {n}" for n in range(1000)))
    assert only(exported(failed(), record=named))[0] == "calibration"


@pytest.mark.parametrize(
    ("format", "scheme", "others", "wanted"),
    [
        ("tflite", "static", [], {"int8_scheme": "auto"}),
        ("tflite", "auto", [], {"int8_scheme": "dynamic"}),
        ("tflite", "auto", ["dynamic"], {"int8_scheme": "auto", "min_sqnr": 41.0}),
        ("tflite", "dynamic", [], {"int8_scheme": "auto", "min_sqnr": 28.0}),
        ("tflite", "full", [], {"int8_scheme": "w8a16"}),
        ("tflite", "w8a16", [], {"float16": True}),
        ("onnx", "dynamic", [], {"int8_scheme": "w8a16"}),
        ("onnx", "qdq", [], {"int8_scheme": "w8a16"}),
        ("onnx", "symmetric", [], {"float16": True}),
    ],
)
def test_the_next_scheme_is_one_that_the_format_has_and_that_was_not_tried(format, scheme, others, wanted):
    file = failed(scheme=scheme, format=format)
    typed = f"vit-export vit_s32 --tflite --onnx --int8 --float32 --opset 17 --layout NCHW --int8-scheme {scheme}"
    found = exported(file, *(failed("exists", other, format=format) for other in others), typed=typed)
    options = options_of(found[0]["command"])
    assert wanted.items() <= options.items()
    assert {"tflite", "onnx"} & options.keys() == {format}
    assert ("int8" in options) == ("int8_scheme" in wanted)
    assert options.keys() >= {"overwrite"} - {"float32"}
    assert ("opset" in options) == (format == "onnx" and wanted.get("int8_scheme") != "w8a16")


def test_a_mix_that_came_out_as_static_was_asked_for_as_auto():
    file = failed(scheme="static")
    search = {"budget": {"min_sqnr": 33.0, "min_agreement": None}, "measured": {"sqnr_db": 38.8}}
    found = replace(file, artifact=replace(file.artifact, quantization={"search": search}))
    assert only(exported(found))[1]["int8_scheme"] == "dynamic"
    options = only(exported(found, passed("dynamic")))[1]
    assert (options["int8_scheme"], options["min_sqnr"]) == ("auto", 47.0)
    search["met"] = False  # a larger budget would be kept even less
    assert only(exported(found, passed("dynamic")))[1]["float16"]
    search["met"] = True
    search["budget"]["min_sqnr"] = 47.0
    assert only(exported(found, passed("dynamic")))[1]["float16"]


def test_every_scheme_has_a_next_thing_to_type_and_the_chain_of_them_ends():
    for row in SCHEMES:
        scheme, typed, seen = row.name, f"vit-export vit_s32 --{row.format} --int8 --int8-scheme {row.name}", []
        while scheme is not None:
            (found,) = exported(failed(scheme=scheme, format=row.format), typed=typed)
            typed, options = found["command"], options_of(found["command"])
            assert typed not in seen
            seen.append(typed)
            scheme = options.get("int8_scheme")
        assert options["float16"]


def test_of_wider_files_what_passed_is_said_and_what_is_left_is_advised():
    (found,) = exported(failed(scheme="w8a16"), passed(precision="float16"))
    assert (found["kind"], found["command"]) == ("precision", None)
    assert "float16 passed: ship that" in found["text"]
    half = exported(failed(precision="float16"), typed="vit-export vit_s32 --tflite --float16")
    assert only(half)[1]["float32"]


@pytest.mark.parametrize(("check", "command"), [("constants", "verify"), ("runs", "verify"), ("latency", "bench")])
def test_a_new_file_that_should_not_fail_is_looked_into(check, command):
    _, options = only(exported(failed(check)))
    assert options["command"] == command
    assert [*map(str, options["files"])] == ["/somewhere/vit_toy_int8_static.tflite"]
    assert command == "bench" or options["locate"]


def test_float32_that_is_not_accurate_is_looked_into():
    assert only(exported(failed(precision="float32", scheme=None)))[1]["locate"]


def test_files_with_one_fault_have_one_advice():
    (found,) = exported(failed("runs"), failed("runs"))
    assert found["files"] == ["vit_toy_int8_static.tflite"]
    rows = exported(failed(), failed(format="onnx", scheme="qdq"))
    assert [row["files"] for row in rows] == [["vit_toy_int8_static.tflite"], ["vit_toy_int8_qdq.onnx"]]


def test_from_python_the_command_is_made_of_the_request():
    found = exported(failed(), typed=None, calibration="my photos", batch=2, input="uint8", threads=3)
    options = options_of(found[0]["command"])
    wanted = {"weights": "out/saved_model", "batch": 2, "input": "uint8", "threads": 3, "int8_scheme": "auto"}
    assert wanted.items() <= options.items()
    assert (str(options["calibration"]), str(options["output"])) == ("my photos", "out")


def test_a_reference_that_does_not_work():
    wrong = replace(PLAIN.reference, checks=(Check("finite", False, detail="NaN"),))
    request, typed = ExportRequest(FEATURES.spec, Path("out")), ["vit-export --weights w --tflite"]
    found = replace(PLAIN, files=(failed("reference"),), reference=wrong)
    told = advice_on_export(request, FEATURES, Path("out/saved_model"), found, typed)
    assert only(told)[1]["weights"] == "FILE"
    guessed = FEATURES.assuming({"heads": "4 attention heads, as S/16 has", "pooling": "the class token"})
    (row,) = advice_on_export(request, guessed, Path("out/saved_model"), found, typed)
    assert (row["kind"], options_of(row["command"])["num_heads"]) == ("assumed", 4)
    assert "4 attention heads, as S/16 has" in row["text"]
    assert "class token" not in row["text"]
    unlike = replace(wrong, checks=(Check("saved_as_built", False),))
    told = advice_on_export(request, FEATURES, Path("out/saved_model"), replace(found, reference=unlike), typed)
    assert only(told)[1]["command"] == "verify"
    told = advice_on_files(VerifyRequest(("a.tflite",)), FEATURES, "ref", found, ["vit-export verify a.tflite"])
    assert only(told)[1]["reference"] == "MODEL"


@pytest.fixture
def ours(monkeypatch):
    """Have files say what they are by a record, though there are none."""
    told = {}
    monkeypatch.setattr(advice, "_own_record", lambda file: told.get("record"))
    return told


@pytest.mark.parametrize("check", ["sha256", "runs", "data", "same_weights", "same_pixels", "constants", "metadata"])
def test_a_damaged_stale_or_faulty_file_is_made_anew_from_the_reference(check, ours):
    ours["record"] = FEATURES
    file = failed(check, "dynamic", format="onnx")
    kind, options = only(verified(file))
    assert kind == "make anew"
    assert {"weights": "ref/saved_model", "onnx": True, "int8": True}.items() <= options.items()
    assert "overwrite" not in options  # the file's folder is not the reference's
    static = failed(check, "static", folder="ref")
    options = only(verified(static))[1]
    assert {"int8_scheme": "static", "overwrite": True, "input": "normalized"}.items() <= options.items()
    assert str(options["output"]) == "ref"


@pytest.mark.parametrize(
    ("file", "asked", "wanted"),
    [
        (failed(cause="probabilities"), {}, {"probabilities": True}),
        (failed(cause="takes_0_255"), {}, {"input": "0..255"}),
        (failed(cause="takes_0_1"), {}, {"input": "0..1"}),
        (failed(cause="channels_reversed"), {}, {"tflite": True, "weights": "ref/saved_model"}),
        (failed(cause="probabilities"), {"probabilities": True}, {"tflite": True}),
        (failed("precision", value="float16"), {"precision": "int8"}, {"precision": "float16"}),
        (failed("precision", value="float16"), {}, {"tflite": True}),
        (failed("limits", "qdq"), {"scheme": "qdq"}, {"scheme": "auto"}),
        (failed("latency"), {}, {"command": "bench"}),
        (failed(), {}, {"tflite": True, "int8": True}),
    ],
)
def test_of_another_tools_file_what_was_not_said_is_said_and_else_one_of_ours_is_made(file, asked, wanted, ours):
    options = only(verified(file, **asked))[1]
    assert wanted.items() <= options.items()
    if options["command"] == "verify":
        assert options["reference"] == "ref/saved_model"


def test_an_output_has_to_be_named(ours):
    file = failed("outputs")
    outputs = file.artifact.outputs
    two = replace(file, artifact=replace(file.artifact, outputs=(*outputs, replace(outputs[0], name="tokens"))))
    (row,) = verified(two)
    assert options_of(row["command"])["output_name"] == "logits"
    assert "logits, tokens" in row["text"]


def test_a_file_that_contradicts_a_guess_of_the_reference(ours):
    ours["record"] = record_of(toy_spec(num_classes=None).with_(num_heads=2), trained=True)
    guessed = FEATURES.assuming({"heads": "4 attention heads, as S/16 has"})
    (row,) = verified(failed("same_model"), record=guessed)
    options = options_of(row["command"])
    assert {"saved_model": True, "num_heads": 2, "weights": "ref/saved_model"}.items() <= options.items()
    ours["record"] = FEATURES
    assert verified(failed("same_model"), record=guessed)[0]["kind"] == "make anew"
    ours["record"] = None
    assert verified(failed(), record=guessed)[0]["kind"] == "assumed"


def test_the_images_that_it_was_verified_on_calibrate(ours):
    ours["record"] = FEATURES
    kind, options = only(verified(failed(), data=Path("my photos")))
    assert (kind, str(options["calibration"])) == ("calibration", "my photos")
    assert only(verified(failed()))[1]["int8_scheme"] == "auto"


def test_a_report_that_is_there_is_replaced(ours):
    typed = "vit-export verify a.onnx --reference ref/saved_model --report evidence"
    assert only(verified(failed(cause="probabilities"), typed=typed))[1]["overwrite"]


@pytest.mark.parametrize("kind", [check for checks in advice._KINDS.values() for check in checks])
def test_every_check_has_an_advice(kind, ours):
    for record in (None, FEATURES):
        ours["record"] = record
        assert verified(failed(kind))
        assert exported(failed(kind))


@pytest.mark.parametrize(
    "quantization",
    [[], {"search": 3}, {"search": {"budget": [1], "measured": "x"}}, {"search": {"budget": {"min_sqnr": "--x"}}}],
)
def test_what_a_report_of_somebody_else_says_becomes_no_option(quantization, ours):
    ours["record"] = FEATURES
    file = failed("constants", "--overwrite; rm -rf x")
    hostile = replace(file, artifact=replace(file.artifact, quantization=quantization))
    (row,) = verified(hostile)
    assert row["command"] == "vit-export --weights ref/saved_model --tflite --int8"
    assert exported(replace(failed(), artifact=hostile.artifact))
    made = export_command("w", {"calibration": "--overwrite", "seed": [3], "threads": 2}, None)
    assert made == "vit-export --weights w --threads 2"


def test_commands_are_changed_word_by_word():
    typed = "vit-export verify --input=0..1 'a b.onnx' --data photos -- -odd.onnx"
    assert changed(typed, {"--input": "uint8", "--locate": None}) == (
        "vit-export verify 'a b.onnx' --data photos --input uint8 --locate -- -odd.onnx"
    )
    assert changed(typed, {}, ["--data"]) == "vit-export verify --input=0..1 'a b.onnx' -- -odd.onnx"
    assert (value_of(typed, "--input"), value_of(typed, "--data"), value_of(typed, "--seed")) == (
        "0..1",
        "photos",
        None,
    )
    made = export_command("w", {"batch": "dynamic", "hf_layout": True, "seed": 0, "opset": 17}, Path("o"))
    assert made == "vit-export --weights w --batch dynamic --opset 17 --hf-layout --output o"
    assert for_file(made, "tflite", "float16", {}) == "vit-export --weights w --output o --tflite --float16"
