"""The packets of virtio-vsock: a header of 44 bytes, and data.

Source: VIRTIO 1.2, section 5.10.6.
"""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from ledgerd.node.vm.errors import GuestError

HEADER: Final = struct.Struct("<QQIIIHHIII")
DATA_BYTES_MAX: Final = 64 << 10  # of one packet; what Linux sends at most
STREAM: Final = 1  # the one type of socket that is offered
SHUTDOWN_RECEIVE: Final = 1
SHUTDOWN_SEND: Final = 2
assert HEADER.size == 44


class Operation(IntEnum):
    """What a packet is for."""

    REQUEST = 1
    RESPONSE = 2
    RESET = 3
    SHUTDOWN = 4
    DATA = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Header(NamedTuple):
    """A packet's header.

    Attributes:
        source_cid, target_cid, source_port, target_port: Who, to whom.
        length: Bytes of data that follow.
        kind: Of the socket.
        operation: One of `Operation`, or something unknown.
        flags: Of a SHUTDOWN.
        buffer_bytes: How much the sender holds for this stream, unread.
        forwarded: How many bytes the sender's user has taken so far, modulo 2^32.
    """

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    length: int
    kind: int
    operation: int
    flags: int
    buffer_bytes: int
    forwarded: int

    def encode(self) -> bytes:
        """As the guest reads it."""
        return HEADER.pack(*self)


def decode(parts: tuple[memoryview, ...]) -> tuple[Header, bytes]:
    """A packet from the buffers of one chain; copied first, so that the guest cannot change it any more.

    Raises: GuestError: It is shorter than its header or than the header says, or longer than a packet may be.
    """
    size = sum(map(len, parts))
    if not HEADER.size <= size <= HEADER.size + DATA_BYTES_MAX:
        raise GuestError(f"a packet of {size} bytes; it must have {HEADER.size} to {HEADER.size + DATA_BYTES_MAX}")
    whole = b"".join(parts)
    header = Header(*HEADER.unpack_from(whole))
    if header.length > size - HEADER.size:
        raise GuestError(f"a packet says that {header.length} bytes follow, and {size - HEADER.size} do")
    return header, whole[HEADER.size : HEADER.size + header.length]
