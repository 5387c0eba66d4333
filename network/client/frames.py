"""`ledgerd/1` as bytes, without a socket: frames out, frames in. The format is `docs/formats/ledgerd-1.md`.

A frame is a 4-byte big-endian length and a msgpack array: `[id, method, path_with_query, headers, body]` to the node,
`[id, status, headers, body]` back, in any order; an id of nil says why the node ends the session.
Not here: connections (`client.pipeline`).
"""

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Final, TypeAlias

import msgpack

from ledgerd.ledger.errors import FormatError

FRAME_SIZE_BYTES_MAX: Final = 16 << 20  # far above any answer's limit; bounds what a hostile host can make us hold

HEADERS_MAX: Final = 1_024  # of an answer; nodes send a handful

Frame: TypeAlias = tuple[int, int, dict[str, str], bytes]
"""One answer: number of the request that it belongs to, status, headers with lower-case names, body.

A plain tuple, since every answer of a bulk is one, and lives for a moment."""

_length_at: Final = Struct(">I").unpack_from


class Encoder:
    """Makes request frames. Not for two threads at once: it keeps one msgpack packer, which is most of what a frame costs."""

    __slots__ = ("_pack",)

    def __init__(self) -> None:
        self._pack: Callable[[object], bytes] = msgpack.Packer().pack

    def add(self, to: list[bytes], number: int, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
        """Append the pieces of one frame to `to`, which the caller joins. Returns: how many bytes they are."""
        packed = self._pack((number, method, path, headers, body))
        size = len(packed)
        to += (size.to_bytes(4, "big"), packed)
        return size + 4


class Decoder:
    """Collects bytes and gives back whole frames."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = bytearray()  # of a frame whose rest has not come; empty but in the middle of one

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they come; return all frames that are complete now.

        Raises: FormatError: The bytes are no frames; drop the connection.
        """
        begun = self._begun
        if begun:
            begun += data
            if len(begun) < 4 or len(begun) - 4 < _checked(_length_at(begun)[0]):
                return []  # without copying: a long frame comes in many pieces
            data = bytes(begun)
            begun.clear()
        stops = []
        at, end = 0, len(data)
        while end - at >= 4:
            stop = at + 4 + _length_at(data, at)[0]
            if stop > end:
                _checked(stop - at - 4)
                break
            stops.append(stop)
            at = stop
        if at < end:
            begun += data[at:]
            data = data[:at]
        return _parse(data, stops) if stops else []


def _checked(size: int) -> int:
    if size > FRAME_SIZE_BYTES_MAX:
        raise FormatError(f"a frame of {size} bytes is announced; the limit is {FRAME_SIZE_BYTES_MAX}")
    return size


def _parse(data: bytes, stops: list[int]) -> list[Frame]:
    """Read whole frames, of which one ends at each of `stops`: all by one unpacker, which costs less than one call for each."""
    size = len(data)
    # Four fields and no further list: room for one is reserved when it is announced.
    unpacker = msgpack.Unpacker(
        use_list=False, max_array_len=4, max_map_len=HEADERS_MAX, max_ext_len=0, read_size=size, max_buffer_size=size
    )
    unpacker.feed(data)
    skip, unpack, tell = unpacker.read_bytes, unpacker.unpack, unpacker.tell
    frames: list[Frame] = []
    for stop in stops:
        skip(4)
        try:
            number, status, headers, body = frame = unpack()
        except (ValueError, TypeError, msgpack.UnpackException):
            raise FormatError("a frame is not [id, status, headers, body]") from None
        if tell() != stop:
            raise FormatError("a frame's length is not that of its [id, status, headers, body]")
        if type(number) is not int or type(status) is not int or type(headers) is not dict or type(body) is not bytes:
            if number is None:
                why = body[:200].decode("utf-8", "replace") if type(body) is bytes else ""
                raise FormatError(f"the node ends the session: {status} {why}")
            raise FormatError("a frame's fields do not have the types of [id, status, headers, body]")
        for name, value in headers.items():
            if type(name) is not str or type(value) is not str:
                raise FormatError("a frame's headers are not a map of text to text")
        frames.append(frame)
    return frames
