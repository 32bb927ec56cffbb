"""The default dataset: complete or not at all, split by photograph, and never over anybody's own files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vit_export.base.errors import InputError, OutputError
from vit_export.cli.main import main
from vit_export.images import photographs
from vit_export.images.photographs import PHOTOGRAPHS, Crop, crops, photographs_folder, write_photographs
from vit_export.images.read import load_image
from vit_export.images.split import split
from vit_export.model.preprocessing import Preprocessing

SIDES = ("representative", "held_out")


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A complete set, written once; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("photographs") / "calibration"
    assert write_photographs(folder) is True
    return folder


@pytest.fixture
def few(monkeypatch):
    """A small recipe, so that a test may write a set of its own: one image of each of four photographs."""
    wanted = {"text.png": 2, "coins.png": 1, "page.png": 1, "chelsea.png": 1}
    table = tuple(
        photographs.Photograph(p.file, p.side, wanted[p.file], p.title, p.licence, p.scene, p.mirror)
        for p in PHOTOGRAPHS
        if p.file in wanted
    )
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", table)


def _bytes(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


# What is in the set


def test_the_set_is_complete_and_readable(complete):
    assert _names(complete) == ["SOURCES.md", "held_out", "manifest.json", "representative"]
    assert _names(complete.parent) == ["calibration"]  # no temporary folder is left
    for side, count in zip(SIDES, (128, 32), strict=True):
        files = sorted((complete / side).iterdir())
        assert len(files) == count
        for path in files:
            with Image.open(path) as picture:
                assert max(picture.size) <= 512
                assert picture.mode in ("RGB", "L")
    assert sum(len(data) for data in _bytes(complete).values()) < 20e6


def test_splitting_gives_back_both_sides(complete):
    result = split(complete, Preprocessing(32))
    assert (len(result.representative), len(result.held_out)) == (128, 32)
    assert result.skipped == ()
    assert result.note is None


def test_no_photograph_and_no_scene_is_on_both_sides(complete):
    stems = {side: {path.name.rpartition("-")[0] for path in (complete / side).iterdir()} for side in SIDES}
    assert not stems["representative"] & stems["held_out"]
    for side in SIDES:
        assert stems[side] == {p.stem for p in PHOTOGRAPHS if p.side == side}
    scenes = {side: {p.scene or p.stem for p in PHOTOGRAPHS if p.side == side} for side in SIDES}
    assert not scenes["representative"] & scenes["held_out"]
    assert {p.scene for p in PHOTOGRAPHS if p.file.startswith("motorcycle")} == {"motorcycle"}
    assert len({p.file for p in PHOTOGRAPHS}) == len(PHOTOGRAPHS)


@pytest.mark.parametrize("side", SIDES)
def test_each_side_is_diverse_and_mostly_colour(complete, side):
    means, colour = [], 0
    files = sorted((complete / side).iterdir())
    for path in files:
        pixels = load_image(path)
        means.append(pixels.mean())
        colour += bool((pixels.max(axis=2) > pixels.min(axis=2)).any())
    assert 0.7 < colour / len(files) < 0.9
    assert min(means) < 70
    assert max(means) > 120
    assert len({path.read_bytes() for path in files}) == len(files)


def test_full_frame_comes_first_and_crops_are_exact(complete):
    source = load_image(photographs_folder() / "brick.png")
    written = load_image(complete / "representative" / "brick-00.jpg")
    assert written.shape == source.shape == (512, 512, 3)
    assert np.abs(written.astype(int) - source).mean() < 2  # a JPEG of quality 95


def test_manifest_and_sources(complete):
    manifest = json.loads((complete / "manifest.json").read_text())
    assert len(manifest["files"]) == 160
    sources = (complete / "SOURCES.md").read_text()
    assert "## representative (128 images)" in sources
    assert "## held_out (32 images)" in sources
    for photograph in PHOTOGRAPHS:
        assert f"| {photograph.count} | {photograph.file} | {photograph.title} | {photograph.licence} |" in sources


def test_crops_stay_inside_and_are_large_enough():
    for width, height in ((512, 512), (1411, 1000), (384, 191), (300, 900), (224, 224)):
        found = list(crops(width, height, 40))
        assert len(found) == 40
        assert found[0] == Crop(0, 0, width, height, mirrored=False)
        for crop in found:
            assert crop.left >= 0 <= crop.top
            assert crop.left + crop.width <= width
            assert crop.top + crop.height <= height
            assert min(crop.width, crop.height) >= min(224, width, height)
    assert list(crops(600, 400, 20)) == list(crops(600, 400, 30))[:20]
    assert len(set(crops(600, 400, 40))) == 40
    assert any(crop.mirrored for crop in crops(600, 400, 5))
    assert not any(crop.mirrored for crop in crops(600, 400, 5, mirror=False))


# Writing it


def test_writing_twice_gives_the_same_bytes(few, tmp_path):
    write_photographs(tmp_path / "one")
    write_photographs(tmp_path / "deep" / "two")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "deep" / "two")
    assert len(_bytes(tmp_path / "one")) == 7


def test_progress_counts_to_the_end(few, tmp_path):
    calls = []
    write_photographs(tmp_path / "set", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(index, 5) for index in range(1, 6)]


def test_a_complete_set_is_left_alone(complete):
    before = {path: path.stat().st_mtime_ns for path in complete.rglob("*")}
    calls = []
    assert write_photographs(complete, progress=lambda *_: calls.append(1)) is False
    assert write_photographs(complete, overwrite=True) is False
    assert {path: path.stat().st_mtime_ns for path in complete.rglob("*")} == before
    assert calls == []


def test_readme_and_hidden_files_stay(few, tmp_path):
    (tmp_path / "README.md").write_text("tracked")
    (tmp_path / ".gitkeep").touch()
    inode = tmp_path.stat().st_ino
    assert write_photographs(tmp_path) is True
    assert (tmp_path / "README.md").read_text() == "tracked"
    assert tmp_path.stat().st_ino == inode  # the folder itself is kept: it may be a mounted volume
    assert _names(tmp_path) == [".gitkeep", "README.md", "SOURCES.md", "held_out", "manifest.json", "representative"]
    assert write_photographs(tmp_path) is False


@pytest.mark.parametrize("damage", ["byte", "removed", "manifest", "sources", "recipe"])
def test_a_changed_set_is_replaced_only_when_asked(few, tmp_path, monkeypatch, damage):
    write_photographs(tmp_path / "set")
    original = _bytes(tmp_path / "set")
    image = tmp_path / "set" / "held_out" / "coins-00.jpg"
    if damage == "byte":
        image.write_bytes(image.read_bytes()[:-1] + b"\0")
    elif damage == "removed":
        image.unlink()
    elif damage == "sources":
        (tmp_path / "set" / "SOURCES.md").unlink()
    elif damage == "recipe":
        monkeypatch.setattr(photographs, "_SCALES", (0.9,))
    if damage == "manifest":
        (tmp_path / "set" / "manifest.json").write_text("{")
        # Without a manifest nothing says that the images are not the user's own.
        with pytest.raises(OutputError, match=r"holds files that are not part of the default set"):
            write_photographs(tmp_path / "set", overwrite=True)
        return
    with pytest.raises(OutputError, match=r"is incomplete, changed or of another version: pass overwrite=True"):
        write_photographs(tmp_path / "set")
    assert write_photographs(tmp_path / "set", overwrite=True) is True
    if damage != "recipe":
        assert _bytes(tmp_path / "set") == original
    assert write_photographs(tmp_path / "set") is False
    assert _names(tmp_path / "set") == ["SOURCES.md", "held_out", "manifest.json", "representative"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("with_set", [False, True])
@pytest.mark.parametrize("name", ["mine.jpg", "sub/mine.jpg", "representative/mine.jpg", "held_out/deep/mine.jpg"])
def test_a_users_own_files_are_never_touched(few, tmp_path, with_set, overwrite, name):
    if with_set:
        write_photographs(tmp_path)
        (tmp_path / "SOURCES.md").unlink()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = _bytes(tmp_path)
    with pytest.raises(OutputError, match=r"holds files that are not part of the default set \(.*\): move them away"):
        write_photographs(tmp_path, overwrite=overwrite)
    assert _bytes(tmp_path) == before


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "calibration").write_text("x")
    with pytest.raises(OutputError, match=r"calibration is a file, expected a folder to write the photographs to"):
        write_photographs(tmp_path / "calibration", overwrite=True)


@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_no_trace(few, tmp_path, existing):
    folder = tmp_path / "calibration"
    if existing:
        folder.mkdir()
        (folder / "README.md").write_text("tracked")
    before = _names(tmp_path), _bytes(tmp_path)

    def interrupt(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_photographs(folder, progress=interrupt)
    assert (_names(tmp_path), _bytes(tmp_path)) == before


@pytest.mark.parametrize("failing_move", range(8))
def test_a_failing_move_brings_the_old_set_back(few, tmp_path, monkeypatch, failing_move):
    folder = tmp_path / "calibration"
    write_photographs(folder)
    (folder / "held_out" / "coins-00.jpg").write_bytes(b"changed")
    before = _bytes(folder)
    original, moves = type(folder).rename, []

    def rename(self, target):
        moves.append(target)
        if len(moves) == failing_move + 1:
            raise OSError(28, "No space left on device")
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(folder), "rename", rename)
        with pytest.raises(OutputError, match=r"Cannot write the photographs to .*\(No space left on device\): check"):
            write_photographs(folder, overwrite=True)
    assert _bytes(folder) == before
    assert _names(folder) == ["SOURCES.md", "held_out", "manifest.json", "representative"]


def test_scikit_image_missing_or_changed(few, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda _name: None)
        with pytest.raises(InputError, match=r"come with scikit-image, which is not installed: install scikit-image\."):
            write_photographs(tmp_path / "set")
    monkeypatch.setattr(photographs, "photographs_folder", lambda: tmp_path)
    with pytest.raises(InputError, match=r"\.png: there is no such file"):
        write_photographs(tmp_path / "set")
    assert _names(tmp_path) == []


def test_neither_scikit_image_nor_tensorflow_is_imported():
    code = (
        "import sys; from vit_export.images.photographs import photographs_folder; photographs_folder();"
        "print(sorted({'skimage', 'tensorflow', 'keras', 'onnx', 'scipy'} & set(sys.modules)))"
    )
    root = Path(photographs.__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "[]"


def test_command_line(few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    result = run(main, ["calibration"])
    assert (result.exit_code, result.output) == (0, "calibration: 5 images written.\n")
    assert run(main, ["calibration", "calibration"]).output == "calibration: 5 images are up to date.\n"
    os.remove("calibration/held_out/coins-00.jpg")
    result = run(main, ["calibration", "calibration"])
    assert result.exit_code == 2
    assert result.output.startswith("Error: The set of photographs in calibration is incomplete")
    assert run(main, ["calibration", "calibration", "--overwrite"]).exit_code == 0
    shutil.rmtree("calibration")
