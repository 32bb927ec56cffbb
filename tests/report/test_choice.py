"""Which cell of a sweep to ship under a budget, and which no other beats: what is told apart, and what is not."""

import pytest
from helpers.sweeps import cell, evaluated, models, without_result

from vit_export.report.candidates import Interval, of_cell, points_lost
from vit_export.report.recommendation import choose, front_of

OTHER = {"model": "vit_s16"}
TOY = {"model": "vit_toy"}


def chosen(cells, **budget):
    return choose(cells, budget)["id"]


def why(cells, **budget):
    return choose(cells, budget)["why"]


def test_of_one_model_without_an_evaluation_the_fastest_as_in_a_report():
    cells = [cell("slow", 30.0), cell("broken", 1.0, verdict="fail"), cell("fast", 10.0), cell("heavy", 10.1, 90.0)]
    assert chosen(cells) == "fast"
    assert why(cells).startswith(
        "as fast as heavy (their intervals overlap) and smaller: 9.9 to 10.1 ms, 20.0 MB, 30.0"
    )
    assert set(choose(cells, {})) == {"id", "why"}


def test_a_budget_narrows_what_may_be_chosen_and_is_said():
    cells = [cell("fast", 5.0, 90.0), cell("middle", 10.0, 40.0), cell("small", 30.0, 10.0)]
    assert [chosen(cells, max_ms=20), chosen(cells, max_mb=50), chosen(cells, max_mb=50, max_ms=7)] == [
        "fast",
        "middle",
        None,
    ]
    assert why(cells, max_mb=50).startswith("the fastest of 2 files that passed and stay within 50 MB: ")
    assert why(cells, max_mb=20).startswith("the only one of 3 files that passed and stays within 20 MB: ")
    assert chosen(cells, max_mb=40.0) == "middle"  # what is just as much is within


def test_a_loss_counts_against_the_models_own_reference_and_is_no_matter_of_rounding():
    cells = [cell("float", 30.0, accuracy=0.8), cell("good", 12.0, accuracy=0.795, drop=0.5 + 1e-13),
             cell("bad", 5.0, accuracy=0.78, drop=2.0)]  # fmt: skip
    assert chosen(cells, max_drop=0.5) == "good"
    assert chosen(cells, max_drop=3) == "bad"
    assert chosen(cells, max_drop=0.1) == "float"
    found = why(cells, max_drop=0.5)
    assert "0.5 points lost (" in found
    assert found.endswith("; the interval of the loss reaches beyond the budget")


def test_where_a_data_set_was_evaluated_nothing_is_lost_that_the_images_tell_unless_it_is_allowed():
    def cells(images):
        return [cell("float", 30.0, accuracy=0.8, images=images),
                cell("int8", 10.0, accuracy=0.797, drop=0.3, images=images)]  # fmt: skip

    assert chosen(cells(50_000)) == "float"
    assert why(cells(50_000)).startswith("the most accurate of 2 files that passed: ")
    assert chosen(cells(500)) == "int8"
    assert chosen(cells(50_000), max_drop=0.5) == "int8"


def test_what_is_compared_image_by_image_tells_more_than_two_shares():
    cells = [cell("float", 30.0, accuracy=0.8), cell("int8", 10.0, accuracy=0.797, drop=0.3)]
    assert cells[0]["evaluation"]["mcnemar"] is None  # it is the reference
    float_, int8 = map(of_cell, cells)
    assert (float_.drop, float_.accuracy.differs(int8.accuracy)) == (Interval(0.0, 0.0, 0.0), False)
    assert not float_.as_accurate(int8)
    assert chosen(cells) == "float"


