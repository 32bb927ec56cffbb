"""Files that change places: all of them or none, also where signals, a failing disk or a kill come in between."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vit_export.base.errors import OutputError
from vit_export.base.files import move_into, publish, publish_folder
from vit_export.base.moving import exchange, recover
from vit_export.base.scratch import OWNER, abandoned, owned_folder

posix = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")
OLD = {"a": "old a", "b/x": "old b", "gone": "old gone"}
NEW = {"a": "new a", "b/x": "new b", "c": "new c"}
RENAMES = 6


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def hidden(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


@pytest.fixture
def out(tmp_path):
    """A folder with old files, and beside it new ones that are to take their places."""
    write(tmp_path / "out", OLD)
    write(tmp_path / "stage", NEW)
    return tmp_path / "out"


def move(out):
    move_into(out, [out.parent / "stage" / name for name in ("a", "b", "c")], overwrite=True, gone=["gone"])


def at_rename(monkeypatch, act):
    """Call `act` with the number of each rename that is done, from 1 on."""
    real, count = os.rename, iter(range(1, 99))

    def rename(source, target):
        real(source, target)
        act(next(count))

    monkeypatch.setattr(os, "rename", rename)


def interrupt(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def test_all_is_moved(out):
    move(out)
    assert tree(out) == NEW


@posix
@pytest.mark.parametrize("again", [0, 1, 2])
@pytest.mark.parametrize("rename", range(1, RENAMES + 1))
def test_ctrl_c_inside_a_rename_waits_until_all_is_moved(out, monkeypatch, rename, again):
    at_rename(monkeypatch, lambda number: interrupt() if number in (rename, rename + again) else None)
    with pytest.raises(KeyboardInterrupt):
        move(out)
    assert tree(out) == NEW


@pytest.mark.parametrize("rename", range(1, RENAMES + 1))
def test_what_is_raised_right_after_a_rename_finds_it_undone(out, monkeypatch, rename):
    """As a handler does that was set meanwhile, or a debugger."""

    def act(number):
        if number == rename:
            raise SystemExit(143)

    at_rename(monkeypatch, act)
    with pytest.raises(SystemExit):
        move(out)
    assert tree(out) == OLD


@posix
@pytest.mark.parametrize("failing", range(1, RENAMES + 1))
def test_ctrl_c_while_a_failed_move_is_undone(out, monkeypatch, failing):
    real, count = os.rename, iter(range(1, 99))

    def rename(source, target):
        number = next(count)
        if number == failing:
            raise OSError(5, "Input/output error")
        real(source, target)
        if number > failing:
            interrupt()

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises((KeyboardInterrupt, OutputError)):
        move(out)
    assert tree(out) == OLD


def test_a_rename_that_fails_once_while_all_is_undone(out, monkeypatch):
    real, count = os.rename, iter(range(1, 99))

    def rename(source, target):
        if next(count) in (4, 5):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError, match=r"[Ii]nput/output error"):
        move(out)
    assert tree(out) == OLD


def test_what_cannot_be_brought_back_is_kept_and_named(out, monkeypatch):
    real = os.rename

    def rename(source, target):
        if Path(source).parent.name == "stage" or Path(target) == out / "a":
            raise OSError(5, "Input/output error")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(
            OutputError, match=r"input/output error.*could not all be brought back: a is kept in "
        ) as said:
            move(out)
        (scratch,) = out.glob(".previous-*")
        assert str(scratch / "old") in str(said.value)
        assert (scratch / "old" / "a").read_text() == "old a"
    assert recover(out) == ["Brought back what a command that was killed had moved away: a."]
    assert tree(out) == OLD


def test_a_link_is_moved_and_not_what_it_leads_to(out, tmp_path):
    (out / "a").unlink()
    (out / "a").symlink_to(tmp_path / "nowhere")
    (tmp_path / "mine").mkdir()
    (out / "gone").unlink()
    (out / "gone").symlink_to(tmp_path / "mine")
    move(out)
    assert tree(out) == NEW
    assert (tmp_path / "mine").is_dir()


@posix
@pytest.mark.parametrize("rename", [1, 2])
def test_a_folder_is_published_whatever_comes_in_between(tmp_path, monkeypatch, rename):
    write(tmp_path / "model", {"x": "old"})
    at_rename(monkeypatch, lambda number: interrupt() if number == rename else None)
    with pytest.raises(KeyboardInterrupt):
        publish_folder(tmp_path / "model", lambda folder: write(folder, {"x": "new"}), overwrite=True)
    assert tree(tmp_path) == {"model/x": "new"}


# Killed


KILLED = """
import os, sys
from pathlib import Path
from vit_export.base.moving import exchange
out, moment, count = Path(sys.argv[1]), int(sys.argv[2]), 0
real, unlink = os.rename, os.unlink
def rename(source, target):
    global count
    real(source, target)
    count += 1
    if count == moment:
        os.kill(os.getpid(), 9)
