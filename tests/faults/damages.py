"""Damage to the bytes of a file, drawn by a generator: what disks, copies and editors do."""

import json
import random
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes | None]


def truncate(content: bytes, draw: random.Random) -> bytes:
    """The end is missing."""
    return content[: draw.randrange(max(1, len(content)))]


def flip(content: bytes, draw: random.Random) -> bytes:
    """One to eight bits have changed."""
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 8) if content else 0):
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def digit(content: bytes, draw: random.Random) -> bytes:
    """A digit is another one: the file is as well-formed as before."""
    places = [i for i, byte in enumerate(content) if 48 <= byte < 58]
    damaged = bytearray(content)
    if places:
        place = draw.choice(places)
        damaged[place] = draw.choice([byte for byte in b"0123456789" if byte != damaged[place]])
    return bytes(damaged)


def empty(content: bytes, draw: random.Random) -> bytes:
    """Nothing is left."""
    return b""


def zeros(content: bytes, draw: random.Random) -> bytes:
    """The size is right and the content zero, as after a loss of power."""
    return bytes(len(content))


def _pieces(content: bytes, draw: random.Random) -> list[bytes]:
    """Lines, or, where there are few, pieces of a random size."""
    lines = content.splitlines(keepends=True)
    if len(lines) > 2:
        return lines
    size = draw.randint(1, max(1, len(content) // 4))
    return [content[i : i + size] for i in range(0, len(content), size)] or [b""]


def duplicate(content: bytes, draw: random.Random) -> bytes:
    """A line or a piece is there twice."""
    pieces = _pieces(content, draw)
    place = draw.randrange(len(pieces))
    return b"".join([*pieces[: place + 1], *pieces[place:]])


def remove(content: bytes, draw: random.Random) -> bytes:
    """A line or a piece is missing."""
    pieces = _pieces(content, draw)
    del pieces[draw.randrange(len(pieces))]
    return b"".join(pieces)


def exchange(content: bytes, draw: random.Random) -> bytes:
    """Two lines or pieces are in each other's place."""
    pieces = _pieces(content, draw)
    one, other = draw.randrange(len(pieces)), draw.randrange(len(pieces))
    pieces[one], pieces[other] = pieces[other], pieces[one]
    return b"".join(pieces)


_VALUES = (
    None, True, 0, -1, 0.5, 10**400, "", "text", "1", [], [[]], {}, {"a": 1}, "\ud800", 2**63
)  # fmt: skip


def swap_type(content: bytes, draw: random.Random) -> bytes:
    """A value of a JSON file, or of a line of it, is of another type; of other files, noise."""
    try:
        lines = content.splitlines()
        lines = [content] if not _is_json(lines[0]) else lines
        place = draw.randrange(len(lines))
        value = json.loads(lines[place])
    except (ValueError, IndexError):
        return draw.randbytes(len(content))
    lines[place] = json.dumps(_swapped(value, draw)).encode()
    return b"\n".join(lines) + b"\n"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _swapped(value: object, draw: random.Random) -> object:
    if isinstance(value, dict | list) and value and draw.random() < 0.9:
        place = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[place] = _swapped(value[place], draw)  # type: ignore[index, call-overload]
        return value
    return draw.choice(_VALUES)


def nest(content: bytes, draw: random.Random) -> bytes:
    """Brackets, deeper than a parser goes."""
    return draw.choice((b"[", b'{"a":')) * 100_000


def delete(content: bytes, draw: random.Random) -> None:
    """The file is gone."""
    return


DAMAGES: dict[str, Damage] = {
    "truncated": truncate, "bits flipped": flip, "a digit changed": digit, "empty": empty,
    "zeros": zeros, "a row twice": duplicate, "a row missing": remove, "rows exchanged": exchange,
    "types swapped": swap_type, "nested": nest, "deleted": delete,
}  # fmt: skip
