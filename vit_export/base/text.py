"""Text from files, addresses and the command line, as it may be shown: it deceives nobody, and tells no password."""

import re
from collections.abc import Mapping
from typing import Any

MAX_MESSAGE = 800
"""Characters of a message: one sentence, however long the names in it are."""

# Control characters, separators of lines and halves of characters (Cc, Zl, Zp and Cs in Unicode). Marks of direction
# and overrides make text look like another ('gnp.exe' as 'exe.png'); U+FFFE and U+FFFF are no characters.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_SPELLED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

# A path that an address was taken for has one slash where the address has two. A scheme has more letters than a drive.
_SCHEME = r"(?<![\w+.-])([A-Za-z][A-Za-z0-9+.-]+:/{1,2})"
# A password may hold a slash, where no port is meant (host:8080/@name).
_USER = re.compile(_SCHEME + r"""(?:[^/\s'"]*@|[^/\s:'"]*:(?!\d+/)[^\s'"]*@)""")
_QUERY = re.compile(_SCHEME + r"""([^\s?#'"]+)\?[^\s#'"]*""")


def visible(text: str, *, keep: str = "") -> str:
    r"""`text` with control characters, marks of direction and lone surrogates spelled out, as in '\u202e'.

    What remains is valid in HTML, in XML 1.0 and as UTF-8, and drives no terminal. Of JSON the same JSON remains.
    Characters in `keep` stay as they are.
    """

    def spelled(found: re.Match[str]) -> str:
        character = found[0]
        return character if character in keep else _SPELLED.get(character) or f"\\u{ord(character):04x}"

    return _HIDDEN.sub(spelled, text)


def shown(value: Any) -> Any:
    """`value`, JSON-ready, for a terminal: every text in it, keys too, is `visible` and not longer than a message."""
    if isinstance(value, str):
        return visible(_cut(value))
    if isinstance(value, Mapping):
        return {shown(key): shown(item) for key, item in value.items()}
    return [shown(item) for item in value] if isinstance(value, list | tuple) else value


def counted(count: float, noun: str) -> str:
    """`count` with `noun` in its number: '1 image', '3 classes'; a float, as of a report, is shown in six digits."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{f'{count:g}' if isinstance(count, float) else count} {noun if count == 1 else plural}"


def without_secrets(text: str) -> str:
    """`text` without what addresses in it may hide: user and password, and the query, where tokens are."""
    return _QUERY.sub(r"\1\2", _USER.sub(r"\1", text))


def message(text: str, *, keep: str = "") -> str:
    """`text` as an error says it: on one line, `visible`, without secrets; the middle goes where it is too long.

    Characters in `keep` stay as they are.
    """
    # What is cut was long before it was made harmless, or becomes so by that.
    return _cut(visible(without_secrets(_cut(text, 10 * MAX_MESSAGE)), keep=keep))


def _cut(text: str, most: int = MAX_MESSAGE) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"
