"""What a caller may ask for, and what the pipeline makes of odd requests, global settings, damage and interruption."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, build, toy_spec, write_pictures

import vit_export
from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import claimed, digest_of_folder
from vit_export.base.quiet import import_tensorflow
from vit_export.images import photographs
from vit_export.model.parameters import parameter_specs
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import RECORD_FILE, ModelRecord, read_record
from vit_export.model.saved_model import ModelParameters, SavedModelParameters, write_saved_model
from vit_export.pipeline import choice
from vit_export.pipeline import steps as pipeline
from vit_export.pipeline.folder import outdated
from vit_export.pipeline.plan import plan_files
from vit_export.pipeline.request import ExportRequest
from vit_export.report.earlier import files_told, is_ours
from vit_export.runtimes.runner import open_runner
from vit_export.weights.open import open_checkpoint

import_tensorflow()

import keras  # noqa: E402

from vit_export.model.functional import as_vision_transformer  # noqa: E402
from vit_export.model.keras_model import VisionTransformer, build_model, reference_model  # noqa: E402

pytestmark = pytest.mark.thorough


class Notes(pipeline.Silent):
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("photos"), 12, (40, 40))


@pytest.fixture(params=["mixed_bfloat16", "channels_first", "float64"])
def global_state(request):
    """Keras' global settings, changed by a user and afterwards as they were."""
    if request.param == "channels_first":
        keras.config.set_image_data_format("channels_first")
    elif request.param == "float64":
        keras.config.set_floatx("float64")
    else:
        keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    keras.config.set_floatx("float32")


def tiny(**changes):
    return toy_spec(**changes).with_(num_layers=1)


def alone(output, **changes):
    """A request for the SavedModel alone."""
    return ExportRequest(**{"spec": tiny(), "output": output, "formats": (), "verify": False, **changes})


# The reference is float32, whatever Keras' global settings say.


def test_reference_is_float32(global_state, source, expected, images):
    model = reference_model(source.spec)
    for name, variable in model.parameters().items():
        variable.assign(source.read(name))
    assert model.is_float32
    assert {variable.dtype for variable in model.variables if "seed" not in variable.path} == {"float32"}
    np.testing.assert_allclose(model.predict_output(images), expected, atol=1e-5)


def test_a_model_built_under_a_mixed_policy_is_written_in_float32(images, tmp_path):
    source = RandomParameters(tiny())
    wanted = build(source).predict_output(images)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build(source)
        assert not model.is_float32
        vit_export.export(model, tmp_path / "out", formats=(), verify=False)
        write_saved_model(model, str(tmp_path / "direct"))
    finally:
        keras.config.set_dtype_policy("float32")
    for folder in (tmp_path / "out" / "saved_model", tmp_path / "direct"):
        np.testing.assert_allclose(open_runner(folder, "saved_model").run(images), wanted, atol=1e-5)


def functional(doubled=False):
    backbone = build_model(
        tiny(), include_top=False, seed=0, record=ModelRecord(tiny(), Preprocessing(32, mean=(0.1, 0.2, 0.3)))
    )
    inputs = keras.Input((32, 32, 3))
    unlike = keras.layers.Dropout(0.5)
    if doubled:
        unlike.call = lambda x, training=None: 2 * x
    return keras.Model(inputs, keras.layers.Dense(4)(unlike(backbone.extract_features(inputs))))


def test_a_functional_model_in_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        rebuilt, _ = as_vision_transformer(functional())
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(InputError, match="does more than its backbone"):
        as_vision_transformer(functional(doubled=True))
    assert rebuilt.is_float32
    assert rebuilt.record.preprocessing.mean == (0.1, 0.2, 0.3)


