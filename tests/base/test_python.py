"""Children never run what lies in the current folder, and one place makes their command lines."""

import ast
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vit_export.base.errors import VitExportError
from vit_export.base.python import answer_of, python_command, python_environment, python_worker

ROOT = Path(__file__).parents[2]
HOME = ROOT / "vit_export" / "base" / "python.py"
STARTERS = {
    "sys": {"executable"},
    "os": {"system", "popen", "fork", "execv", "execve", "execvp", "execvpe", "spawnv", "posix_spawn", "startfile"},
}
"""What starts a Python in some way that `python_command` does not know of."""


def started(tree):
    """Every use of STARTERS, every import of a module that starts processes of its own, and every shell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in STARTERS.get(ast.unparse(node.value), ()):
            yield ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and node.module in STARTERS:
            yield from (f"{node.module}.{a.name}" for a in node.names if a.name in STARTERS[node.module])
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            names += [f"{names[0]}.{a.name}" for a in node.names] if isinstance(node, ast.ImportFrom) else []
            yield from (name for name in names if name.startswith(("multiprocessing", "concurrent.futures.process")))
        if isinstance(node, ast.keyword) and node.arg == "shell":
            yield "shell="


@pytest.mark.parametrize("folder", ["vit_export", "benchmarks"])
def test_one_place_makes_the_command_lines_of_python(folder):
    found = {
        str(file.relative_to(ROOT)): sorted(set(started(ast.parse(file.read_text(encoding="utf-8")))))
        for file in (ROOT / folder).rglob("*.py")
        if file != HOME
    }
    assert not {name: uses for name, uses in found.items() if uses}


def test_a_module_of_the_current_folder_is_not_imported(tmp_path):
    for name in ("json", "numpy", "vit_export"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the code in the current folder ran')")
    code = "import json, numpy, vit_export; print(vit_export.__file__)"
    done = subprocess.run(
        python_command("-c", code), cwd=tmp_path, env=python_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(ROOT / "vit_export" / "__init__.py")
    tool = python_command("-m", "json.tool", "--help")
    assert subprocess.run(tool, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_what_stands_for_the_current_folder_is_not_passed_on(monkeypatch):
    monkeypatch.setattr(sys, "path", ["", "/somewhere", ""])
    assert python_environment()["PYTHONPATH"].split(":") == [str(ROOT), "/somewhere"]


def test_a_python_that_does_not_know_itself_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(VitExportError, match="does not know its own executable"):
        python_command("-c", "pass")


def test_a_worker_answers_until_it_dies_or_is_to_end():
    code = "import json, sys; [print(json.dumps([json.loads(line)]), flush=True) for line in iter(input, '0')]"
    end = threading.Event()
    with python_worker("-c", code, until=end) as worker:
        assert answer_of(worker, {"a": 1}) == [{"a": 1}]
        assert answer_of(worker, 0) is None
        assert worker.wait() == 0
        assert answer_of(worker, "x" * 200_000) is None  # more than it will ever read
    with python_worker("-c", code, until=end) as worker:
        end.set()
        assert worker.wait(60) < 0
    with python_worker("-c", code, until=threading.Event()) as worker:
        pass
    assert worker.returncode < 0


def test_a_worker_that_cannot_be_started_is_one_sentence(monkeypatch):
    def refuse(*arguments, **how):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)
    said = r"^No process can be started as a worker \(resource .*\): close other"
    with pytest.raises(VitExportError, match=said), python_worker("-c", "pass", until=threading.Event()):
        pass
