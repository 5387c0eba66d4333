"""The enclave's end of the link: one non-blocking byte stream to the host, AF_VSOCK or a UNIX socket.

Law: never waits, and never holds more than a window of what the host sent and a window of what the host does not take.
Not here: what frames mean (`enclave.boundary`), when to read and write (`enclave.runtime.loop`).
"""

import socket

from ledgerd.enclave.boundary import WINDOW_BYTES, Event, Framing, Ready, Traffic, decode_events, encode_ready_frames
from ledgerd.ledger.errors import HostError


class LinkClosedError(HostError):
    """The host closed the link: the node is over."""

    code = "LinkClosed"


class Link:
    """Events from the host, `Ready` to it.

    Attributes:
        socket: The connected stream; non-blocking.
        unsent: True while bytes wait for the socket to become writable.
    """

    __slots__ = ("_frames", "_framing", "_unsent", "socket")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self._framing = Framing()
        self._frames: list[bytes] = []  # parts of one Ready that wait for credit
        self._unsent = bytearray()

    @property
    def traffic(self) -> Traffic:
        """What has passed; counted on."""
        return self._framing.traffic

    @property
    def unsent(self) -> bool:
        """Whether bytes wait for the socket to become writable."""
        return bool(self._unsent)

    @property
    def blocked(self) -> bool:
        """Whether the host owes us credit or takes nothing: then produce nothing more until that changes."""
        return self._framing.credit <= 0 or bool(self._frames) or len(self._unsent) >= WINDOW_BYTES

    def receive(self) -> list[tuple[int, list[Event]]]:
        """Read what is there; give each frame as its size in bytes (for `consumed`) and its events.

        Raises:
            LinkClosedError: The host is gone.
            HostError: It broke the protocol.
        """
        framing = self._framing
        batches: list[tuple[int, list[Event]]] = []
        while True:
            space = framing.space()
            try:
                count = self.socket.recv_into(space)
            except BlockingIOError:
                break
            except OSError as error:
                raise LinkClosedError(f"the link to the host broke: {error.strerror}") from None
            if not count:
                raise LinkClosedError("the host closed the link")
            framing.filled(count)
            batches.extend((len(body), decode_events(body)) for body in framing.bodies())
            if count < len(space):
                break  # the socket is empty; should more have come just now, the next wake-up reads it
        if self._frames:
            self._push()
        return batches

    def consumed(self, count: int) -> None:
        """Frames of `count` bytes in all were worked off; let the host send as many again."""
        self._framing.consumed(count)

    def send(self, ready: Ready) -> None:
        """Hand a Ready to the host, in as many frames as it takes."""
        self._frames.extend(encode_ready_frames(ready))
        self._push()

    def _push(self) -> None:
        framing = self._framing
        sent = 0
        for frame in self._frames:
            if framing.credit <= 0:
                break
            self._write(framing.frame(frame))
            sent += 1
        del self._frames[:sent]

    def flush(self) -> None:
        """Grant credit that is due, and write what waits, as far as the socket takes it.

        Raises: LinkClosedError: The host is gone.
        """
        grant = self._framing.grant()
        if grant:
            self._write(grant)
        elif self._unsent:
            self._write(b"")

    def _write(self, data: bytes) -> None:
        unsent = self._unsent
        try:
            if unsent:
                unsent += data
                sent = self.socket.send(unsent)
                del unsent[:sent]
            else:
                sent = self.socket.send(data)
                if sent < len(data):
                    unsent += memoryview(data)[sent:]
        except BlockingIOError:
            if not unsent:
                unsent += data
        except OSError as error:
            raise LinkClosedError(f"the link to the host broke: {error.strerror}") from None