# Types and values


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": "tflite"}, "formats is 'tflite', expected a list"),
        ({"formats": "tflite"}, r"onnx: give \['tflite'\]"),
        ({"formats": 3}, "formats is 3, expected a list"),
        ({"formats": ["tflit"]}, "Unknown entry 'tflit' in formats: did you mean 'tflite'"),
        ({"formats": [None]}, "Unknown entry None in formats: choose from"),
        ({"formats": ("onnx", "onnx")}, "formats has 'onnx' twice"),
        ({"precisions": "int8"}, "precisions is 'int8', expected a list"),
        ({"precisions": ["fp16"]}, "Unknown entry 'fp16' in precisions"),
        ({"precisions": []}, "precisions is empty"),
        ({"labels": "labels.txt"}, "labels is 'labels.txt', expected a list"),
        ({"labels": []}, "label"),
        ({"labels": ["a\nb", *"bcdefghij"]}, "label"),
        ({"labels": ["", *"bcdefghij"]}, "label"),
        ({"labels": ["\ud800", *"bcdefghij"]}, "label"),
        ({"batch": "1"}, "batch is '1', expected a whole number"),
        ({"batch": 1.0}, "batch is 1.0, expected a whole number"),
        ({"batch": "many"}, "batch is 'many', expected a whole number from 1 to 1024, or 'dynamic'"),
        ({"batch": "dynamic"}, "A dynamic batch is for ONNX, TFLite files have none"),
        ({"layout": "NCHW"}, "The layout NCHW is for ONNX, TFLite files have none"),
        ({"layout": "nchw"}, "layout is 'nchw', expected NHWC or NCHW"),
        ({"threads": True}, "threads is True, expected a whole number"),
        ({"seed": -1}, "seed is -1, expected a whole number"),
        ({"calibration": 3}, "calibration is 3, expected the path"),
        ({"verify": "no"}, "verify is 'no', expected True or False"),
        ({"trained": 1}, "trained is 1, expected True or False"),
        ({"trained": True}, "trained is True, but the weights are random"),
        ({"preprocessing": {"mean": 0}}, "preprocessing is of type dict"),
        ({"input": ["uint8"]}, "Unknown input"),
        ({"reporter": print}, "reporter is of type builtin_function_or_method, which has no step"),
    ],
    ids=lambda value: json.dumps(value, default=str) if isinstance(value, dict) else "",
)
def test_bad_arguments_are_one_sentence(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        vit_export.export(toy_spec(), tmp_path / "out", **{"verify": False, **options})
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", [None, 3, "", "a\0b", "\ud800"])
def test_no_path_for_output(output):
    with pytest.raises(InputError, match=r"output is .* expected the path of a folder"):
        vit_export.export(toy_spec(), output)


def test_spec_and_weights_of_another_type(tmp_path):
    with pytest.raises(InputError, match="spec is of type str, expected a ViTSpec"):
        ExportRequest("vit_s16", tmp_path)
    with pytest.raises(InputError, match="weights is of type int, expected a Checkpoint"):
        pipeline.export(ExportRequest(None, tmp_path, weights=3))
    assert ExportRequest(None, str(tmp_path), formats=["onnx"]).formats == ("onnx",)
    assert ExportRequest(None, str(tmp_path)).threads == 1


def test_a_mistyped_variant_gets_the_nearest_name(tmp_path):
    with pytest.raises(InputError, match=r"There is no vit_s17, neither .* did you mean 'vit_s1"):
        vit_export.export("vit_s17", tmp_path / "out")


# Where the files go


def test_names_that_are_too_long(tmp_path):
    for output in (tmp_path / ("x" * 300), tmp_path / ("y" * 300) / "out"):
        with pytest.raises(OutputError, match="cannot be written: the name is too long") as caught:
            pipeline.export(alone(output))
        assert len(str(caught.value)) < 400
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_may_not_be_looked_into(tmp_path, monkeypatch):
    """Tests may run as root, who may look anywhere."""
    real = os.stat

    def stat(path, **options):
        if "closed" in os.fspath(path) if isinstance(path, str | os.PathLike) else False:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OutputError, match=r"permission denied.*another folder with output"):
        plan_files(alone(tmp_path / "closed" / "out"), tiny())


