"""Data sets: the same images and classes from every form, and what is damaged in them."""

import io
import tarfile

import pytest
from helpers.data_sets import COUNT, FORMS, encoded, parquet

from vit_export.base.errors import InputError
from vit_export.evaluation import data
from vit_export.evaluation.classes import classes_of
from vit_export.evaluation.data import Item, open_data
from vit_export.model.labels import read_labels

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def images():
    return encoded()


def items(location):
    return [item for shard in open_data(location).shards for item in shard.items()]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_same_images_and_classes(form, images, tmp_path, monkeypatch):
    from helpers.bundles import LABELS

    monkeypatch.setattr(data, "IMAGES", 30)
    location = FORMS[form](tmp_path / form, *images)
    found = open_data(location)
    assert len(found.shards) in (3, 4)
    classes = classes_of(10, LABELS)
    read = items(location)
    assert sorted((item.data, classes.index(item)) for item in read) == sorted(zip(*images, strict=True))
    assert len({item.name for item in read}) == COUNT
    assert found == open_data(location)  # the same shards, whenever it is opened


def test_addresses_stand_for_many_files(images, tmp_path):
    FORMS["tars"](tmp_path / "t", *images)
    for location in (
        f"{tmp_path}/t/digits-000*.tar",
        f"{tmp_path}/t",
        f"file://{tmp_path}/t/digits-{{0000..0002}}.tar",
    ):
        assert len(open_data(location).shards) == 3
        assert len(items(location)) == COUNT


def test_what_changes_in_the_data_changes_their_digest(images, tmp_path):
    location = FORMS["folders"](tmp_path / "f", *images)
    before = open_data(location).digest
    next((tmp_path / "f").rglob("*.png")).write_bytes(b"another one")
    assert open_data(location).digest != before


def test_samples_without_an_image_or_a_class(tmp_path):
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name, content in (("a.txt", b"x"), ("b.jpg", b"image"), ("c.seg.png", b"other"), ("c.cls", b"tench")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert [(item.name, item.label) for item in items(str(tmp_path / "odd.tar"))] == [
        ("b.jpg", None),
        ("c.seg.png", "tench"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.tar", b"no tar at all", "is damaged or cannot be read"),
        ("x.parquet", b"PAR1 nothing", "is no Parquet file that can be read"),
        ("x.zip", b"PK", "is no data set, expected a folder of images"),
    ],
)
def test_damaged_files_are_one_sentence(name, content, sentence, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        items(str(tmp_path / name))
    with pytest.raises(InputError, match="There is no "):
        items(str(tmp_path / "nothing.tar"))


def test_a_tar_that_is_cut_off_is_refused(images, tmp_path):
    FORMS["tars"](tmp_path / "t", *images)
    path = tmp_path / "t" / "digits-0000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged or cannot be read"):
        items(str(path))


def test_parquet_without_images_is_refused_by_its_columns(images, tmp_path):
    import pyarrow as arrow
    from pyarrow.parquet import write_table

    write_table(arrow.table({"text": ["a"], "label": [1]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="has the columns text, label, expected `image`"):
        open_data(str(tmp_path / "t.parquet"))
    assert len(items(parquet(tmp_path / "p", *images))) == COUNT


def test_classes_are_named_as_the_data_has_them():
    item = data.Item("n/1.png", b"", "n02")
    with pytest.raises(InputError, match="labelled 'n02', which is called like no class"):
        classes_of(3, ("cat", "dog", "fox")).index(item)
    assert classes_of(2, None, ["n02", "n01", "n02"]).index(item) == 1
    with pytest.raises(InputError, match="2 folders, the model 3 classes"):
        classes_of(3, None, ["n02", "n01"])
    with pytest.raises(InputError, match="is of class 3, expected 0 to 2"):
        classes_of(3, None).index(data.Item("a", b"", 3))
    assert classes_of(3, None).index(data.Item("a", b"", "2")) == 2
    assert classes_of(None, None).index(item) is None


@pytest.mark.parametrize("spelled", ["tench", "n01440764"])
def test_imagenets_classes_go_by_their_words_and_wordnets_numbers(spelled):
    labels = list(read_labels("imagenet"))
    labels[7] = "rooster"  # lists differ in some words
    assert classes_of(1000, labels).index(Item("a.jpg", b"", spelled)) == 0
    assert classes_of(1000, labels).index(Item("b.jpg", b"", "n15075141")) == 999
    with pytest.raises(InputError, match="is called like no class"):
        classes_of(1000, labels[::-1]).index(Item("a.jpg", b"", "n01440764"))
    with pytest.raises(InputError, match="is called like no class"):
        classes_of(2, ["tench", "goldfish"]).index(Item("a.jpg", b"", "n01440764"))


IMAGENETTE = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}


def test_imagenettes_folders_are_classes_of_imagenet():
    classes = classes_of(1000, read_labels("imagenet"))
    found = [[classes.index(Item("x", b"", name)) for name in names] for names in IMAGENETTE.items()]
    assert found == [[number] * 2 for number in (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)]
