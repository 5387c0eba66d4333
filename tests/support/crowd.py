"""Clients that mean no good, over real sockets: half-open, mute, slow, deaf. One thread moves all of them, slowly: they cost little."""

import contextlib
import socket
import ssl
import threading
import time
from typing import Final

DRIP_SECONDS: Final = 0.05  # between two bytes of a slow client
_CONTEXT: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_CONTEXT.check_hostname = False
_CONTEXT.verify_mode = ssl.CERT_NONE

HEADER: Final = b"PUT /app/public/records/slow HTTP/1.1\r\nhost: n\r\nx-" + b"a" * 4_000
BODY: Final = b"PUT /app/public/records/slow HTTP/1.1\r\nhost: n\r\ncontent-length: 100000\r\n\r\n"


def connect(address: tuple[str, int], seconds: float = 5.0) -> ssl.SSLSocket:
    """A connection with its handshake done; nobody is verified. Raises: OSError."""
    plain = socket.create_connection(address, seconds)
    try:
        return _CONTEXT.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


class Crowd:
    """Holds so many connections of each kind open to one node, opens those anew that it loses, and drips. A context manager.

    Args:
        half_open: TCP only, and not a byte.
        mute: After the handshake, not a byte.
        slow_headers: A header, byte by byte.
        slow_bodies: A body, byte by byte.
        deaf: Ask for `deaf_path` again and again, and read nothing.
        a_second: Connections opened in a second, at most.
    Attributes:
        opened: Connections made so far.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        half_open: int = 0,
        mute: int = 0,
        slow_headers: int = 0,
        slow_bodies: int = 0,
        deaf: int = 0,
        deaf_path: str = "/node/version",
        a_second: float = 100.0,
    ) -> None:
        self.opened = 0
        self._address = address
        self._wanted = {"half_open": half_open, "mute": mute, "slow_headers": slow_headers, "slow_bodies": slow_bodies, "deaf": deaf}
        self._ask = f"GET {deaf_path} HTTP/1.1\r\nhost: n\r\n\r\n".encode()
        self._pause = 1 / a_second
        self._held: dict[str, list[tuple[socket.socket, int]]] = {kind: [] for kind in self._wanted}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crowd", daemon=True)

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopping.set()
        self._thread.join()
        for held in self._held.values():
            for sock, _ in held:
                sock.close()

    def _run(self) -> None:
        drip_at = 0.0
        while not self._stopping.wait(self._pause):
            kind = min(self._wanted, key=lambda kind: len(self._held[kind]) - self._wanted[kind])
            if len(self._held[kind]) < self._wanted[kind]:
                self._open(kind)
            if time.monotonic() >= drip_at:
                drip_at = time.monotonic() + DRIP_SECONDS
                for name in self._held:
                    self._held[name] = [(sock, at + 1) for sock, at in self._held[name] if self._drip(name, sock, at)]

    def _open(self, kind: str) -> None:
        with contextlib.suppress(OSError):
            sock = socket.create_connection(self._address, 2.0) if kind == "half_open" else connect(self._address, 2.0)
            sock.setblocking(False)
            self._held[kind].append((sock, 0))
            self.opened += 1

    def _drip(self, kind: str, sock: socket.socket, at: int) -> bool:
        """Say the next byte, and look whether the node is still there."""
        try:
            if kind == "deaf":
                with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
                    sock.send(self._ask)
                return True
            if kind in ("slow_headers", "slow_bodies"):
                said = HEADER if kind == "slow_headers" else BODY
                sock.send(said[at : at + 1] or b"x" if kind == "slow_headers" or at else BODY)
            if sock.recv(1_000):
                return True
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return True
        except OSError:
            pass
        sock.close()
        return False
