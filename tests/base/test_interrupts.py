"""Signals that end a command are heard at every moment, and held back where files change places."""

import logging
import os
import signal
import subprocess
import sys
import threading

import pytest

from vit_export.base.interrupts import heard, heed, held
from vit_export.base.quiet import quiet
from vit_export.base.reporting import Silent

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HANDLERS = {number: signal.getsignal(number) for number in ENDING}


@pytest.fixture(autouse=True)
def handlers():
    yield
    assert {number: signal.getsignal(number) for number in ENDING} == HANDLERS
    heed()  # nothing is remembered


def send(number):
    os.kill(os.getpid(), number)


class Deaf:
    """Sends a signal from its destructor, where Python swallows whatever is raised."""

    def __init__(self, number):
        self.number = number

    def __del__(self):
        send(self.number)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_the_block(number):
    def command():
        with heard():
            send(number)
            raise AssertionError

    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as caught:
        command()
    if number != signal.SIGINT:
        assert caught.value.code == 128 + number


@pytest.mark.parametrize("number", ENDING)
@pytest.mark.parametrize("told", ["step", "progress", "end"])
def test_a_swallowed_signal_is_heard_with_the_next_step(number, told, capsys):
    done = []

    def command():
        with heard():
            Deaf(number)
            done.append("the signal is swallowed")
            if told == "step":
                Silent().step("next")
            elif told == "progress":
                Silent().progress(1, 2)
            done.append("the end")

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command()
    assert len(done) == (2 if told == "end" else 1)
    assert capsys.readouterr().err == ""


def test_a_signal_that_becomes_another_error_is_heard():
    def command():
        with heard():
            try:
                send(signal.SIGINT)
            except KeyboardInterrupt as error:
                raise RuntimeError("a callback failed") from error

    with pytest.raises(KeyboardInterrupt):
        command()


def test_a_note_is_told_on_the_way_out():
    told = []

    class Told(Silent):
        def note(self, text):
            told.append(text)

    def command():
        with heard():
            try:
                send(signal.SIGINT)
            except BaseException:
                Told().note("not verified")
                raise

    with pytest.raises(KeyboardInterrupt):
        command()
    assert told == ["not verified"]


def test_what_was_ignored_stays_ignored():
    """As SIGHUP is under nohup, and SIGINT of what a script starts with &."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heard():
            send(signal.SIGHUP)
            with held():
                send(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", ENDING)
def test_signals_wait_until_the_block_is_over(number):
    done = []

    def command():
        with heard():
            with held():
                for _ in range(3):
                    send(number)
                    with held():
                        send(number)
                    done.append("held")
            done.append("over")

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        command()
    assert done == ["held"] * 3


def test_without_a_command_ctrl_c_is_held_all_the_same():
    done = []

    def work():
        with held():
            send(signal.SIGINT)
            done.append("held")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["held"]


def test_other_errors_pass():
    with pytest.raises(ValueError, match="x"), heard(), held():
        raise ValueError("x")


def test_outside_the_main_thread_nothing_changes():
    found = []

    def work():
        with heard(), held():
            heed()
            found.append({number: signal.getsignal(number) for number in ENDING} == HANDLERS)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


QUIET = """
import os, sys
from vit_export.base.quiet import quiet
with quiet():
    os.write(2, b"chatter")
    raise {error}
"""


@pytest.mark.parametrize(
    ("error", "shown"), [("KeyboardInterrupt", False), ("SystemExit(3)", False), ("OSError", True)]
)
def test_chatter_is_shown_where_something_failed(error, shown):
    ended = subprocess.run([sys.executable, "-c", QUIET.format(error=error)], capture_output=True, check=False)
    assert ended.returncode
    assert (b"chatter" in ended.stderr) is shown


def test_chatter_of_loggers_is_dropped_in_the_block_alone(caplog):
    chatty = logging.getLogger("tensorflow")
    with caplog.at_level(logging.INFO, "tensorflow"):
        with quiet():
            chatty.info("Assets written")
            chatty.error("disk full")
        chatty.info("the program's own")
    assert [record.message for record in caplog.records] == ["disk full", "the program's own"]


WAITING = """
import click, sys, time
from vit_export.cli.main import main
@main.command("wait")
def wait():
    print("ready", flush=True)
    time.sleep(60)
main()
"""


@pytest.mark.parametrize("number", ENDING)
def test_exit_codes_of_a_command(number):
    with subprocess.Popen([sys.executable, "-c", WAITING, "wait"], stdout=-1, stderr=-1, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        said = child.communicate(timeout=30)[1]
    assert child.returncode == 128 + number
    assert said == ("Interrupted: what was not complete is removed.\n" if number == signal.SIGINT else "")
