"""Reads BER as far as messages of KMS need it: one element, definite and indefinite lengths, within bounds.

Believes nothing: every length is checked against what is there, depth and number of elements are bounded, and nothing may follow.
No meaning here: tags and object identifiers are the caller's (`enclave.kms.cms`).
Source: ITU-T X.690, 8.1.
"""

from typing import Final, NamedTuple

from ledgerd.ledger.errors import FormatError

SIZE_BYTES_MAX: Final = 32 << 10  # KMS's envelopes are about 500 bytes, and 4,096 of plaintext is the most that it encrypts
DEPTH_MAX: Final = 12  # an envelope has 8
ELEMENTS_MAX: Final = 128  # an envelope has about 30

CONSTRUCTED: Final = 0x20  # bit of an identifier octet
_LONG_TAG: Final = 0x1F
_INDEFINITE: Final = 0x80
_LENGTH_OCTETS_MAX: Final = 4


class Element(NamedTuple):
    """One element.

    Attributes:
        tag: Identifier octet, with its class and whether it is constructed: 0x30 for a SEQUENCE.
        content: Bytes of a primitive one; empty for a constructed one.
        children: Elements of a constructed one, in order; empty for a primitive one.
    """

    tag: int
    content: bytes
    children: tuple["Element", ...]


def read(data: bytes) -> Element:
    """Read the one element that `data` is.

    Raises: FormatError: It is not BER within the bounds above, or bytes follow.
    """
    if not 0 < len(data) <= SIZE_BYTES_MAX:
        raise FormatError(f"BER of {len(data)} bytes; 1 to {SIZE_BYTES_MAX} are read")
    reader = _Reader(data)
    element = reader.element(len(data), 1)
    if reader.position != len(data):
        raise FormatError(f"{len(data) - reader.position} bytes follow the BER element")
    return element


class _Reader:
    """A position in the bytes, and how many elements were met."""

    __slots__ = ("count", "data", "position")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.count = 0

    def element(self, end: int, depth: int) -> Element:
        """Read the element at the position, which must not reach beyond `end`."""
        self.count += 1
        if depth > DEPTH_MAX or self.count > ELEMENTS_MAX:
            raise FormatError(f"BER nested deeper than {DEPTH_MAX} levels, or of more than {ELEMENTS_MAX} elements")
        tag = self._octet(end)
        if tag & _LONG_TAG == _LONG_TAG or tag == 0:
            raise FormatError(f"BER identifier {tag:#04x} at byte {self.position - 1}; no element here has it")
        length = self._length(end)
        if length is None:
            if not tag & CONSTRUCTED:
                raise FormatError("a primitive BER element of indefinite length")
            return Element(tag, b"", self._until_mark(end, depth))
        stop = self.position + length
        if stop > end:
            raise FormatError(f"a BER element at byte {self.position} announces {length} bytes, {end - self.position} are there")
        if not tag & CONSTRUCTED:
            content = self.data[self.position : stop]
            self.position = stop
            return Element(tag, content, ())
        children = []
        while self.position < stop:
            children.append(self.element(stop, depth + 1))
        return Element(tag, b"", tuple(children))

    def _until_mark(self, end: int, depth: int) -> tuple[Element, ...]:
        """Elements up to the end-of-contents mark, which is taken too."""
        children = []
        while self.data[self.position : min(self.position + 2, end)] != b"\0\0":
            if self.position >= end:
                raise FormatError("a BER element of indefinite length has no end")
            children.append(self.element(end, depth + 1))
        self.position += 2
        return tuple(children)

    def _octet(self, end: int) -> int:
        if self.position >= end:
            raise FormatError("BER ends within an element")
        octet = self.data[self.position]
        self.position += 1
        return octet

    def _length(self, end: int) -> int | None:
        """The length at the position; None for an indefinite one."""
        first = self._octet(end)
        if first < _INDEFINITE:
            return first
        if first == _INDEFINITE:
            return None
        count = first & 0x7F
        if count > _LENGTH_OCTETS_MAX:
            raise FormatError(f"a BER length of {count} octets; {_LENGTH_OCTETS_MAX} are read")
        length = 0
        for _ in range(count):
            length = length << 8 | self._octet(end)
        return length
