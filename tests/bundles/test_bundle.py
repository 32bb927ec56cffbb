"""Bundles: what is in them, that their code answers as vit-export does, and what is refused."""

import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import RandomParameters, toy_spec
from helpers import reports
from helpers.bundles import CROPPED, LABELS, WIDE, described, digits_record, ours, top_classes, unpacked
from helpers.digits import PREPROCESSING, DigitsParameters
from PIL import Image
from skimage import data

from vit_export.base.errors import InputError, OutputError
from vit_export.base.files import claimed, digest_of_file
from vit_export.bundles.code import code_files, markdown
from vit_export.bundles.pack import bundle
from vit_export.bundles.source import Subject, subject_of
from vit_export.bundles.targets import ROWS, TARGETS, minimum_of, row_of
from vit_export.cli.bundle import TARGETS as OFFERED
from vit_export.cli.main import main
from vit_export.images.read import load_pixels, resize_and_crop
from vit_export.model.input_kinds import KINDS, feed
from vit_export.model.names import OPSETS
from vit_export.model.preprocessing import Preprocessing
from vit_export.model.record import ModelRecord


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A photograph wider and one taller than it is, one with an EXIF orientation, one with transparency, one grey."""
    folder = tmp_path_factory.mktemp("photographs")
    cat = Image.fromarray(data.chelsea())
    cat.save(folder / "wide.png")
    Image.fromarray(data.astronaut()[:, 100:400]).save(folder / "tall.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    cat.save(folder / "turned.jpg", exif=exif)
    cut = cat.convert("RGBA")
    cut.putalpha(Image.linear_gradient("L").resize(cat.size))
    cut.save(folder / "cut.png")
    Image.fromarray(data.camera()[:300]).save(folder / "grey.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of the trained digits model by name, of both formats and several inputs."""
    from vit_export.onnx import write_onnx
    from vit_export.tflite.write import write_tflite

    folder, source = tmp_path_factory.mktemp("files"), DigitsParameters()
    write_onnx(source, digits_record(), folder / "plain.onnx")
    write_onnx(source, digits_record(CROPPED, None), folder / "cropped.onnx", input="uint8")
    write_onnx(source, digits_record(CROPPED), folder / "int8.onnx", precision="int8", input="0..1")
    write_tflite(source, digits_record(CROPPED), folder / "cropped.tflite", input="0..255")
    write_tflite(source, digits_record(labels=None), folder / "pixels.tflite", input="uint8")
    features = toy_spec(num_classes=None)
    record = ModelRecord(features, Preprocessing(32), {"source": "random", "trained": False})
    write_onnx(RandomParameters(features), record, folder / "features.onnx")
    return {path.name: path for path in folder.iterdir()}


