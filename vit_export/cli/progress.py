"""Progress for people: what is being done now, how far it is, how long it took. Written to stderr."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from vit_export.base.interrupts import heed
from vit_export.base.text import visible, without_secrets


class ConsoleReporter:
    """A Reporter for a terminal: a live line for the current step, a line left behind for each finished one.

    Without a terminal (a log file, CI) there is no live line, only one line per step. Texts are no markup, and
    nothing in them drives the terminal: paths are in them.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._text, self._began = "", 0.0

    def __enter__(self) -> "ConsoleReporter":
        if self.console.is_terminal:
            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(24),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=self.console, transient=True)
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._finish()
        else:  # Ctrl-C and the end from outside are no fault of the step
            self._finish("failed" if issubclass(kind, Exception) else "stopped", "red")
        if self._progress is not None:
            self._progress.stop()

    def step(self, text: str) -> None:
        """The next step begins; the one before it is done."""
        heed()
        self._finish()
        text = visible(without_secrets(text))
        self._text, self._began = text, time.monotonic()
        if self._progress is not None:
            self._task = self._progress.add_task(text, total=None)

    def done(self) -> None:
        """The current step is done; what fails from now on is not that step."""
        self._finish()

    def progress(self, done: int, total: int) -> None:
        """`done` of `total` parts of the current step are done."""
        heed()
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self._print(Text.assemble(("note", "yellow"), "  ", visible(without_secrets(text))))

    def _finish(self, mark: str = "done", style: str = "green") -> None:
        if self._progress is not None and self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if self._text:
            seconds = f"{time.monotonic() - self._began:.1f} s"
            self._print(Text.assemble((mark, style), "  ", self._text, "  ", (seconds, "dim")))
            self._text = ""

    def _print(self, line: Text) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)
