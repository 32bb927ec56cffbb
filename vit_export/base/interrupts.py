"""Signals that end a command: remembered until it ends, and held back while files change places."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_remembered: list[int] = []


@contextmanager
def heard() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt in the block, and SIGTERM and SIGHUP SystemExit with 128 + their number.

    Each is remembered for `heed`, which the end of the block calls too: code of other packages swallows the exception
    (Python itself does, in a destructor or a callback) or turns it into another one. Signals that this process was
    started to ignore, as under nohup, stay ignored. Outside the main thread nothing changes.
    """
    if not _in_main_thread():
        yield
        return
    before, unraisable = {}, sys.unraisablehook

    def quiet(told: Any) -> None:
        if not (_remembered and isinstance(told.exc_value, KeyboardInterrupt | SystemExit)):
            unraisable(told)

    try:
        sys.unraisablehook = quiet
        for number in _changeable():
            before[number] = signal.signal(number, _end)
        yield
    finally:
        try:
            heed()
        finally:
            _remembered.clear()
            sys.unraisablehook = unraisable
            for number, handler in before.items():
                signal.signal(number, handler)


def heed() -> None:
    """Raise again for a signal that has been heard: long work calls this with every step."""
    if _remembered and _in_main_thread():
        raise _exception(_remembered[0])


@contextmanager
def held() -> Iterator[None]:
    """Hold back in the block the signals that would end it half-way; they are delivered when it is over.

    Outside the main thread, which no signal interrupts, nothing changes.
    """
    if not _in_main_thread():
        yield
        return
    waiting: list[int] = []
    before: dict[int, Any] = {}
    over = False

    def wait(number: int, frame: FrameType | None) -> None:
        if over:  # it came while the handlers were being put back
            signal.signal(number, before[number])
            signal.raise_signal(number)
        else:
            waiting.append(number)

    try:
        for number in _changeable():
            before[number] = signal.getsignal(number)
            signal.signal(number, wait)
        yield
    finally:
        over = True
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)


def _end(number: int, frame: FrameType | None) -> None:
    _remembered.append(number)
    raise _exception(number)


def _exception(number: int) -> BaseException:
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def _changeable() -> list[int]:
    """The signals that would end this process and whose handlers Python can put back."""
    return [number for number in _ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
