"""How good files are spoilt: bytes, JSON values, members of zips. All of it follows from a random generator alone."""

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

Spoil = Callable[[bytes, random.Random], bytes]

_WORDS = (0, 1, 2, 3, 4, 5, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_LONG = (0, 1, 1 << 31, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - 1, (1 << 64) - 1)
_NAMES = ("\x00", "x" * 3000, "a\nb", "\ud800", "<b>", "\x1b[31m", "../../etc/passwd", "")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, float("nan"), float("inf")),
    *(10**9, 1 << 62, 10**60, 10**400, -(10**30)),
    *("", "a", "\x1b[31m", "\ud800", "a" * 5000, "../../etc/passwd", "NaN", "224", "\u202e", "[/x]"),
    *([], {}, [[]], [None], [1, 2, 3], ["a"], [0.5] * 3, [0, 0, 0], ["0.5"] * 3, [1e-300] * 3, [True] * 3),
    *({"a": {}}, {"0": None}, {"height": 1, "width": 2}, {"shortest_edge": 10**9}),
)  # fmt: skip


def spoilt_bytes(data: bytes, chance: random.Random, head: int | None = None) -> bytes:
    """`data` with up to a dozen places changed, most of them in its first `head` bytes."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5, 12))):
        size = len(found)
        if not size:
            break
        at = chance.randrange(min(head or size, size)) if chance.random() < 0.8 else chance.randrange(size)
        word = at & ~3
        match chance.randrange(11):
            case 0:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                found[at] = chance.randrange(256)
            case 2:
                found[word : word + 4] = struct.pack("<I", chance.choice(_WORDS))
            case 3 if word + 4 <= size:
                (value,) = struct.unpack_from("<I", found, word)
                step = chance.choice((-64, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16, 64))
                struct.pack_into("<I", found, word, (value + step) & 0xFFFFFFFF)
            case 4:
                found[at : at + 8] = struct.pack("<Q", chance.choice((*_LONG, size, 10 * size)))
            case 5:
                del found[at : at + chance.choice((1, 2, 4, 8, 100))]
            case 6:
                found[at:at] = chance.randbytes(chance.choice((1, 2, 4, 8, 50)))
            case 7:
                length, other = chance.choice((4, 8, 16, 64)), chance.randrange(size)
                found[at : at + length] = found[other : other + length]
            case 8:
                found[at : at + 2] = struct.pack("<H", chance.choice((0, 1, 4, 0x7FFF, 0xFFFF, 0x8000)))
            case 9 if chance.random() < 0.3:
                del found[chance.randrange(size) :]
            case 10:
                found[at:at] = found[at : at + chance.choice((4, 32, 256))] * chance.choice((1, 2, 20))
    return bytes(found)


def spoilt_value(value: Any, chance: random.Random) -> Any:
    """A JSON value with up to four places replaced, dropped, renamed or nested."""
    value = json.loads(json.dumps(value))
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            return deepcopy(chance.choice(_VALUES))
        holder, key = chance.choice(places)
        match chance.randrange(8):
            case 5:
                del holder[key]
            case 6 if isinstance(holder, dict):
                holder[chance.choice(_NAMES)] = holder.pop(key)
            case 7:
                for _ in range(chance.choice((1, 3, 300))):
                    holder[key] = [holder[key]] if chance.random() < 0.5 else {"a": holder[key]}
            case _:
                holder[key] = deepcopy(chance.choice(_VALUES))  # others change it
    return value


def _places(value: Any) -> Any:
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if not isinstance(holder, dict | list):
            continue
        for key in list(holder) if isinstance(holder, dict) else range(min(6, len(holder))):
            yield holder, key
            waiting.append(holder[key])


def spoilt_json(data: bytes, chance: random.Random) -> bytes:
    """The JSON `data` with another value, or written in a way that nobody writes it."""
    try:
        text = json.dumps(spoilt_value(json.loads(data), chance), ensure_ascii=chance.random() < 0.5)
    except RecursionError:
        return b"[" * 100_000
    plain = text.encode("utf-8", "surrogatepass")
    match chance.randrange(40):
        case 0:
            return b"[" * chance.choice((1000, 200_000))
        case 1:
            return b"\xef\xbb\xbf" + plain
        case 2:
            return text.encode("utf-16", "surrogatepass")
        case 3 | 4:
            return spoilt_bytes(plain, chance)
        case 5:
            return plain.replace(b"0", b"9" * 5000, 1)
        case 6:
            return plain.replace(b": ", b": " + b"1" * 6000 + b"e99999", 1)
        case 7 if plain.startswith(b"{"):
            return b'{"a": 1, ' + plain[1:-1] + b', "a": 2}'
    return plain


def spoilt_header(data: bytes, chance: random.Random) -> bytes:
    """A safetensors file with another header, and its length made to fit."""
    (length,) = struct.unpack_from("<Q", data)
    header = spoilt_json(data[8 : 8 + length], chance)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def spoilt_members(**members: Spoil) -> Spoil:
    """A zip one of whose members is spoilt by what is given for names that end so, and the zip packed anew."""

    def spoil(data: bytes, chance: random.Random) -> bytes:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found = {name: archive.read(name) for name in archive.namelist()}
        name = chance.choice(list(found))
        content = next(spoil for end, spoil in members.items() if name.endswith(end))(found.pop(name), chance)
        renamed = chance.choice(("../x", "/etc/x", "\x1b[31m", "a" * 60_000, "x/data.pkl", "", "a\\b"))
        found[name if chance.random() < 0.9 else renamed + name] = content
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for name, content in found.items():
                archive.writestr(name, content)
        return packed.getvalue()

    return spoil


def spoilt_npy(data: bytes, chance: random.Random) -> bytes:
    """An .npy array with another header, or with other bytes in its first ones."""
    if chance.random() < 0.5:
        return spoilt_bytes(data, chance, 128)
    (length,) = struct.unpack_from("<H", data, 8)
    header = data[10 : 10 + length].decode()
    dtypes = (
        "'|O'",
        "'<f8'",
        "'<U9'",
        "'|V2'",
        "[('a','<f4')]",
        "'<f4,<f4'",
        "'<M8[s]'",
        "('<f4',(2,))",
        "'|V0'",
        "'<U0'",
    )
    header = chance.choice(
        (
            header.replace("'<f4'", chance.choice(dtypes)),
            header.replace("(", chance.choice(("(-", "(10**9,", "(99999999999,", "(0,", "(" * 200)), 1),
            header.replace("False", chance.choice(("True", "1", "__import__('os')"))),
        )
    )
    return data[:8] + struct.pack("<H", len(header)) + header.encode() + data[10 + length :]
