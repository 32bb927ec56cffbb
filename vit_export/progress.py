"""Progress for people: what is being done now, how far it is, how long it took. Written to stderr."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class ConsoleReporter:
    """A Reporter for a terminal: a live line for the current step, a line left behind for each finished one.

    Without a terminal (a log file, CI) there is no live line, only one line per step.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._text, self._began = "", 0.0

    def __enter__(self) -> "ConsoleReporter":
        if self.console.is_terminal:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self._finish(failed=kind is not None)
        if self._progress is not None:
            self._progress.stop()

    def step(self, text: str) -> None:
        """The next step begins; the one before it is done."""
        self._finish()
        self._text, self._began = text, time.monotonic()
        if self._progress is not None:
            self._task = self._progress.add_task(text, total=None)

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` parts of the current step are done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.console.print(f"[yellow]note[/]  {_escaped(text)}", soft_wrap=True, highlight=False)

    def _finish(self, *, failed: bool = False) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._text:
            mark, seconds = "[red]failed[/]" if failed else "[green]done[/]", time.monotonic() - self._began
            self.console.print(
                f"{mark}  {_escaped(self._text)}  [dim]{seconds:.1f} s[/]", highlight=False, soft_wrap=True
            )
            self._text = ""


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
