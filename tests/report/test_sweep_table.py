"""The table of a sweep in a terminal of any width, and the lines below it."""

import io

import pytest
from helpers.reports import HOSTILE
from helpers.sweeps import cell, models, sweep_of, without_result
from rich.cells import cell_len
from rich.console import Console

from vit_export.report.sweep import render_sweep


def printed(sweep, width=120):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render_sweep(sweep, console)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_is_as_wide_as_the_terminal_and_no_name_is_broken(width):
    long = cell("siglip-so400m-patch14-384-fine-tuned-on-flowers-of-the-alps-378-onnx-int8-w8a16", accuracy=0.8)
    cells = [*models(), long]
    lines = printed(sweep_of(cells, max_ms=25), width)
    end = next(place for place, line in enumerate(lines) if line.startswith("FAIL"))
    for line in lines[:end]:
        assert cell_len(line) <= width or line.strip() in {each["id"] for each in cells}, line
        assert "…" not in line
    for each in cells:
        assert any(each["id"] in line for line in lines[:end])
    text = " ".join(" ".join(lines).split())
    assert "62.0 88.2 81.37 0.34 0.00 128.0 * pass" in text
    assert "14.0 22.9 77.90 0.36 3.47 9.0 FAIL" in text  # what fails is not on the front


def test_what_went_wrong_is_told_below_and_then_what_to_ship():
    lines = printed(sweep_of(models(), max_ms=25, max_drop=0.5))
    assert "FAIL    vit_s16-224-tflite-int8-static: It fails sqnr, agreement." in lines
    assert "refused vit_s32-224-onnx-float16: ONNX Runtime has no float16 kernels on the CPU: such a file would not run." in lines  # fmt: skip # noqa: E501
    assert any(line.startswith("broke   vit_ti16-224-onnx-int8-static: The process") for line in lines)
    assert lines[-1].startswith(
        "Ship: vit_s16-224-tflite-int8-auto, the most accurate of 4 files that passed and stay "
    )


def test_where_a_budget_is_to_decide_each_model_has_its_line():
    lines = printed(sweep_of(models()))
    told = [line for line in lines if line.startswith(("Ship: ", "  of vit_"))]
    assert told[0] == "Ship: which of 3 models depends on what it may cost: --max-ms or --max-mb says so."
    assert [line.split(":")[1].split(",")[0].strip() for line in told[1:]] == [
        "vit_s16-224-tflite-float32",
        "vit_s32-224-tflite-float32",
        "vit_ti16-224-tflite-int8-auto",
    ]
    assert printed(sweep_of(models(), max_ms=1))[-4].startswith(
        "Ship: none of these files: none of 6 files that passed"
    )


def test_without_evaluation_and_times_their_columns_say_nothing():
    cells = [cell("a", None, cached=True), cell("b", None, 5.0), without_result("c", "refused", "there is none")]
    lines = printed(sweep_of(cells, evaluation=False))
    text = "\n".join(lines)
    assert "top-1" not in text
    assert "points" not in text
    assert "ms: one image" not in text
    assert "1 of 3 cells were done already." in text
    assert "refused c: there is none." in text
    assert "no other file of its model that passed beats it in time, size and SQNR" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_drives_no_terminal(name):
    lines = printed(sweep_of([cell(name), without_result(name, "failed", name)]))
    assert not [c for line in lines for c in line if c in "\u202e\u2066\x00\x1b\ud800\r"]


@pytest.mark.parametrize("broken", [{}, {"cells": [{}], "ship": 3}, {"cells": 3, "evaluation": {"data": None}}])
def test_a_record_that_somebody_changed_breaks_nothing(broken):
    printed(broken)
