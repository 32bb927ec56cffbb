"""What long work tells while it goes on: steps (text), progress (done of total) and notes."""

from typing import Protocol


class Reporter(Protocol):
    """What the pipeline tells while it works."""

    def step(self, text: str) -> None:
        """A step begins."""

    def progress(self, done: int, total: int) -> None:
        """Part of the current step is done."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """A Reporter that says nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""
