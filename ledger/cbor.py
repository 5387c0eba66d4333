"""Deterministic CBOR, RFC 8949 section 4.2.1: the only encoder of what is hashed or signed. Pure.

A thin layer on cbor2: that library does the bytes; this module fixes the order of keys, and what is accepted from strangers.
Not here: COSE (`ledger.cose`), the msgpack of links and channels, which is never hashed or signed.
"""

from io import BytesIO
from typing import Any, Final

import cbor2

from ledgerd.ledger.errors import FormatError, UsageError

DEPTH_MAX: Final = 16  # the deepest thing we read, a COSE receipt, has 7 levels
# What reading costs goes by items, not by bytes: a mebibyte of empty maps takes two seconds, and anybody may send one. The largest
# thing we read, a COSE receipt, has some hundred items; so many as these cost ten milliseconds.
ITEMS_MAX: Final = 4096
_INT_MAX: Final = (1 << 64) - 1
_INT_MIN: Final = -(1 << 64)
# tags that cbor2 would turn into dates, big numbers, references, regular expressions, mail: none belongs in what we read
_TAGS_REFUSED: Final = (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000, 55799)


def encode(value: Any) -> bytes:
    """Encode integers, byte and text strings, booleans, None, lists, tuples, dicts and CBORTag.

    Map keys are in the bytewise order of their encodings; lengths are definite and as short as can be.
    Raises: UsageError: Anything else (floats too: nothing that we sign has one), or nested deeper than 16.
    """
    return cbor2.dumps(_ordered(value, DEPTH_MAX))


def decode(data: bytes, *, depth: int = DEPTH_MAX, indefinite: bool = False) -> Any:
    """Decode exactly one item: no bytes after it, no duplicate keys, no indefinite lengths unless asked, tags only as CBORTag, and at
    most ITEMS_MAX items within.

    The order of keys is not checked: others sign with another one. What must be in ours is compared with `encode`.

    Args:
        depth: How many levels there may be below the outermost item, at most 16.
        indefinite: Accept strings and containers of indefinite length.
    Raises: FormatError.
    """
    if not 0 < depth <= DEPTH_MAX:
        raise UsageError(f"depth is 1 to {DEPTH_MAX}, not {depth}")
    _check_count(data)
    stream = BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            stream,
            max_depth=depth,
            allow_indefinite=indefinite,
            allow_duplicate_keys=False,
            semantic_decoders=_REFUSALS,
        ).decode()
    except FormatError:
        raise
    except (cbor2.CBORError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as error:
        raise FormatError(f"not strict CBOR: {str(error)[:200]}") from None
    if left := len(data) - stream.tell():
        raise FormatError(f"not strict CBOR: {left} bytes follow the item")
    return value


def _check_count(data: bytes) -> None:
    """Count the items, which stand one after the other whatever is nested in what; whether they are well-formed is cbor2's to say."""
    at, size, left = 0, len(data), ITEMS_MAX
    while at < size:
        if not left:
            raise FormatError(f"not strict CBOR: more than {ITEMS_MAX} items, which is more than anything has that we read")
        left -= 1
        head = data[at]
        at += 1
        value = head & 31
        if 24 <= value < 28:
            width = 1 << (value - 24)
            value = int.from_bytes(data[at : at + width], "big")
            at += width
        if head >> 5 in (2, 3) and head & 31 != 31:  # a string, but for the head of one in pieces
            at += value


def _refuse(_decoder: Any) -> Any:
    raise FormatError("not strict CBOR: a tag of dates, big numbers or references does not belong here")


_REFUSALS: Final = dict.fromkeys(_TAGS_REFUSED, _refuse)


def _ordered(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in (bytes, str, bool) or value is None:
        return value
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        raise UsageError("an integer of more than 64 bits has no plain CBOR form")
    if depth == 0:
        raise UsageError(f"nested deeper than {DEPTH_MAX}")
    if isinstance(value, (list, tuple)):
        return [_ordered(item, depth - 1) for item in value]
    if isinstance(value, dict):
        pairs = [(cbor2.dumps(_ordered(key, depth - 1)), key, item) for key, item in value.items()]
        pairs.sort(key=lambda pair: pair[0])
        return {key: _ordered(item, depth - 1) for _, key, item in pairs}
    if isinstance(value, cbor2.CBORTag):
        return cbor2.CBORTag(value.tag, _ordered(value.value, depth - 1))
    raise UsageError(f"{kind.__name__} has no place in deterministic CBOR")
