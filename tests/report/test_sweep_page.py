"""sweep.html: every cell with its figures, the charts, which file to ship, and that no name is more than a name."""

import copy
import json
import re

import pytest
from helpers.pages import sound
from helpers.reports import HOSTILE
from helpers.sweeps import cell, models, sweep_of, without_result

from vit_export.base.errors import InputError
from vit_export.report.sweep_page import labels_of, sweep_page

LINKS = ("#", "./cells/", "./")
COMMAND = "vit-export sweep sweep.toml --max-ms 25 --max-drop 0.5"


def page_of(sweep):
    return sound(sweep_page(sweep), LINKS)


@pytest.fixture(scope="module")
def sweep():
    return {**sweep_of(models(), max_ms=25, max_drop=0.5), "commands": [COMMAND]}


@pytest.fixture(scope="module")
def page(sweep):
    return page_of(sweep)


def row(page, name):
    """What the table says of a cell."""
    return page.text.partition("Every cell with its figures")[2].partition(f"{name} ")[2][:300]


def test_everything_is_there(page):
    assert page.ids("section") == ["ship", "trade-off", "trouble", "cells", "made"]
    for text in (
        "vit_s16, vit_s32, vit_ti16", "6 of 9 cells passed.", "at most 25 ms and 0.5 points lost",
        "imagenet/val, 50,000 images", "A processor, avx2 avx512_vnni, 1 thread", "2026-11-26 16:00:00 UTC",
        "cells/vit_s16-224-tflite-int8-auto/vit_s16-224-tflite-int8-auto.tflite",
        "The most accurate of 4 files that passed and stay within 25 ms and 0.5 points lost: 20.8 to 21.2 ms",
        "It fails sqnr, agreement.", "no float16 kernels on the CPU", "killed by SIGKILL", "onnxruntime", COMMAND,
        "against the same model’s float reference",
    ):  # fmt: skip
        assert text in page.text, text


def test_the_table_has_each_figure_with_its_interval_and_says_what_breaks_the_budget(page):
    slow = row(page, "vit_s16-224-tflite-float32")
    for text in (
        "beyond the budget: ✕ 62.0 ms",
        "61.4 to 62.6",
        "88.2 MB",
        "81.4 %",
        "81.0 to 81.7",
        "128 dB",
    ):
        assert text in slow
    assert "Points lost0.360.28 to 0.44Lost / gained280 / 100p = 0.0001" in re.sub(
        " (?=Lost)", "", row(page, "vit_s16-224-tflite-int8-auto")
    )
    assert page.text.count("★ ship") == 1
    assert [a["href"] for a in page.of("a") if a["href"].startswith("./")] == [
        f"./cells/{each['id']}/report.html" for each in models() if each["report"]
    ]


def test_each_point_is_named_and_leads_to_its_row(page):
    rows = page.ids("tr")
    links = [a for tag, a in page.elements if tag == "a" and a["href"].startswith("#cell-")]
    assert len(rows) == 9
    assert len([a for a in links if "aria-label" in a]) == 2 * 7  # two charts of all that were made
    assert {a["href"][1:] for a in links} <= set(rows)
    assert all(":" in a["aria-label"] for a in links if "aria-label" in a)
    assert "vit_s16-224-tflite-int8-static: 13.9 to 14.1 ms" in page.text
    plots = [a for a in page.of("svg") if a.get("class") == "plot"]
    assert [a["role"] for a in plots] == ["group", "group"]  # an image would hide its links


def test_of_many_cells_each_point_has_the_number_of_its_row():
    many = [cell(f"cell {n}", 5.0 + n, accuracy=0.6 + n / 100, model=f"vit_{n}", precision="int8") for n in range(14)]
    sweep = sweep_of(many, max_ms=10)
    page = page_of(sweep)
    written = re.findall(r"<text[^>]*class=\"label\"[^>]*>([^<]*)<", sweep_page(sweep))
    assert sorted(written) == sorted(2 * [f"{'★ ' if n == 6 else ''}{n}" for n in range(1, 15)])
    assert "14 vit_13 ✓ pass" in page.text
    assert "leads to its row in the table, whose number it has" in page.text
    assert "★ vit_s16 tflite int8 auto" in sweep_page(sweep_of(models(), max_ms=25))


def test_the_budget_is_drawn_where_there_is_room_for_it():
    page = sweep_page(sweep_of(models(), max_ms=25, max_mb=5000))
    assert ">25 ms<" in page
    assert ">5000 MB<" not in page
    alone = [each for each in models() if each["model"] == "vit_s16"]
    assert ">0.5 points lost<" in sweep_page(sweep_of(alone, max_drop=0.5))
    assert ">1 point lost<" not in sweep_page(sweep_of(models(), max_drop=1))  # of which model?