os.rename = rename
exchange(out, [out.parent / "stage" / name for name in ("a", "b", "c")], ["gone"])
"""


def killed(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


@posix
@pytest.mark.parametrize("rename", range(1, RENAMES + 1))
def test_a_killed_move_is_undone_by_the_next_command(out, rename):
    killed(KILLED, out, rename)
    assert hidden(out)
    (told,) = recover(out)
    assert told.startswith("Brought back what a command that was killed had moved away: ")
    assert "gone" in told
    assert tree(out) == OLD
    assert recover(out) == []


@posix
def test_what_somebody_put_in_its_place_stays(out):
    killed(KILLED, out, 3)  # gone, a and its successor have moved
    (out / "a").write_text("mine")
    (out / "a").touch()
    told = recover(out)
    assert tree(out)["a"] == "mine"
    assert tree(out)["gone"] == "old gone"
    (scratch,) = out.glob(".previous-*")
    assert (scratch / "old" / "a").read_text() == "old a"
    assert any("whose place is taken: a. Move it from there" in text for text in told)


LEFT = """
import os, sys
from pathlib import Path
from vit_export.base.scratch import owned_folder
with owned_folder(".partial-", Path(sys.argv[1])) as folder:
    (folder / "half").write_text("half")
    os.kill(os.getpid(), 9)
"""


@posix
def test_what_a_kill_leaves_is_cleared_by_the_next_command(tmp_path):
    killed(LEFT, tmp_path)
    (left,) = tmp_path.iterdir()
    assert {p.name for p in left.iterdir()} == {OWNER, "half"}
    with publish(tmp_path / "file") as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_a_folder_whose_owner_lives_stays(tmp_path):
    with owned_folder(".partial-", tmp_path) as folder:
        (folder / "half").write_text("half")
        assert recover(tmp_path) == []
        with owned_folder(".partial-", tmp_path):
            pass
        code = "import sys, pathlib; from vit_export.base.moving import recover; recover(pathlib.Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, tmp_path], check=True, timeout=60)
        assert (folder / "half").read_text() == "half"
    assert os.listdir(tmp_path) == []


def test_folders_of_others_stay(tmp_path):
    write(
        tmp_path, {".partial-abc/mine": "1", ".git/config": "2", "vit-export-mine/x": "3", ".previous-abc/old/x": "4"}
    )
    before = tree(tmp_path)
    assert recover(tmp_path) == []
    assert tree(tmp_path) == before


def test_without_locks_nothing_is_cleared_and_nothing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr("vit_export.base.scratch.take", lambda descriptor: None)
    with owned_folder(".partial-", tmp_path) as folder:
        assert list(abandoned(tmp_path)) == []
        assert folder.is_dir()
    assert os.listdir(tmp_path) == []


@posix
@pytest.mark.parametrize("journal", ["{", "[]", '{"../outside": [1, 2]}', '{"": [1, 2], "..": null}', "1" * 5000])
def test_a_journal_that_says_nothing_good(tmp_path, journal):
    """Old files that nobody can place stay; nothing outside of the folder moves."""
    out = tmp_path / "out"
    write(out, {f".previous-x/{OWNER}": "", ".previous-x/moves.json": journal, ".previous-x/old/a": "old"})
    write(tmp_path, {"outside": "mine"})
    (told,) = recover(out)
    assert "keeps what a command that was killed had moved away" in told
    assert tree(tmp_path)["outside"] == "mine"
    assert (out / ".previous-x" / "old" / "a").read_text() == "old"


@posix
def test_a_journal_brings_nothing_in_through_a_link(tmp_path):
    out = tmp_path / "out"
    write(tmp_path, {"keys/secret": "mine"})
    write(out, {f".previous-x/{OWNER}": "", ".previous-x/moves.json": '{"secret": null}'})
    (out / ".previous-x" / "old").symlink_to(tmp_path / "keys")
    recover(out)
    assert tree(tmp_path) == {"keys/secret": "mine"}


def test_nothing_is_moved_where_the_journal_cannot_be_written(out, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            exchange(out, [out.parent / "stage" / "a"])
    assert tree(out) == OLD
