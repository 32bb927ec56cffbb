"""The errors that reach a user, each one sentence: what, expected, given, what to do."""

import difflib
from collections.abc import Collection, Iterable

from vit_export.base.text import message
from vit_export.base.wording import worded


class VitExportError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is what the shell sees.

    Its text is one sentence of bounded length: names from files and addresses in it are made harmless here. It names
    options where the command line runs, and arguments where Python called (`base.wording`).
    """

    exit_code = 2

    def __init__(self, text: str = "") -> None:
        super().__init__(message(str(text)))

    def __str__(self) -> str:
        return worded(self.written)

    @property
    def written(self) -> str:
        """The text as it was written, with options: for whoever passes it on, or looks for words in it."""
        return str(self.args[0])


class InputError(VitExportError):
    """The call or its input was wrong (exit code 2)."""


class OutputError(VitExportError):
    """The result cannot be written: it exists, is not writable, or the disk is full (exit code 2)."""


class VerificationFailed(VitExportError):
    """A file was written but is not the same model as the reference (exit code 1)."""

    exit_code = 1


class StructureError(VitExportError):
    """A converter met or made a graph that this package was not written for; the message names the step.

    Never the user's fault: a bug here, or a release of a converter that works differently.
    """

    exit_code = 1


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The entry of `known` most like `word`, or None when nothing is close."""
    matches = difflib.get_close_matches(word.lower().replace("-", "_"), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(what: str, name: str, known: Collection[str]) -> InputError:
    """The error for a `name` that is none of the `known` ones: it tells the nearest, or all of them."""
    guess = nearest(name, known)
    hint = f"did you mean '{guess}'?" if guess else f"choose one of {', '.join(known)}."
    return InputError(f"Unknown {what} '{name}': {hint}")


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text (its class when it has none), at most `limit` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:limit]
