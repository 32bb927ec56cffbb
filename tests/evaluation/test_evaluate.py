"""`vit-export evaluate`: the same figures from every form of the data, by any number of workers, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bundles import digits_record
from helpers.data_sets import COUNT, FORMS, encoded, files
from PIL import Image

from vit_export.base.errors import InputError
from vit_export.base.python import python_command, python_environment
from vit_export.cli.main import main
from vit_export.evaluation.evaluate import evaluate
from vit_export.images.read import decode_image, resize_and_crop
from vit_export.model.input_kinds import feed
from vit_export.runtimes.runner import open_runner

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model's files, and the data set in every form."""
    folder = tmp_path_factory.mktemp("evaluated")
    images = encoded()
    return files(folder), {form: write(folder / form, *images) for form, write in FORMS.items()}


@pytest.fixture(scope="module")
def found(made):
    return evaluate(made[0], made[1]["folders"])


def test_figures_are_those_of_the_files_themselves(made, found):
    images, labels = encoded()
    done = digits_record().preprocessing
    pixels = np.stack([resize_and_crop(decode_image(image, ""), done) for image in images])
    outputs = {}
    for path, kind in zip(made[0], ("normalized", "uint8", "normalized"), strict=True):
        runner = open_runner(path, path.suffix[1:], 1)
        outputs[path.name] = runner.run(feed(pixels, kind, done))
    reference = outputs["digits_float32.onnx"]
    assert [file.name for file in found.figures.files] == list(outputs)
    for file in found.figures.files:
        own = outputs[file.name]
        assert file.top1.correct == (own.argmax(1) == labels).sum() > 0.9 * COUNT
        if file.name != "digits_float32.onnx":
            assert file.agreement.correct == (own.argmax(1) == reference.argmax(1)).sum()
    exact = found.figures.files[2]
    assert exact.sqnr_worst_db > 90
    assert 20 < found.figures.files[1].sqnr_worst_db < 60
    assert exact.mcnemar.p == 1


def test_every_form_gives_the_same_figures(made, found):
    for form in ("tars", "parquet"):
        assert evaluate(made[0], made[1][form], workers=2).figures == found.figures


