"""What `predict` says of images is what verification feeds the file and reads of it; nothing is guessed in silence."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import InProcess, toy_spec, write_pictures
from helpers import verifier_toys as toys
from helpers.foreign import onnx_model, write_onnx
from PIL import Image

from vit_export.base.errors import InputError
from vit_export.cli.main import main
from vit_export.images.read import load_batch
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord
from vit_export.pipeline import predict as module
from vit_export.pipeline.predict import predict
from vit_export.runtimes.runner import RunnerError, open_runner

ORIGINALS = Path(__file__).parents[1] / "fixtures" / "originals"
PIXELS = Preprocessing(toys.SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), resize="shortest", crop_fraction=0.9)
LABELS = tuple(f"label {number}" for number in range(toys.CLASSES))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = write_pictures(tmp_path_factory.mktemp("photos") / "some", 5, (60, 40))
    with Image.open(folder / "00.png") as picture:
        upright = picture.convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        upright.rotate(90, expand=True).save(folder / "turned.png", exif=exif)
    return folder


def ours(path, *arguments, spec=None, trained=True, problem=None, labels=LABELS, **options):
    """A file of the small network with a record of this package in it."""
    spec = spec or toy_spec(image_size=toys.SIZE, num_classes=toys.CLASSES)
    record = ModelRecord(spec, PIXELS, {"source": "test", "trained": trained}, labels, problem_type=problem)
    model = onnx_model(*arguments, **options)
    model.metadata_props.add(
        key="vit_export", value=json.dumps({**record.to_dict(), "precision": "float32", "input": "normalized"})
    )
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(module, "RunnerProcess", InProcess)


def logits_of(path, images):
    return open_runner(path, "onnx").run(load_batch(images, PIXELS))


def softmax(logits):
    powers = np.exp(logits.astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch", [1, 4, "n"])
def test_classes_are_those_of_the_images_as_the_record_prepares_them(batch, photos, tmp_path, in_this_process):
    path = ours(tmp_path / "a.onnx", (batch, 3, toys.SIZE, toys.SIZE))
    images = sorted(photos.iterdir())
    found = predict(path, images, top=3)
    shares = softmax(logits_of(path, images))
    assert [entry["image"] for entry in found.images] == [str(image) for image in images]
    for entry, row in zip(found.images, shares, strict=True):
        order = np.argsort(-row)[:3]
        assert [(c["index"], c["label"]) for c in entry["classes"]] == [(i, LABELS[i]) for i in order]
        assert [c["probability"] for c in entry["classes"]] == pytest.approx(row[order], rel=1e-5)
    assert predict(path, [photos], top=3) == found
    # Turned by its EXIF block, as in verification.
    assert found.images[-1]["classes"][0]["index"] == found.images[0]["classes"][0]["index"]


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_answers_are_what_the_record_says_they_are(problem, photos, tmp_path, in_this_process):
    path, image = ours(tmp_path / "a.onnx", problem=problem, labels=None, trained=False), photos / "00.png"
    found = predict(path, [image], top=100)
    (logits,) = logits_of(path, [image])
    (entry,) = found.images
    if problem == "regression":
        assert entry["values"] == pytest.approx(logits)
    else:
        assert {c["index"]: c["probability"] for c in entry["classes"]} == pytest.approx(
            dict(enumerate(1 / (1 + np.exp(-logits.astype(float)))))
        )
        assert all(c["label"] is None for c in entry["classes"])
    assert found.notes == ("The weights are untrained, so the answers mean nothing.",)


def test_embeddings_are_compared_with_each_other(photos, tmp_path, in_this_process):
    spec = replace(toy_spec(image_size=toys.SIZE), num_classes=None, returns=("features",))
    path, images = ours(tmp_path / "a.onnx", outputs=("features",), spec=spec, labels=None), sorted(photos.iterdir())
    rows = open_runner(path, "onnx").run(load_batch(images, PIXELS)).astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for index, entry in enumerate(predict(path, images, top=2).images):
        cosines = unit @ unit[index]
        others = [i for i in np.argsort(-cosines, kind="stable") if i != index][:2]
        assert [near["image"] for near in entry["nearest"]] == [str(images[i]) for i in others]
        assert [near["cosine"] for near in entry["nearest"]] == pytest.approx(cosines[others])
        assert entry["norm"] == pytest.approx(np.linalg.norm(rows[index]))
    result = CliRunner().invoke(main, ["predict", str(path), str(images[0])])
    assert f"features, {toys.WIDTH} numbers of norm" in result.stdout


def test_another_tools_file_is_asked_with_its_model(photos, tmp_path, in_this_process):
    path, image = write_onnx(tmp_path / "a.onnx"), photos / "00.png"
    with pytest.raises(InputError, match=r"holds no record of vit-export.*give reference"):
        predict(path, [image])
    reference, other = (tmp_path / f"model_{classes}" for classes in (toys.CLASSES, 7))
    for folder, labels in ((reference, LABELS), (other, None)):
        spec = toy_spec(image_size=toys.SIZE, num_classes=int(folder.name[6:]))
        record = ModelRecord(spec, PIXELS, {"trained": True}, labels)
        (folder / "assets.extra").mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"")
        (folder / "assets.extra" / "vit_export.json").write_text(json.dumps(record.to_dict()))
    found = predict(path, [image], reference=reference)
    own = predict(ours(tmp_path / "own.onnx"), [image])
    assert (found.images, own.assumed) == (own.images, ())
    assert found.assumed == ("the file takes normalized images (--input says otherwise)",)
    assert predict(path, [image], reference=reference, input="normalized").assumed == ()
    assert predict(path, [image], reference=reference, input="0..1").images != found.images
    with pytest.raises(InputError, match=r"returns logits .*, expected one output of 7 numbers"):
        predict(path, [image], reference=other)
    with pytest.raises(InputError, match="says itself what reference is to say"):
        predict(tmp_path / "own.onnx", [image], reference=reference)


def test_what_cannot_be_predicted_is_one_sentence(photos, tmp_path, in_this_process, monkeypatch):
    path, image = ours(tmp_path / "a.onnx"), photos / "00.png"
    damaged, elongated = tmp_path / "x.jpg", tmp_path / "line.png"
    Image.new("RGB", (1_000_000, 1)).save(elongated)
    damaged.write_bytes(b"\xff\xd8\xff\xe0 nothing")
    for arguments, message in (
        ((path, damaged), "Cannot read the image"),
        ((path, tmp_path / "nowhere.png"), "there is no such file"),
        ((path, elongated), "too elongated"),
        ((tmp_path / "nowhere.onnx", image), "check the path"),
        ((image, image), "is an image, expected a .tflite or .onnx file"),
        ((path, image, "--top", 0), "--top is 0, expected a whole number"),
        ((path, image, "--threads", 999), "--threads is 999"),
        ((path, image, "--input", "uint8"), "says itself what --input is to say"),
        ((path,), "Missing argument 'IMAGE...'"),
    ):
        result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr.splitlines()[-1]
    ours(tmp_path / "b.onnx")
    with pytest.raises(InputError, match=r"holds 2 files \(a.onnx, b.onnx\): give one of them"):
        predict(tmp_path, [image])
    tokens = toy_spec(image_size=toys.SIZE, num_classes=None, returns=("tokens",))
    with pytest.raises(InputError, match="returns tokens alone"):
        predict(ours(tmp_path / "c.onnx", spec=tokens, labels=None, outputs=("features",)), [image])
    monkeypatch.setattr(InProcess, "run", lambda self, images: np.full((len(images), toys.CLASSES), np.nan))
    with pytest.raises(RunnerError, match="with NaN or infinity"):
        predict(path, [image])


def test_images_that_cannot_be_read_are_named_and_the_others_answered(photos, tmp_path, in_this_process):
    path, image = ours(tmp_path / "a.onnx"), photos / "00.png"
    damaged, gone = tmp_path / "x.jpg", tmp_path / "gone.png"
    damaged.write_bytes(b"")
    found = predict(path, [damaged, image, gone], top=2)
    assert found.images == predict(path, [image], top=2).images
    assert found.unreadable == ((str(damaged), "it is empty"), (str(gone), "there is no such file"))
    done = CliRunner().invoke(main, ["predict", str(path), str(damaged), str(image), str(gone), "--json"])
    told = json.loads(done.stdout)
    assert [entry["image"] for entry in told["images"]] == [str(image)]
    assert [name for name, _ in told["unreadable"]] == [str(damaged), str(gone)]
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-3:] == [
        f"Cannot read the image {damaged}: it is empty.",
        f"Cannot read the image {gone}: there is no such file.",
        "Error: 2 of 3 images cannot be read: replace or leave them out.",
    ]
    done = CliRunner().invoke(main, ["predict", str(path), str(damaged), str(gone)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"None of the 2 images can be read (first: {damaged}, it is empty): give others." in done.stderr


def test_probabilities_of_another_tool_stay_what_they_are():
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], np.float32)
    record = ModelRecord(toy_spec(num_classes=3), Preprocessing(32), {"trained": True})
    subject = module._Subject(Path("a.onnx"), "onnx", record, Preprocessing(32), "normalized", "logits")
    found = module._told(subject, [Path("a"), Path("b")], shares, 1)
    assert [entry["classes"][0]["probability"] for entry in found.images] == pytest.approx([0.7, 0.8])
    assert "taken as probabilities" in found.notes[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options",
    [
        ("--tflite", "--int8", "--int8-scheme", "full"),
        ("--tflite", "--input", "uint8", "--returns", "logits,features,tokens"),
        ("--onnx", "--hf-layout"),
        ("--onnx", "--batch", "3", "--int8"),
        ("--tflite", "--onnx", "--saved-model", "--batch", "2"),
    ],
    ids=" ".join,
)
def test_every_kind_of_file_gives_the_answers_of_the_saved_model(options, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = CliRunner().invoke(
        main, [str(ORIGINALS / "hf"), *options, "--calibration", str(photos), "--no-verify", "--output", "out"]
    )
    assert made.exit_code == 0, made.output
    files = [path for path in Path("out").iterdir() if path.suffix in (".tflite", ".onnx")]
    script = (
        "import json, sys\nfrom vit_export.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)), file=sys.stderr)"
    )
    answers = {}
    for path in (Path("out/saved_model"), *files):
        words = ["predict", str(path), str(photos), "--top", "7", "--json"]
        run = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True)
        assert run.stderr.splitlines()[-1] == "[]"
        answers[path] = json.loads(run.stdout)
        assert "crème brûlée" in {c["label"] for c in answers[path]["images"][0]["classes"]}
    wanted = answers.pop(Path("out/saved_model"))
    for found in answers.values():
        for entry, truth in zip(found["images"], wanted["images"], strict=True):
            shares = [{c["index"]: c["probability"] for c in e["classes"]} for e in (entry, truth)]
            assert shares[0] == pytest.approx(shares[1], abs=0.03 if "--int8" in options else 1e-4)