@pytest.mark.parametrize("name", ["vit_toy_float32.tflite", "vit_toy_float32.onnx.data", "labels.txt", "report.json"])
def test_overwrite_does_not_replace_a_folder_by_a_file(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").write_text("mine")
    request = ExportRequest(toy_spec(), tmp_path, overwrite=True)
    with pytest.raises(OutputError, match=f"{name} is a folder, where a file is to be written"):
        plan_files(request, toy_spec(), labelled=True)
    assert (tmp_path / name / "mine").read_text() == "mine"


def test_overwrite_does_not_replace_a_file_by_a_folder(tmp_path):
    (tmp_path / "saved_model").write_text("mine")
    with pytest.raises(OutputError, match="saved_model is a file, where a folder is to be written"):
        pipeline.export(alone(tmp_path, overwrite=True))


@pytest.mark.parametrize("inside", [".", "variables/..", "exports/deep"])
def test_output_inside_the_saved_model_that_is_read(inside, saved_model, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(saved_model, copy)
    before = sorted(p.name for p in copy.iterdir())
    with pytest.raises(OutputError, match="lies inside the SavedModel"):
        vit_export.export(copy, copy / inside, formats=(), verify=False)
    assert sorted(p.name for p in copy.iterdir()) == before


# What an earlier export left


@pytest.fixture
def earlier(saved_model, tmp_path):
    """A folder as an earlier export left it, and a file of the user's own."""
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copytree(saved_model, folder / "saved_model")
    for name in ("a_int8.tflite", "a_float32.onnx", "a_float32.onnx.data", "labels.txt", "mine.tflite", "mine.txt"):
        (folder / name).write_text("old\n")
    digest = hashlib.sha256(b"old\n").hexdigest()
    data = "elsewhere/a_float32.onnx.data"
    report = {
        "artifacts": [
            {"path": str(folder / "saved_model")},
            {"path": "elsewhere/a_float32.onnx", "extra_files": [data], "sha256": digest, "bytes": 8},
            {"path": "../mine.txt", "sha256": digest},
        ],
        "labels": ["old"],
        "earlier_reports": [{"artifacts": [{"path": "a_int8.tflite", "sha256": digest}]}],
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_another_model_takes_the_old_ones_files_with_it(earlier):
    say = Notes()
    pipeline.export(alone(earlier, overwrite=True), say)
    assert sorted(p.name for p in earlier.iterdir()) == [
        "mine.tflite",
        "mine.txt",
        "report.html",
        "report.json",
        "saved_model",
    ]
    assert any("a_float32.onnx, a_float32.onnx.data, labels.txt, a_int8.tflite" in note for note in say.notes)
    assert [entry["files"] for entry in files_told(earlier)] == [["saved_model"], ["mine.txt"]]


@pytest.mark.parametrize("name", ["a_int8.tflite", "a_float32.onnx", "a_float32.onnx.data", "labels.txt"])
def test_what_somebody_has_changed_stays_and_is_told(name, earlier):
    (earlier / name).write_text("changed")
    say = Notes()
    pipeline.export(alone(earlier, overwrite=True), say)
    assert (earlier / name).read_text() == "changed"
    (note,) = [note for note in say.notes if note.startswith("Left in ")]
    assert name in note
    assert any(name in entry["files"] for entry in files_told(earlier))
    (removed,) = [note for note in say.notes if note.startswith("Removed from ")]
    assert len(removed.split(", ")) == (2 if "onnx" in name else 3)


def test_a_list_without_digests_removes_nothing(earlier):
    report = json.loads((earlier / "report.json").read_text())
    for artifact in report["artifacts"]:
        artifact.pop("sha256", None)
    (earlier / "report.json").write_text(json.dumps({**report, "labels": None}))
    pipeline.export(alone(earlier, overwrite=True))
    assert (earlier / "a_float32.onnx").is_file()
    assert not (earlier / "a_int8.tflite").exists()


@pytest.mark.parametrize("files", [["thesis.txt"], ["saved_model.pb", "variables/variables.index"]])
def test_overwrite_keeps_a_saved_model_that_is_none_of_ours(files, tmp_path):
    for name in files:
        (tmp_path / "saved_model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "saved_model" / name).write_text("mine")
    with pytest.raises(OutputError, match="is no SavedModel of vit-export, so overwrite=True does not replace it"):
        pipeline.export(alone(tmp_path, overwrite=True))
    assert all((tmp_path / "saved_model" / name).read_text() == "mine" for name in files)


@pytest.mark.parametrize("name", ["report.json", "report.html"])
@pytest.mark.parametrize("content", ['{"my": "own", "schema_version": "1"}', "<html>mine</html>", "", "[]"])
def test_a_report_of_somebody_else_is_replaced_only_when_asked(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputError, match=f"{name} exists already: pass overwrite=True"):
        pipeline.export(alone(tmp_path))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {name: content}
    pipeline.export(alone(tmp_path, overwrite=True))
    assert all(is_ours(tmp_path / name) for name in ("report.json", "report.html"))


def test_our_own_report_is_replaced(tmp_path):
    pipeline.export(alone(tmp_path))
    made = json.loads((tmp_path / "report.json").read_text())["created"]
    shutil.rmtree(tmp_path / "saved_model")
    (tmp_path / "report.json").write_text((tmp_path / "report.json").read_text().replace(made, "earlier"))
    pipeline.export(alone(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text())["created"] != "earlier"


def test_reports_of_earlier_versions_are_ours(tmp_path):
    with zipfile.ZipFile(Path(__file__).parents[1] / "fixtures" / "earlier.zip") as archive:
        archive.extractall(tmp_path)
    assert all(is_ours(tmp_path / "exported" / name) for name in ("report.json", "report.html"))


# Two at a time, and what a killed one leaves


def test_the_second_export_into_a_folder_is_told_at_once(tmp_path, monkeypatch):
    said = []

    def second(*arguments):
        with pytest.raises(OutputError) as caught:
            pipeline.export(alone(tmp_path / "out", overwrite=True))
        said.append(str(caught.value))
        return save(*arguments)

    save = pipeline._save
    monkeypatch.setattr(pipeline, "_save", second)
    pipeline.export(alone(tmp_path / "out"))
    assert len(said) == 1
    assert f"is writing into {tmp_path / 'out'}: wait until it has ended" in said[0]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.json", "saved_model"]
    monkeypatch.setattr(pipeline, "_save", save)
    pipeline.export(alone(tmp_path / "out", overwrite=True))


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_a_lock_goes_with_its_process_and_needs_no_file(tmp_path):
    code = (
        "import sys, pathlib; from vit_export.base.files import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1]), print): print('mine', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=-1, stdout=-1, text=True)
    assert child.stdout.readline() == "mine\n"
    assert os.listdir(tmp_path) == []
    with pytest.raises(OutputError, match=rf"Another command( \(process {child.pid}\))? is writing into "):
        pipeline.export(alone(tmp_path))
    child.kill()
    child.communicate()
    pipeline.export(alone(tmp_path))


def test_without_locks_nobody_is_kept_out(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_export.base.files.take", lambda descriptor: None)
    with claimed(tmp_path, print):
        pipeline.export(alone(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="locks of POSIX")
def test_what_a_killed_export_left_is_cleared_and_brought_back(tmp_path):
    pipeline.export(alone(tmp_path))
    before = digest_of_folder(tmp_path)
    code = (
        "import os, sys; from pathlib import Path; from vit_export.base.files import move_into\n"
        "from vit_export.pipeline.folder import staging\n"
        "os.rename = (lambda real: lambda a, b: (real(a, b), os.kill(os.getpid(), 9)))(os.rename)\n"
        "with staging(Path(sys.argv[1])) as stage:\n"
        "    (stage / 'saved_model').mkdir(); move_into(Path(sys.argv[1]), [stage / 'saved_model'], overwrite=True)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False, timeout=60)
    assert sorted(p.name[:4] for p in tmp_path.iterdir()) == [".par", ".pre", "repo", "repo"]
    say = Notes()
    with pytest.raises(OutputError, match="saved_model exists already"):
        pipeline.export(alone(tmp_path), say)
    assert say.notes == ["Brought back what a command that was killed had moved away: saved_model."]
    assert digest_of_folder(tmp_path) == before


def test_files_and_report_appear_together(tmp_path, monkeypatch):
    """No moment has the new files beside the old report."""
    moved = []
    monkeypatch.setattr(pipeline, "move_into", lambda folder, paths, **options: moved.append([p.name for p in paths]))
    pipeline.export(alone(tmp_path))
    assert moved == [["saved_model", "report.json", "report.html"]]


def test_the_same_model_keeps_them(earlier, saved_model, tmp_path):
    assert outdated(earlier, saved_model, set()) == ()
    write_saved_model(build(RandomParameters(toy_spec(), seed=8)), tmp_path / "other")
    assert len(outdated(earlier, tmp_path / "other", {"labels.txt"})) == 3


@pytest.mark.thorough
@pytest.mark.parametrize("fingerprints", [True, False])
def test_weights_are_compared_by_their_fingerprints_where_both_have_one(fingerprints, earlier, tmp_path, monkeypatch):
    reads, read = [], SavedModelParameters.read
    monkeypatch.setattr(SavedModelParameters, "read", lambda self, name: reads.append(name) or read(self, name))
    if not fingerprints:
        path = earlier / "saved_model" / RECORD_FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": None}))
    write_saved_model(build(RandomParameters(toy_spec())), tmp_path / "same", read_record(earlier / "saved_model"))
    write_saved_model(build(RandomParameters(toy_spec(), seed=8)), tmp_path / "new", read_record(tmp_path / "same"))
    reads.clear()
    assert outdated(earlier, tmp_path / "same", set()) == ()
    assert len(reads) == (0 if fingerprints else 2 * len(parameter_specs(toy_spec())))
    reads.clear()
    assert len(outdated(earlier, tmp_path / "new", set())) == 4
    assert len(reads) == (0 if fingerprints else 2)  # the first parameter differs


NOTHING = (
    "[]",
    "no JSON",
    '{"artifacts": 3, "earlier_reports": 4, "earlier_files": 5}',
    '{"artifacts": [1], "earlier_files": [1, {"files": 3}, {"files": [4, "", ".."]}]}',
)


@pytest.mark.parametrize("report", NOTHING)
def test_a_report_that_says_nothing(report, earlier, tmp_path):
    (earlier / "report.json").write_text(report)
    assert outdated(earlier, tmp_path / "any", set()) == ()


# Damage


def read_all(folder):
    parameters = SavedModelParameters(folder)
    return [parameters.read(parameter.name) for parameter in parameter_specs(parameters.spec)]


def test_weights_that_were_changed_or_cut(saved_model, tmp_path):
    for name, damage in (("flipped", lambda b: b[:999] + bytes([b[999] ^ 1]) + b[1000:]), ("cut", lambda b: b[:5000])):
        shutil.copytree(saved_model, tmp_path / name)
        (data,) = (tmp_path / name / "variables").glob("variables.data*")
        data.write_bytes(damage(data.read_bytes()))
        with pytest.raises(InputError, match=r"The weights of .* cannot be read"):
            read_all(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: [r], "record is a list, expected an object"),
        (lambda r: 3, "record is a int, expected an object"),
        (lambda r: {**r, "spec": "vit_s16"}, "spec is a str in the model record"),
        (lambda r: {**r, "weights": 3}, "weights is a int in the model record"),
        (
            lambda r: {k: v for k, v in r.items() if k != "preprocessing"},
            "preprocessing is missing in the model record",
        ),
        (lambda r: {**r, "labels": "cat"}, "labels in the model record are no list"),
        (lambda r: {**r, "labels": [1]}, "labels in the model record are no list"),
        (lambda r: {**r, "positions": "nearest"}, "positions is 'nearest'"),
        (lambda r: {**r, "weights": {"trained": "no"}}, "trained is 'no'"),
        (lambda r: {**r, "record_version": 9}, "version 9"),
    ],
)
def test_a_record_of_the_wrong_type(change, message, saved_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    content = json.loads((folder / RECORD_FILE).read_text())
    (folder / RECORD_FILE).write_text(json.dumps(change(content)))
    with pytest.raises(InputError, match=message):
        read_record(folder)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 100_000])
def test_a_record_that_is_no_json(content, saved_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved_model, folder)
    (folder / RECORD_FILE).write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        read_record(folder)


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_weights_that_are_not_finite(value, word, tmp_path):
    source = RandomParameters(tiny())
    kernel = source.read("encoder/layer_0/mlp/dense_1/kernel").copy()
    kernel[0, 0] = value
    model = build(source.replaced("encoder/layer_0/mlp/dense_1/kernel", kernel))
    message = f"encoder/layer_0/mlp/dense_1/kernel of the model contains {word}"
    with pytest.raises(InputError, match=message):
        vit_export.export(model, tmp_path / "out", formats=(), verify=False)
    with pytest.raises(InputError, match=message):
        ModelParameters(model).read("encoder/layer_0/mlp/dense_1/kernel")
    assert list(tmp_path.iterdir()) == []


def test_another_model_is_not_written(tmp_path):
    with pytest.raises(InputError, match="A model of the class Functional cannot be written"):
        write_saved_model(functional(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# Trained or not


def stepped(model, images):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    model.fit(images, np.arange(len(images)) % 4, verbose=0)
    return model


@pytest.mark.parametrize("fitted", [False, True])
def test_a_saved_model_says_whether_it_was_trained(fitted, images, tmp_path):
    model = build_model(tiny(num_classes=4), seed=0)
    if fitted:
        stepped(model, images[:2])
    model.save(tmp_path / "model.keras")
    assert open_checkpoint(tmp_path / "model.keras").record.trained is fitted
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert again.current_record.trained is fitted
    assert isinstance(keras.models.clone_model(again), VisionTransformer)
    write_saved_model(again, tmp_path / "written")
    assert read_record(tmp_path / "written").trained is fitted


def test_trained_holds_for_a_path_too(saved_model, tmp_path):
    assert read_record(saved_model).trained is False
    result = vit_export.export(saved_model, tmp_path / "out", formats=(), verify=False, trained=True)
    assert result.report["weights"]["trained"] is True
    assert read_record(tmp_path / "out" / "saved_model").trained is True


# Images


def test_two_first_runs_at_the_same_time(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", tuple(replace(p, count=1) for p in photographs.PHOTOGRAPHS[-2:]))
    real, folder = photographs._write_set, tmp_path / "calibration"

    def slow(source, target, progress):
        real(source, target, progress)
        monkeypatch.setattr(photographs, "_write_set", real)
        assert photographs.write_photographs(folder)  # the other one is faster

    monkeypatch.setattr(photographs, "_write_set", slow)
    assert photographs.write_photographs(folder) is False
    assert photographs.write_photographs(folder) is False  # and complete
    assert [p.name for p in tmp_path.iterdir()] == ["calibration"]


def test_fewer_held_out_images_are_told(photos, tmp_path):
    say = Notes()
    request = ExportRequest(toy_spec(), tmp_path / "out", calibration=photos, held_out_images=9)
    files = plan_files(request, toy_spec())
    data = choice.choose_images(request, toy_spec(), Preprocessing(32), files, say)
    assert len(data.held_out) == 3
    assert any("on 3 held-out images instead of 9" in note for note in say.notes)


@pytest.mark.parametrize("step", ["split", "describe_saved_model"])
def test_what_cannot_be_read_is_not_blamed_on_the_output(step, photos, saved_model, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(choice if step == "split" else pipeline, step, refuse)
    # A SavedModel that is there already is described as it is.
    output = tmp_path / "out" if step == "split" else saved_model.parent
    before = sorted(output.glob("*"))
    request = ExportRequest(None, output, ("tflite",), weights=saved_model, calibration=photos)
    with pytest.raises(InputError, match="cannot be read") as caught:
        pipeline.export(request)
    assert str(photos if step == "split" else saved_model) in str(caught.value)
    assert "--output" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert sorted(output.glob("*")) == before


# Interruption


def test_interrupted_while_verifying(photos, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "_verify", interrupted)
    say = Notes()
    request = ExportRequest(tiny(), tmp_path / "out", ("tflite",), calibration=photos)
    with pytest.raises(KeyboardInterrupt):
        pipeline.export(request, say)
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["report.html", "report.json", "saved_model", "vit_toy_float32.tflite"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["verdict"], report["verification"]) == ("not verified", None)
    assert any("complete, but not verified" in note for note in say.notes)
