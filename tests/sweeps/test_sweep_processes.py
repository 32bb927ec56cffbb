"""Processes that make cells: what they answer, how one that dies is told, and that they end with who started them."""

import json
import subprocess
import sys

import pytest

from vit_export.base.python import python_command, python_environment
from vit_export.sweeps.local import run_locally

COMMAND = "vit_export.base.python.python_command"
ANSWERS = "import sys; sys.stdin.readline(); {}"


def events(monkeypatch, code, jobs=3, workers=2):
    monkeypatch.setattr(
        "vit_export.base.python.python_command", lambda *words: [sys.executable, "-c", ANSWERS.format(code)]
    )
    return list(run_locally({f"cell-{n}": ({}, None) for n in range(jobs)}, workers))


def test_each_cell_is_begun_and_ends_once(monkeypatch):
    found = events(monkeypatch, f"print({json.dumps(json.dumps({'status': 'refused', 'reason': 'So.'}))})")
    assert sorted(id for id, outcome in found if outcome is None) == ["cell-0", "cell-1", "cell-2"]
    assert [outcome["reason"] for _, outcome in found if outcome is not None] == ["So."] * 3


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.kill(os.getpid(), 9)", "The process that made it was killed (signal 9), as the system does"),
        ("print('half of an ans', end=''); sys.exit(3)", "The process that made it ended with 3."),
    ],
)
def test_a_process_that_dies_is_a_cell_that_failed(code, told, monkeypatch):
    (_, outcome) = events(monkeypatch, code, jobs=1)[-1]
    assert outcome["status"] == "failed"
    assert outcome["reason"].startswith(told)


def test_whoever_stops_listening_ends_the_processes(monkeypatch):
    monkeypatch.setattr(
        "vit_export.base.python.python_command", lambda *words: [sys.executable, "-c", "import time; time.sleep(600)"]
    )
    running = run_locally({"cell": ({}, None)}, 1)
    assert next(running) == ("cell", None)
    running.close()  # returns only when they have ended


@pytest.mark.thorough
def test_a_worker_ends_with_who_started_it():
    command = python_command("-c", "from vit_export.sweeps import cell, worker; import time; "
                             "cell.done = lambda job, folder: time.sleep(600); worker.main()")  # fmt: skip
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=python_environment())
    print(json.dumps([{}, "folder"]), file=worker.stdin, flush=True)
    worker.stdin.close()  # as when the other end is killed
    assert worker.wait(60) == 1
