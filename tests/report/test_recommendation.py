"""Which file a report says to ship: by one rule, with nothing said that the measurement leaves open."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.reports import artifact, latency, report_of, verification

from vit_export.report.recommendation import recommend, recommendation_told
from vit_export.verification.checks import Check
from vit_export.verification.metrics import compare
from vit_export.verification.verdict import FileResult

PLAIN = verification(4)


def file(name, median=30.0, size=24_000_000, noise=1e-3, passed=True, width=0.01, format="tflite"):
    outputs = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    timed = None
    if median is not None:
        timed = replace(latency(median), low_ms=(1 - width) * median, high_ms=(1 + width) * median)
    check = Check("worst_difference", passed, 0.1, 0.2, "" if passed else "too far")
    found = compare(outputs, outputs + np.float32(noise) * np.sign(outputs))
    return FileResult(artifact(f"{name}.{format}", format, "int8", "dynamic", size), (check,), found, timed)


def chosen(*files, **changes):
    return report_of(replace(PLAIN, files=files, **changes))["recommendation"]


def test_the_fastest_of_those_that_passed():
    found = chosen(file("fast", 10.0, passed=False), file("good", 20.0), file("slow", 40.0, size=1_000_000))
    assert found["file"] == "good.tflite"
    assert found["why"].startswith("the fastest of 2 files that passed: 19.8 to 20.2 ms, 24.0 MB, ")


def test_where_intervals_overlap_the_smaller_one_is_taken_and_it_is_said():
    found = chosen(file("fast", 20.0, 90_000_000), file("small", 20.3, 24_000_000), file("slow", 30.0, 1_000_000))
    assert found["file"] == "small.tflite"
    assert found["why"].startswith("as fast as fast.tflite (their intervals overlap) and smaller: ")


def test_of_equally_fast_and_small_ones_the_most_accurate():
    found = chosen(file("rough", 20.0, 24_000_000, 1e-2), file("fine", 20.2, 24_010_000, 1e-4))
    assert found["file"] == "fine.tflite"
    assert "as fast as rough.tflite (their intervals overlap), of one size and more accurate" in found["why"]
    three = chosen(*(file(f"f{n}", 20.0, 24_000_000, 10.0**-n) for n in (2, 4, 3)))
    assert three["file"] == "f4.tflite"
    assert "as fast as 2 others (their intervals overlap), of one size and the most accurate" in three["why"]


def test_a_batch_counts_by_the_image():
    one, many = file("one", 20.0), file("many", 100.0)
    many = replace(many, latency=replace(many.latency, batch=8))
    assert chosen(one, many)["file"] == "many.tflite"


def test_an_interval_that_is_unknown_decides_nothing():
    unsure = file("unsure", 10.0)
    unsure = replace(unsure, latency=replace(unsure.latency, low_ms=None, high_ms=None))
    found = chosen(unsure, file("small", 30.0, 1_000_000))
    assert found["file"] == "small.tflite"


def test_without_times_the_smallest():
    found = chosen(file("large", None, 90_000_000), file("small", None, 24_000_000))
    assert found["file"] == "small.tflite"
    assert found["why"].startswith("the smallest of 2 files that passed, none of which was timed: 24.0 MB, ")


def test_each_format_has_its_own():
    files = (
        file("a", 20.0),
        file("b", 30.0, format="onnx"),
        file("c", 35.0, format="onnx"),
        file("d", 1.0, passed=False),
    )
    report = report_of(replace(PLAIN, files=files))
    found = report["recommendation"]
    assert (found["file"], [(row["format"], row["file"]) for row in found["formats"]]) == (
        "a.tflite",
        [("tflite", "a.tflite"), ("onnx", "b.onnx")],
    )
    assert found["formats"][0]["why"].startswith("the only one of 2 files that passed: ")
    assert "; of ONNX b.onnx, the fastest of 2 files that passed: " in recommendation_told(report)


def test_a_file_that_ran_in_several_places_is_one_file_by_the_cpus_times_and_passes_if_it_does_everywhere():
    gpu = {"place": "GPU, 16-bit, Some GPU", "device": "Some GPU"}
    one, other = file("one", 20.0), file("other", 30.0)
    found = chosen(replace(file("other", 2.0), **gpu), other, one, replace(file("one", 3.0), **gpu))
    assert found["file"] == "one.tflite"
    assert found["why"].startswith("the fastest of 2 files that passed: 19.8 to 20.2 ms, ")
    assert chosen(one, replace(file("one", 3.0, passed=False), **gpu), other)["file"] == "other.tflite"


def test_none_where_none_passed_and_nothing_where_nothing_was_verified():
    report = report_of(replace(PLAIN, files=(file("bad", passed=False),)))
    assert report["recommendation"]["file"] is None
    assert recommendation_told(report) == "none of these files: no file passed"
    assert report_of(None, artifacts=[artifact("a.tflite", "tflite", "float32")])["recommendation"] is None
    assert recommendation_told({}) == ""


def test_untrained_weights_are_said():
    report = report_of(replace(PLAIN, files=(file("a"),), trained=False))
    assert recommendation_told(report).endswith("the weights are untrained, so this goes by size and speed alone")


@pytest.mark.parametrize("broken", [{}, {"verification": {"files": [{}]}}, {"verification": 3}])
def test_what_somebody_else_wrote_breaks_nothing(broken):
    recommend(broken)
    recommendation_told({**broken, "recommendation": {"formats": [3, {"format": {}}], "file": 7}})
    recommendation_told({**broken, "recommendation": {"formats": [3, {"format": {}}], "file": "a"}})
