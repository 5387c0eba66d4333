"""One vsock stream between the guest and a UNIX socket of the host: credit, what waits, and who has closed what.

Law: at most BUFFER_BYTES wait here for the host, which is what the guest was told; a guest that sends more breaks the protocol. Towards
the guest nothing is kept: bytes are read from the socket when the guest has room for them.
Source: VIRTIO 1.2, section 5.10.6.3 (buffer space management).
"""

import socket
from typing import Final

from ledgerd.node.vm.packets import SHUTDOWN_RECEIVE, SHUTDOWN_SEND

BUFFER_BYTES: Final = 256 << 10  # as Linux's own default
CREDIT_BYTES_MIN: Final = BUFFER_BYTES // 4  # forwarded and not yet told: then the guest is told
BOTH: Final = SHUTDOWN_RECEIVE | SHUTDOWN_SEND
_WRAP: Final = 0xFFFFFFFF


class Stream:
    """State of one stream.

    Attributes:
        guest_port, host_cid, host_port: Its name, as the guest knows it.
        socket: The host's end; non-blocking.
        readable: The socket may have bytes, or its end.
        owes_response, owes_credit, owes_shutdown: Packets that the guest is to get before any data; the last as flags.
        guest_shut: What the guest has closed, as flags.
        host_ended: The socket gave its last byte.
        host_gone: Nobody is at its other end any more.
    """

    __slots__ = (
        *("guest_port", "host_cid", "host_port", "socket", "readable", "owes_response", "owes_credit", "owes_shutdown", "guest_shut"),
        *("host_ended", "host_gone", "waiting", "watched", "forwarded", "_told", "_sent", "_guest_buffer", "_guest_forwarded"),
    )

    def __init__(self, guest_port: int, host_cid: int, host_port: int, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.guest_port = guest_port
        self.host_cid = host_cid
        self.host_port = host_port
        self.socket = sock
        self.readable = True
        self.owes_response = True
        self.owes_credit = False
        self.owes_shutdown = 0
        self.guest_shut = 0
        self.host_ended = False
        self.host_gone = False
        self.waiting = bytearray()  # from the guest, for the socket
        self.watched = 0  # what the loop waits for
        self.forwarded = 0  # bytes that the socket took
        self._told = 0  # of those, what the guest knows
        self._sent = 0
        self._guest_buffer = 0
        self._guest_forwarded = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """What tells it from others of the same guest."""
        return self.guest_port, self.host_cid, self.host_port

    @property
    def room(self) -> int:
        """How many bytes the guest takes now."""
        if self.guest_shut & SHUTDOWN_RECEIVE:
            return 0
        return max(0, self._guest_buffer - ((self._sent - self._guest_forwarded) & _WRAP))

    def learn_credit(self, buffer_bytes: int, forwarded: int) -> None:
        """What a packet of the guest's says about its room."""
        self._guest_buffer = buffer_bytes
        self._guest_forwarded = forwarded

    def sent(self, count: int) -> None:
        """So many bytes went to the guest."""
        self._sent = (self._sent + count) & _WRAP

    def told(self) -> int:
        """The guest is being told how many bytes were forwarded; that number."""
        self._told = self.forwarded
        self.owes_credit = False
        return self.forwarded

    def receive(self, data: bytes) -> bool:
        """Take bytes from the guest; False if it had no credit for them, or has said that no more would come."""
        if self.guest_shut & SHUTDOWN_SEND or len(self.waiting) + len(data) > BUFFER_BYTES:
            return False
        self.waiting += data
        return self.flush()

    def flush(self) -> bool:
        """Give the socket what it takes; False if it is gone."""
        while self.waiting:
            try:
                count = self.socket.send(self.waiting)
            except BlockingIOError:
                break
            except OSError:
                return False
            del self.waiting[:count]
            self.forwarded = (self.forwarded + count) & _WRAP
        if (self.forwarded - self._told) & _WRAP >= CREDIT_BYTES_MIN:
            self.owes_credit = True
        if self.guest_shut & SHUTDOWN_SEND and not self.waiting:
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                return False
        return True

    @property
    def finished(self) -> bool:
        """The guest has closed both ways, and the host has all that it sent."""
        return self.guest_shut == BOTH and not self.waiting
