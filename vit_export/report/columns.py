"""Tables for a terminal of any width: figures in columns beside names that are neither broken nor cut."""

import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

Cell = str | Text

_INDENT = 2
_JOINT = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class Row:
    """What is called `name`, and the figures it has under all headings but the first; the last ones may be missing."""

    name: Cell
    cells: Sequence[Cell]
    style: str = ""


def print_columns(
    console: Console, headings: Sequence[str], rows: Sequence[Row], *, left: Collection[str] = ()
) -> None:
    """Print `rows` under `headings`, of which the first is that of the names; each may have several lines.

    A name that leaves too little room for the figures stands on a line of its own above them. Where the figures alone
    are wider than the console, each row is its name and a list of them. Figures stand at the right, but those under
    headings in `left`.
    """
    for line in _lines(headings, rows, console.width, left):
        _print(console, line)


def print_pairs(console: Console, pairs: Sequence[tuple[str, str]], *, indent: int = _INDENT) -> None:
    """Print texts, each with what it is called at its left, in lines as wide as the console; no word is broken.

    A text with a word that leaves no room for that begins below it.
    """
    called = max((cell_len(name) for name, _ in pairs), default=0)
    for name, text in pairs:
        start = f"{'':{indent}}{name}{'':{called - cell_len(name) + 1}}"
        margin, longest = cell_len(start), max(map(cell_len, text.split()), default=0)
        if longest > console.width - margin:
            _print(console, Text(start.rstrip(), "dim"))
            margin = max(0, min(margin, console.width - longest))
            start = " " * margin
        for line in _wrapped(text, console.width - margin):
            _print(console, Text.assemble((start, "dim"), line))
            start = " " * margin


def _print(console: Console, line: Text) -> None:
    console.print(line, no_wrap=True, overflow="ignore", crop=False)


def _lines(headings: Sequence[str], rows: Sequence[Row], width: int, left: Collection[str]) -> Iterator[Text]:
    heads = [heading.strip("\n").split("\n") for heading in headings]
    widths = [
        max(map(_wide, (*head, *(row.cells[place] for row in rows if place < len(row.cells)))))
        for place, head in enumerate(heads[1:])
    ]
    room = width - sum(widths) - len(widths)
    if room < _INDENT:
        yield from _listed(headings, rows, width)
        return
    fitting = [length for row in rows if (length := _wide(row.name)) <= room]
    names = min(room, max([_INDENT, *fitting, *map(len, heads[0])]))
    for place in range(-max(map(len, heads)), 0):
        texts = [Text(head[place] if -place <= len(head) else "", "bold") for head in heads]
        # Where no name fits beside the figures, there is no room for their heading either.
        first = texts[0] if _wide(texts[0]) <= names else Text()
        yield _line(first, texts[1:], names, widths, headings, left)
    for row in rows:
        first = _text(row.name, row.style)
        if _wide(first) > names:
            yield first
            first = Text()
        yield _line(first, [_text(cell, row.style) for cell in row.cells], names, widths, headings, left)


def _line(
    first: Text,
    cells: Sequence[Text],
    names: int,
    widths: Sequence[int],
    headings: Sequence[str],
    left: Collection[str],
) -> Text:
    line = first + Text(" " * (names - _wide(first)))
    for cell, width, heading in zip(cells, widths, headings[1:], strict=False):
        space = Text(" " * (width - _wide(cell)))
        line += Text(" ") + (cell + space if heading in left else space + cell)
    line.rstrip()
    return line


def _listed(headings: Sequence[str], rows: Sequence[Row], width: int) -> Iterator[Text]:
    """Each row as its name and, below it, its figures with what each is called."""
    called = [" ".join(heading.split()) for heading in headings[1:]]
    for row in rows:
        yield _text(row.name, row.style)
        pairs = (f"{name} {cell}" for name, cell in zip(called, row.cells, strict=False) if _wide(cell))
        # A figure stays on the line of what it is called.
        figures = ", ".join(pair.replace(" ", _JOINT) for pair in pairs)
        for line in _wrapped(figures, width - _INDENT):
            yield _text(f"{'':{_INDENT}}{line.replace(_JOINT, ' ')}", row.style)


def _wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of `width`, but for a single word that is longer."""
    found = textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return found or [""]


def _text(cell: Cell, style: str) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell.copy()
    if style:
        text.stylize_before(style)
    return text


def _wide(cell: Cell) -> int:
    return cell_len(str(cell))