def test_between_models_the_most_accurate_within_the_time():
    cells = models()
    assert chosen(cells, max_ms=25) == "vit_s16-224-tflite-int8-auto"
    assert chosen(cells, max_ms=10) == "vit_s32-224-tflite-int8-auto"
    assert chosen(cells, max_ms=100) == "vit_s16-224-tflite-float32"
    # What may be lost need not be paid for in time; the most accurate model stays.
    assert chosen(cells, max_ms=100, max_drop=0.5) == "vit_s16-224-tflite-int8-auto"
    assert why(cells, max_ms=100, max_drop=0.5).startswith(
        "the fastest of the 3 most accurate (the loss is allowed) of 6 files that passed and stay within 100 ms and "
    )


def test_models_that_the_images_do_not_tell_apart_are_chosen_between_by_time():
    cells = [cell("big", 20.0, accuracy=0.80, images=500, **OTHER), cell("small", 9.0, accuracy=0.79, images=500)]
    assert chosen(cells, max_ms=25) == "small"
    more = [cell("toy", 1.0, accuracy=0.30, images=500, **TOY)]
    assert chosen([*cells, *more], max_ms=25) == "small"
    told = why([*cells, *more], max_ms=25)
    assert told.startswith(
        "the fastest of the 2 most accurate (the images do not tell them apart) of 3 files that passed"
    )


def test_the_order_of_the_grid_decides_nothing_where_models_are_equally_good():
    cells = [cell("a", 20.0, accuracy=0.9, **OTHER), cell("a8", 9.0, accuracy=0.897, drop=0.3, **OTHER),
             cell("b", 15.0, accuracy=0.9), cell("b8", 7.0, accuracy=0.897, drop=0.3)]  # fmt: skip
    for order in (cells, cells[::-1]):
        assert chosen(order, max_ms=30) == "b"
        assert chosen(order, max_ms=30, max_drop=0.5) == "b8"
    # So it is where the images do not tell them apart.
    cells[0] = cell("a", 20.0, accuracy=0.901, **OTHER)
    assert chosen(cells, max_ms=30) == "b"
    assert chosen(cells, max_ms=30, max_drop=0.5) == "b8"


def test_between_models_nothing_is_chosen_without_a_budget_or_without_their_accuracy():
    scored = [cell("big", 20.0, accuracy=0.8, **OTHER), cell("toy", 1.0, accuracy=0.3, **TOY)]
    assert chosen(scored) is None
    assert why(scored) == "which of 2 models depends on what it may cost: --max-ms or --max-mb says so"
    assert chosen(scored, max_drop=1) is None
    bare = [cell("big", 20.0, **OTHER), cell("toy", 1.0, **TOY)]
    assert chosen(bare, max_ms=30) is None
    assert "accuracy, which was not evaluated (--data)" in why(bare, max_ms=30)
    assert chosen(bare, max_ms=5) == "toy"  # the only model that keeps it
    each = choose(bare, {})["models"]
    assert [(row["model"], row["id"]) for row in each] == [("vit_s16, 224 px", "big"), ("vit_toy, 224 px", "toy")]


def test_a_model_is_its_network_weights_and_size():
    cells = [cell("a", 9.0), cell("b", 5.0, image_size=[224, 128]), cell("c", 5.0, weights="x/fine.npz")]
    names = [row["model"] for row in choose(cells, {})["models"]]
    assert names == ["vit_s32, 224 px", "vit_s32, 224x128 px", "vit_s32, 224 px, fine.npz"]


def test_where_nothing_keeps_the_budget_the_nearest_is_told():
    cells = [cell("a", 30.0), cell("b", 25.0, 30.0), cell("c", 1.0, verdict="fail")]
    assert choose(cells, {"max_ms": 20}) == {
        "id": None,
        "why": "none of 2 files that passed stays within 20 ms; the nearest is b (25.0 ms, 5 more than 20)",
    }
    assert "the nearest is a (30.0 ms, 10.0 more than 20 and 20.0 MB, 10.0 more than 10)" in why(
        cells, max_ms=20, max_mb=10
    )
    lossy = [cell("d", 15.0, accuracy=0.7, drop=0.8)]
    assert why(lossy, max_drop=0, max_ms=14) == (
        "the only file that passed does not stay within 14 ms and 0 points lost: "
        "d (15.0 ms, 1 more than 14 and 0.8 points lost, 0.8 points more than 0)"
    )