def test_an_evaluation_goes_on_where_it_was_killed(made, found, tmp_path):
    """Killed by the system after the first shard: the rest is done later, the figures are the same to the last bit."""
    rows = tmp_path / "rows"
    script = (
        "import sys; from vit_export.evaluation.evaluate import evaluate; "
        "evaluate(sys.argv[1:4], sys.argv[4], resume=sys.argv[5])"
    )
    arguments = [*map(str, made[0]), made[1]["tars"], str(rows)]
    child = subprocess.Popen(python_command("-c", script, *arguments), env=python_environment())
    deadline = time.monotonic() + 120
    while not (rows / "part-000000.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    there = set(rows.glob("part-*"))
    assert there
    stamps = {path: path.stat().st_mtime_ns for path in there}
    (rows / ".part-000001.parquet.1").write_bytes(b"half of a part")
    again = evaluate(made[0], made[1]["tars"], resume=rows)
    assert again.figures == found.figures
    assert again.resumed >= len(there)
    assert {path: path.stat().st_mtime_ns for path in there} == stamps
    assert not list(rows.glob(".part-*"))


def test_rows_of_something_else_are_not_taken(made, tmp_path):
    evaluate(made[0][:1], made[1]["tars"], resume=tmp_path / "rows")
    for paths, data, what in (
        (made[0][1:2], made[1]["tars"], "other files"),
        (made[0][:1], made[1]["parquet"], "other data"),
    ):
        done = CliRunner().invoke(main, ["evaluate", str(paths[0]), "--data", data, "--resume", str(tmp_path / "rows")])
        assert done.exit_code == 2
        assert f"holds the rows of {what}: give a new folder to --resume." in done.stderr
    job = tmp_path / "rows" / "evaluation.json"
    job.write_text(job.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(InputError, match="holds the rows of another release"):
        evaluate(made[0][:1], made[1]["tars"], resume=tmp_path / "rows")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    done = CliRunner().invoke(
        main, ["evaluate", str(made[0][0]), "--data", made[1]["tars"], "--resume", str(tmp_path / "mine")]
    )
    assert done.exit_code == 2
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_a_worker_that_is_killed_is_replaced_and_one_that_always_dies_is_told(made, found, monkeypatch, tmp_path):
    died = tmp_path / "died"
    script = (
        "import os, sys, json; from vit_export.evaluation import worker; sys.argv = ['', sys.argv[1]]; "
        "first = not os.path.exists({died!r}); open({died!r}, 'a').write('x'); "
        "line = sys.stdin.readline() if {condition} else None; line is not None and os._exit(9); worker.main()"
    )
    for condition, works in (("first", True), ("True", False)):
        text = script.format(died=str(died), condition=condition)

        def command(*arguments, text=text):
            return [sys.executable, "-c", text, arguments[-1]]

        monkeypatch.setattr("vit_export.base.python.python_command", command)
        if works:
            assert evaluate(made[0], made[1]["tars"]).figures == found.figures
            continue
        with pytest.raises(Exception, match="The process that evaluates shard 0 was killed 3 times"):
            evaluate(made[0], made[1]["tars"])


def test_corrupt_images_are_named_and_in_no_figure(made, found, tmp_path):
    images, labels = encoded()
    location = FORMS["folders"](tmp_path / "f", images, labels)
    paths = sorted((tmp_path / "f").rglob("*.png"))
    paths[3].write_bytes(b"not an image")
    paths[7].write_bytes(b"")
    done = CliRunner().invoke(main, ["evaluate", str(made[0][0]), "--data", location])
    assert done.exit_code == 0, done.stderr
    assert "98 images, 98 of them with a class." in done.stdout
    assert "2 images could not be read and are in no figure" in " ".join(done.stdout.split())
    told = json.loads(CliRunner().invoke(main, ["evaluate", str(made[0][0]), "--data", location, "--json"]).stdout)
    assert [reason for _, reason in told["unreadable"]] == ["it is no JPEG, PNG, WebP or BMP file", "it is empty"]
    assert told["files"][0]["top1"]["total"] == 98
    assert told["files"][0]["sha256"]
    Image.new("RGB", (4, 4)).save(paths[3])  # so that there is one again
    assert told["reference"] == "digits_float32.onnx"


def test_images_without_classes_are_told(made, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    done = CliRunner().invoke(main, ["evaluate", str(made[0][0]), "--data", str(tmp_path)])
    assert done.exit_code == 0, done.stderr
    assert "No accuracy: not one image has a class." in " ".join(done.stdout.split())


def test_tables_fit_a_terminal(made, found):
    done = CliRunner().invoke(main, ["evaluate", *map(str, made[0]), "--data", made[1]["tars"]], env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert all(path.name in done.stdout for path in made[0])


def test_the_page_and_its_figures_are_written_once(made, found, tmp_path):
    words = ["evaluate", *map(str, made[0]), "--data", made[1]["tars"], "--report", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.stderr
    assert "evaluation.html" in done.stdout
    told = json.loads((tmp_path / "out/figures.json").read_text(encoding="utf-8"))
    assert told["files"][0]["sha256"] == found.subjects[0].sha256
    assert told["files"][1]["top1"]["correct"] == found.figures.files[1].top1.correct
    assert told["commands"][0].startswith("vit-export evaluate ")
    assert "digits_float32.onnx" in (tmp_path / "out/evaluation.html").read_text(encoding="utf-8")
    again = CliRunner().invoke(main, words)
    assert (again.exit_code, "--overwrite" in again.stderr) == (2, True)
    taken = CliRunner().invoke(main, [*words[:-1], str(made[0][0])])
    assert (taken.exit_code, "is a file, expected a folder" in taken.stderr) == (2, True)
    assert CliRunner().invoke(main, [*words, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "nowhere"], "There is no nowhere: check the path"),
        (["--data", "DATA", "--workers", "0"], "--workers is 0, expected"),
        (["--data", "DATA", "--labels", "sorted"], "has none: give a file of names"),
        (["--data", "DATA", "--reference", "nothing"], "There is no reference nothing"),
    ],
)
def test_bad_calls_are_one_sentence(options, sentence, made):
    words = [made[1]["tars"] if word == "DATA" else word for word in options]
    done = CliRunner().invoke(main, ["evaluate", str(made[0][0]), *words])
    assert done.exit_code == 2
    assert sentence in done.stderr


def test_embeddings_are_judged_by_their_neighbours(tmp_path):
    """Held-out digits by the vote of others of them: as a formula written anew says, of every file."""
    from conftest import RandomParameters, toy_spec

    from vit_export.model.preprocessing import Preprocessing
    from vit_export.model.record import ModelRecord
    from vit_export.onnx import write_onnx

    spec = toy_spec(num_classes=None)
    record = ModelRecord(spec, Preprocessing(32), {"source": "random", "trained": False})
    paths = [tmp_path / "embedding_float32.onnx", tmp_path / "embedding_int8.onnx"]
    write_onnx(RandomParameters(spec), record, paths[0])
    write_onnx(RandomParameters(spec), record, paths[1], precision="int8")
    images, labels = encoded(160)
    train = FORMS["folders"](tmp_path / "train", images[:100], labels[:100])
    test = FORMS["folders"](tmp_path / "test", images[100:], labels[100:])
    k = 5
    found = evaluate(paths, test, knn=k, train=train, resume=tmp_path / "rows")
    for path, file in zip(paths, found.figures.files, strict=True):
        runner = open_runner(path, "onnx", 1)
        pixels = np.stack([resize_and_crop(decode_image(image, ""), record.preprocessing) for image in images])
        vectors = runner.run(feed(pixels, "normalized", record.preprocessing))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        right = 0
        for vector, label in zip(vectors[100:], labels[100:], strict=True):
            cosines = vectors[:100] @ vector
            votes = dict.fromkeys(range(10), 0.0)
            for index in np.argsort(-cosines)[:k]:
                votes[labels[index]] += np.exp(cosines[index] / 0.07)
            right += max(votes, key=votes.get) == label
        assert abs(file.knn.correct - right) <= 1  # float32 sums of another order may change a near tie
        assert file.knn.total == 60
    assert found.figures.files[0].knn.share > 0.3  # chance is 0.1
    again = evaluate(paths, test, knn=k, train=train, resume=tmp_path / "rows")
    assert again.figures == found.figures
    assert again.resumed == 2
    done = CliRunner().invoke(
        main,
        [
            "evaluate",
            str(paths[0]),
            "--data",
            test,
            "--knn",
            "5",
            "--train",
            train,
            "--resume",
            str(tmp_path / "rows2"),
        ],
    )
    assert done.exit_code == 0, done.stderr
    assert "k-NN" in done.stdout
    for words, sentence in (
        (["--knn", "5"], "--knn is the number of neighbours among the images of --train: give both, or neither."),
        (["--knn", "0", "--train", train], "--knn is 0, expected"),
    ):
        done = CliRunner().invoke(main, ["evaluate", str(paths[0]), "--data", test, *words])
        assert (done.exit_code, sentence in done.stderr) == (2, True), done.stderr
