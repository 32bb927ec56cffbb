"""Choosing calibration and verification images: reproducible, disjoint, readable, and clear when it cannot be done."""

import os
import random
import re
from hashlib import sha256
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vit_export.base.errors import InputError
from vit_export.images import read
from vit_export.images import split as calibration
from vit_export.images.pictures import ImageSet, Pictures
from vit_export.images.split import list_images
from vit_export.model.preprocessing import Preprocessing, normalize

PREPROCESSING = Preprocessing(4, resize="shortest", crop_fraction=0.8)


def find_images(*arguments, **options):
    pictures, skipped = calibration.find_images(arguments[0], PREPROCESSING, *arguments[1:], **options)
    return pictures.images, skipped


def split(folder, *arguments, **options):
    """The sets of files that are chosen; what was decoded on the way are their very pixels."""
    found = calibration.split(folder, PREPROCESSING, *arguments, **options)
    for side in (found.representative, found.held_out):
        np.testing.assert_array_equal(side.pixels(), Pictures.of(side.images, PREPROCESSING).pixels())
    return SimpleNamespace(
        representative=found.representative.images,
        held_out=found.held_out.images,
        skipped=found.skipped,
        note=found.note,
        to_dict=found.to_dict,
    )


def _image(path, value=0):
    """A small PNG; each `value` gives other bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((4, 4, 3), (value % 256, value // 256, 7), np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


def _folder(folder, count, *, order=None):
    for index in order or range(count):
        _image(folder / f"{index:03d}.png", index)
    return folder


def _count_decoding(monkeypatch):
    decoded = []
    original = calibration.load_image

    def load(path):
        decoded.append(path.name)
        return original(path)

    monkeypatch.setattr(calibration, "load_image", load)
    return decoded


# Finding images


def test_names_are_recursive_sorted_posix_and_case_insensitive(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.Jpeg", "deep/d.webp", "e.bmp", "f.jfif"):
        _image(tmp_path / name)
    for name in ("notes.txt", ".hidden.png", ".git/f.png", "deep/._c.jpeg", "png", "g.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list_images(tmp_path) == ("a.png", "b.JPG", "deep/d.webp", "deep/er/c.Jpeg", "e.bmp", "f.jfif")


def test_linked_folders_are_followed_but_loops_are_not(tmp_path):
    _image(tmp_path / "images" / "a.png")
    _image(tmp_path / "elsewhere" / "b.png")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "images" / "loop").symlink_to(tmp_path / "images", target_is_directory=True)
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "images", target_is_directory=True)
    (tmp_path / "images" / "itself").symlink_to("itself")
    assert list_images(tmp_path / "images") == ("a.png", "linked/b.png")


def test_unreadable_files_are_named_and_left_out(tmp_path):
    _folder(tmp_path, 3)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "bad.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    images, skipped = find_images(tmp_path)
    assert images.files == ("000.png", "001.png", "002.png")
    assert skipped == (
        ("empty.png", "it is empty"),
        ("gone.png", "there is no such file"),
        ("sub/bad.jpg", "it is no JPEG, PNG, WebP or BMP file"),
    )


def test_find_images_stops_at_the_limit(tmp_path, monkeypatch):
    _folder(tmp_path, 20)
    decoded = _count_decoding(monkeypatch)
    images, _ = find_images(tmp_path, limit=5, seed=3)
    assert len(images) == 5 == len(decoded)
    assert set(images.files) == set(decoded)
    assert find_images(tmp_path, limit=5, seed=3)[0] == images
    assert find_images(tmp_path, limit=5, seed=4)[0] != images
    with pytest.raises(InputError, match=r"limit is 0, expected a whole number of images, at least 1\."):
        find_images(tmp_path, limit=0)


@pytest.mark.parametrize("function", [list_images, find_images, split])
def test_photographs_of_phones_are_not_passed_over_in_silence(tmp_path, function):
    for name in ("a.HEIC", "b.heic", "c.tif", "notes.txt"):
        (tmp_path / name).write_bytes(b"any")
    what = r"3 images of formats that are not read \(\.heic, \.tif\), which have to be converted first"
    with pytest.raises(InputError, match=rf"holds {what}: put images"):
        function(tmp_path)
    if function is split:
        _image(tmp_path / "d.png")
        assert re.search(rf"Left out: {what}\.$", split(tmp_path).note)


@pytest.mark.parametrize("function", [list_images, find_images, split])
def test_each_kind_of_useless_folder_has_its_own_sentence(tmp_path, function):
    names = ("missing", "file", "empty", "hidden", "text", "bad")
    missing, file, empty, hidden, text, bad = (tmp_path / name for name in names)
    file.write_text("x")
    for folder in (empty, hidden, text, bad):
        folder.mkdir()
    (hidden / ".DS_Store").touch()
    (text / "a.txt").touch()
    (text / "b.csv").touch()
    (bad / "a.jpg").write_text("x")
    (bad / "b.jpg").write_text("x")
    put = r"put images \(\.jpg, \.jpeg, \.jpe, \.jfif, \.png, \.webp, \.bmp\) in it or give another folder\."
    expected = {
        missing: rf"There is no folder {missing}: check the path, or create the folder and {put}",
        file: rf"{file} is a file, expected a folder of images: give the folder that contains it\.",
        empty: rf"The folder {empty} is empty: {put}",
        hidden: rf"The folder {hidden} is empty: {put}",
        text: rf"The folder {text} holds 2 files but no image: {put}",
    }
    if function is not list_images:
        expected[bad] = (
            rf"None of the 2 images in {bad} can be read \(first: a\.jpg, it is no JPEG, PNG, WebP or BMP file\): "
            r"replace them or give another folder\."
        )
    for folder, message in expected.items():
        with pytest.raises(InputError) as caught:
            function(folder)
        assert re.fullmatch(message, str(caught.value)), caught.value


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    _folder(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse)
        with pytest.raises(InputError, match=r"cannot be listed \(Permission denied\): check its rights\."):
            list_images(tmp_path)


# The record and its digest


def test_digest_is_sha256_over_names_and_hashes(tmp_path):
    _image(tmp_path / "b.png", 1)
    _image(tmp_path / "a" / "a.png", 2)
    images = ImageSet.of(tmp_path, ["b.png", "a/a.png"])
    lines = [f"{n}\0{sha256((tmp_path / n).read_bytes()).hexdigest()}\n" for n in ("a/a.png", "b.png")]
    assert images.files == ("a/a.png", "b.png")
    assert images.digest == sha256("".join(lines).encode()).hexdigest()
    assert images.paths() == (tmp_path / "a" / "a.png", tmp_path / "b.png")
    assert images.to_dict() == {"folder": str(tmp_path), "files": ["a/a.png", "b.png"], "digest": images.digest}


def test_digest_changes_with_a_byte_a_name_and_a_file_but_not_with_the_place(tmp_path):
    def digest(folder):
        return find_images(folder)[0].digest

    first, second = _folder(tmp_path / "first", 3), _folder(tmp_path / "somewhere" / "else", 3, order=[2, 0, 1])
    original = digest(first)
    assert digest(second) == original
    with (second / "001.png").open("ab") as file:
        file.write(b"\0")  # behind the end of the image: same pixels, other bytes
    changed = digest(second)
    (first / "000.png").rename(first / "zzz.png")
    renamed = digest(first)
    _image(first / "more.png", 9)
    assert len({original, changed, renamed, digest(first)}) == 4


# Splitting


def test_the_default_counts(tmp_path):
    result = split(_folder(tmp_path, 200))
    assert (len(result.representative), len(result.held_out)) == (128, 32)
    assert not set(result.representative.files) & set(result.held_out.files)
    assert result.skipped == ()
    assert result.note is None
    assert result.representative.folder == result.held_out.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("images", "count", "held_out", "sides"),
    [(8, 128, 32, (6, 2)), (7, 128, 32, (6, 1)), (4, 128, 32, (3, 1)), (40, 10, 32, (10, 10)), (40, 10, 3, (10, 3))],
)
def test_at_most_a_quarter_is_held_out(tmp_path, images, count, held_out, sides):
    result = split(_folder(tmp_path, images), count, held_out)
    assert (len(result.representative), len(result.held_out)) == sides
    assert result.note is None


def test_a_quarter_of_the_readable_images(tmp_path):
    _folder(tmp_path, 8)
    for index in range(12):
        (tmp_path / f"bad_{index}.png").touch()
    result = split(tmp_path)
    assert (len(result.representative), len(result.held_out), len(result.skipped)) == (6, 2, 12)


@pytest.mark.parametrize("images", [1, 3])
def test_too_few_images_to_hold_any_out(tmp_path, images):
    _folder(tmp_path, images)
    (tmp_path / "bad.png").touch()
    result = split(tmp_path)
    assert len(result.representative) == images
    assert result.held_out.files == ()
    assert result.note == (
        "The folder has fewer than 4 readable images: they are for calibration and none is held out."
    )


def test_none_held_out_when_none_is_asked_for(tmp_path):
    result = split(_folder(tmp_path, 8), held_out=0)
    assert (len(result.representative), len(result.held_out), result.note) == (8, 0, None)


def test_same_files_whatever_the_listing_order_and_the_place(tmp_path, monkeypatch):
    order = list(range(60))
    random.Random(1).shuffle(order)
    first = _folder(tmp_path / "first", 60)
    second = _folder(tmp_path / "another" / "place", 60, order=order)
    expected = split(first, 20, 10, seed=5)
    original = os.scandir

    class Shuffled:
        def __init__(self, path):
            with original(path) as listing:
                self.entries = sorted(listing, key=lambda entry: entry.name[::-1], reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            return None

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", Shuffled)
        result = split(second, 20, 10, seed=5)
    assert result.representative.files == expected.representative.files
    assert result.held_out.files == expected.held_out.files
    assert result.representative.digest == expected.representative.digest
    assert result.representative.folder != expected.representative.folder


def test_the_choice_is_pinned(tmp_path):
    # A choice that changed between releases would make old reports incomparable.
    result = split(_folder(tmp_path, 12), 3, 2, seed=0)
    assert result.representative.files == ("001.png", "005.png", "007.png")
    assert result.held_out.files == ("000.png", "008.png")


def test_the_seed_changes_the_choice_and_the_count_does_not_move_the_held_out_side(tmp_path):
    _folder(tmp_path, 60)
    base = split(tmp_path, 20, 10, seed=0)
    assert split(tmp_path, 20, 10, seed=1).representative.files != base.representative.files
    smaller = split(tmp_path, 5, 10, seed=0)
    assert smaller.held_out == base.held_out
    assert set(smaller.representative.files) < set(base.representative.files)


def test_only_as_many_files_are_decoded_as_are_needed(tmp_path, monkeypatch):
    _folder(tmp_path, 100)
    decoded = _count_decoding(monkeypatch)
    split(tmp_path, 6, 3)
    assert len(decoded) == 9


def test_unreadable_files_are_replaced_by_others(tmp_path):
    _folder(tmp_path, 40)
    for index in range(0, 40, 2):
        (tmp_path / f"{index:03d}.png").write_text("broken")
    result = split(tmp_path, 8, 2)
    assert (len(result.representative), len(result.held_out)) == (8, 2)
    assert result.skipped
    for name, reason in result.skipped:
        assert int(name[:3]) % 2 == 0
        assert reason == "it is no JPEG, PNG, WebP or BMP file"


def test_duplicates_do_not_leak(tmp_path):
    for index in range(40):
        _image(tmp_path / f"{index:03d}.png", index % 4)  # ten copies of each of four images
    result = split(tmp_path, 20, 8)
    assert len(result.representative) == 20
    calibrated = {path.read_bytes() for path in result.representative.paths()}
    assert len(calibrated) == 4
    assert result.held_out.files == ()
    assert result.note == (
        "8 held-out images with the same bytes as a calibration image left out. No image is held out."
    )


def test_only_the_duplicates_are_dropped(tmp_path):
    _image(tmp_path / "representative" / "a.png", 1)
    _image(tmp_path / "held_out" / "copy_of_a.png", 1)
    _image(tmp_path / "held_out" / "b.png", 2)
    result = split(tmp_path)
    assert result.held_out.files == ("held_out/b.png",)
    assert result.note == "1 held-out image with the same bytes as a calibration image left out."


def test_sub_folders_are_the_two_sides(tmp_path):
    for index in range(10):
        _image(tmp_path / "representative" / "deeper" / f"{index}.png", index)
        _image(tmp_path / "held_out" / f"{index}.png", 100 + index)
    result = split(tmp_path, 6, 9)
    assert len(result.representative) == 6
    assert len(result.held_out) == 9
    assert all(name.startswith("representative/deeper/") for name in result.representative.files)
    assert all(name.startswith("held_out/") for name in result.held_out.files)
    assert all(path.is_file() for path in result.representative.paths())
    assert result.note is None


def test_images_beside_the_two_sub_folders_are_mentioned(tmp_path):
    _image(tmp_path / "representative" / "a.png", 1)
    _image(tmp_path / "held_out" / "b.png", 2)
    _image(tmp_path / "c.png", 3)
    result = split(tmp_path)
    assert result.representative.files == ("representative/a.png",)
    assert result.note == "1 image outside representative/ and held_out/ left out."


def test_one_sub_folder_alone_is_no_side(tmp_path):
    for index in range(8):
        _image(tmp_path / "representative" / f"{index}.png", index)
    result = split(tmp_path)
    assert (len(result.representative), len(result.held_out)) == (6, 2)


def test_sub_folders_with_a_side_missing(tmp_path):
    (tmp_path / "held_out").mkdir()
    _image(tmp_path / "representative" / "a.png", 1)
    (tmp_path / "held_out" / "bad.png").write_text("x")
    result = split(tmp_path)
    assert result.held_out.files == ()
    assert result.note == "No image is held out: the sub-folder held_out/ has no readable one."
    assert result.skipped == (("held_out/bad.png", "it is no JPEG, PNG, WebP or BMP file"),)

    (tmp_path / "representative" / "a.png").write_text("x")
    with pytest.raises(InputError, match=rf"None of the 1 image in {tmp_path}/representative can be read"):
        split(tmp_path)
    (tmp_path / "representative" / "a.png").unlink()
    with pytest.raises(InputError, match=rf"The folder {tmp_path}/representative holds no image: put images"):
        split(tmp_path)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_count_is_at_least_one(tmp_path, count):
    _folder(tmp_path, 4)
    message = f"count is {count!r}, expected a whole number of images, at least 1."
    with pytest.raises(InputError, match=re.escape(message)):
        split(tmp_path, count)


def test_held_out_is_not_negative(tmp_path):
    with pytest.raises(InputError, match=r"held_out is -1, expected a whole number of images, at least 0\."):
        split(_folder(tmp_path, 4), 2, -1)


def test_split_as_json(tmp_path):
    _folder(tmp_path, 4)
    (tmp_path / "bad.png").touch()
    result = split(tmp_path)
    assert result.to_dict() == {
        "representative": result.representative.to_dict(),
        "held_out": result.held_out.to_dict(),
        "skipped": [["bad.png", "it is empty"]],
        "note": None,
    }


# What was decoded


def test_pictures_are_decoded_once_and_given_in_any_numbers(tmp_path, monkeypatch):
    decoded = _count_decoding(monkeypatch)
    data = calibration.split(_folder(tmp_path, 12), PREPROCESSING, 5, 3)
    assert len(decoded) == len(set(decoded)) == 8
    pictures = data.representative
    pixels = pictures.pixels()
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5, 4, 4, 3))
    np.testing.assert_array_equal(pictures.normalized(), normalize(pixels, PREPROCESSING))
    np.testing.assert_array_equal(pictures.normalized(2), pictures.normalized()[[0, 2]])
    np.testing.assert_array_equal(pictures.normalized(9, [0, 1, 3]), pictures.normalized()[[0, 1, 3]])
    np.testing.assert_array_equal(pictures.normalized(1, [2, 1, 3]), pictures.normalized()[[2]])
    np.testing.assert_array_equal(pictures.fed("uint8"), pixels)
    np.testing.assert_array_equal(pictures.fed(""), pictures.normalized())
    np.testing.assert_array_equal(pictures.fed("", 2), pictures.normalized()[:2])
    np.testing.assert_array_equal(pictures.fed("", 99), pictures.normalized())
    batches = pictures.batches(2, "0..255")
    assert len(batches) == len(list(batches)) == 3
    np.testing.assert_array_equal(batches[2], pixels[[4, 0]].astype(np.float32))
    assert len(decoded) == 8


def test_large_sets_lie_on_disk_and_are_the_same(tmp_path, monkeypatch):
    folder = _folder(tmp_path, 12)
    expected = calibration.split(folder, PREPROCESSING, 5, 3).held_out.pixels()
    monkeypatch.setattr(read, "IN_MEMORY", 100)
    held_out = calibration.split(folder, PREPROCESSING, 5, 3).held_out
    assert isinstance(held_out.store, np.memmap)
    np.testing.assert_array_equal(held_out.pixels(), expected)


def test_an_image_too_elongated_for_the_model_is_left_out(tmp_path):
    _folder(tmp_path, 3)
    Image.new("RGB", (20_000, 1)).save(tmp_path / "line.png")
    _, skipped = calibration.find_images(tmp_path, Preprocessing(224, resize="shortest"))
    assert skipped == (("line.png", "it is too elongated for the model's square"),)
