"""What long work tells while it goes on: steps (text), progress (done of total) and notes."""

from typing import Protocol

from vit_export.base.interrupts import heed


class Reporter(Protocol):
    """What the pipeline tells while it works."""

    def step(self, text: str) -> None:
        """Tell that the step `text` begins."""

    def progress(self, done: int, total: int) -> None:
        """Tell that `done` parts of `total` of the current step are done."""

    def note(self, text: str) -> None:
        """Tell something the user should know."""


class Silent:
    """A Reporter that says nothing; like every other one of a command, it hears of signals."""

    def step(self, text: str) -> None:
        """Say nothing."""
        heed()

    def progress(self, done: int, total: int) -> None:
        """Say nothing."""
        heed()

    def note(self, text: str) -> None:
        """Say nothing."""