def test_few_images_leave_open_what_many_settle_and_that_is_said():
    def cells(images):
        return [cell("float", 3.0, accuracy=0.99, images=images),
                cell("int8", 1.0, accuracy=0.98, drop=1.0, images=images)]  # fmt: skip

    assert chosen(cells(100), max_drop=0.5) == chosen(cells(50_000), max_drop=0.5) == "float"
    told = "; int8 is faster, and what was measured leaves open whether it stays within the budget, too"
    assert why(cells(100), max_drop=0.5).endswith(told)
    assert told not in why(cells(50_000), max_drop=0.5)


def test_what_was_not_measured_keeps_no_limit():
    cells = [cell("untimed", None), cell("slow", 30.0)]
    assert chosen(cells, max_ms=20) is None
    assert "the nearest is slow" in why(cells, max_ms=20)
    assert why(cells[:1], max_ms=20).endswith("within 20 ms: untimed was not timed")
    assert chosen([cell("bare", 1.0), cell("scored", 9.0, accuracy=0.8)], max_drop=1) == "scored"
    assert why([cell("bare", 1.0)], max_drop=1).endswith("within 1 point lost: bare was not evaluated")
    assert why([cell("a", None), cell("b", None, 5.0)]).startswith(
        "the smallest of 2 files that passed, none of which was timed: 5 MB, "
    )


def test_what_failed_or_was_refused_is_no_choice():
    gone = [without_result("x", "failed", "it broke"), without_result("y", "refused", "there is none")]
    assert choose(gone, {}) == {"id": None, "why": "no file was made"}
    assert choose([], {}) == {"id": None, "why": "no file was made"}
    assert choose([cell("z", verdict="fail"), *gone], {}) == {"id": None, "why": "no file passed"}
    assert front_of([cell("z", verdict="fail"), *gone]) == []


def test_untrained_weights_are_said_of_a_cell_too():
    assert why([cell("a", trained=False)]).endswith("; the weights are untrained, so this goes by size and speed alone")


def test_the_front_holds_what_nothing_beats_fastest_first():
    cells = [cell("best", 30.0, 90.0, accuracy=0.80), cell("beaten", 31.0, 91.0, accuracy=0.78, drop=2.0),
             cell("fast", 5.0, 90.0, accuracy=0.70, drop=10.0), cell("light", 40.0, 5.0, accuracy=0.70, drop=10.0),
             cell("broken", 1.0, 1.0, accuracy=0.99, verdict="fail")]  # fmt: skip
    assert front_of(cells) == ["fast", "best", "light"]


def test_what_cannot_be_told_apart_beats_nothing_and_saves_nothing():
    # Faster by less than the intervals tell, and clearly less accurate: no reason to take it.
    assert front_of([cell("a", 10.0, accuracy=0.8), cell("b", 9.95, accuracy=0.7, drop=10.0)]) == ["a"]
    # Equal in all that can be told.
    assert set(front_of([cell("a", 10.0, accuracy=0.8), cell("b", 10.1, accuracy=0.799, images=400)])) == {"a", "b"}
    # A size has no interval, but one per cent of it is nothing.
    assert len(front_of([cell("a", 10.0, 20.0), cell("b", 10.0, 20.1)])) == 2
    assert front_of([cell("a", 10.0, 20.0), cell("b", 10.0, 21.0)]) == ["a"]


