"""Threads that share work: each piece is done once, and whoever waits hears of errors and signals."""

import threading

import pytest

from vit_export.base import interrupts
from vit_export.base.pool import pool


def test_every_piece_is_done_once_and_told():
    together = threading.Barrier(3, timeout=30)

    def serve(left, stop):
        for piece in left:
            if piece < 3:
                together.wait()  # three at a time, or never
            yield piece, "begun"
            yield piece, "done"

    with pool(range(50), 3, serve) as told:
        found = list(told)
    assert sorted(found) == sorted((piece, what) for piece in range(50) for what in ("begun", "done"))
    assert all(found.index((piece, "begun")) < found.index((piece, "done")) for piece in range(50))


def test_there_are_no_more_threads_than_pieces():
    before = threading.active_count()
    for work in ([], [1]):
        with pool(work, 8, lambda left, stop: left) as told:
            assert threading.active_count() <= before + len(work)
            assert list(told) == work


def test_what_a_thread_raises_reaches_who_waits_and_the_others_end():
    ended = threading.Event()

    def serve(left, stop):
        for piece in left:
            if piece == "bad":
                raise ValueError("a bad piece")
            stop.wait(30)
            ended.set()
            yield piece

    with pytest.raises(ValueError, match="a bad piece"), pool(["long", "bad", "never"], 2, serve) as told:
        list(told)
    assert ended.is_set()


def test_a_signal_that_was_heard_ends_the_wait_and_the_threads(monkeypatch):
    done = []

    def serve(left, stop):
        for piece in left:
            monkeypatch.setattr(interrupts, "_remembered", [2])
            stop.wait(30)
            done.append(piece)
            yield piece

    with pytest.raises(KeyboardInterrupt), pool(range(9), 1, serve) as told:
        list(told)
    assert done == [0]
