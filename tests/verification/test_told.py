"""What a file tells other programs: judged of ours in full, of another tool's where it says something."""

import pytest

from vit_export.verification.origin import unlike_labels
from vit_export.verification.told import Told, judge_told

LABELS = ("tench, Tinca tinca", "crane", "cock", "crane")
WANTED = {
    "colors": "RGB",
    "size": [32, 32],
    "mean": [123.675, 116.28, 103.53],
    "std": [58.395, 57.12, 57.375],
    "min": [-2.1179, -2.0357, -1.8044],
    "labels": LABELS,
    "inputs": 1,
    "outputs": 1,
}
GOOD = {**WANTED, "labels": list(LABELS)}
FIRST = {"output": ("logits (tensor 3)", "logits (tensor 3)")}


def failed(said, *, ours=True, first=FIRST, chosen=False, **more):
    told = Told(said, {**WANTED, **more.pop("wanted", {})}, first=first, ours=ours, **more)
    return {check.name: check.detail for check in judge_told(told, chosen=chosen) if not check.passed}


def test_what_is_right_passes():
    assert failed(GOOD) == {}
    assert failed({**GOOD, "std": [58.3950001, 57.12, 57.375]}) == {}


@pytest.mark.parametrize(
    ("said", "name", "says"),
    [
        ({"mean": [103.53, 116.28, 123.675]}, "metadata_pixels", r"mean [103.53, 116.28, 123.675], expected [123.675,"),
        ({"mean": [123.675, 116.28]}, "metadata_pixels", "mean [123.675, 116.28], expected"),
        ({"mean": None}, "metadata_pixels", "mean none, expected"),
        ({"mean": "high"}, "metadata_pixels", "mean 'high', expected"),
        ({"mean": [float("nan")] * 3}, "metadata_pixels", "mean [nan, nan, nan], expected"),
        ({"min": [0.0]}, "metadata_pixels", "min [0], expected"),
        ({"size": [32, 64]}, "metadata_pixels", "size [32, 64], expected [32, 32]"),
        ({"labels": None}, "metadata_labels", "labels none, expected 4"),
        ({"labels": [*LABELS, "rook"]}, "metadata_labels", "labels 5, expected 4"),
        ({"labels": ["all", *LABELS]}, "metadata_labels", "'all' comes before all others (a background class?)"),
        ({"outputs": 2}, "metadata_labels", "outputs 2, expected 1"),
    ],
)
def test_each_fact_of_ours_is_held_against_the_record(said, name, says):
    found = failed({**GOOD, **said})
    assert {*found} == {name}
    assert says in found[name], found


def test_ours_has_to_tell():
    assert {*failed({}, first={}, unreadable="it has no TFLite Metadata")} == {"metadata"}
    assert {*failed({}, first={}, ours=False)} == set()


def test_labels_that_the_model_does_not_have():
    assert "labels 4, expected none" in failed(GOOD, wanted={"labels": None})["metadata_labels"]


def test_what_its_own_record_says_is_asked_elsewhere():
    """A file of another checkpoint is told by its record, and once."""
    assert failed({**GOOD, "labels": list("abcd")}, own={**WANTED, "labels": tuple("abcd")}) == {}
    assert {*failed({**GOOD, "labels": list("abcd")}, own=WANTED)} == {"metadata_labels"}


def test_another_tools_words_are_taken_as_it_means_them():
    """It may say less, round numbers and call a class by its first name alone."""
    assert failed({}, ours=False) == {}
    said = {"mean": [123.68, 116.78, 103.94], "std": [58.4, 57.12, 57.38], "min": [0.0], "labels": ["Tench", *"abc"]}
    assert failed(said, ours=False) == {}
    assert {*failed({"mean": [127.5]}, ours=False)} == {"metadata_pixels"}
    exchanged = failed({"labels": ["cock", "crane", "tench", "crane"]}, ours=False)
    assert "of two classes are exchanged (class 0 is 'cock', class 2 is 'tench')" in exchanged["metadata_labels"]
    assert {*failed({"labels": ["background", *LABELS]}, ours=False)} == {"metadata_labels"}


def test_the_first_output_has_to_be_the_signatures_unless_one_was_chosen():
    first = {"output": ("hidden (tensor 1)", "logits (tensor 3)"), "input": ("a", "a")}
    for ours in (True, False):
        assert {*failed(GOOD, ours=ours, first=first)} == {"first_tensors"}
        assert failed(GOOD, ours=ours, first=first, chosen=True) == {}


def test_long_names_stay_short():
    assert all(len(text) < 600 for text in failed({**GOOD, "labels": ["x" * 10_000] * 4}).values())
    assert len(unlike_labels(["y" * 10_000, "b"], ["b"])) < 400
