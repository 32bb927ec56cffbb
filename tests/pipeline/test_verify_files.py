"""`vit-export verify`: files alone, later, elsewhere, of other tools; against a SavedModel or a checkpoint."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import RandomParameters, build, record_of, toy_spec
from helpers.programs import write_liar, write_program
from PIL import Image

import vit_export
from vit_export.artifacts.identify import files_of
from vit_export.base.errors import InputError
from vit_export.base.files import claimed
from vit_export.base.reporting import Silent
from vit_export.cli.main import main
from vit_export.model.record import read_record
from vit_export.model.saved_model import write_saved_model
from vit_export.pipeline.references import artifact_at, reference_at
from vit_export.pipeline.request import ExportRequest
from vit_export.pipeline.steps import export
from vit_export.pipeline.verify_files import VerifyRequest, verify_files
from vit_export.report.earlier import recorded
from vit_export.runtimes.process import RunnerProcess
from vit_export.runtimes.runner import ProcessKilled

SPEC = toy_spec().with_(num_layers=1)
LABELS = ("tench, Tinca tinca", "goldfish", *(f"thing {i}" for i in range(2, 10)))
FOLDERS = ("tench", "goldfish", "thing 2")


@pytest.fixture(scope="module")
def model():
    return build(RandomParameters(SPEC))


@pytest.fixture(scope="module")
def reference(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "saved_model"
    record = replace(record_of(SPEC, trained=True), labels=LABELS)
    write_saved_model(model, path, record)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures in folders called like three classes."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(4)
    for index in range(12):
        path = folder / FOLDERS[index % 3] / f"{index:02}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((40, 40)).save(path)
    return folder


@pytest.fixture(scope="module")
def exported(reference, pictures, tmp_path_factory):
    """The folder of an export that was not verified: float32 .onnx, and an int8 .tflite that takes pixels."""
    folder = tmp_path_factory.mktemp("exported") / "out"
    request = ExportRequest(
        None, folder, weights=reference, calibration=pictures, verify=False, formats=("onnx",), input="uint8"
    )
    export(replace(request, precisions=("float32", "int8")))
    assert (folder / "saved_model").is_dir()
    return folder


@pytest.fixture
def request_of(pictures, in_process):
    def make(*files, **options):
        return VerifyRequest(files=files, **{"data": pictures, "latency": False, **options})

    return make


def failed(result):
    return {check.name for file in result.verification.files for check in file.checks if not check.passed}


def asked(result):
    return {check.name for file in result.verification.files for check in file.checks}


def test_a_folder_later_against_the_saved_model_beside_it(exported, request_of):
    result = verify_files(request_of(exported))
    assert result.passed, result.verification.failures
    assert [Path(f.artifact.path).name for f in result.verification.files] == [
        "vit_toy_float32.onnx",
        "vit_toy_int8.onnx",
    ]
    assert asked(result) >= {"sha256", "precision", "same_model", "same_weights", "same_pixels", "same_labels"}
    assert result.report["verdict"] == "pass"
    assert len(result.verification.images) == 12
    top = result.verification.files[0].top
    assert len(top) == 12
    assert all(len(image.indices) == 5 for image in top)


@pytest.fixture
def beside_a_program(exported, tmp_path):
    """The files of an export beside a SavedModel of the same variables whose graph would leave the file `mark`."""
    folder = tmp_path / "received"
    shutil.copytree(exported, folder)
    shutil.rmtree(folder / "saved_model")
    write_program(exported / "saved_model", folder / "saved_model", tmp_path / "mark")
    yield folder
    assert not (tmp_path / "mark").exists()


def test_the_graph_beside_a_file_is_not_run(beside_a_program, request_of):
    result = verify_files(request_of(beside_a_program / "vit_toy_float32.onnx"))
    assert result.passed, result.verification.failures
    assert result.report["verification"]["reference"]["path"] == str(beside_a_program / "saved_model")
    assert "built_from" not in result.report["weights"]


def test_the_graph_of_a_reference_is_not_run(beside_a_program, exported, request_of):
    file = exported / "vit_toy_float32.onnx"
    assert verify_files(request_of(file, reference=beside_a_program / "saved_model")).passed


@pytest.mark.thorough
def test_a_saved_model_is_verified_against_its_own_variables(exported, beside_a_program, request_of, tmp_path):
    good = verify_files(request_of(exported / "saved_model"))
    assert good.passed, good.verification.failures
    with pytest.raises(InputError, match=r"holds the operator (ReadFile|WriteFile), expected .* pure arithmetic"):
        verify_files(request_of(beside_a_program / "saved_model"))
    folder = tmp_path / "liar"
    folder.mkdir()
    shutil.copy(exported / "report.json", folder)
    write_liar(exported / "saved_model", folder / "saved_model")
    assert failed(verify_files(request_of(folder / "saved_model"))) >= {"sha256", "worst_difference"}


def test_the_library_verifies_on_pictures_of_a_folder(exported, pictures, in_process):
    reference = exported / "saved_model"
    some, _ = vit_export.find_images(pictures, read_record(reference).preprocessing, limit=5)
    files = [artifact_at(path) for path in files_of([exported])]
    options = vit_export.VerifyOptions(trained=True, latency=False)
    result = vit_export.verify(str(reference), files, some.labelled(LABELS), options)
    assert result.passed, result.failures
    assert result.images == some.names
    assert result.reference.accuracy.total == 5
    assert result.trained


@pytest.mark.thorough
def test_a_file_alone_elsewhere_against_a_checkpoint(exported, model, request_of, tmp_path):
    checkpoint = tmp_path / "model.keras"
    model.save(checkpoint)
    alone = shutil.copy(exported / "vit_toy_int8.onnx", tmp_path / "renamed.onnx")
    assert recorded(Path(alone)) is None
    artifact = artifact_at(Path(alone))
    assert (artifact.precision, artifact.scheme, artifact.inputs[0].values) == ("int8", "dynamic", "uint8")
    result = verify_files(request_of(alone, reference=checkpoint))
    # The same weights, by their fingerprint; the checkpoint was saved without names of classes.
    assert failed(result) == {"same_labels"}
    assert result.report["verification"]["reference"]["path"] == str(checkpoint)


@pytest.mark.thorough
def test_labelled_folders_give_accuracies(exported, request_of, model):
    result = verify_files(request_of(exported, labelled=True))
    right = result.verification.reference.accuracy
    assert (right.total, result.verification.files[0].accuracy.total) == (12, 12)
    assert right.low <= right.share <= right.high
    assert result.verification.files[0].accuracy.correct == right.correct
    numbered = verify_files(request_of(exported, labelled=False))
    assert numbered.verification.reference.accuracy == right  # found without being asked for, too


def test_a_changed_file_is_noticed_by_its_digest(exported, request_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(exported, folder)
    path = folder / "vit_toy_float32.onnx"
    data = bytearray(path.read_bytes())
    data[data.index(b"vit-export")] ^= 1  # a letter of the producer's name: the numbers are the same
    path.write_bytes(data)
    assert failed(verify_files(request_of(path))) == {"sha256"}


@pytest.mark.thorough
def test_a_file_of_a_slightly_older_checkpoint_is_stale_though_its_numbers_are_good(exported, request_of, tmp_path):
    source = RandomParameters(SPEC)
    kernel = source.read("head/kernel")
    newer = source.replaced("head/kernel", kernel * np.float32(1 + 1e-6))
    write_saved_model(build(newer), tmp_path / "newer", replace(record_of(SPEC, trained=True), labels=LABELS))
    result = verify_files(request_of(exported / "vit_toy_float32.onnx", reference=tmp_path / "newer"))
    assert failed(result) == {"same_weights"}
    assert "an older or another checkpoint" in result.verification.failures[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("changes", "check", "says"),
    [
        ({"labels": (LABELS[-1], *LABELS[:-1])}, "same_labels", "shifted by -1"),
        ({"labels": None}, "same_labels", "10, expected none"),
        ({"mean": (0.4, 0.5, 0.5)}, "same_pixels", r"mean \[0\.5, 0\.5, 0\.5\], expected \[0\.4, 0\.5, 0\.5\]"),
    ],
)
def test_what_a_file_says_of_itself_is_held_against_the_reference(
    exported, request_of, model, tmp_path, changes, check, says
):
    record = replace(record_of(SPEC, trained=True), labels=changes.get("labels", LABELS))
    if "mean" in changes:
        record = replace(record, preprocessing=replace(record.preprocessing, mean=changes["mean"]))
    write_saved_model(model, tmp_path / "other", record)
    result = verify_files(request_of(exported / "vit_toy_float32.onnx", reference=tmp_path / "other"))
    assert check in failed(result)
    assert re.search(says, "\n".join(result.verification.failures)), result.verification.failures


def foreign(path: Path, source: Path, *, softmax: bool = False, more: bool = False) -> Path:
    """The float32 .onnx file `source` as another tool would write it: channels first, and nothing said of it."""
    import onnx
    from onnx import helper

    loaded = onnx.load(str(source))
    del loaded.metadata_props[:]
    graph, taken, given = loaded.graph, loaded.graph.input[0], loaded.graph.output[0]
    shape = [d.dim_value for d in taken.type.tensor_type.shape.dim]
    for node in graph.node:
        node.output[:] = ["raw" if name == given.name else name for name in node.output]
    first = helper.make_node("Transpose", ["pixel_values"], [taken.name], perm=[0, 2, 3, 1])
    last = helper.make_node("Softmax" if softmax else "Identity", ["raw"], ["scores"])
    nodes = [first, *graph.node, last]
    del graph.node[:]
    graph.node.extend(nodes)
    replaced = helper.make_tensor_value_info("pixel_values", 1, [shape[0], 3, *shape[1:3]])
    scores = helper.make_tensor_value_info("scores", 1, [1, len(LABELS)])
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.append(replaced)
    graph.output.append(scores)
    if more:
        graph.output.append(helper.make_tensor_value_info("raw", 1, [1, len(LABELS)]))
    onnx.save(loaded, str(path))
    return path


@pytest.fixture(scope="module")
def normalized(reference, tmp_path_factory):
    """A float32 .onnx file that takes normalized images."""
    folder = tmp_path_factory.mktemp("normalized") / "out"
    export(ExportRequest(None, folder, weights=reference, verify=False, formats=("onnx",)))
    return folder / "vit_toy_float32.onnx"


def test_a_file_of_another_tool(normalized, reference, request_of, tmp_path):
    path = foreign(tmp_path / "other.onnx", normalized)
    result = verify_files(request_of(path, reference=reference))
    assert result.passed, result.verification.failures
    assert result.verification.files[0].artifact.inputs[0].layout == "NCHW"
    assert "same_weights" not in asked(result)  # it says nothing of itself


@pytest.mark.thorough
def test_of_several_outputs_one_is_named(normalized, reference, request_of, tmp_path):
    path = foreign(tmp_path / "two.onnx", normalized, softmax=True, more=True)
    assert failed(verify_files(request_of(path, reference=reference))) == {"outputs"}  # either could be meant
    result = verify_files(request_of(path, reference=reference, output_name="raw"))
    assert result.passed, result.verification.failures
    with pytest.raises(InputError, match="has no output 'logits', it has scores, raw: choose one of them"):
        verify_files(request_of(path, reference=reference, output_name="logits"))


@pytest.mark.thorough
def test_a_softmax_at_the_end_is_named_and_can_be_allowed_for(normalized, reference, request_of, tmp_path):
    path = foreign(tmp_path / "softmax.onnx", normalized, softmax=True)
    result = verify_files(request_of(path, reference=reference))
    assert [cause.name for cause in result.verification.files[0].causes] == ["probabilities"]
    assert any("a softmax follows the logits" in text for text in result.verification.explanations)
    assert verify_files(request_of(path, reference=reference, probabilities=True)).passed


def test_a_file_said_to_take_other_pixels_than_it_does(normalized, reference, request_of, tmp_path):
    path = foreign(tmp_path / "other.onnx", normalized)
    result = verify_files(request_of(path, reference=reference, input="0..255"))
    assert [cause.name for cause in result.verification.files[0].causes] == ["takes_normalized"]


@pytest.mark.thorough
def test_layers_are_compared_where_asked(reference, request_of, exported, tmp_path):
    source = RandomParameters(SPEC)
    bad = source.replaced("encoder/layer_0/mlp/dense_1/bias", np.zeros(SPEC.mlp_size, np.float32))
    write_saved_model(build(bad), tmp_path / "bad", replace(record_of(SPEC, trained=True), labels=LABELS))
    request = request_of(exported / "vit_toy_float32.onnx", reference=tmp_path / "bad", locate=True)
    (file,) = verify_files(request).verification.files
    assert file.location.departs == "encoder layer 0 mlp"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": ("nowhere.onnx",)}, "There is no file nowhere"),
        ({"files": ()}, "no file to verify"),
        ({"reference": "nowhere"}, "nowhere"),
        ({"images": 0}, "images is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"data": None, "labelled": True}, "give data"),
        ({"data": Path("nowhere")}, "There is no folder nowhere"),
    ],
)
def test_wrong_calls_are_input_errors(exported, request_of, changes, message):
    request = request_of(exported / "vit_toy_float32.onnx")
    with pytest.raises(InputError, match=message):
        verify_files(replace(request, **changes))


def test_folders_that_are_no_classes_are_refused(exported, request_of, tmp_path):
    (tmp_path / "gold fish").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "gold fish" / "a.png")
    with pytest.raises(InputError, match="'gold fish': did you mean 'goldfish'"):
        verify_files(request_of(exported, data=tmp_path, labelled=True))


def test_what_no_reference_is_known_for_is_refused(exported, request_of, tmp_path):
    alone = shutil.copy(exported / "vit_toy_int8.onnx", tmp_path / "alone.onnx")
    with pytest.raises(InputError, match=r"there is no .*saved_model\): give reference"):
        verify_files(request_of(alone))


def test_files_given_twice_or_none_in_a_folder_are_refused(exported, tmp_path):
    with pytest.raises(InputError, match="given twice"):
        files_of([exported, exported / "vit_toy_int8.onnx"])
    with pytest.raises(InputError, match=r"holds no \.tflite or \.onnx"):
        files_of([tmp_path])


def test_files_in_a_folder_are_known_by_their_names_in_any_case(tmp_path):
    for name in ("b.ONNX", "a.TfLite", "c.lite", "d.onnx.data", "e.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_text("")
    names = ["a.TfLite", "b.ONNX", "c.lite"]
    assert [path.name for path in files_of([tmp_path])] == names
    assert [path.name for path in files_of([tmp_path], saved_models=True)] == ["model", *names]
    one = tmp_path / "b.ONNX"
    assert files_of([one, one, tmp_path / "model" / ".." / "b.ONNX"], once=True) == (one,)
    with pytest.raises(InputError, match="given twice"):
        files_of([one, one])


def test_a_reference_with_other_outputs_is_refused(exported, model, tmp_path):
    five = build(RandomParameters(SPEC.with_(num_classes=5)))
    five.save(tmp_path / "five.keras")
    artifact = artifact_at(exported / "vit_toy_float32.onnx")
    with pytest.raises(InputError, match=r"has 10 outputs, the checkpoint's model 5 classes and features of width 48"):
        reference_at(tmp_path / "five.keras", [artifact], tmp_path, Silent())


def test_a_broken_report_beside_a_file_is_not_believed(exported, tmp_path):
    path = Path(shutil.copy(exported / "vit_toy_int8.onnx", tmp_path / "x.onnx"))
    for text in ("", "[]", '{"artifacts": 3}', '{"artifacts": [{"path": "x.onnx"}]}', '{"artifacts": [{"path": 5}]}'):
        (tmp_path / "report.json").write_text(text)
        assert recorded(path) is None
        assert artifact_at(path).precision == "int8"


# The command.


def run(*arguments):
    from click.testing import CliRunner

    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_the_command_says_pass_and_writes_what_was_asked(exported, pictures, in_process, tmp_path):
    options = ("--data", pictures, "--no-latency", "--report", tmp_path / "evidence", "--junit", tmp_path / "junit.xml")
    result = run(exported, *options)
    assert result.exit_code == 0, result.output
    assert "PASS: 2 of 2 files are the reference's model on 12 images." in result.output
    report = json.loads((tmp_path / "evidence" / "report.json").read_text())
    assert report["verdict"] == "pass"
    assert report["commands"][0].startswith("vit-export ")
    assert "<html" in (tmp_path / "evidence" / "report.html").read_text()
    assert "<testsuite" in (tmp_path / "junit.xml").read_text()
    again = run(exported, *options)
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_the_folder_of_the_reports_is_refused_before_the_work(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("vit_export.pipeline.verify_files.verify_files", None)
    with claimed(tmp_path / "evidence", print):
        result = run(exported, "--report", tmp_path / "evidence", "--overwrite")
    assert result.exit_code == 2
    assert "is writing into" in result.stderr
    (tmp_path / "evidence").write_text("mine")
    assert "is a file, expected a folder" in run(exported, "--report", tmp_path / "evidence").stderr


def test_the_command_says_fail_with_exit_code_1(exported, pictures, model, in_process, tmp_path):
    write_saved_model(build(RandomParameters(SPEC, seed=9)), tmp_path / "other", record_of(SPEC))
    result = run(
        exported / "vit_toy_int8.onnx", "--data", pictures, "--no-latency", "--reference", tmp_path / "other", "--json"
    )
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["verdict"] == "fail"
    assert "made of other weights" in result.stderr


def test_the_command_says_with_exit_code_2_that_a_process_was_killed(exported, pictures, in_process, monkeypatch):
    def killed(self, images, **options):
        raise ProcessKilled(f"The process running {self.path.name} was killed by SIGKILL, probably for memory.")

    monkeypatch.setattr(RunnerProcess, "run", killed)
    result = run(exported / "vit_toy_int8.onnx", "--data", pictures, "--no-latency", "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "was killed by SIGKILL, probably for memory" in result.stderr


def test_the_command_refuses_a_wrong_call_with_exit_code_2(exported):
    assert run("nowhere.onnx").exit_code == 2
    assert run().exit_code == 2
    assert run(exported, "--labels-from", "names").exit_code == 2
