"""evaluation.html: accuracy with its interval, tests, classes and what was left out; no name is more than a name."""

import copy
import json

import pytest
from helpers.evaluations import evaluation_of, figures, share
from helpers.pages import sound
from helpers.reports import HOSTILE

from vit_export.base.errors import InputError, OutputError
from vit_export.report.evaluation_page import SHOWN_UNREADABLE, evaluation_page, write_evaluation


@pytest.fixture(scope="module")
def page():
    return sound(evaluation_page(evaluation_of()))


def test_everything_is_there(page):
    assert page.ids("section") == ["accuracy", "files", "classes", "unreadable", "made"]
    for text in (
        "Accuracy on imagenet/val", "50,000 images, 50,000 of them with a class.",
        "1 of 2 files is worse than the reference by more than chance explains.",
        "s16_float32.tflite", "81.37 %", "81.03 to 81.71", "94.81 to 95.19", "280 / 100", "p = 0.0001", "2.1 %", "0.74",
        "31.2 dB", "18.4 dB", "tiger shark", "class 7", "n01440764/broken.JPEG", "the file is truncated", "ab" * 32,
        "exports/s16_int8.tflite", "A processor (avx2)", "onnxruntime", "--labels sorted", "2026-11-26 16:00:00 UTC",
    ):  # fmt: skip
        assert text in page.text, text


def test_each_point_is_named_leads_to_its_row_and_says_in_a_shape_what_is_worse(page):
    links = [a for a in page.of("a") if "aria-label" in a]
    assert [a["href"] for a in links] == ["#file-1", "#file-2", "#file-3"]
    assert links[1]["aria-label"] == "s16_int8.tflite: 81.01 %, 80.7 to 81.4"
    assert page.ids("tr") == ["file-1", "file-2", "file-3"]
    assert [a.get("class") for a in page.of("use")].count("mark file") == 3
    assert "▼ worse" in page.text


def test_of_embeddings_their_neighbours_and_without_classes_the_agreement():
    bare = {"top1": None, "top5": None, "calibration_error": None, "loss": None}
    knn = [figures("a", knn=share(700, 1000), **bare), figures("b", lost=5, gained=4, knn=share(690, 1000), **bare)]
    page = sound(evaluation_page(evaluation_of(knn)))
    assert "Embeddings on imagenet/val" in page.text
    assert "70.00 %" in page.text
    assert "By McNemar’s test no file is worse than the reference." in page.text
    assert "Top-5" not in page.text
    unlabelled = [figures("a", **bare), figures("b", lost=1, **bare, mcnemar=None) | {"mcnemar": None}]
    page = sound(evaluation_page(evaluation_of(unlabelled, labelled=0, unreadable=[])))
    assert "Same top class as the reference" in page.text
    assert "worse" not in page.text.partition("Files")[0].partition("The share")[0]
    assert page.ids("section") == ["accuracy", "files", "made"]


def test_of_many_images_left_out_the_first_are_named_and_all_counted():
    many = [[f"{n}.jpg", "it is empty"] for n in range(SHOWN_UNREADABLE + 300)]
    page = sound(evaluation_page(evaluation_of(unreadable=many)))
    assert "And 300 more, which figures.json names." in page.text
    assert "500 that could not be read" in page.text
    assert f"{SHOWN_UNREADABLE - 1}.jpg" in page.text
    assert f"{SHOWN_UNREADABLE}.jpg" not in page.text


def test_hostile_names_stay_names():
    loss = {"index": 1, "total": 9, "correct": 1, "reference_correct": 8}
    files = [figures(name, lost=90, worst_classes=[{**loss, "name": name}]) for name in HOSTILE]
    found = evaluation_of(files, unreadable=[[name, name] for name in HOSTILE], data=HOSTILE[0], rows=HOSTILE[1])
    page = evaluation_page({**found, "commands": HOSTILE})
    parsed = sound(page)
    assert not parsed.of("img")
    assert "<script>alert(1)</script>" in parsed.text
    assert not [c for c in page if c in "\u202e\u2066\x00\x1b\ud800\uffff\r"]


JUNK = (None, "x", 7, -1.5, "NaN", "Infinity", True, [], {}, [None, "y", 3], {"a": [1]}, 10**400)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.thorough)])
def test_whatever_is_missing_or_of_another_kind_the_page_can_be_read(step):
    found = evaluation_of()
    places = [(key,) for key in found] + [("files", 1, key) for key in found["files"][1]]
    places += [("files", 1, "top1", key) for key in found["files"][1]["top1"]] + [("unreadable", 0)]
    for number, path in enumerate(places[::step]):
        spoiled = copy.deepcopy(found)
        holder = spoiled
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = JUNK[number % len(JUNK)]
        assert evaluation_page(spoiled).rstrip().endswith("</html>"), path
    sound(evaluation_page({}))
    with pytest.raises(InputError, match=r"expected the JSON object of a figures\.json"):
        evaluation_page([])


def test_both_files_are_written_and_nothing_is_replaced_unasked(tmp_path):
    found = evaluation_of()
    assert [path.name for path in write_evaluation(found, tmp_path / "out")] == ["evaluation.html", "figures.json"]
    again = json.loads((tmp_path / "out/figures.json").read_text(encoding="utf-8"))
    assert evaluation_page(again) == (tmp_path / "out/evaluation.html").read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="exists"):
        write_evaluation(found, tmp_path / "out")
    write_evaluation(found, tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["evaluation.html", "figures.json"]
