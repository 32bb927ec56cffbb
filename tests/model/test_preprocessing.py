"""The one image-to-tensor function: every kind of file, both ways to resize, exact normalization, every error."""

import json
import math
import re
import struct
import warnings
import zlib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from vit_export.base.errors import InputError
from vit_export.images import read
from vit_export.images.read import UnreadableImage, decode_image, load_batch, load_image, prepare, resize_and_crop
from vit_export.model.preprocessing import Preprocessing, normalize

PIXELS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [40, 50, 60], [70, 80, 90]]], np.uint8
)  # 2 rows, 3 columns, no two alike


def _save(folder, picture, name="image.png", **options):
    path = folder / name
    picture.save(path, **options)
    return path


def _png(width, height, depth, colour_type, rows, chunks=()):
    """A PNG by hand: Pillow cannot write 16-bit colour, nor headers that lie."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)


def _noise(height=48, width=64):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# Reading files


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
        (9, lambda a: a),  # no such orientation
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _save(tmp_path, Image.fromarray(PIXELS), exif=exif)
    np.testing.assert_array_equal(load_image(path), upright(PIXELS))


def test_exif_orientation_of_a_jpeg_from_a_phone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, 16:] = 255
    image = load_image(_save(tmp_path, Image.fromarray(stored), "photo.JPG", exif=exif, quality=100))
    assert image.shape == (32, 16, 3)
    assert image[:16].max() < 8
    assert image[16:].min() > 247


def test_damaged_exif_does_not_cost_the_image(tmp_path):
    path = _save(tmp_path, Image.fromarray(PIXELS), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff")
    np.testing.assert_array_equal(load_image(path), PIXELS)


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a.bmp", {}), ("a.WEBP", {"lossless": True})])
def test_lossless_formats_give_the_exact_pixels(tmp_path, name, options):
    image = load_image(str(_save(tmp_path, Image.fromarray(PIXELS), name, **options)))
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, PIXELS)


def test_the_content_decides_and_not_the_name(tmp_path):
    path = _save(tmp_path, Image.fromarray(PIXELS), "really_a_png.jpg", format="PNG")
    np.testing.assert_array_equal(load_image(path), PIXELS)


def test_grey_is_repeated(tmp_path):
    image = load_image(_save(tmp_path, Image.fromarray(PIXELS[:, :, 0])))
    np.testing.assert_array_equal(image, np.repeat(PIXELS[:, :, :1], 3, axis=2))


def test_black_and_white(tmp_path):
    path = _save(tmp_path, Image.fromarray(np.array([[True, False]])))
    assert load_image(path).tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    image = load_image(_save(tmp_path, Image.fromarray(values)))
    assert image[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert (image == image[:, :, :1]).all()


def test_16_bit_grey_and_16_bit_colour_agree(tmp_path):
    values = [0, 255, 256, 32768, 51966, 65535]
    (tmp_path / "grey.png").write_bytes(_png(6, 1, 16, 0, [struct.pack(">6H", *values)]))
    triples = [value for value in values for _ in range(3)]
    (tmp_path / "colour.png").write_bytes(_png(6, 1, 16, 2, [struct.pack(">18H", *triples)]))
    np.testing.assert_array_equal(load_image(tmp_path / "grey.png"), load_image(tmp_path / "colour.png"))


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    data = _png(2, 1, 16, 0, [struct.pack(">2H", 4660, 32768)], [(b"tRNS", struct.pack(">H", 4660))])
    (tmp_path / "a.png").write_bytes(data)
    assert load_image(tmp_path / "a.png").tolist() == [[[255] * 3, [128] * 3]]


def test_alpha_is_laid_over_white(tmp_path):
    rgba = np.array([[[9, 8, 7, 0], [200, 100, 0, 255], [0, 0, 0, 128], [255, 0, 100, 51]]], np.uint8)
    image = load_image(_save(tmp_path, Image.fromarray(rgba)))
    # 255 - 255 * 128 / 255 = 127; 100 * 0.2 + 255 * 0.8 = 224
    assert image.tolist() == [[[255, 255, 255], [200, 100, 0], [127, 127, 127], [255, 204, 224]]]


def test_grey_with_alpha(tmp_path):
    image = load_image(_save(tmp_path, Image.fromarray(np.array([[[0, 0], [10, 255]]], np.uint8), "LA")))
    assert image.tolist() == [[[255] * 3, [10] * 3]]


def test_palette(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    picture.putpalette([1, 2, 3, 40, 50, 60, 255, 0, 9])
    assert load_image(_save(tmp_path, picture)).tolist() == [[[1, 2, 3], [40, 50, 60], [255, 0, 9]]]
    path = _save(tmp_path, picture, "see_through.png", transparency=1)
    assert load_image(path).tolist() == [[[1, 2, 3], [255, 255, 255], [255, 0, 9]]]


@pytest.mark.parametrize(
    ("ink", "colour"), [((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0)), ((255, 0, 0, 0), (0, 255, 255))]
)
def test_cmyk_jpeg(tmp_path, ink, colour):
    path = _save(tmp_path, Image.new("CMYK", (16, 8), ink), "print.jpg", quality=100)
    image = load_image(path)
    assert image.shape == (8, 16, 3)
    np.testing.assert_allclose(image, np.broadcast_to(colour, image.shape), atol=2)


def test_the_first_picture_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = _save(tmp_path, frames[0], "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert (load_image(path) == [255, 0, 0]).all()


# Files that cannot be read


def _fault(path, reason):
    with pytest.raises(UnreadableImage) as caught:
        load_image(path)
    assert isinstance(caught.value, InputError)
    assert caught.value.path == str(path)
    assert re.fullmatch(reason, caught.value.reason), caught.value.reason
    message = f"Cannot read the image {path}: {caught.value.reason}; replace the file or leave it out."
    assert str(caught.value) == message
    assert "\n" not in message


def test_missing_file(tmp_path):
    _fault(tmp_path / "no.jpg", "there is no such file")


def test_folder_instead_of_a_file(tmp_path):
    _fault(tmp_path, "it is not a regular file")


def test_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    _fault(tmp_path / "a.jpg", "it is empty")


def test_text_with_an_image_name(tmp_path):
    (tmp_path / "a.jpg").write_text("404 not found")
    _fault(tmp_path / "a.jpg", "it is no JPEG, PNG, WebP or BMP file")


def test_other_image_formats_are_refused(tmp_path):
    _fault(
        _save(tmp_path, _noise(), "a.png", format="GIF"),
        "it is no JPEG, PNG, WebP or BMP file but GIF, which has to be converted first",
    )


@pytest.mark.parametrize(
    ("start", "name"), [(b"\0\0\0\x18ftypheic", "HEIC"), (b"\0\0\0\x20ftypavif", "AVIF"), (b"II*\0", "TIFF or raw")]
)
def test_formats_of_phones_and_cameras_are_named(tmp_path, start, name):
    (tmp_path / "a.jpg").write_bytes(start + bytes(40))
    said = f"it is no JPEG, PNG, WebP or BMP file but {name}, which has to be converted first"
    _fault(tmp_path / "a.jpg", said)
    with pytest.raises(UnreadableImage, match=said):
        decode_image(start + bytes(40), "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_file(tmp_path, kind):
    path = _save(tmp_path, _noise(), "a.img", format=kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _fault(path, r"it is damaged or truncated \(.+\)")


def test_damaged_png(tmp_path):
    path = _save(tmp_path, _noise())
    data = bytearray(path.read_bytes())
    data[60:200] = bytes(140)
    path.write_bytes(data)
    _fault(path, r"it is damaged or truncated \(.+\)")


def test_decompression_bomb(tmp_path):
    (tmp_path / "bomb.png").write_bytes(_png(50_000, 50_000, 1, 0, []))
    _fault(tmp_path / "bomb.png", "it has more than 178 million pixels")


def test_decompression_bomb_when_pillow_is_told_not_to_look(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    (tmp_path / "bomb.png").write_bytes(_png(50_000, 50_000, 1, 0, []))
    _fault(tmp_path / "bomb.png", "it has more than 178 million pixels")


def test_a_large_photograph_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(_save(tmp_path, _noise())).shape == (48, 64, 3)  # 3072 pixels


def test_no_permission(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    path = _save(tmp_path, _noise())
    monkeypatch.setattr(read.Image, "open", refuse)
    _fault(path, "permission was denied")


# Resizing


def test_squash_is_pillow_bilinear_with_antialiasing():
    image = np.zeros((2, 4, 3), np.uint8)
    image[:, 2:] = 255
    # Halving a row weighs three neighbours 3 : 3 : 1, so 255 / 7 = 36.4 and 255 * 6 / 7 = 218.6.
    assert resize_and_crop(image, Preprocessing(2))[:, :, 0].tolist() == [[36, 219], [36, 219]]


def test_bicubic_overshoots_and_bilinear_does_not():
    image = np.full((8, 8, 3), 100, np.uint8)
    image[:, 4:] = 150
    assert set(np.unique(resize_and_crop(image, Preprocessing(16)))) <= set(range(100, 151))
    bicubic = resize_and_crop(image, Preprocessing(16, interpolation="bicubic"))
    assert bicubic.min() < 100
    assert bicubic.max() > 150


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.asarray(_noise(24, 24))
    for how in ("squash", "shortest"):
        np.testing.assert_array_equal(resize_and_crop(image, Preprocessing(24, resize=how)), image)


def test_shortest_cuts_the_centre_and_squash_keeps_all():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, :, 0] = np.arange(8) * 10
    shortest = resize_and_crop(image, Preprocessing(4, resize="shortest"))
    assert shortest[:, :, 0].tolist() == [[20, 30, 40, 50]] * 4
    upright = resize_and_crop(image.transpose(1, 0, 2), Preprocessing(4, resize="shortest"))
    assert upright[:, 0, 0].tolist() == [20, 30, 40, 50]
    squash = resize_and_crop(image, Preprocessing(4))
    assert squash[0, 0, 0] < 10
    assert squash[0, -1, 0] > 60


def test_crop_fraction_keeps_that_part_of_the_shortest_side():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, :, 0] = np.arange(8) * 10
    image[:, :, 1] = np.arange(4)[:, None] * 10
    result = resize_and_crop(image, Preprocessing(2, resize="shortest", crop_fraction=0.5))
    assert result[:, :, 0].tolist() == [[30, 40], [30, 40]]
    assert result[:, :, 1].tolist() == [[10, 10], [20, 20]]


@pytest.mark.parametrize(
    ("size", "fraction", "side"), [(224, 0.875, 256), (224, 0.9, 248), (384, 1.0, 384), (2, 0.5, 4)]
)
def test_resized_side(size, fraction, side):
    assert Preprocessing(size, resize="shortest", crop_fraction=fraction).resized_side == side


def test_resized_side_gives_back_what_a_fraction_was_made_of():
    for edge in range(96, 520):
        for size in (edge * 7 // 8, edge - 1, 96):
            assert Preprocessing(size, resize="shortest", crop_fraction=size / edge).resized_side == edge


def test_the_longer_side_is_rounded_down_as_in_torchvision():
    image = np.asarray(_noise(31, 50))
    resized = np.asarray(Image.fromarray(image).resize((20 * 50 // 31, 20), Image.Resampling.BICUBIC))
    expected = resized[2:18, 8:24]  # (20 - 16) / 2 and (32 - 16) / 2
    how = Preprocessing(16, resize="shortest", crop_fraction=0.8, interpolation="bicubic")
    np.testing.assert_array_equal(resize_and_crop(image, how), expected)


def by_timm(image, size, fraction, interpolation):
    """timm's `ResizeKeepRatio` of floor(side / fraction), then torchvision's `CenterCrop`, for sizes that differ."""
    tall, wide = (math.floor(side / fraction) for side in size)
    height, width = image.shape[:2]
    ratio = min(height / tall, width / wide)
    height, width = (round(side / ratio) for side in (height, width))
    resized = Image.fromarray(image).resize((width, height), interpolation)
    top, left = round((height - size[0]) / 2.0), round((width - size[1]) / 2.0)
    return np.asarray(resized)[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (8, 40)])
@pytest.mark.parametrize("fraction", [1.0, 0.9, 0.5])
@pytest.mark.parametrize("shape", [(31, 50), (50, 31), (7, 9), (48, 72), (33, 33), (90, 17)])
def test_what_is_not_square_is_cut_out_as_in_timm(size, fraction, shape):
    image = np.asarray(_noise(*shape))
    how = Preprocessing(size, resize="shortest", crop_fraction=fraction, interpolation="bicubic")
    found = resize_and_crop(image, how)
    assert found.shape == (*size, 3)
    np.testing.assert_array_equal(found, by_timm(image, size, fraction, Image.Resampling.BICUBIC))


def test_what_is_not_square_is_squashed_to_height_and_width():
    image = np.zeros((10, 10, 3), np.uint8)
    image[:5, :, 0] = image[:, 5:, 1] = 255
    small = resize_and_crop(image, Preprocessing((2, 4)))
    assert (small[0, :, 0] > 200).all()
    assert (small[1, :, 0] < 50).all()
    assert (small[:, :2, 1] < 50).all()
    assert (small[:, 2:, 1] > 200).all()


def test_both_sides_survive_json_and_equal_ones_are_one_number():
    wide = Preprocessing((224, 384), resize="shortest", crop_fraction=0.875)
    assert wide.resized_sides == (256, 438)
    assert wide.to_dict()["image_size"] == [224, 384]
    assert Preprocessing.from_dict(json.loads(json.dumps(wide.to_dict()))) == wide
    assert Preprocessing([224, 224]) == Preprocessing(224)


def test_a_view_that_is_not_contiguous():
    image = np.asarray(_noise(20, 30))
    how = Preprocessing(10)
    np.testing.assert_array_equal(
        resize_and_crop(image[::2, ::-1], how), resize_and_crop(np.ascontiguousarray(image[::2, ::-1]), how)
    )


@pytest.mark.parametrize(
    ("image", "given"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 [4, 4, 3]"),
        (np.zeros((4, 4), np.uint8), r"uint8 [4, 4]"),
        (np.zeros((3, 4, 4), np.uint8), r"uint8 [3, 4, 4]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 [0, 4, 3]"),
    ],
)
def test_prepare_refuses_what_is_no_image(image, given):
    with pytest.raises(InputError, match=re.escape(f"An image is {given}, expected uint8 [height, width, 3] in RGB")):
        prepare(image, Preprocessing(4))


def test_prepare_refuses_an_image_that_would_need_gigabytes():
    sliver = np.zeros((1, 5000, 3), np.uint8)
    assert prepare(sliver, Preprocessing(224)).shape == (224, 224, 3)
    with pytest.raises(InputError, match=r"An image of 5000 x 1 pixels is too elongated .* side to 224: crop it"):
        prepare(sliver, Preprocessing(224, resize="shortest"))


# Normalizing


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_normalization_is_correctly_rounded(mean, std):
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    result = normalize(pixels, Preprocessing(4, mean=mean, std=std))
    assert result.dtype == np.float32
    exact = [
        [float((Fraction(v, 255) - Fraction(m)) / Fraction(s)) for m, s in zip(mean, std, strict=True)]
        for v in range(256)
    ]
    np.testing.assert_array_equal(result[:, 0], np.array(exact).astype(np.float32))


def test_the_default_is_googles_scaling():
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    expected = ((np.arange(256) - 127.5) / 127.5).astype(np.float32)
    np.testing.assert_array_equal(normalize(pixels, Preprocessing(4))[:, 1], expected)
    assert normalize(pixels, Preprocessing(4)).min() == -1
    assert normalize(pixels, Preprocessing(4)).max() == 1


def test_each_channel_has_its_own_mean_and_std():
    image = np.full((2, 2, 3), (255, 0, 51), np.uint8)
    result = prepare(image, Preprocessing(2, mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 0.1)))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, np.broadcast_to([0.5, -0.5, 2.0], (2, 2, 3)), rtol=1e-7)


def test_load_batch_keeps_the_order(tmp_path):
    colours = ["red", "lime", "blue"]
    paths = [_save(tmp_path, Image.new("RGB", (9, 5), colour), f"{colour}.png") for colour in colours]
    batch = load_batch(iter(paths), Preprocessing(6))
    assert batch.shape == (3, 6, 6, 3)
    assert batch.dtype == np.float32
    for row, path in zip(batch, paths, strict=True):
        np.testing.assert_array_equal(row, prepare(load_image(path), Preprocessing(6)))
    assert batch[:, 0, 0].tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


def test_load_batch_of_nothing_and_with_a_bad_file(tmp_path):
    assert load_batch([], Preprocessing(6)).shape == (0, 6, 6, 3)
    with pytest.raises(InputError, match=r"no\.png: there is no such file"):
        load_batch([_save(tmp_path, _noise()), tmp_path / "no.png"], Preprocessing(6))


# The record


def test_round_trip_through_json_types():
    how = Preprocessing(384, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "shortest", 0.875, "bicubic")
    values = how.to_dict()
    assert values == {
        "image_size": 384,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": "shortest",
        "crop_fraction": 0.875,
        "interpolation": "bicubic",
    }
    assert Preprocessing.from_dict(values) == how
    assert hash(Preprocessing.from_dict(values)) == hash(how)


def test_from_dict_is_strict():
    values = Preprocessing(224).to_dict()
    with pytest.raises(
        InputError, match=r"Unknown fields in a preprocessing: colour, sharpen; expected crop_fraction, "
    ):
        Preprocessing.from_dict({**values, "sharpen": 1, "colour": "BGR"})
    del values["mean"]
    with pytest.raises(InputError, match=r"Fields missing in a preprocessing: mean; add them\."):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 0}, "image_size is 0, expected a whole number of pixels from 1 to 4096."),
        ({"image_size": 5000}, "image_size is 5000, expected a whole"),
        ({"image_size": 224.0}, "image_size is 224.0, expected a whole"),
        ({"image_size": True}, "image_size is True, expected a whole"),
        ({"image_size": (224, 0)}, "image_size is 0, expected a whole"),
        (
            {"image_size": (224, 384, 3)},
            "image_size is [224, 384, 3], expected one number of pixels, or height and width.",
        ),
        (
            {"mean": (127.5, 127.5, 127.5)},
            "mean is (127.5, 127.5, 127.5), expected three numbers for red, green and blue",
        ),
        ({"mean": (127.5,) * 3}, "from 0 to 1; divide values on the 0..255 scale by 255."),
        ({"mean": 0.5}, "mean is 0.5, expected three"),
        ({"mean": (0.5, 0.5)}, "mean is (0.5, 0.5), expected three"),
        ({"mean": (0.5, float("nan"), 0.5)}, "mean is (0.5, nan, 0.5), expected three"),
        ({"std": (0.5, 0, 0.5)}, "std is (0.5, 0, 0.5), expected three numbers for red, green and blue, above 0"),
        ({"std": "0.5"}, "std is '0.5', expected three"),
        ({"resize": "stretch"}, "resize is 'stretch', expected 'squash' or 'shortest'."),
        ({"interpolation": "nearest"}, "interpolation is 'nearest', expected 'bilinear' or 'bicubic'."),
        ({"resize": "shortest", "crop_fraction": 0}, "crop_fraction is 0, expected a number from 0.1 to 1."),
        ({"resize": "shortest", "crop_fraction": 1.1}, "crop_fraction is 1.1, expected"),
        ({"resize": "shortest", "crop_fraction": "0.9"}, "crop_fraction is '0.9', expected"),
        ({"crop_fraction": 0.9}, "crop_fraction is 0.9 but resize is 'squash', which crops nothing: use resize="),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Preprocessing(**{"image_size": 224, **values})
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_become_pythons():
    half = np.full(3, 0.5, np.float32)
    made = Preprocessing(224, half, tuple(half), "shortest", np.float32(0.875))
    assert made == Preprocessing(224, resize="shortest", crop_fraction=0.875)
    assert {type(v) for v in (*made.mean, *made.std, made.crop_fraction)} == {float}