def test_every_cell_off_the_front_is_beaten_by_one_on_it_whatever_chains_and_circles_ties_make():
    def one(name, ms, mb, accuracy):
        return cell(name, ms, mb, accuracy=accuracy, images=1000, width=0.3, model=name)

    def beats(cells):
        return {(x["id"], y["id"]) for x in cells for y in cells if of_cell(x).beats(of_cell(y))}

    chain = [one("a", 10.0, 20.0, 0.52), one("b", 20.0, 20.0, 0.55), one("c", 15.0, 20.0, 0.50)]
    assert beats(chain) == {("a", "b"), ("b", "c")}
    assert front_of(chain) == ["a", "c"]  # nothing but b puts c off, and b is off itself
    circle = [one("a", 10.0, 20.15, 0.50), one("b", 25.0, 20.0, 0.525), one("c", 16.0, 20.3, 0.55)]
    assert beats(circle) == {("a", "b"), ("b", "c"), ("c", "a")}
    assert front_of(circle) == ["a", "c", "b"]
    by_id = {each["id"]: of_cell(each) for each in models()}
    front = front_of(models())
    for name in by_id.keys() - set(front):
        assert not by_id[name].passed or any(by_id[other].beats(by_id[name]) for other in front)


def test_without_an_evaluation_each_model_has_its_own_front_by_decibels():
    cells = [cell("exact", 30.0, worst_db=120.0), cell("int8", 10.0, worst_db=30.0),
             cell("worse", 12.0, worst_db=25.0), cell("toy", 1.0, 1.0, worst_db=200.0, **TOY)]  # fmt: skip
    assert front_of(cells) == ["toy", "int8", "exact"]
    alike = [cell("a", 10.0, worst_db=30.0), cell("b", 12.0, worst_db=30.5)]
    assert front_of(alike) == ["a"]


def test_what_was_not_measured_where_others_were_has_no_place_on_the_front():
    assert front_of([cell("a", 10.0), cell("b", None, 1.0)]) == ["a"]
    assert front_of([cell("a", 10.0, accuracy=0.8), cell("b", 1.0)]) == ["a"]
    assert front_of([cell("a", None, 10.0), cell("b", None, 20.0)]) == ["a"]


def test_a_loss_has_the_interval_of_its_pairs():
    found = of_cell(cell("a", evaluation=evaluated(0.8, 0.5, 1000, gained=10))).drop
    # Agresti and Min, computed by hand: (15.5 - 10.5) / 1002 -+ 1.96 * sqrt(26 - 25 / 1002) / 1002.
    assert (found.value, found.low, found.high) == (
        0.5,
        pytest.approx(-0.4979, abs=1e-3),
        pytest.approx(1.496, abs=1e-3),
    )
    assert points_lost(found) == "0.5 points lost (−0.50 to 1.50)"
    assert points_lost(Interval(-0.25, -0.5, 0.1)) == "0.25 points gained (−0.10 to 0.50)"
    assert points_lost(Interval(0.0, -0.002, 0.002)) == points_lost(Interval(0.0)) == "no point lost"
    assert points_lost(Interval(1.0)) == "1 point lost"


@pytest.mark.parametrize("broken", [{}, {"status": "done"}, {"status": "done", "verdict": "pass"}, 3, None])
def test_a_record_that_somebody_changed_breaks_nothing(broken):
    choose([broken], {"max_ms": "x"})
    front_of([broken])
    spoiled = {**cell("a"), "latency": {"ms": "NaN", "low_ms": None}, "evaluation": {"accuracy": 3}, "bytes": None,
               "image_size": "x"}  # fmt: skip
    nothing = {**spoiled, "evaluation": {"accuracy": {"share": "NaN"}, "drop": "NaN"}, "bytes": "Infinity"}
    assert of_cell(nothing).accuracy is of_cell(nothing).drop is of_cell(nothing).bytes is None
    choose([nothing, cell("b", accuracy=0.5)], {"max_drop": 1})
    for budget in ({}, {"max_ms": 1, "max_drop": 1, "max_mb": 1}):
        choose([spoiled, cell("b", accuracy=0.5)], budget)
    front_of([spoiled, cell("b", accuracy=0.5)])
