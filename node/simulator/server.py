"""Offers a simulated security module on a socket: the enclave process holds the other end instead of `/dev/nsm`.

Each message is its length (4 bytes, big-endian) and its bytes; one answer for one request, in order.
One thread with a blocking socket: a document takes a millisecond of signing, which must not stand in the host's loop.
"""

import contextlib
import socket
import threading
from typing import Final

from ledgerd.node.simulator.nsm import SimulatedNsm

FRAME_SIZE_BYTES_MAX: Final = 0x4000  # above the device's own limits, so that the device and not the socket refuses what is too large


def serve(nsm: SimulatedNsm, connection: socket.socket) -> None:
    """Answer requests until the other end closes, breaks off, or announces more than a frame; then close."""
    with connection, contextlib.suppress(OSError):
        while True:
            head = _receive(connection, 4)
            size = int.from_bytes(head, "big")
            if len(head) < 4 or size > FRAME_SIZE_BYTES_MAX:
                return
            request = _receive(connection, size)
            if len(request) < size:
                return
            answer = nsm.request(request)
            connection.sendall(len(answer).to_bytes(4, "big") + answer)


class Server:
    """A module served in a thread of this process.

    Attributes:
        enclave_end: Connected socket to hand to the enclave process; close it here after that.
    """

    def __init__(self, nsm: SimulatedNsm) -> None:
        self.nsm = nsm
        self._own_end, self.enclave_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=serve, args=(nsm, self._own_end), name="nsm-simulator", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread, and both ends. May be called more than once."""
        with contextlib.suppress(OSError):
            self._own_end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._own_end.close()
        self.enclave_end.close()


def _receive(connection: socket.socket, size: int) -> bytes:
    """Return `size` bytes, or fewer if the stream ends."""
    received = b""
    while len(received) < size and (part := connection.recv(size - len(received))):
        received += part
    return received
