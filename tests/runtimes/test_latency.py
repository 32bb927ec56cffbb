"""Latency: the intervals against known distributions, the turns on simulated machines, the ranks on made-up figures.

No test here depends on how fast the machine is that it runs on.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from vit_export.runtimes.runner import RunnerError
from vit_export.runtimes.timing import latency, noise, ranking
from vit_export.runtimes.timing import rounds as timing
from vit_export.runtimes.timing.latency import Latency, Measurement, Subject, measure
from vit_export.runtimes.timing.noise import Noise
from vit_export.runtimes.timing.ranking import Rank, ranks, time_ratio, warnings_of
from vit_export.runtimes.timing.statistics import Interval, clustering, median_interval, p99, thinned

QUIET = Noise(unrest=1.1, drift=1.0, others=0.01, steal=0.0, load=0.1, governor="performance")


# Intervals.


def autocorrelated(random, count, correlation):
    values = random.normal(size=count)
    for i in range(1, count):
        values[i] = correlation * values[i - 1] + math.sqrt(1 - correlation**2) * values[i]
    return values


def coverage(draw, truth, times=1000):
    """How often the interval of a sample holds the median, of the samples that have one."""
    random = np.random.default_rng(0)
    found = [interval for _ in range(times) if (interval := median_interval(draw(random)))]
    assert len(found) > times / 2
    return sum(truth in interval for interval in found) / len(found)


@pytest.mark.parametrize("count", [6, 10, 25, 60])
@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda random, n: random.normal(10, 3, n), 10.0),
        (lambda random, n: random.exponential(1, n), math.log(2)),
        (lambda random, n: 1 + random.standard_cauchy(n), 1.0),
    ],
    ids=["normal", "exponential", "heavy tails"],
)
def test_intervals_hold_the_median_of_any_distribution(draw, truth, count):
    assert coverage(lambda random: draw(random, count), truth) >= 0.945


@pytest.mark.parametrize(("count", "correlation"), [(12, 0.3), (24, 0.3), (24, 0.5), (48, 0.6)])
def test_intervals_hold_the_median_though_noise_comes_in_spells(count, correlation):
    assert coverage(lambda random: np.exp(0.1 * autocorrelated(random, count, correlation)), 1.0) >= 0.9


@pytest.mark.parametrize(("count", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (30, 10), (100, 40)])
def test_ranks_of_the_ends_are_those_of_the_tables(count, rank):
    # Alternation keeps the sample free of spells.
    values = [float(v) for pair in zip(range(count // 2), range(count, 0, -1), strict=False) for v in pair]
    values += [count / 2] * (count - len(values))
    assert clustering(values) == 1
    assert median_interval(values) == (sorted(values)[rank - 1], sorted(values)[-rank])


def test_no_interval_from_fewer_than_six_or_from_a_trend():
    assert median_interval([1.0, 2.0, 1.0, 2.0, 1.0]) is None
    assert median_interval([]) is None
    assert median_interval([float(i) for i in range(20)]) is None
    assert clustering([float(i) for i in range(20)]) > 5
    assert clustering([1.0, 2.0] * 10) == clustering([1.0] * 20) == 1


def test_intervals_hold_the_median_of_the_sample():
    random = np.random.default_rng(1)
    for count in range(6, 60):
        values = autocorrelated(random, count, 0.4)
        interval = median_interval(values)
        assert interval is None or interval.low <= np.median(values) <= interval.high
    assert median_interval([3.0] * 10) == (3.0, 3.0)
    assert median_interval([3.0] * 9 + [4.0]) == (3.0, 3.0)  # a clock with coarse ticks
    assert Interval(9.0, 11.0).width(10.0) == pytest.approx(0.2)


def test_p99_takes_a_hundred_calls():
    assert p99([1.0] * 99) is None
    assert p99([float(i) for i in range(101)]) == 99


def test_thinning_keeps_the_ends_and_the_order():
    values = [float(i) for i in range(1001)]
    kept = thinned(values, 400)
    assert (len(kept), kept[0], kept[-1]) == (400, 0, 1000)
    assert kept == sorted(kept)
    assert thinned(values, 2000) == values


# Turns, on a machine whose clock and noise are made up.


class Machine:
    """A clock that computing moves on. `pace(now, random)` is the factor by which it is slow at that time."""

    def __init__(self, pace=lambda now, random: 1.0, seed=0):
        self.now, self.pace, self.random = 0.0, pace, np.random.default_rng(seed)

    def files(self, **seconds):
        """Processes of files whose calls take so many seconds each; in order, the first is the reference."""
        return {name: File(self, value) for name, value in seconds.items()}


class File:
    """Stands for a RunnerProcess."""

    def __init__(self, machine, seconds, batch=1, cold=0, dies_after=10**9):
        self.machine, self.seconds, self.batch = machine, seconds, batch
        self.cold, self.dies_after, self.calls = cold, dies_after, 0

    def time(self, count, image):
        found = []
        for _ in range(count):
            self.calls += 1
            if self.calls > self.dies_after:
                raise RunnerError("It died.")
            slow = 3.0 if self.calls <= self.cold else 1.0
            found.append(self.seconds * slow * self.machine.pace(self.machine.now, self.machine.random))
            self.machine.now += found[-1]
        return found


class Spells:
    """Noise of a busy machine: a slowness that lasts about `seconds`, and some that each call has of its own."""

    def __init__(self, seconds, strength, own):
        self.seconds, self.strength, self.own, self.state, self.at = seconds, strength, own, None, 0.0

    def __call__(self, now, random):
        if self.state is None:
            self.state = random.normal()
        kept = math.exp(-(now - self.at) / self.seconds)
        self.state = kept * self.state + math.sqrt(1 - kept**2) * random.normal()
        self.at = now
        return math.exp(self.strength * self.state + self.own * random.normal())


@pytest.fixture
def timed(monkeypatch):
    """`measure` of simulated files, without looking at the real machine."""

    class NoWatch:
        def noise(self, unrest, reference):
            return replace(QUIET, unrest=unrest, drift=noise.drift(reference))

    def run(machine, files, plan="together", **options):
        monkeypatch.setattr(latency, "Watch", NoWatch)
        monkeypatch.setattr(latency, "plan_of", lambda *subjects: plan)
        monkeypatch.setattr(timing, "clock", lambda: machine.now)
        base, *others = (Subject(name, "onnx", 1) for name in files)
        return measure(base, others, np.zeros((2, 2, 3), np.float32), opened=files, **options)

    return run


def jitter(now, random):
    return math.exp(0.01 * random.normal())


def test_a_quiet_machine_is_done_early(timed):
    machine = Machine(jitter)
    found = timed(machine, machine.files(a=0.02, b=0.01, c=0.005), patience=None)
    assert [known.ended_by for known in (found.reference, *found.files.values())] == ["interval"] * 3
    assert timing.MIN_ROUNDS <= found.reference.rounds < 30
    assert machine.now < 3 * 6  # a third of the time limit
    for known, truth in ((found.reference, 20), (found.files["b"], 10), (found.files["c"], 5)):
        assert known.settled
        assert known.runs >= timing.RUNS
        assert known.low_ms <= known.median_ms <= known.high_ms
        assert known.median_ms == pytest.approx(truth, rel=0.02)
    assert found.files["c"].speedup_low <= found.files["c"].speedup <= found.files["c"].speedup_high
    assert found.files["c"].speedup == pytest.approx(4, rel=0.03)
    assert found.reference.speedup == found.reference.speedup_low == 1
    assert warnings_of(found) == ()


@pytest.mark.parametrize(("patience", "each"), [(3.0, 3.0), (None, 8.0)])
def test_time_ends_the_wait_for_a_narrow_interval(timed, patience, each):
    machine = Machine(lambda now, random: random.uniform(0.5, 2.0))
    found = timed(machine, machine.files(a=0.05, b=0.05), time_limit=8.0, patience=patience)
    assert found.reference.ended_by == found.files["b"].ended_by == "time"
    assert not found.reference.settled
    warm_up, turn = timing.WARM_UP_SECONDS + 0.4, 1.0
    assert 2 * each <= machine.now <= 2 * (each + warm_up + turn)
    assert "The time for measuring ended before the medians were known to 5 %" in warnings_of(found)[0]


def test_slow_calls_still_get_rounds_enough_for_an_interval(timed):
    machine = Machine(jitter)
    found = timed(machine, machine.files(a=30.0, b=20.0))
    assert found.reference.rounds == found.reference.runs == timing.MIN_ROUNDS
    assert found.reference.interval is not None
    assert found.files["b"].speedup == pytest.approx(1.5, rel=0.05)


def test_calls_that_were_asked_for_end_the_rounds(timed):
    machine = Machine(lambda now, random: random.uniform(0.5, 2.0))
    found = timed(machine, machine.files(a=0.3, b=0.3), runs=5)
    known = found.files["b"]
    assert (known.ended_by, known.runs, known.rounds) == ("runs", 5, 5)
    assert known.interval is known.speedup_interval is known.p99_ms is None
    assert not known.settled
    machine = Machine(lambda now, random: random.uniform(0.5, 2.0))
    found = timed(machine, machine.files(a=1e-5, b=1e-5))  # short calls are not repeated for seconds
    assert (found.reference.ended_by, found.reference.runs) == ("runs", timing.MAX_RUNS)
    assert found.reference.p99_ms >= found.reference.p90_ms >= found.reference.median_ms


def test_warm_up_lasts_until_turns_agree_or_time_is_up(timed):
    machine = Machine()
    files = {"a": File(machine, 0.01), "b": File(machine, 0.01, cold=3)}
    found = timed(machine, files)
    assert max(found.files["b"].samples_ms) == 10.0
    machine = Machine(lambda now, random: random.uniform(0.1, 10))
    assert timing._warm_up(File(machine, 0.05), None) > 0  # ends, though no two turns agree
    machine = Machine()
    slow = File(machine, 5.0)
    timed(machine, {"a": slow}, runs=1)
    assert slow.calls == 2  # one of them warms up


def test_the_speedup_is_known_on_a_machine_that_slows_down(timed):
    machine = Machine(lambda now, random: (1 + now / 8) * jitter(now, random))
    found = timed(machine, machine.files(a=0.02, b=0.01))
    known = found.files["b"]
    assert not known.settled
    assert 2 in known.speedup_interval
    assert known.speedup_interval.width(2) < 0.1
    assert found.noise.drift > 1.5
    assert ranks(found) == {"b": Rank(1, 1), "a": Rank(2, 2)}
    assert any("a took " in text and "times as long at the end as at the beginning" in text
               for text in warnings_of(found))  # fmt: skip


def test_intervals_hold_the_truth_on_a_busy_machine(timed):
    """Stopping as soon as the interval is narrow is part of what is simulated."""
    held, sped, ends = [], [], []
    for seed in range(60):
        machine = Machine(Spells(0.3, 0.03, 0.02), seed)
        found = timed(machine, machine.files(a=0.03, b=0.02))
        base, known = found.reference, found.files["b"]
        held += [30 in base.interval if base.interval else True, 20 in known.interval if known.interval else True]
        sped.append(known.speedup_interval is None or 1.5 in known.speedup_interval)
        ends.append(base.ended_by)
    assert np.mean(held) >= 0.9
    assert np.mean(sped) >= 0.9
    assert ends.count("interval") > 20


def test_speed_is_per_image(timed):
    machine = Machine(jitter)
    found = timed(machine, {"a": File(machine, 0.08, batch=4), "b": File(machine, 0.01)})
    known = found.files["b"]
    assert (known.batch, known.reference_batch) == (1, 4)
    assert known.speedup == pytest.approx(2, rel=0.02)
    assert found.turns["a"][0] == pytest.approx(0.02, rel=0.05)
    assert ranks(found) == {"a": Rank(2, 2), "b": Rank(1, 1)}


def test_a_file_that_dies_does_not_cost_the_others(timed):
    machine = Machine(jitter)
    files = {"a": File(machine, 0.02), "b": File(machine, 0.02, dies_after=60), "c": File(machine, 0.01)}
    found = timed(machine, files)
    assert str(found.files["b"]) == "It died."
    assert found.files["c"].settled
    assert set(ranks(found)) == {"a", "c"}
    machine = Machine(jitter)
    with pytest.raises(RunnerError, match="It died"):
        timed(machine, {"a": File(machine, 0.02, dies_after=60), "b": File(machine, 0.02)})


@pytest.mark.parametrize("plan", ["pairs", "blocks"])
def test_files_that_never_meet_are_compared_through_the_reference(timed, plan):
    machine = Machine(jitter)
    found = timed(machine, machine.files(a=0.03, b=0.02, c=0.01), plan)
    assert found.turns == {}
    known = found.files["c"]
    assert known.interleaved == (plan == "pairs")
    assert 3 in known.speedup_interval
    assert 2 in time_ratio(found, "b", "c")
    assert 0.5 in time_ratio(found, "c", "b")
    assert 3 in time_ratio(found, "a", "c")
    assert 1 / 3 in time_ratio(found, "c", "a")
    assert ranks(found) == {"c": Rank(1, 1), "b": Rank(2, 2), "a": Rank(3, 3)}
    assert any("alternating blocks" in text for text in warnings_of(found)) == (plan == "blocks")


def test_a_latency_is_json(timed):
    machine = Machine(jitter)
    known = timed(machine, machine.files(a=0.005, b=0.005)).files["b"]
    told = json.loads(json.dumps(known.to_dict(), allow_nan=False))
    assert told["settled"] is True
    assert told["ended_by"] == "interval"
    assert len(told["samples_ms"]) == min(known.runs, latency.SAMPLES)
    assert told["samples_ms"][0] == round(told["samples_ms"][0], 3)
    assert {"median_ms", "low_ms", "high_ms", "p90_ms", "p99_ms", "speedup_low", "speedup_high", "rounds"} <= set(told)


# Ranks and warnings, of made-up figures.


def made_up(turns, **changes):
    """A Measurement of files with these medians of turns in the same rounds; the first is the reference."""

    def known(path):
        own, base = np.array(turns[path]), np.array(next(iter(turns.values())))
        interval, ratio = median_interval(1e3 * own), median_interval(base / own)
        low, high = interval or (None, None)
        return Latency(
            median_ms=1e3 * float(np.median(own)),
            low_ms=low,
            high_ms=high,
            p90_ms=1e3 * float(np.percentile(own, 90)),
            runs=len(own),
            rounds=len(own),
            ended_by="time",
            reference_median_ms=1e3 * float(np.median(base)),
            speedup=float(np.median(base / own)),
            speedup_low=ratio and ratio.low,
            speedup_high=ratio and ratio.high,
        )

    base, *others = turns
    files = {path: known(path) for path in others}
    options = {"path": base, "noise": QUIET, "turns": turns, **changes}
    return Measurement("together", known(base), files, **options)


def rounds(seconds, spread, seed, count=20):
    return list(seconds * (1 + spread * np.random.default_rng(seed).uniform(-1, 1, count)))


def test_a_clear_order():
    found = made_up({"slow": rounds(3, 0.1, 0), "quick": rounds(1, 0.1, 1), "middle": rounds(2, 0.1, 2)})
    assert {path: str(rank) for path, rank in ranks(found).items()} == {"quick": "1", "middle": "2", "slow": "3"}


def test_files_that_cannot_be_told_apart_share_their_ranks():
    even, other = [1.0, 1.1] * 10, [1.1, 1.0] * 10
    found = made_up({"slow": rounds(3, 0.1, 0), "one": even, "other": other, "quick": rounds(0.5, 0.1, 3)})
    assert {path: str(rank) for path, rank in ranks(found).items()} == {
        "quick": "1",
        "one": "2-3",
        "other": "2-3",
        "slow": "4",
    }
    assert "too noisy to say which is faster: one and other." in " ".join(warnings_of(found))


def test_ties_need_not_be_transitive():
    # The middle one is level with both its neighbours, which differ from each other.
    low = [1.0, 1.02] * 10
    middle = [1.01, 1.0, 1.01, 1.04, 1.015, 1.01, 1.02, 1.045, 1.0, 1.03] * 2
    high = [1.03, 1.025] * 10
    found = made_up({"low": low, "middle": middle, "high": high})
    assert time_ratio(found, "low", "high").high < 1
    assert 1 in time_ratio(found, "low", "middle")
    assert 1 in time_ratio(found, "middle", "high")
    assert {path: str(rank) for path, rank in ranks(found).items()} == {"low": "1-2", "middle": "1-3", "high": "2-3"}


def test_a_shared_disturbance_does_not_cost_the_order():
    pace = np.array([1, 1, 2, 1, 3, 1, 2, 2, 1, 1, 2, 1])
    found = made_up({"a": list(1.1 * pace), "b": list(1.0 * pace)})
    assert {path: str(rank) for path, rank in ranks(found).items()} == {"b": "1", "a": "2"}
    assert not found.files["b"].settled


def test_nothing_can_be_ranked():
    found = made_up({name: rounds(1, 0.8, seed) for seed, name in enumerate("abc")})
    assert {str(rank) for rank in ranks(found).values()} == {"1-3"}
    assert any("The machine is too noisy to rank these files" in text for text in warnings_of(found))


def test_files_known_to_be_equally_fast_are_no_matter_of_noise():
    even, other = [1.0, 1.01] * 10, [1.01, 1.0] * 10
    found = made_up({"one": even, "other": other})
    assert {str(rank) for rank in ranks(found).values()} == {"1-2"}
    assert warnings_of(found) == ()


def test_a_file_that_failed_has_no_rank():
    found = made_up({"a": rounds(2, 0.01, 0), "b": rounds(1, 0.01, 1)})
    found = replace(found, files={**found.files, "c": RunnerError("It died.")})
    assert {path: str(rank) for path, rank in ranks(found).items()} == {"b": "1", "a": "2"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"unrest": 3.5}, "p90 is up to 3.5 times the median"),
        ({"drift": 0.5}, "a took 0.50 times as long at the end as at the beginning"),
        ({"others": 0.6}, "other programs used 60 % of the processors"),
        ({"steal": 0.25}, "other machines of the same host used 25 % of the processors"),
    ],
)
def test_other_work_is_warned_about(changes, text):
    turns = {"a": rounds(2, 0.01, 0), "b": rounds(1, 0.01, 1)}
    assert warnings_of(made_up(turns)) == ()
    (warning,) = warnings_of(made_up(turns, noise=replace(QUIET, **changes)))
    assert warning == f"The machine did other work while latency was measured: {text}."
    silent = Noise(unrest=1.0, drift=None, others=None, steal=None, load=None, governor=None)
    assert warnings_of(made_up(turns, noise=silent)) == ()


def test_more_threads_than_cores_are_warned_about(monkeypatch):
    monkeypatch.setattr(ranking, "usable_cores", lambda: 2)
    found = made_up({"a": rounds(2, 0.01, 0), "b": rounds(1, 0.01, 1)})
    (warning,) = warnings_of(replace(found, reference=replace(found.reference, threads=4)))
    assert warning == "Latency was measured on 4 threads, but only 2 cores may be used."


def test_what_is_not_known_is_named_worst_first():
    turns = {"quiet": rounds(1, 0.001, 0), "wide": rounds(9, 0.4, 1), "trend": [float(i) for i in range(1, 21)]}
    warning = next(text for text in warnings_of(made_up(turns)) if "known to 5 %" in text)
    assert "5 %: trend not at all, wide to " in warning
    assert "quiet" not in warning


# The real machine.


def test_shares_of_processor_time():
    before, after = (100.0, 50.0, 1.0, 10.0), (200.0, 110.0, 3.0, 40.0)
    others, _ = noise._shares(before, after)
    assert others == pytest.approx(0.3)
    assert noise._shares(before, before) == (None, None)
    assert noise._shares((0, 0, 0, 0), (10, 5, 0, 6))[0] == 0  # clocks that do not agree


def test_this_machine_is_watched(tmp_path, monkeypatch):
    (tmp_path / "governor").write_text("powersave\n")
    monkeypatch.setattr(noise, "_GOVERNOR", tmp_path / "governor")
    watch = noise.Watch()
    sum(range(2_000_000))
    found = watch.noise(1.2, [1.0, 1.0, 1.0, 1.0, 2.0, 2.0])
    assert (found.unrest, found.drift, found.governor) == (1.2, 2.0, "powersave")
    for share in (found.others, found.steal):
        assert share is None or 0 <= share <= 1
    json.dumps(found.to_dict(), allow_nan=False)
    monkeypatch.setattr(noise, "_GOVERNOR", tmp_path / "none")
    assert noise.Watch().noise(1.0, [1.0] * 5).governor is None
    assert noise.drift([1.0] * 5) is None
