"""Every fault of the catalogue is caught and named, and good files of every kind pass whatever the weights are."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pytest
from conftest import InProcess
from helpers.faults import FAULTS
from helpers.faults_bench import BENCHES, LABELS, Bench, toy_bench
from helpers.faults_table import SPEC, Fault

from vit_export.model.saved_model import describe_saved_model
from vit_export.runtimes.places import GPU, PLACES
from vit_export.runtimes.runner import open_runner
from vit_export.verification import processes, verifier
from vit_export.verification.layers import follow

pytestmark = pytest.mark.thorough

NO_GPU = GPU.available()

GOOD = (
    ("onnx float32", {}),
    ("onnx float16", {}),
    ("onnx int8 dynamic", {}),
    ("onnx float32", {"input": "0..255"}),
    ("onnx int8 qdq", {}),
    ("onnx int8 symmetric", {}),
    ("onnx int8 w8a16", {}),
    ("onnx float32", {"batch": 4}),
    ("onnx int8 dynamic", {"batch": 4}),
    ("onnx float32", {"batch": None, "layout": "NCHW"}),
    ("onnx float16", {"batch": None, "layout": "NCHW"}),
    ("onnx int8 dynamic", {"batch": None, "layout": "NCHW"}),
    ("onnx int8 qdq", {"batch": None, "layout": "NCHW"}),
    ("onnx float32", {"layout": "NCHW", "input": "uint8"}),
    ("onnx float32", {"input": "uint8"}),
    ("tflite float32", {}),
    ("tflite float16", {}),
    ("tflite float32", {"input": "0..1"}),
    ("tflite int8 dynamic", {}),
    ("tflite int8 static", {}),
    ("tflite int8 full", {}),
    ("tflite int8 w8a16", {}),
    ("tflite float32", {"batch": 4}),
)
"""Kinds of good files and their options; the SavedModel itself, whose batch is open, is verified too."""

GOOD_FEATURES = (("onnx float32", {}), ("tflite float32", {}), ("tflite int8 dynamic", {}))
"""Those of a model without classifier."""

MORE_GOOD = (
    ("tflite int8 static", {"tuned": True}),
    ("tflite int8 full", {"tuned": True}),
    ("tflite int8 w8a16", {"tuned": True}),
    ("onnx int8 w8a16", {"tuned": True}),
    ("onnx int8 w8a16", {"batch": None, "layout": "NCHW"}),
    ("onnx int8 symmetric", {"batch": None, "layout": "NCHW"}),
    ("tflite int8 static", {"input": "uint8"}),
    ("onnx float32", {"opset": 13}),
)
"""What takes a second or two each, such as the tuning of every export."""

FAST_SEEDS, SLOW_SEEDS = range(3), range(3, 20)


@dataclass
class Tally:
    """What the tests of this file have seen."""

    injected: set[str] = field(default_factory=set)
    caught: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    passed: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))
    seeds: set[int] = field(default_factory=set)

    def line(self) -> str:
        good = sum(all(results) for results in self.passed.values())
        return (
            f"faults caught {len(self.caught)} / injected {len(self.injected)}, named {len(self.named)}; "
            f"good files passed {good} / {len(self.passed)} over {len(self.seeds)} seeds"
        )


@pytest.fixture(scope="module")
def tally(request):
    """Counts what passes; says it at the end of the module."""
    count = Tally()
    yield count
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    if count.injected or count.passed:
        with capture.global_and_fixture_disabled():
            print(f"\n{count.line()}")


@pytest.fixture(scope="module")
def verified(tmp_path_factory, request):
    """The FileResult of a fault and all warnings; what is of one reference is verified together, if it is asked for."""
    benches: dict[str, Bench] = {}
    found = {}
    given = (_parameters(item).get("fault") for item in request.session.items)  # other files have faults of their own
    asked = {fault.name for fault in given if isinstance(fault, Fault)}

    def file_of(fault: Fault):
        if fault.name not in found:
            if fault.bench in benches:
                raise RuntimeError("Verifying the faults of this reference ended in the error that another test shows.")
            bench = benches[fault.bench] = BENCHES[fault.bench](tmp_path_factory.mktemp(fault.bench))
            wanted = [other for other in FAULTS if other.bench == fault.bench and other.name in asked]
            for located, place in {(bool(other.departs), other.place): None for other in wanted}:
                some = [other for other in wanted if (bool(other.departs), other.place) == (located, place)]
                files = [other.make(bench, _path(bench, other)) for other in some]
                result = _verify(bench, files, locate=located, place=place)
                assert result.reference.passed
                for other, file in zip(some, result.files, strict=True):
                    found[other.name] = file, result.warnings
        return found[fault.name]

    return file_of


def _parameters(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def _path(bench, fault):
    suffix = "tflite" if "tflite" in fault.name else "onnx"
    return bench.folder / f"{re.sub(r'[^a-z0-9]+', '_', fault.name.lower())}.{suffix}"


def _verify(bench, files, *, locate=False, place="cpu"):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "RunnerProcess", InProcess)
        # Layers are compared on one image and with one reference in memory: else a file takes seconds.
        patch.setattr(follow, "IMAGES", 1)
        patch.setattr(follow, "ReferenceStream", lru_cache(maxsize=1)(follow.ReferenceStream))
        patch.setattr(follow, "open_runner", _opener())
        places = (PLACES[place],)
        options = verifier.VerifyOptions(trained=bench.trained, latency=False, locate=locate, places=places)
        return verifier.verify(bench.reference, files, bench.pictures, options)


def _opener():
    """`open_runner` that opens a reference once."""
    once = lru_cache(maxsize=1)(open_runner)
    return lambda path, format, *more: (once if format == "saved_model" else open_runner)(path, format, *more)


def _case(fault: Fault):
    marks = [pytest.mark.slow] if fault.slow or fault.place != "cpu" else []
    if fault.place != "cpu":
        marks.append(pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU)))
    if fault.missed:
        marks.append(pytest.mark.xfail(reason=fault.missed, raises=AssertionError, strict=True))
    return pytest.param(fault, id=fault.name, marks=marks)


@pytest.mark.parametrize("fault", [*map(_case, FAULTS)])
def test_a_fault_is_caught_and_named(fault, verified, tally):
    tally.injected.add(fault.name)
    file, warnings = verified(fault)
    failed = {check.name for check in file.checks if not check.passed}
    warned = fault.warns is not None and any(re.search(fault.warns, sentence) for sentence in warnings)
    caught = fault.fails <= failed and (not file.passed if fault.warns is None else warned)
    if caught:
        tally.caught.add(fault.name)
    assert caught, (sorted(failed), file.failures, warnings)
    # Where weights are wrong the constants are, whatever else shows it.
    assert failed <= fault.fails | fault.may | {"constants", "attributes"}, file.failures
    causes = tuple(cause.name for cause in file.causes)
    if fault.cause is not None:
        assert causes == (fault.cause,)
    else:
        assert causes == ()
    if fault.departs is not None:
        assert file.location is not None
        assert file.location.departs == fault.departs, file.location.detail
    if fault.says is not None:
        assert any(re.search(fault.says, sentence) for sentence in file.failures), file.failures
    tally.named.add(fault.name)


def _good_results(seeds, folder, more=()):
    """FileResults of every kind of good file by seed; one kind after another, so that its structure is made once."""
    benches = {}
    for features, kinds in ((False, (*GOOD, *more)), (True, GOOD_FEATURES)):
        spec = SPEC.with_(num_layers=2, num_classes=None if features else SPEC.num_classes)
        for seed in seeds:
            own = folder / f"{seed}_{features}"
            own.mkdir()
            benches[seed, features] = toy_bench(own, spec, seed=seed, labels=None if features else LABELS)
        for kind, options in kinds:
            for seed in seeds:
                benches[seed, features].good(kind, **options)
    results = defaultdict(dict)
    for (seed, features), bench in benches.items():
        files = bench.files()
        files["saved_model"] = describe_saved_model(bench.reference)
        result = _verify(bench, list(files.values()))
        assert result.reference.passed
        assert not any("untrained" not in warning for warning in result.warnings), result.warnings
        for name, file in zip(files, result.files, strict=True):
            results[seed][f"features, {name}" if features else name] = file
    return results


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return _good_results(FAST_SEEDS, tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def more_good(tmp_path_factory):
    return _good_results(SLOW_SEEDS, tmp_path_factory.mktemp("more_good"), MORE_GOOD)


def _judge(results, seed, tally):
    tally.seeds.add(seed)
    for name, file in results[seed].items():
        tally.passed[name].append(file.passed and not file.causes)
    alarms = {name: file.failures for name, file in results[seed].items() if not file.passed}
    assert alarms == {}
    assert {name: file.causes for name, file in results[seed].items() if file.causes} == {}
    assert len(results[seed]) >= len(GOOD) + len(GOOD_FEATURES) + 2


@pytest.mark.parametrize("seed", FAST_SEEDS)
def test_good_files_pass(seed, good, tally):
    _judge(good, seed, tally)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_good_files_pass_whatever_the_weights(seed, more_good, tally):
    _judge(more_good, seed, tally)


def test_the_seeds_make_different_models(good):
    """Else twenty seeds would be one."""
    files = [good[seed]["onnx float32"] for seed in FAST_SEEDS]
    assert len({file.comparison.range for file in files}) == len(files)
    assert all(np.isfinite(file.comparison.range) for file in files)
