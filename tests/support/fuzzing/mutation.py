"""Changes of an input, without knowledge of what reads it: bits, bytes, pieces moved, large numbers, and pieces that mean something."""

import random
from collections.abc import Sequence
from typing import Final

SIZE_BYTES_MAX: Final = 1 << 20  # of a changed input; larger ones are bombs' work
_REPEATED_BYTES_MAX: Final = 16 << 10

_INTERESTING: Final = [
    *(bytes((byte,)) for byte in (0x00, 0xFF, 0x7F, 0x80, 0xF6, 0xF7, 0xF5, 0xBF, 0x9F, 0x5F, 0xA0, 0xC1, 0xD2)),
    *(bytes((byte,)) + b"\xff" * 8 for byte in (0x1B, 0x5B, 0x9B, 0xBB)),
    *(b"\x7f\x61\x61\xff", b"\x30\x80", b"\x30\x84\xff\xff\xff\xff", b"\x02\x01\x00", b"\x05\x00"),
    *(b"-----BEGIN CERTIFICATE-----", b"\n", b"="),
    # Lists and maps of msgpack that announce much, and the same of CBOR; what JSON readers disagree about.
    *(
        b"\xdd\x7f\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xc6\x7f\xff\xff\xff",
        b"\xd4\xff\x00",
        b"\xc0",
        b"\xcf" + b"\xff" * 8,
    ),
    *(b"NaN", b"1e999", b'"\\ud800"', b"[" * 40, b'{"a":' * 20, b"-0", b"null", b"\xed\xa0\x80"),
]
_EDGES: Final = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 53) + 1, 1 << 63, (1 << 64) - 1)


def mutate(data: bytes, other: bytes, chosen: random.Random, tokens: Sequence[bytes] = ()) -> bytes:
    """Change an input in one to three places, also by parts of another one, and by one of the `tokens`."""
    changed = bytearray(data)
    draw = chosen.random
    for _ in range((1, 1, 1, 1, 2, 2, 3, 8)[int(draw() * 8)]):
        at = int(draw() * (len(changed) + 1))
        end = min(len(changed), at + (1, 1, 2, 4, 8, 48, 96, 500)[int(draw() * 8)])
        kind = int(draw() * 11)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << int(draw() * 8)
        elif kind == 1 and at < len(changed):
            changed[at] = int(draw() * 256)
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end]
        elif kind == 4:
            changed[at:at] = _piece(chosen, tokens)
        elif kind == 5:
            piece = _piece(chosen, tokens)
            changed[at : at + len(piece)] = piece
        elif kind == 6:
            begin = int(draw() * (len(other) + 1))
            changed[at:end] = other[begin : begin + end - at]
        elif kind == 7:
            to = int(draw() * (len(changed) + 1))
            piece = bytes(changed[at:end])
            del changed[at:end]
            changed[to:to] = piece
        elif kind == 8:
            _change_number(changed, at, chosen)
        elif kind == 9 and at < len(changed):
            piece = bytes(changed[at:end])
            changed[at:end] = piece * min(1 << int(draw() * 12), 1 + _REPEATED_BYTES_MAX // len(piece))
        elif kind == 10:
            del changed[at:]
    return bytes(changed[:SIZE_BYTES_MAX])


def _piece(chosen: random.Random, tokens: Sequence[bytes]) -> bytes:
    if tokens and chosen.random() < 0.7:
        return chosen.choice(tokens)
    return chosen.choice(_INTERESTING)


def _change_number(changed: bytearray, at: int, chosen: random.Random) -> None:
    """Change what may be a number: by a little, or to where numbers end."""
    width = (1, 2, 4, 8)[int(chosen.random() * 4)]
    place = changed[at : at + width]
    order: tuple[str, str] = ("big", "little")
    side = order[int(chosen.random() * 2)]
    value = int.from_bytes(place, side)  # type: ignore[arg-type]
    value = value + chosen.randint(-3, 3) if chosen.random() < 0.6 else chosen.choice(_EDGES)
    value &= (1 << 8 * len(place)) - 1
    changed[at : at + width] = value.to_bytes(len(place), side)  # type: ignore[arg-type]