def answer(folder, photograph):
    """What classify.py prints, run where it is, by this interpreter but without this package."""
    script = (
        "import runpy, sys; sys.modules['vit_export'] = None; "
        f"sys.path.insert(0, ''); sys.argv = ['classify.py', {str(photograph)!r}]; "
        "runpy.run_path('classify.py', run_name='__main__')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def printed_classes(text):
    lines = [line.partition("  ") for line in text.splitlines()]
    return [(label, float(share)) for share, _, label in lines]


def assert_same_classes(found, expected):
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert np.abs(np.subtract([share for _, share in found], [share for _, share in expected])).max() < 1e-3


@pytest.mark.parametrize("name", ["plain.onnx", "cropped.onnx", "int8.onnx", "cropped.tflite", "pixels.tflite"])
def test_the_bundled_code_answers_as_this_package_does(name, files, photographs, tmp_path):
    (made,) = bundle(files[name], ["linux"], output=tmp_path)
    folder = unpacked(made.path, tmp_path / "elsewhere")
    labels = subject_of(files[name]).record.labels
    photograph = photographs[sorted(files).index(name) % len(photographs)]
    assert_same_classes(printed_classes(answer(folder, photograph)), top_classes(ours(files[name], photograph), labels))


def pixels_code(subject, model, folder):
    """What pixels.py of a bundle for Linux defines."""
    files = code_files(subject, row_of("linux", subject), model)
    (folder / "pixels.py").write_text(files["pixels.py"], encoding="utf-8")
    return runpy.run_path(str(folder / "pixels.py"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preprocessing", [PREPROCESSING, CROPPED, WIDE], ids=["squash", "shortest", "wide"])
def test_the_bundled_code_prepares_every_photograph_alike(kind, preprocessing, photographs, tmp_path):
    subject = described("onnx", kind, preprocessing)
    code = pixels_code(subject, "model.onnx", tmp_path)
    for photograph in photographs:
        found = code["numbers"](np.array(code["fit"](code["load"](photograph))))
        expected = feed(load_pixels([photograph], preprocessing), kind, preprocessing)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_quantized_inputs_and_outputs_are_those_of_the_runner(photographs, tmp_path):
    subject = described("tflite", "normalized", CROPPED, quantized=True)
    code = pixels_code(subject, "model.tflite", tmp_path)
    found = code["numbers"](np.array(code["fit"](code["load"](photographs[0]))))
    values = feed(load_pixels([photographs[0]], CROPPED), "normalized", CROPPED)
    expected = np.clip(np.rint(values / subject.input.scale) + subject.input.zero_point, -128, 127).astype(np.int8)
    np.testing.assert_array_equal(found, expected)


def test_features_are_printed_as_json(files, photographs, tmp_path):
    (made,) = bundle(files["features.onnx"], ["linux"], output=tmp_path)
    folder = unpacked(made.path, tmp_path / "x")
    found = json.loads(answer(folder, photographs[1]))
    np.testing.assert_allclose(found, ours(files["features.onnx"], photographs[1]), atol=1e-5)
    assert not (folder / "labels.txt").exists()
    assert "nobody's work" in (folder / "LICENCE").read_text()


def test_what_is_in_a_bundle(files, tmp_path):
    licence = tmp_path / "terms.txt"
    licence.write_bytes(b"Terms\xff\n")
    made = bundle(files["plain.onnx"], TARGETS, licence=licence, output=tmp_path / "a" / "b")
    common = {"metadata.json", "LICENCE", "SHA256SUMS", "MODEL_CARD.md", "README.md"}
    own = {
        "android": {
            *(f"src/main/kotlin/vit/{name}.kt" for name in ("Classifier", "Pixels", "Camera")),
            *("build.gradle.kts", "consumer-rules.pro", "src/main/AndroidManifest.xml"),
        },
        "ios": {"Classifier.swift", "Pixels.swift", "Camera.swift"},
        "linux": {"classify.py", "classifier.py", "pixels.py", "camera.py"},
        "web": {"classify.mjs", "pixels.mjs", "index.html", "check.json"},
    }
    for entry in made:
        assert Path(entry.path).name == f"plain_onnx_{entry.target}.zip"
        assert digest_of_file(Path(entry.path)) == entry.sha256
        folder = unpacked(entry.path, tmp_path / entry.target)
        assets = "src/main/assets/" if entry.target == "android" else ""
        own[entry.target] |= {f"{assets}model.onnx", f"{assets}labels.txt"}
        contents = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        assert set(contents) == set(entry.files) == common | own[entry.target]
        assert (folder / "LICENCE").read_bytes() == b"Terms\xff\n"
        assert contents[f"{assets}model.onnx"].read_bytes() == files["plain.onnx"].read_bytes()
        assert contents[f"{assets}labels.txt"].read_text(encoding="utf-8").splitlines() == list(LABELS)
        sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
        assert sums == {
            name: hashlib.sha256(path.read_bytes()).hexdigest()
            for name, path in contents.items()
            if name != "SHA256SUMS"
        }
        told = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        assert told["model"]["sha256"] == sums[told["model"]["file"]]
        assert told["runtime"]["minimum"] == "1.23"
        assert told["input"]["mean"] == [0.5, 0.5, 0.5]
        assert told["labels"] == f"{assets}labels.txt"
        # The instructions name every file that is used, and none that is not there.
        readme = (folder / "README.md").read_text(encoding="utf-8")
        assert all(name in readme for name in own[entry.target])
        assert not re.findall(r"[{}]{2}|\bNone\b|\bTrue\b|\{%", readme)


def test_names_that_anybody_chose_are_in_no_code(files, tmp_path):
    model = tmp_path / "a'b\"$(c)<img src=x>{{7}}.onnx"
    shutil.copy(files["plain.onnx"], model)
    for entry in bundle(model, TARGETS):
        folder = unpacked(entry.path, tmp_path / entry.target)
        for path in folder.rglob("*"):
            if path.suffix in (".kt", ".kts", ".pro", ".xml", ".swift", ".py", ".mjs"):
                code = path.read_text(encoding="utf-8")
                assert not [text for text in (*LABELS[1:], model.stem, "img") if text in code]
        for name in ("README.md", "MODEL_CARD.md"):
            assert "<img" not in (folder / name).read_text(encoding="utf-8").replace("\\<", "")
    assert "<img src=x" not in (tmp_path / "web" / "index.html").read_text(encoding="utf-8")


def test_accelerators_that_take_an_onnx_file_in_pieces_are_told(files, tmp_path):
    from vit_export.onnx import write_onnx

    write_onnx(DigitsParameters(), digits_record(), tmp_path / "whole.onnx", opset=22)
    for path, wanted in ((files["plain.onnx"], {"android": "QNN", "ios": "Core ML"}), (tmp_path / "whole.onnx", {})):
        for entry in bundle(path, TARGETS, output=tmp_path / path.stem):
            told = [note for note in entry.notes if "--opset 22" in note]
            assert len(told) == (entry.target in wanted)
            assert all(wanted[entry.target] in note for note in told)


def test_the_same_file_makes_the_same_bytes(files, tmp_path):
    copy = tmp_path / "plain.onnx"
    copy.write_bytes(files["plain.onnx"].read_bytes())
    os.utime(copy, (1, 1))
    (first,) = bundle(copy, ["android"])
    (second,) = bundle(files["plain.onnx"], ["android"], output=tmp_path / "other")
    assert Path(first.path).read_bytes() == Path(second.path).read_bytes()
    with zipfile.ZipFile(first.path) as archive:
        names = archive.namelist()
        assert names[:-1] == sorted(names[:-1])
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def beside(files, folder, name="plain.onnx", **changes):
    """A copy of a file in `folder`, and the record in it changed (the place of the record is kept)."""
    import onnx

    model = onnx.load(files[name])
    for entry in model.metadata_props:
        if entry.key == "vit_export":
            entry.value = json.dumps({**json.loads(entry.value), **changes})
    path = folder / name
    onnx.save(model, path)
    return path


def report_on(path, sha256):
    """A report beside the file at `path` that verified a file with this digest."""
    verified = reports.verification()
    file = next(file for file in verified.files if file.passed)
    file = replace(file, artifact=replace(file.artifact, sha256=sha256))
    report = reports.report_of(replace(verified, files=(file,)))
    path.with_name("report.json").write_text(json.dumps(report), encoding="utf-8")
    return file, report


def card_of(path, tmp_path):
    (made,) = bundle(path, ["linux"], output=tmp_path / "out", overwrite=True)
    with zipfile.ZipFile(made.path) as archive:
        return made, archive.read("MODEL_CARD.md").decode()


def test_the_card_tells_what_was_measured_of_these_very_bytes(files, tmp_path):
    path = beside(files, tmp_path)
    made, card = card_of(path, tmp_path)
    assert "Not measured: no report" in card
    assert made.notes
    file, report = report_on(path, digest_of_file(path))
    made, card = card_of(path, tmp_path)
    assert not made.notes
    assert "The file passed vit-export's verification" in card
    assert markdown(report["verification"]["cpu"]["model"]) in card
    assert f"{file.latency.median_ms:.3g}"[:3] in re.search(r"\| median call \| (\S+)", card)[1]
    assert "| accuracy | not measured |" in card or file.accuracy is not None
    report_on(path, "cd" * 32)
    assert "Not measured: no report" in card_of(path, tmp_path)[1]


def test_the_card_tells_that_a_file_failed(files, tmp_path):
    path = beside(files, tmp_path)
    verified = reports.verification()
    file = next(file for file in verified.files if not file.passed)
    file = replace(file, artifact=replace(file.artifact, sha256=digest_of_file(path)))
    report = reports.report_of(replace(verified, files=(file,)))
    path.with_name("report.json").write_text(json.dumps(report), encoding="utf-8")
    made, card = card_of(path, tmp_path)
    assert "FAILED" in card
    assert "Failed: " in card
    assert "failed its verification" in made.notes[0]


@pytest.mark.parametrize(
    ("weights", "shown", "hidden"),
    [
        ({"location": "/home/someone/secret project/w.npz"}, "w.npz", "someone"),
        ({"location": "https://me:pass@example.com/w.npz?token=abc"}, "example.com", "pass"),
        ({"location": "hf:google/vit-base-patch16-224", "revision": "3f49"}, "hf:google/vit-base-patch16-224", "None"),
    ],
)
def test_the_card_names_the_weights_without_secrets(weights, shown, hidden, files, tmp_path):
    record = {"source": "Google", "trained": True, **weights}
    _, card = card_of(beside(files, tmp_path, weights=record), tmp_path)
    assert shown in card.replace("\\", "")
    assert hidden not in card
    assert "token=abc" not in card


def test_the_card_tells_what_is_untrained_and_hostile_words_do_nothing(files, tmp_path):
    words = "| x |\n<script>alert(1)</script> [a](javascript:b) \u202e *c*"
    record = {"source": words, "trained": False, "new_classifier_seed": 1}
    _, card = card_of(beside(files, tmp_path, weights=record), tmp_path)
    assert "The classifier is untrained" in card
    assert "\u202e" not in card
    assert re.search(r"(?<!\\)<script|(?<!\\)\[a", card) is None
    assert not [line for line in card.splitlines() if line.startswith("<")]


def test_what_cannot_be_bundled_is_refused_in_a_sentence(files, tmp_path):
    cases = [
        (files["plain.onnx"], ["windows"], "Unknown target 'windows'"),
        (files["plain.onnx"], [], "There is no target"),
        (tmp_path / "missing.onnx", ["linux"], "does not exist"),
    ]
    for path, targets, message in cases:
        with pytest.raises(InputError, match=message):
            bundle(path, targets, output=tmp_path / "out")
    for licence in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="licence"):
            bundle(files["plain.onnx"], ["linux"], output=tmp_path / "out", licence=licence)
    with pytest.raises(InputError, match="leave it out"):
        bundle(files["plain.onnx"], ["web"], output=tmp_path / "out", ort=True)
    with pytest.raises(InputError, match=r"no \.ort file of it"):
        bundle(files["cropped.tflite"], ["linux"], output=tmp_path / "out", ort=True)
    assert not (tmp_path / "out").exists()


def test_what_the_runtime_of_a_page_cannot_hold_is_refused():
    integer = described("tflite", "normalized", PREPROCESSING, quantized=True)
    with pytest.raises(
        InputError, match=r"takes int8 and gives int8, .* export with int8_scheme='static' or 'dynamic'"
    ):
        row_of("web", integer)
    subject = described("tflite", "uint8", PREPROCESSING)
    with pytest.raises(InputError, match=r"toy\.tflite has 1\.2 GB, .* holds at most 1: bundle a smaller precision"):
        row_of("web", replace(subject, artifact=replace(subject.artifact, bytes=1_200_000_000)))
    assert row_of("web", subject).runtime == "@litertjs/core"
    assert row_of("android", integer)


def test_files_of_other_tools_and_changed_ones_are_refused(files, tmp_path):
    import onnx

    from vit_export.onnx import write_onnx

    model = onnx.load(files["plain.onnx"])
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="no record of vit-export"):
        bundle(tmp_path / "foreign.onnx", ["linux"])
    model = onnx.load(files["plain.onnx"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(InputError, match="takes 2 images at a time"):
        bundle(tmp_path / "two.onnx", ["linux"])
    model = onnx.load(files["plain.onnx"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, tmp_path / "any.onnx")
    with pytest.raises(InputError, match="takes any number of images at a time"):
        bundle(tmp_path / "any.onnx", ["linux"])
    write_onnx(DigitsParameters(), digits_record(), tmp_path / "nchw.onnx", layout="NCHW")
    with pytest.raises(InputError, match="takes NCHW images, the code of a bundle feeds NHWC"):
        bundle(tmp_path / "nchw.onnx", ["linux"])
    model = onnx.load(files["plain.onnx"])
    model.graph.output[0].name = "logits'); import os"
    onnx.save(model, tmp_path / "renamed.onnx")
    with pytest.raises(InputError, match="was changed since"):
        bundle(tmp_path / "renamed.onnx", ["linux"])
    with pytest.raises(InputError, match="names 2 classes, it has 10"):
        bundle(beside(files, tmp_path, labels=["a", "b"]), ["linux"])


def test_all_zips_are_written_or_none_and_none_is_replaced_unasked(files, tmp_path):
    taken = tmp_path / "plain_onnx_web.zip"
    taken.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        bundle(files["plain.onnx"], ["linux", "web"], output=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [taken.name]
    bundle(files["plain.onnx"], ["linux", "web"], output=tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain_onnx_linux.zip", "plain_onnx_web.zip"]
    assert zipfile.is_zipfile(taken)


def test_no_zip_is_written_into_a_folder_where_another_command_is_at_work(files, tmp_path):
    with claimed(tmp_path, print), pytest.raises(OutputError, match="is writing into"):
        bundle(files["plain.onnx"], ["linux"], output=tmp_path)
    assert os.listdir(tmp_path) == []
    bundle(files["plain.onnx"], ["linux"], output=tmp_path)


def test_weights_in_a_file_of_their_own_go_along_where_they_can_be_read(files, photographs, tmp_path, monkeypatch):
    import onnx

    monkeypatch.chdir(tmp_path)  # onnx asks there whether the place is free

    model = onnx.load(files["plain.onnx"])
    path = tmp_path / "large.onnx"
    onnx.save(model, path, save_as_external_data=True, location="large.onnx.data", size_threshold=1024)
    (made,) = bundle(path, ["linux"])
    folder = unpacked(made.path, tmp_path / "x")
    assert (folder / "large.onnx.data").stat().st_size > 100_000
    found = printed_classes(answer(folder, photographs[0]))
    assert_same_classes(found, top_classes(ours(files["plain.onnx"], photographs[0]), LABELS))
    for target in ("android", "web"):
        with pytest.raises(InputError, match="in a file of their own"):
            bundle(path, [target])


@pytest.mark.parametrize(
    "name",
    [
        *("README.md", "classifier.swift", "numpy.py", ".git/hooks/pre-commit", "x/large.onnx.data", "weights.bin"),
        *("a b.onnx.data", "large.onnx.data.py", "classify.py ", ".onnx.data", "CON.onnx.data\u202e"),
    ],
)
def test_weights_under_another_name_than_an_exports_are_refused(name, files, tmp_path):
    import onnx

    model, path = onnx.load(files["plain.onnx"]), tmp_path / "large.onnx"
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # onnx asks there whether the place is free
        onnx.save(model, path, save_as_external_data=True, location=name, size_threshold=1024)
    with pytest.raises(InputError, match=r"keeps weights in .*, expected ") as refused:
        bundle(path, ["linux"])
    assert str(refused.value).isprintable()
    assert not list(tmp_path.glob("*.zip"))


def test_a_link_out_of_the_folder_is_not_packed(files, tmp_path):
    import onnx

    folder = tmp_path / "model"
    folder.mkdir()
    model, path = onnx.load(files["plain.onnx"]), folder / "large.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        onnx.save(model, path, save_as_external_data=True, location="large.onnx.data", size_threshold=1024)
    (folder / "large.onnx.data").rename(tmp_path / "private")
    (folder / "large.onnx.data").symlink_to("../private")
    with pytest.raises(InputError, match="no link out of it"):
        bundle(path, ["linux"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain.onnx", "int8.onnx"])
def test_the_ort_file_answers_as_the_onnx_file(name, files, photographs, tmp_path):
    import onnxruntime

    made = bundle(files[name], ["android", "linux"], output=tmp_path, ort=True)
    folder = unpacked(made[1].path, tmp_path / "x")
    assert "model.onnx" not in made[1].files
    found = printed_classes(answer(folder, photographs[0]))
    assert_same_classes(found, top_classes(ours(files[name], photographs[0]), LABELS))
    images = np.random.default_rng(1).uniform(0, 1, (1, 32, 32, 3)).astype(np.float32)
    outputs = [
        onnxruntime.InferenceSession(str(path)).run(None, {"images": images})[0]
        for path in (files[name], folder / "model.ort")
    ]
    np.testing.assert_allclose(outputs[1], outputs[0], atol=1e-5 * np.ptp(outputs[0]))
    operators = (folder / "required_operators.config").read_text()
    assert re.fullmatch(r"(ai\.onnx|com\.microsoft);\d+;[\w,]+", operators.splitlines()[0])
    assert str(tmp_path) not in operators
    told = json.loads((folder / "metadata.json").read_text())["model"]
    assert told["converted_from"] == digest_of_file(files[name])
    assert told["sha256"] == digest_of_file(folder / "model.ort")


def test_the_command(files, tmp_path):
    assert OFFERED == TARGETS
    run = CliRunner().invoke
    path = str(files["plain.onnx"])
    done = run(main, ["bundle", path, "--target", "linux", "--target", "web", "--output", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    assert [entry["target"] for entry in json.loads(done.stdout)] == ["linux", "web"]
    done = run(main, ["bundle", path, "--target", "linux", "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert "pass --overwrite" in done.output
    done = run(main, ["bundle", path, "--target", "linux", "--output", str(tmp_path), "--overwrite"])
    assert "Wrote" in done.output
    assert run(main, ["bundle", path]).exit_code == 2
    done = run(main, ["bundle", str(files["pixels.tflite"]), "--target", "linux", "--ort", "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert done.output.startswith("Error: ")


def test_the_release_that_is_installed_runs_every_file():
    newest = Subject(
        described("onnx", "normalized", PREPROCESSING).artifact, digits_record(), {"ai.onnx": 23, "ir": 11}
    )
    least = tuple(map(int, minimum_of(newest).split(".")))
    releases = [row.release for (_, format), row in ROWS.items() if format == "onnx" and row.release]
    assert len(releases) == 3
    assert all(tuple(map(int, release.split(".")[:2])) >= least for release in releases)
    assert all(minimum_of(replace(newest, schema={"ai.onnx": opset, "ir": 7})) for opset in OPSETS)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("resize", ["squash", "shortest"])
@pytest.mark.parametrize("size", [32, (24, 40), (40, 24)], ids=str)
def test_javascript_resamples_as_pillow_does(size, resize, interpolation, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    fraction = 1.0 if resize == "squash" else 0.875
    done = Preprocessing(size, resize=resize, interpolation=interpolation, crop_fraction=fraction)
    subject = described("onnx", "normalized", done)
    code = code_files(subject, row_of("web", subject), "model.onnx")
    (tmp_path / "pixels.mjs").write_text(code["pixels.mjs"], encoding="utf-8")
    random = np.random.default_rng(0)
    sizes = [(32, 32), (75, 200), (201, 74), (7, 9), (32, 100), (33, 31), (1, 40), (320, 240), (36, 36), (37, 50)]
    images = [data.astronaut()[100 : 100 + height, 150 : 150 + width] for width, height in sizes]
    images += [data.chelsea(), random.integers(0, 256, (74, 201, 3), dtype=np.uint8)]
    images.append((random.integers(0, 2, (50, 75, 3)) * 255).astype(np.uint8))  # which bicubic overshoots
    for index, image in enumerate(images):
        opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
        (tmp_path / f"{index}.rgba").write_bytes(np.concatenate([image, opaque], -1).tobytes())
    shapes = json.dumps([image.shape[1::-1] for image in images])
    script = f"""
import fs from "node:fs";
import {{fit, numbers}} from "./pixels.mjs";
{shapes}.forEach(([width, height], index) => {{
  const pixels = fit({{data: new Uint8ClampedArray(fs.readFileSync(`${{index}}.rgba`)), width, height}});
  fs.writeFileSync(`${{index}}.fit`, pixels);
  fs.writeFileSync(`${{index}}.numbers`, new Uint8Array(numbers(pixels).buffer));
}});
"""
    (tmp_path / "run.mjs").write_text(script, encoding="utf-8")
    subprocess.run([node, "run.mjs"], cwd=tmp_path, check=True)
    for index, image in enumerate(images):
        expected = resize_and_crop(image, done)
        found = np.frombuffer((tmp_path / f"{index}.fit").read_bytes(), np.uint8).reshape(*done.image_sides, 3)
        apart = np.abs(found.astype(int) - expected).max()
        # Pillow 13 begins with the rows or with the columns, by the shapes; for wide pictures always with the rows.
        assert apart <= (0 if image.shape[1] >= 1.25 * image.shape[0] else 2), image.shape
        assert (found != expected).mean() < 0.3
        values = np.frombuffer((tmp_path / f"{index}.numbers").read_bytes(), np.float32).reshape(*done.image_sides, 3)
        np.testing.assert_array_equal(values, feed(found, "normalized", done))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain.onnx", "cropped.tflite"])
def test_the_instructions_lead_to_the_answer_in_a_fresh_environment(name, files, photographs, tmp_path):
    (made,) = bundle(files[name], ["linux"], output=tmp_path)
    folder = unpacked(made.path, tmp_path / "x")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    commands = re.search(r"```sh\n(.*?)```", readme, re.DOTALL)[1]
    shutil.copy(photographs[3], folder / "PHOTO.jpg")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["sh", "-e", "-c", commands.replace("python3 ", f"{sys.executable} ", 1)], cwd=folder, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("no package index can be reached")
    assert done.returncode == 0, done.stderr
    answers = "\n".join(line for line in done.stdout.splitlines() if re.match(r"\d\.\d{4}  ", line))
    found, labels = printed_classes(answers), subject_of(files[name]).record.labels
    assert_same_classes(found, top_classes(ours(files[name], photographs[3]), labels))
    installed = {path.name.partition("-")[0] for path in folder.glob("venv/lib/*/site-packages/*.dist-info")}
    assert "vit_export" not in installed
    assert "tensorflow" not in installed


def test_a_tflite_bundle_says_which_tensorflow_lite_it_needs(files, tmp_path):
    (made,) = bundle(files["pixels.tflite"], ["android"], output=tmp_path / "out")
    told = json.loads((unpacked(made.path, tmp_path / "android") / "metadata.json").read_text(encoding="utf-8"))
    assert told["runtime"]["minimum"] is None
    assert told["runtime"]["tensorflow_lite"] == "2.9.0"  # GELU
