"""Reads the few CBOR shapes that the Nitro platform writes, and nothing else.

A closed grammar instead of a general decoder: integers, byte and text strings, arrays, maps, false, true, null. So floats,
chunked strings, duplicate keys, keys other than unsigned integers and text, and tags that the caller does not name cannot even be
expressed. AWS changed from definite to indefinite maps in 2025, so both lengths of arrays and maps are read.
Not here: what we write ourselves, which is deterministic (`ledger.cbor`).
"""

from typing import Any, Final

from ledgerd.ledger.errors import FormatError

DEPTH_MAX: Final = 4  # a document is two maps deep
ITEMS_MAX: Final = 512  # the largest document has about 60 items; bounds the work for hostile bytes

_END: Final = object()


def read(data: bytes, *, shortest: bool = True, tags: frozenset[int] = frozenset()) -> Any:
    """Decode exactly one item that fills `data`.

    Args:
        data: All the bytes there are.
        shortest: Refuse integers and lengths that are not in their shortest form.
        tags: Those that may stand before an item; what is read is the item.
    Returns: int, bytes, str, list, dict (keys int or str), bool or None.
    Raises: FormatError: The bytes are anything else, are cut short, or continue after the item.
    """
    value, position = _Reader(data, shortest, tags).item(0, DEPTH_MAX)
    if value is _END:
        raise FormatError("a break outside of any item")
    if position != len(data):
        raise FormatError(f"{len(data) - position} bytes follow the item")
    return value


class _Reader:
    __slots__ = ("data", "left", "shortest", "tags")

    def __init__(self, data: bytes, shortest: bool, tags: frozenset[int]) -> None:
        self.data = data
        self.shortest = shortest
        self.tags = tags
        self.left = ITEMS_MAX

    def item(self, at: int, depth: int) -> tuple[Any, int]:
        """Decode the item that starts at `at`: (value, position after it); `_END` for a break byte."""
        data = self.data
        if at >= len(data):
            raise FormatError("the item is cut short")
        if self.left == 0:
            raise FormatError(f"more than {ITEMS_MAX} items")
        self.left -= 1
        initial = data[at]
        at += 1
        major, info = initial >> 5, initial & 31
        if major == 7:
            return _simple(initial), at
        indefinite = info == 31
        if info < 24 or indefinite:
            number = info
        else:
            number, at = self.number(info, at)
        if major == 0 and not indefinite:
            return number, at
        if major == 1 and not indefinite:
            return -1 - number, at
        if major in (2, 3) and not indefinite:
            end = at + number
            if end > len(data):
                raise FormatError("a string is longer than what holds it")
            if major == 2:
                return data[at:end], end
            try:
                return data[at:end].decode("utf-8"), end
            except UnicodeDecodeError:
                raise FormatError("a text string is not UTF-8") from None
        if major in (4, 5):
            if depth == 0:
                raise FormatError(f"nested deeper than {DEPTH_MAX}")
            count = None if indefinite else number
            return self.array(at, depth - 1, count) if major == 4 else self.map(at, depth - 1, count)
        if major == 6 and not indefinite and number in self.tags:
            if depth == 0:
                raise FormatError(f"nested deeper than {DEPTH_MAX}")
            value, at = self.item(at, depth - 1)
            if value is _END:
                raise FormatError("a break in place of a value")
            return value, at
        raise FormatError("a tag" if major == 6 else "a chunked string, or an integer without a value")

    def number(self, info: int, at: int) -> tuple[int, int]:
        if info > 27:
            raise FormatError("a reserved length")
        size = 1 << (info - 24)
        raw = self.data[at : at + size]
        if len(raw) != size:
            raise FormatError("the item is cut short")
        number = int.from_bytes(raw, "big")
        if self.shortest and number < (24 if size == 1 else 1 << (4 * size)):
            raise FormatError("an integer or a length is not in its shortest form")
        return number, at + size

    def array(self, at: int, depth: int, count: int | None) -> tuple[list[Any], int]:
        values: list[Any] = []
        while count is None or len(values) < count:
            value, at = self.item(at, depth)
            if value is _END:
                if count is None:
                    break
                raise FormatError("a break inside a definite array")
            values.append(value)
        return values, at

    def map(self, at: int, depth: int, count: int | None) -> tuple[dict[int | str, Any], int]:
        values: dict[int | str, Any] = {}
        while count is None or len(values) < count:
            key, at = self.item(at, depth)
            if key is _END and count is None:
                break
            # `type is`, since True == 1 would be a second name of key 1.
            if not ((type(key) is int and key >= 0) or type(key) is str):
                raise FormatError("a map key is neither an unsigned integer nor text")
            if key in values:
                raise FormatError(f"key {str(key)[:32]!r} stands twice in a map")
            value, at = self.item(at, depth)
            if value is _END:
                raise FormatError("a break in place of a value")
            values[key] = value
        return values, at


def _simple(initial: int) -> Any:
    if initial == 0xF6:
        return None
    if initial == 0xF4:
        return False
    if initial == 0xF5:
        return True
    if initial == 0xFF:
        return _END
    raise FormatError("a float or an unknown simple value")
