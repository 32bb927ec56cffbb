"""When latencies are measured again: of a new file, on another machine, by other threads; and then all of them."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from vit_export.base.errors import InputError
from vit_export.base.reporting import Silent
from vit_export.sweeps import latency as module
from vit_export.sweeps.latency import latencies
from vit_export.sweeps.store import Store


@dataclass
class Row:
    path: str
    latency: object = None
    error: str | None = None


@pytest.fixture
def measured(monkeypatch):
    """The files of each measurement, whose times are their number in it; a file called `broken` cannot be run."""
    calls = []

    def bench(paths, *, threads, reporter):
        calls.append([path.parent.name for path in paths])
        rows = []
        for number, path in enumerate(paths, 1):
            time = SimpleNamespace(batch=2, median_ms=2.0 * number, low_ms=1.0 * number, high_ms=None)
            broken = path.parent.name == "broken"
            rows.append(Row(str(path), None if broken else time, "It cannot be run." if broken else None))
        return SimpleNamespace(files=rows)

    monkeypatch.setattr(module, "bench", bench)
    return calls


def outcomes(**digests):
    return {id: {"file": "x.onnx", "sha256": {"x.onnx": digest}} for id, digest in digests.items()}


def test_all_are_measured_where_one_is_new(measured, monkeypatch, tmp_path):
    store = Store(tmp_path)
    first = latencies(outcomes(a="1", b="2"), 1, store, Silent())
    assert first["b"] == {"ms": 2.0, "low_ms": 1.0, "high_ms": None}
    assert latencies(outcomes(a="1", b="2"), 1, store, Silent()) == first
    assert latencies(outcomes(b="2"), 1, store, Silent()) == {"b": first["b"]}
    assert measured == [["a", "b"]]
    latencies(outcomes(a="1", b="3"), 1, store, Silent())
    latencies(outcomes(a="1", b="3"), 2, store, Silent())
    monkeypatch.setattr(module, "identity_of_machine", lambda: {"model": "another"})
    latencies(outcomes(a="1", b="3"), 2, store, Silent())
    assert measured[1:] == [["a", "b"]] * 3


def test_what_cannot_be_timed_has_no_time_and_the_others_have(measured, monkeypatch, tmp_path):
    found = latencies(outcomes(a="1", broken="2"), 1, Store(tmp_path), Silent())
    assert [*found] == ["a"]

    def refuses(*arguments, **options):
        raise InputError("No.")

    monkeypatch.setattr(module, "bench", refuses)
    assert latencies(outcomes(a="4"), 1, Store(tmp_path), Silent()) == {}
