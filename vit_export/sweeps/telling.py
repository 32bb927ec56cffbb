"""What a sweep tells while it works: which cell of how many, and how long the others will take."""

import time

from vit_export.base.reporting import Reporter


class Within:
    """A Reporter for a part of a step: what it does is one step of the whole, and nothing is noted twice."""

    def __init__(self, say: Reporter) -> None:
        self._say, self._noted = say, set[str]()

    def step(self, text: str) -> None:
        """Say nothing."""

    def progress(self, done: int, total: int) -> None:
        """Tell progress of the step."""
        self._say.progress(done, total)

    def note(self, text: str) -> None:
        """Tell a note once."""
        if text not in self._noted:
            self._noted.add(text)
            self._say.note(text)


class Cells:
    """Tells of `count` cells that are made, `workers` at a time: one alone is a step, several are noted as they end."""

    def __init__(self, count: int, workers: int, say: Reporter) -> None:
        self._count, self._workers, self._say = count, min(workers, count), say
        self._begun, self._ended, self._start = 0, 0, time.monotonic()
        if self._workers > 1:
            say.step(f"Making {count} cells, {self._workers} at a time")

    def begun(self, id: str) -> None:
        """A cell is begun."""
        self._begun += 1
        if self._workers == 1:
            self._say.step(f"Cell {self._begun} of {self._count}{self._left()}: {id}")
        self._say.progress(self._ended, self._count)

    def ended(self, id: str, what: str) -> None:
        """A cell has ended as `what` says."""
        self._ended += 1
        self._say.progress(self._ended, self._count)
        if self._workers > 1 or what:
            place = f" ({self._ended} of {self._count} done{self._left()})" if self._workers > 1 else ""
            self._say.note(f"{id}: {what or 'passed'}{place}")

    def _left(self) -> str:
        """How long the cells that have not ended will take, if they take as long as those that have."""
        if not self._ended or self._ended == self._count:
            return ""
        seconds = (time.monotonic() - self._start) / self._ended * (self._count - self._ended)
        return f", {'less than a minute' if seconds < 60 else f'about {seconds / 60:.0f} min'} left"
