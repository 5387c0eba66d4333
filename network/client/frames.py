"""`ledgerd/1` as bytes, without a socket: frames out, frames in. The format is `docs/formats/ledgerd-1.md`.

A frame is a 4-byte big-endian length and a msgpack array: `[id, method, path_with_query, headers, body]` to the node,
`[id, status, headers, body]` back, in any order; an id of nil says why the node ends the session.
Not here: connections (`client.pipeline`).
"""

from typing import Final, NamedTuple

import msgpack

from ledgerd.ledger.errors import FormatError
from ledgerd.network.client.attempts import Received

FRAME_SIZE_BYTES_MAX: Final = 16 << 20  # far above any answer's limit; bounds what a hostile host can make us hold


class Frame(NamedTuple):
    """One answer and the number of the request that it belongs to."""

    number: int
    received: Received


def encode(number: int, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Make one request frame."""
    packed: bytes = msgpack.packb((number, method, path, headers, body))
    return len(packed).to_bytes(4, "big") + packed


class Decoder:
    """Collects bytes and gives back whole frames."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they come; return all frames that are complete now.

        Raises: FormatError: The bytes are no frames; drop the connection.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        at, end = 0, len(buffer)
        while end - at >= 4:
            size = int.from_bytes(buffer[at : at + 4], "big")
            if size > FRAME_SIZE_BYTES_MAX:
                raise FormatError(f"a frame of {size} bytes is announced; the limit is {FRAME_SIZE_BYTES_MAX}")
            if end - at - 4 < size:
                break
            frames.append(_parse(bytes(buffer[at + 4 : at + 4 + size])))
            at += 4 + size
        if at:
            del buffer[:at]
        return frames


def _parse(packed: bytes) -> Frame:
    try:
        number, status, headers, body = msgpack.unpackb(packed, max_ext_len=0)
    except (ValueError, TypeError, msgpack.UnpackException):
        raise FormatError(f"a frame of {len(packed)} bytes is not [id, status, headers, body]") from None
    if number is None:
        why = body[:200].decode("utf-8", "replace") if type(body) is bytes else ""
        raise FormatError(f"the node ends the session: {status} {why}")
    if type(number) is not int or type(status) is not int or type(headers) is not dict or type(body) is not bytes:
        raise FormatError("a frame's fields do not have the types of [id, status, headers, body]")
    for name, value in headers.items():
        if type(name) is not str or type(value) is not str:
            raise FormatError("a frame's headers are not a map of text to text")
    return Frame(number, Received(status, headers, body))