def test_cells_are_called_by_what_tells_them_apart():
    assert labels_of([cell("a"), cell("b", precision="float32", scheme=None)]) == ["int8 dynamic", "float32"]
    sizes = [cell("a", weights="x/s.npz"), cell("b", image_size=[384, 384], weights="x/s.npz")]
    assert labels_of(sizes) == ["224x224", "384x384"]
    weights = [cell("a", weights="x/s.npz"), cell("b", weights="x/t.npz"), cell("c", model="vit_toy")]
    assert labels_of(weights) == ["vit_s32 s.npz", "vit_s32 t.npz", "vit_toy"]
    assert labels_of([cell("a"), cell("b")]) == ["a", "b"]
    assert labels_of([]) == []


def test_without_a_choice_the_reason_and_each_models_own():
    page = page_of(sweep_of(models()))
    assert "Which of 3 models depends on what it may cost: --max-ms or --max-mb says so." in page.text
    assert "vit_s32, 224 px, s32.npz: vit_s32-224-tflite-float32, the most accurate of 2 files" in page.text
    assert "★ ship" not in page.text


def test_without_an_evaluation_sqnr_is_drawn_of_one_model_and_nothing_of_several():
    cells = [cell("vit-a", 10.0), cell("vit-b", 20.0, precision="float32", scheme=None, worst_db=120.0)]
    page = page_of(sweep_of(cells, evaluation=False))
    assert "SQNR of the worst image by time" in page.text
    assert "Points lost" not in page.text
    several = page_of(sweep_of([*cells, cell("toy", model="vit_toy")], evaluation=False))
    assert "trade-off" not in several.ids("section")
    none = page_of(sweep_of([without_result("x", "refused", "there is none")], evaluation=False))
    assert none.ids("section") == ["ship", "trouble", "cells", "made"]
    assert "No file was made." in none.text


def test_what_was_not_evaluated_where_others_were_is_said_once_and_not_drawn():
    reason = "It is not evaluated: no image of val has a class of this model"
    cells = [cell("good", accuracy=0.8), cell("other", 12.0, accuracy=0.7, drop=1.0, precision="float16")]
    cells += [cell(name, 5.0, model="vit_toy", reason=reason, worst_db=77.0) for name in ("bare", "naked")]
    page = page_of(sweep_of(cells, max_ms=20))
    assert page.text.count("It is not evaluated") == 1
    assert "bare, naked It is not evaluated: no image of val has a class of this model." in page.text
    links = [a["aria-label"].partition(":")[0] for a in page.of("a") if "aria-label" in a]
    assert sorted(links) == ["good", "good", "other", "other"]


def test_hostile_names_stay_names():
    names = [*HOSTILE, "//example.com/x", "../../x"]
    cells = [cell("good", 12.0, 30.0, accuracy=0.6, drop=0.3)]
    for place, name in enumerate(names):
        cells.append(
            cell(name, 5.0 + place, model=name, weights=name, report=name, file=name, scheme=name, accuracy=0.7)
        )
        cells.append(without_result(name, "failed", name, model=name))
    sweep = sweep_of(cells, max_ms=20)
    sweep |= {"processor": names[0], "versions": dict(zip(names, names, strict=True)), "commands": names}
    sweep["evaluation"] |= {"data": names[1], "metric": names[0]}
    page = sweep_page(sweep)
    parsed = sound(page, ("#", "./"))
    assert not [c for c in page if c in "\u202e\u2066\x00\x1b\ud800\uffff\r"]
    assert not parsed.of("img")
    assert "<script>alert(1)</script>" in parsed.text
    assert "{{7*7}}{% raw %}" in parsed.text
    assert "&lt;b&gt; &#60;" in parsed.text  # as it was typed, not as it would be read


def test_it_is_made_of_what_sweep_json_holds(sweep):
    assert sweep_page(json.loads(json.dumps(sweep))) == sweep_page(sweep)


def paths(value, at=()):
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, part in entries:
        yield (*at, key)
        yield from paths(part, (*at, key))


JUNK = (None, "x", 7, -1.5, "NaN", "Infinity", True, [], {}, [None, "y", 3], {"a": [1]}, 10**400)


@pytest.mark.parametrize("step", [30, pytest.param(1, marks=pytest.mark.thorough)])
def test_whatever_is_missing_or_of_another_kind_the_page_can_be_read(step, sweep):
    small = {**sweep, "cells": sweep["cells"][1:4]}
    places = list(paths(small))
    assert len(places) > 70
    for number, path in enumerate(places[::step]):
        spoiled = copy.deepcopy(small)
        holder = spoiled
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = JUNK[number % len(JUNK)]
        try:
            page = sweep_page(spoiled)
        except Exception as error:
            raise AssertionError(f"broken by {JUNK[number % len(JUNK)]!r:.20} at {path}") from error
        assert page.rstrip().endswith("</html>")


def test_what_is_no_sweep_is_refused():
    assert "No model" not in sound(sweep_page({}), LINKS).text
    with pytest.raises(InputError, match=r"of type list, expected the JSON object of a sweep\.json"):
        sweep_page([])
