"""Threads that share work, and who waits for them: what they tell is heard at once, and so are signals."""

import queue
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from vit_export.base.interrupts import heed

Work = TypeVar("Work")
Told = TypeVar("Told")

_POLL = 0.2


@contextmanager
def pool(
    work: Collection[Work], workers: int, serve: Callable[[Iterator[Work], threading.Event], Iterator[Told]]
) -> Iterator[Iterator[Told]]:
    """Let up to `workers` threads do `work`; the block iterates over what they tell, as it comes, until all is done.

    Each thread goes through `serve(left, stop)`: `left` are the pieces of work that it gets, one by one, of those that
    no other has, and what it yields is told. What it raises is raised where the block iterates. When the block ends,
    however that may be, `stop` is set, `left` has no more, and the threads are waited for.
    """
    left: queue.SimpleQueue[Work] = queue.SimpleQueue()
    for piece in work:
        left.put(piece)
    told: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()  # (True, event), at last (False, error or None)
    stop = threading.Event()

    def pieces() -> Iterator[Work]:
        while not stop.is_set():
            try:
                piece = left.get_nowait()
            except queue.Empty:
                return
            yield piece

    def run() -> None:
        end = None
        try:
            for event in serve(pieces(), stop):
                told.put((True, event))
        except BaseException as error:  # whoever waits must hear of it
            end = error
        told.put((False, end))

    threads: list[threading.Thread] = []
    try:
        for _ in range(min(workers, len(work))):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            threads.append(thread)
        yield _heard(told, len(threads))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _heard(told: "queue.SimpleQueue[tuple[bool, Any]]", running: int) -> Iterator[Any]:
    """What is told, until so many threads have ended."""
    while running:
        try:
            is_event, what = told.get(timeout=_POLL)
        except queue.Empty:
            heed()
            continue
        if is_event:
            yield what
        elif what is not None:
            raise what
        else:
            running -= 1
